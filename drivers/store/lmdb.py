"""The store on LMDB: what is acknowledged has been fsynced.

One environment, one sub-database for each bucket and one for the journal:

    (main)    "buckets' roots", "!seq" ── rewritten by every commit anyway, so the counter
    meta      "format" -> "1"             costs no page of its own
    records   key -> value
    ...
    !journal  stream (8 bytes) + sequence number (8 bytes), big-endian -> payload

A group of batches is folded into its net change on the loop (memory and page cache only);
a worker thread then writes it in one transaction. So the thread asks for the interpreter's
lock a few times a group and not a few times a batch: with a busy loop each time can cost
milliseconds.
"""

from __future__ import annotations

import logging
import os
import struct
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import lmdb
import outcome
import trio

from drivers.contracts import Batch, Bucket, Mismatch, StoreStatistics
from drivers.store import reading
from drivers.store.changes import (
    BUCKETS,
    FORMAT,
    FORMAT_KEY,
    Changes,
    Read,
    check,
    check_key,
    journal_key,
)
from drivers.store.group import GroupCommit
from drivers.store.writer import Writer
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drivers.contracts import Frozen, Offload

log = logging.getLogger(__name__)

MAP_SIZE: Final = 1 << 30
"""First size of the map in bytes: address space, neither memory nor disk."""
MAX_MAP_SIZE: Final = 1 << 44
"""The map doubles up to this."""

QUICK: Final = 0.0006
"""Seconds; a disk whose recent commits took less is not worth a thread for a small one."""
SMALL: Final = 16
"""Puts, deletes and journal entries of a small commit."""
SMALL_BYTES: Final = 65536
"""Bytes of its values."""

_DATA: Final = "data.mdb"
_JOURNAL: Final = b"!journal"
_SEQ: Final = b"!seq"

# MDB_meta in LMDB 0.9, after the 16 bytes of the page header. Ours to read because LMDB maps
# the file without comparing its length with what it claims to hold: the first touch of a
# page that was cut off is a SIGBUS.
_META: Final = struct.Struct("<II8x8xI92xQQ")
_META_AT: Final = 16
_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1


async def open_store(
    path: Path,
    *,
    offload: Offload | None = None,
    map_size: int = MAP_SIZE,
    max_map_size: int = MAX_MAP_SIZE,
) -> LmdbStore:
    """Open the store in the folder ``path``; made if it is not there.

    Without ``offload`` it writes in a thread of its own, which is the fastest. Raises EIO
    when it is damaged, cut off, foreign, of a newer format or cannot be read.
    """
    writer = Writer("store") if offload is None else None
    run: Offload = offload or writer  # type: ignore[assignment]  # one of them is there
    try:
        await run(partial(_prepare, path, map_size))
        return LmdbStore(path, run, writer, map_size=map_size, max_map_size=max_map_size)
    except BaseException as error:
        if writer is not None:
            writer.stop()
        if isinstance(error, (lmdb.Error, OSError)):
            raise _eio(error, path=str(path)) from error
        raise


def _prepare(path: Path, map_size: int) -> None:
    if not (path / _DATA).exists():
        _create(path, map_size)
    _check_file(path)


def _create(path: Path, map_size: int) -> None:
    """Make an empty store next to its place and move it there, whole.

    So a store is never seen half-made, and an empty file is always damage.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path / "new"
    for name in (_DATA, "lock.mdb"):
        (fresh / name).unlink(missing_ok=True)
    fresh.mkdir(mode=0o700, exist_ok=True)
    with _environment(fresh, map_size) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(FORMAT_KEY, str(FORMAT).encode(), db=meta)
    (fresh / _DATA).rename(path / _DATA)
    (fresh / "lock.mdb").unlink(missing_ok=True)
    fresh.rmdir()
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _environment(path: Path, map_size: int) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=map_size,
        mode=0o600,
        max_dbs=len(BUCKETS) + 8,
        max_spare_txns=4,
        lib_version=0,
    )


def _check_file(path: Path) -> None:
    """Raise EIO unless the file is a whole LMDB file, as far as its two meta pages tell."""
    with (path / _DATA).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_META_AT + _META.size)
        if len(head) < _META_AT + _META.size:
            raise _damaged(path, f"{_DATA} has only {size} bytes")
        magic, version, page, last, txnid = _META.unpack_from(head, _META_AT)
        if magic != _MAGIC or version != _DATA_VERSION or not 256 <= page <= 1 << 16:
            raise _damaged(path, f"{_DATA} is not an LMDB file of the version in use")
        file.seek(page + _META_AT)
        second = file.read(_META.size)
        if len(second) < _META.size:
            raise _damaged(path, f"{_DATA} has only {size} bytes")
        _, _, _, other_last, other_txnid = _META.unpack(second)
        if other_txnid > txnid:
            last = other_last
    if (last + 1) * page <= size:
        return
    # Rarely the missing end is free pages that were never written: walk the file to know.
    from lmdb.verify import VerifyError, verify

    try:
        problems = verify(str(path))
    except VerifyError as error:
        raise _damaged(path, str(error)) from error
    if problems:
        raise _damaged(path, f"{_DATA} is cut off: {problems[0]}")


def _eio(error: Exception, **detail: str) -> EIO:
    return EIO(f"store: {error}", driver="store", **detail)


def _damaged(path: Path, why: str) -> EIO:
    return EIO(
        f"store: {why}",
        hint="restore it from a backup, or move the folder away to start with an empty store",
        driver="store",
        path=str(path),
    )


class LmdbStore(trio.abc.AsyncResource):
    """``drivers.contracts.Store`` on disk; made by ``open_store``.

    Reads are made on the loop's thread: growing the map must not meet a reader.
    """

    def __init__(
        self,
        path: Path,
        offload: Offload,
        writer: Writer | None,
        *,
        map_size: int,
        max_map_size: int,
    ) -> None:
        self._path = path
        self._offload = offload
        self._writer = writer
        self._map_size = map_size
        self._max_map_size = max(map_size, max_map_size)
        self._group = GroupCommit(self._write)
        self._closed = False
        self._frozen: set[reading.LmdbFrozen] = set()
        self._pace = 0.01
        """Seconds of a commit lately, weighted towards the last ones; slow until it is known."""
        self._commits = self._batches = self._mismatches = 0
        self._env = _environment(path, map_size)
        try:
            self._check_format()
            self._buckets = {name: self._env.open_db(name.encode()) for name in BUCKETS}
            self._entries = self._env.open_db(_JOURNAL)
            self._page = self._env.stat()["psize"]
            self._map_size = self._env.info()["map_size"]  # never less than what is there
            with self._env.begin() as txn:
                self._seq = int.from_bytes(txn.get(_SEQ) or b"", "big")
        except BaseException:
            self._env.close()
            raise

    def _check_format(self) -> None:
        try:
            meta = self._env.open_db(b"meta", create=False)
        except lmdb.NotFoundError as error:
            raise _damaged(self._path, "not a store of this system") from error
        with self._env.begin() as txn:
            found = txn.get(FORMAT_KEY, db=meta)
        if found is None or not found.isdigit():
            raise _damaged(self._path, "not a store of this system")
        if int(found) != FORMAT:
            raise EIO(
                f"store: format {int(found)}; this version reads format {FORMAT}",
                hint="use the version of the system that wrote it, or a newer one",
                driver="store",
                path=str(self._path),
            )

    # --- writing

    async def commit(self, batch: Batch) -> list[int]:
        """See ``Store.commit``. Raises also ValueError for a batch that can never be."""
        check(batch)
        if self._closed:
            raise EIO("store: it is closed", driver="store")
        return await self._group.submit(batch)

    async def _write(self, batches: list[Batch]) -> list[outcome.Outcome[list[int]]]:
        try:
            changes, results = self._fold(batches)
            if changes:
                await self._write_out(changes, alone=len(batches) == 1)
                self._commits += 1
        except (lmdb.Error, OSError) as error:
            log.error("store: a group of %d batches failed: %s", len(batches), error)
            return [outcome.Error(_eio(error)) for _ in batches]
        self._seq = changes.seq
        failed = sum(isinstance(result, outcome.Error) for result in results)
        self._mismatches += failed
        self._batches += len(results) - failed
        return results

    def _fold(self, batches: list[Batch]) -> tuple[Changes, list[outcome.Outcome[list[int]]]]:
        """The net change of the batches, and what came of each."""
        if not any(batch.expect for batch in batches):  # nothing to look up
            return self._folded(batches, lambda _bucket, _key: None)
        buckets = self._buckets
        with self._env.begin() as txn:
            return self._folded(batches, lambda bucket, key: txn.get(key, db=buckets[bucket]))

    def _folded(
        self, batches: list[Batch], read: Read
    ) -> tuple[Changes, list[outcome.Outcome[list[int]]]]:
        changes = Changes(read, self._seq)
        results: list[outcome.Outcome[list[int]]] = []
        for batch in batches:
            try:
                results.append(outcome.Value(changes.add(batch)))
            except Mismatch as error:
                results.append(outcome.Error(error))
        return changes, results

    async def _write_out(self, changes: Changes, *, alone: bool) -> None:
        """Write, here or in the thread.

        On a fast disk a small commit is over before two threads have woken each other, so
        where nobody else waits and the disk has been fast it is made on the loop.
        """
        here = (
            alone
            and self._writer is not None
            and self._pace < QUICK
            and changes.small(SMALL, SMALL_BYTES)
        )
        while True:
            try:
                if here:
                    return self._transaction(changes)
                return await self._offload(partial(self._transaction, changes))
            except lmdb.MapFullError:
                if self._map_size * 2 > self._max_map_size:
                    raise
                # On the loop, where no read is under way; the writer has aborted.
                for frozen in list(self._frozen):
                    frozen.end()
                self._map_size *= 2
                self._env.set_mapsize(self._map_size)
                log.info("store: map grown to %d bytes", self._map_size)

    def _transaction(self, changes: Changes) -> None:
        """Write and fsync; on any error nothing is applied."""
        began = perf_counter()
        with self._env.begin(write=True) as txn:
            for bucket, values in changes.maps.items():
                db = self._buckets[bucket]
                puts = [(key, value) for key, value in values.items() if value is not None]
                if puts:
                    txn.cursor(db).putmulti(sorted(puts))
                if len(puts) < len(values):
                    for key, value in values.items():
                        if value is None:
                            txn.delete(key, db=db)
            if changes.entries:
                entries = [
                    (journal_key(stream, seq), payload) for stream, seq, payload in changes.entries
                ]
                txn.cursor(self._entries).putmulti(sorted(entries))
                txn.put(_SEQ, changes.seq.to_bytes(8, "big"))
        self._pace += (perf_counter() - began - self._pace) / 8

    # --- reading

    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        """See ``Store.get``."""
        return self.get_many(bucket, (key,))[0]

    def get_many(self, bucket: Bucket, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Store.get_many``."""
        for key in keys:
            check_key(bucket, key)
        db = self._buckets[bucket]
        try:
            with self._env.begin() as txn:
                return [txn.get(key, db=db) for key in keys]
        except lmdb.Error as error:
            raise _eio(error) from error

    def scan(
        self, bucket: Bucket, start: bytes, stop: bytes, *, limit: int = 0, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """See ``Store.scan``."""
        try:
            with self._env.begin() as txn:
                db = self._buckets[bucket]
                return reading.scan(txn, db, start, stop, limit, reverse=reverse)
        except lmdb.Error as error:
            raise _eio(error) from error

    def journal(self, stream: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See ``Store.journal``; ``limit`` 0 means all."""
        try:
            with self._env.begin() as txn:
                return reading.journal(txn, self._entries, stream, after, limit)
        except lmdb.Error as error:
            raise _eio(error) from error

    def last(self, stream: int) -> int:
        """See ``Store.last``."""
        try:
            with self._env.begin() as txn:
                return reading.last(txn, self._entries, stream)
        except lmdb.Error as error:
            raise _eio(error) from error

    def freeze(self) -> Frozen:
        """See ``Store.freeze``."""
        try:
            txn = self._env.begin()
        except lmdb.Error as error:
            raise _eio(error) from error
        frozen = reading.LmdbFrozen(txn, self._buckets, self._entries, self._frozen.discard)
        self._frozen.add(frozen)
        return frozen

    def statistics(self) -> StoreStatistics:
        """See ``Store.statistics``."""
        return StoreStatistics(
            commits=self._commits,
            batches=self._batches,
            mismatches=self._mismatches,
            pending=self._group.pending,
            largest_group=self._group.largest,
            bytes_used=(self._env.info()["last_pgno"] + 1) * self._page,
            seq=self._seq,
        )

    async def aclose(self) -> None:
        """See ``Store.aclose``. Further commits raise EIO."""
        self._closed = True
        with trio.CancelScope(shield=True):
            await self._group.drain()
        if self._writer is not None:
            self._writer.stop()
        for frozen in list(self._frozen):
            frozen.close()
        self._env.close()
