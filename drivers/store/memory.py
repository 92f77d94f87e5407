"""The store in memory: for simulations, and for those who want nothing kept."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING

import trio

from drivers.contracts import Batch, Bucket, Mismatch, StoreStatistics
from drivers.store.changes import BUCKETS, FORMAT, FORMAT_KEY, Changes, check, check_key
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Map:
    """An ordered map: a dictionary beside its sorted keys."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            if self.values.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]
            return
        if key not in self.values:
            insort(self.keys, key)
        self.values[key] = value


class MemoryStore(trio.abc.AsyncResource):
    """``drivers.contracts.Store`` in memory. Commits happen at once, in the order of calls."""

    def __init__(self) -> None:
        self._maps = {bucket: _Map() for bucket in BUCKETS}
        self._maps["meta"].set(FORMAT_KEY, str(FORMAT).encode())
        self._journal: dict[int, list[tuple[int, bytes]]] = {}
        self._seq = self._commits = self._batches = self._mismatches = 0
        self._closed = False

    async def commit(self, batch: Batch) -> list[int]:
        """See ``Store.commit``. Raises also ValueError for a batch that can never be."""
        check(batch)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise EIO("store: it is closed", driver="store")
        changes = Changes(lambda bucket, key: self._maps[bucket].values.get(key), self._seq)
        try:
            given = changes.add(batch)
        except Mismatch:
            self._mismatches += 1
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        for bucket, values in changes.maps.items():
            for key, value in values.items():
                self._maps[bucket].set(key, value)
        for stream, seq, payload in changes.entries:
            self._journal.setdefault(stream, []).append((seq, payload))
        self._seq = changes.seq
        self._batches += 1
        self._commits += bool(changes)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return given

    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        """See ``Store.get``."""
        check_key(bucket, key)
        return self._maps[bucket].values.get(key)

    def get_many(self, bucket: Bucket, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Store.get_many``."""
        return [self.get(bucket, key) for key in keys]

    def scan(
        self, bucket: Bucket, start: bytes, stop: bytes, *, limit: int = 0, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """See ``Store.scan``."""
        found = self._maps[bucket]
        keys = found.keys[bisect_left(found.keys, start) : bisect_left(found.keys, stop)]
        if reverse:
            keys.reverse()
        return [(key, found.values[key]) for key in (keys[:limit] if limit else keys)]

    def journal(self, stream: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See ``Store.journal``; ``limit`` 0 means all."""
        entries = self._journal.get(stream, [])
        first = bisect_right(entries, after, key=lambda entry: entry[0])
        return entries[first : first + limit] if limit else entries[first:]

    def last(self, stream: int) -> int:
        """See ``Store.last``."""
        entries = self._journal.get(stream)
        return entries[-1][0] if entries else 0

    def freeze(self) -> MemoryStore:
        """See ``Store.freeze``: a copy, which is never committed to."""
        copy = MemoryStore()
        for bucket, found in self._maps.items():
            copy._maps[bucket].values = dict(found.values)
            copy._maps[bucket].keys = list(found.keys)
        copy._journal = {stream: list(entries) for stream, entries in self._journal.items()}
        copy._seq = self._seq
        return copy

    def close(self) -> None:
        """See ``Frozen.close``."""
        self._closed = True

    def statistics(self) -> StoreStatistics:
        """See ``Store.statistics``."""
        values = (item for found in self._maps.values() for item in found.values.items())
        used = sum(len(key) + len(value) for key, value in values)
        used += sum(
            16 + len(payload) for entries in self._journal.values() for _, payload in entries
        )
        return StoreStatistics(
            commits=self._commits,
            batches=self._batches,
            mismatches=self._mismatches,
            pending=0,
            largest_group=min(1, self._batches),
            bytes_used=used,
            seq=self._seq,
        )

    async def aclose(self) -> None:
        """See ``Store.aclose``."""
        self._closed = True
        await trio.lowlevel.checkpoint()
