"""The on-disk form of a vector index: an append-only log of checksummed batches.

    file    header, batch, batch, ...
    header  magic 8 | version 4 | dimension 4 | length 4 | fingerprint | parts | crc32 4
    parts   (version 2 only) length 4 | msgpack: the files that the batches come on top of
    batch   magic 4 | crc32 4 | seq 8 | upserts 4 | deletes 4 | bytes of rids 4
            lengths of rids, 2 each | rids | tags, 1 each | rows, 4 x dimension each

Little-endian throughout; the crc32 of a batch covers all that follows it. A batch is
appended with one write and never fsynced on its own: the journal can feed it again. What is
read back ends before the first batch that is not whole, and the rest is cut off, because a
later batch without an earlier one would be a state that never was.

Parts change with the log, by one rename: what a log names is there, and a file that no log
names is left over from a crash.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from drivers.contracts import Vectors

logger = logging.getLogger(__name__)

PLAIN, WITH_PARTS = 1, 2
"""Versions of the format: without and with parts."""
_MAGIC: Final = b"ENGRAMv\0"
_HEADER: Final = struct.Struct("<8sIII")
_BATCH_MAGIC: Final = 0x54414256
_BATCH: Final = struct.Struct("<IIQIII")
_CHECKED_FROM: Final = 8
_CRC: Final = struct.Struct("<I")


class PartRef(msgspec.Struct, array_like=True, frozen=True):
    """A part as a log names it."""

    tag: int
    name: str
    """Of the file, beside the log."""
    dead: bytes
    """Its dead rows when the log was begun; see ``Part.graves``."""


_parts = msgspec.msgpack.Decoder(list[PartRef])


class LogBatch(NamedTuple):
    """One batch: rows belong to upserts, in order; deletes happen after the upserts."""

    seq: int
    upserts: Sequence[tuple[str, int]]
    rows: Vectors
    deletes: Sequence[str]


def encode(batch: LogBatch) -> list[bytes | memoryview]:
    """The parts of a batch as it is on disk."""
    rids = [rid.encode() for rid, _ in batch.upserts] + [rid.encode() for rid in batch.deletes]
    lengths = np.array([len(rid) for rid in rids], dtype="<u2").tobytes()
    text = b"".join(rids)
    tags = bytes(tag for _, tag in batch.upserts)
    rows = np.ascontiguousarray(batch.rows, dtype="<f4").reshape(-1)
    counts = (batch.seq, len(batch.upserts), len(batch.deletes), len(text))
    head = _BATCH.pack(_BATCH_MAGIC, 0, *counts)
    crc = zlib.crc32(head[_CHECKED_FROM:] + lengths + text + tags)
    crc = zlib.crc32(rows.data, crc)
    return [_BATCH.pack(_BATCH_MAGIC, crc, *counts) + lengths + text + tags, rows.data.cast("B")]


def _decode(data: memoryview, at: int, dimension: int) -> tuple[LogBatch, int] | None:
    """The batch at an offset and where the next begins; None when it is not whole."""
    rest = len(data) - at
    if rest < _BATCH.size:
        return None
    magic, crc, seq, upserts, deletes, text = _BATCH.unpack_from(data, at)
    count = upserts + deletes
    size = _BATCH.size + 2 * count + text + upserts + 4 * dimension * upserts
    if magic != _BATCH_MAGIC or size > rest:
        return None
    if zlib.crc32(data[at + _CHECKED_FROM : at + size]) != crc:
        return None
    body = at + _BATCH.size
    lengths = np.frombuffer(data, "<u2", count, body).tolist()
    body += 2 * count
    names = bytes(data[body : body + text])
    rids: list[str] = []
    start = 0
    for length in lengths:
        rids.append(names[start : start + length].decode())
        start += length
    body += text
    tags = bytes(data[body : body + upserts])
    rows = np.frombuffer(data, "<f4", upserts * dimension, body + upserts)
    batch = LogBatch(
        seq,
        list(zip(rids[:upserts], tags, strict=True)),
        rows.reshape(upserts, dimension),
        rids[upserts:],
    )
    return batch, at + size


def fingerprint_of(path: Path) -> str:
    """Which embedder a log says it is of; empty when it is no log. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            return ""
        return file.read(min(_HEADER.unpack(head)[3], 4096)).decode(errors="replace")


class VectorLog:
    """A log open for appending. Raises EIO with driver ``vectors`` for what the disk says."""

    def __init__(self, path: Path, dimension: int, fingerprint: str) -> None:
        self.path = path
        self._dimension = dimension
        self._fingerprint = fingerprint.encode()
        self.parts: list[PartRef] = []
        """What the batches come on top of; known once ``read`` has begun."""
        self.reason = ""
        """Why something of it was thrown away when it was opened; empty when nothing was."""
        self.size = 0
        """Bytes on disk."""
        self._unsynced = False
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._eio(error) from error

    def read(self) -> Iterator[LogBatch]:
        """What the log holds, to be read once and to its end before anything is appended.

        The rows are views of the file: they are to be copied.
        """
        try:
            size = os.fstat(self._fd).st_size
            at = self._read_header(size)
            if not at:
                self._cut(0)
                self._write([self._header([])])
                return
            # Not closed here: it goes with the last view of it.
            data = memoryview(mmap.mmap(self._fd, size, access=mmap.ACCESS_READ))
            while (found := _decode(data, at, self._dimension)) is not None:
                batch, at = found
                yield batch
            if at < size:
                self.reason = f"damaged at byte {at} of {size}; cut off there"
                self._cut(at)
            self.size = at
        except OSError as error:
            raise self._eio(error) from error

    def _header(self, parts: list[PartRef]) -> bytes:
        name, version = self._fingerprint, WITH_PARTS if parts else PLAIN
        head = _HEADER.pack(_MAGIC, version, self._dimension, len(name)) + name
        if parts:
            body = msgspec.msgpack.encode(parts)
            head += _CRC.pack(len(body)) + body
        return head + _CRC.pack(zlib.crc32(head))

    def _read_header(self, size: int) -> int:
        """Where the batches begin; 0 when the file is new, or is not ours (``reason`` says why)."""
        plain = self._header([])
        head = os.pread(self._fd, len(plain), 0)
        if size == 0 or head == plain:
            return len(head)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            self.reason = "not a vector log"
            return 0
        _, version, dimension, _ = _HEADER.unpack_from(head)
        if version not in (PLAIN, WITH_PARTS):
            self.reason = f"format {version}, not {WITH_PARTS}"
        elif dimension != self._dimension:
            self.reason = f"dimension {dimension}, not {self._dimension}"
        elif version == WITH_PARTS and (at := self._read_parts(size)):
            return at
        else:
            self.reason = "made by another embedder, or its header is damaged"
        return 0

    def _read_parts(self, size: int) -> int:
        start = _HEADER.size + len(self._fingerprint)
        length = int.from_bytes(os.pread(self._fd, 4, start), "little")
        end = start + 4 + length
        if end + 4 > size:
            return 0
        head = os.pread(self._fd, end + 4, 0)
        if int.from_bytes(head[end:], "little") != zlib.crc32(head[:end]):
            return 0
        if head[_HEADER.size : start] != self._fingerprint:
            return 0
        self.parts = _parts.decode(head[start + 4 : end])
        return end + 4

    def append(self, batch: LogBatch) -> None:
        """Add a batch at the end; on an error the log is as before."""
        try:
            self._write(encode(batch))
        except OSError as error:
            raise self._eio(error) from error

    def replace(self, batches: Iterable[LogBatch], parts: list[PartRef]) -> None:
        """Put other content in its place, atomically."""
        fresh = self.path.with_suffix(".new")
        old, size = self._fd, self.size
        try:
            self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._eio(error) from error
        try:
            self.size = 0
            self._write([self._header(parts)])
            for batch in batches:
                self._write(encode(batch))
            os.fsync(self._fd)
            fresh.rename(self.path)
        except BaseException as error:
            os.close(self._fd)
            fresh.unlink(missing_ok=True)
            self._fd, self.size = old, size
            if isinstance(error, OSError):
                raise self._eio(error) from error
            raise
        os.close(old)
        self.parts = parts
        self._sync_folder()

    def _sync_folder(self) -> None:
        """Make the rename durable, before what only the old log names is removed."""
        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            # The new log is in place: at worst a power failure brings back the old one, which
            # then names parts that are gone and is fed again.
            logger.warning("vectors: %s cannot be synced: %s", self.path.parent, error)

    def flush(self) -> None:
        """Bring what was appended to the disk itself."""
        if self._unsynced and self._fd >= 0:
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise self._eio(error) from error
            self._unsynced = False

    def close(self) -> None:
        """Close the file, without flushing it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, parts: list[bytes | memoryview]) -> None:
        parts = [memoryview(part) for part in parts if len(part)]
        at = self.size
        try:
            while parts:
                done = os.pwritev(self._fd, parts, at)
                at += done
                while parts and done >= len(parts[0]):
                    done -= len(parts.pop(0))
                if done:
                    parts[0] = parts[0][done:]
        except OSError:
            self._cut(self.size)
            raise
        self.size = at
        self._unsynced = True

    def _cut(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self.size = size

    def _eio(self, error: OSError) -> EIO:
        return EIO(f"vectors: {error}", driver="vectors", path=str(self.path))
