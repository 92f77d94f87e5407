"""The on-disk form of a vector index: an append-only log of checksummed batches.

    file    header, batch, batch, ...
    header  magic 8 | version 4 | dimension 4 | length 4 | fingerprint | crc32 4
    batch   magic 4 | crc32 4 | seq 8 | upserts 4 | deletes 4 | bytes of rids 4
            lengths of rids, 2 each | rids | tags, 1 each | rows, 4 x dimension each

Little-endian throughout; the crc32 of a batch covers all that follows it. A batch is
appended with one write and never fsynced on its own: the journal can feed it again. What is
read back ends before the first batch that is not whole, and the rest is cut off, because a
later batch without an earlier one would be a state that never was.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from drivers.contracts import Vectors

VERSION: Final = 1
_MAGIC: Final = b"ENGRAMv\0"
_HEADER: Final = struct.Struct("<8sIII")
_BATCH_MAGIC: Final = 0x54414256
_BATCH: Final = struct.Struct("<IIQIII")
_CHECKED_FROM: Final = 8
_CRC: Final = struct.Struct("<I")


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


class VectorLog:
    """A log open for appending. Raises EIO with driver ``vectors`` for what the disk says."""

    def __init__(self, path: Path, dimension: int, fingerprint: str) -> None:
        self._path = path
        self._dimension = dimension
        name = fingerprint.encode()
        head = _HEADER.pack(_MAGIC, VERSION, dimension, len(name)) + name
        self._header = head + _CRC.pack(zlib.crc32(head))
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
            self.reason = self._foreign(size)
            if self.reason or size == 0:
                self._cut(0)
                self._write([self._header])
                return
            # Not closed here: it goes with the last view of it.
            data = memoryview(mmap.mmap(self._fd, size, access=mmap.ACCESS_READ))
            at = len(self._header)
            while (found := _decode(data, at, self._dimension)) is not None:
                batch, at = found
                yield batch
            if at < size:
                self.reason = f"damaged at byte {at} of {size}; cut off there"
                self._cut(at)
            self.size = at
        except OSError as error:
            raise self._eio(error) from error

    def _foreign(self, size: int) -> str:
        """Why the file cannot be ours to read; empty when it can, or is new."""
        head = os.pread(self._fd, len(self._header), 0)
        if size == 0 or head == self._header:
            return ""
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            return "not a vector log"
        _, version, dimension, _ = _HEADER.unpack_from(head)
        if version != VERSION:
            return f"format {version}, not {VERSION}"
        if dimension != self._dimension:
            return f"dimension {dimension}, not {self._dimension}"
        return "made by another embedder, or its header is damaged"

    def append(self, batch: LogBatch) -> None:
        """Add a batch at the end; on an error the log is as before."""
        try:
            self._write(encode(batch))
        except OSError as error:
            raise self._eio(error) from error

    def replace(self, batches: Iterable[LogBatch]) -> None:
        """Put other content in its place, atomically."""
        fresh = self._path.with_suffix(".new")
        old, size = self._fd, self.size
        try:
            self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._eio(error) from error
        try:
            self.size = 0
            self._write([self._header])
            for batch in batches:
                self._write(encode(batch))
            os.fsync(self._fd)
            fresh.rename(self._path)
        except BaseException as error:
            os.close(self._fd)
            fresh.unlink(missing_ok=True)
            self._fd, self.size = old, size
            if isinstance(error, OSError):
                raise self._eio(error) from error
            raise
        os.close(old)

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
        return EIO(f"vectors: {error}", driver="vectors", path=str(self._path))
