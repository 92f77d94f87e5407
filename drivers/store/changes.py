"""What a group of batches adds up to, before anything is written.

    committed state ──read──> Changes.add(batch) ──> net puts and deletes, journal entries
                                   │
                                   └─ Mismatch: this batch alone is left out

Batches of one group see each other through the overlay, so that the expectations of the
second hold against what the first will have done. Because nothing is written while a group
is folded, a batch that fails has nothing to take back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, get_args

from drivers.contracts import Batch, Bucket, Mismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

BUCKETS: Final[tuple[Bucket, ...]] = get_args(Bucket)
MAX_KEY: Final = 500
"""Longest key in bytes (LMDB's own limit is 511)."""
MAX_STREAM: Final = (1 << 64) - 1
FORMAT: Final = 1
"""Version of what the store holds; kept in the bucket ``meta`` under ``FORMAT_KEY``."""
FORMAT_KEY: Final = b"format"

Read = Callable[[Bucket, bytes], "bytes | None"]


def journal_key(stream: int, seq: int) -> bytes:
    """The key of a journal entry: stream and sequence number, 8 bytes each, big-endian."""
    return stream.to_bytes(8, "big") + seq.to_bytes(8, "big")


def check(batch: Batch) -> None:
    """Raise ValueError when a batch names no bucket of ours, a bad key or a bad stream."""
    for bucket, key, _ in batch.puts:
        check_key(bucket, key)
    for bucket, key in batch.deletes:
        check_key(bucket, key)
    for bucket, key, _ in batch.expect:
        check_key(bucket, key)
    for stream, _ in batch.journal:
        if not 0 <= stream <= MAX_STREAM:
            raise ValueError(f"a stream is a number of 64 bits, not {stream}")


def check_key(bucket: str, key: bytes) -> None:
    """Raise ValueError unless the key can stand in the bucket."""
    if not 0 < len(key) <= MAX_KEY:
        raise ValueError(f"a key has 1 to {MAX_KEY} bytes, not {len(key)}")
    if bucket not in BUCKETS:
        raise ValueError(f"no bucket {bucket!r}")


class Changes:
    """The net change of the batches added so far, on top of what ``read`` answers."""

    def __init__(self, read: Read, seq: int) -> None:
        self._read = read
        self.seq = seq
        """Last sequence number given out."""
        self.maps: dict[Bucket, dict[bytes, bytes | None]] = {}
        """New values by bucket and key; None deletes."""
        self.entries: list[tuple[int, int, bytes]] = []
        """New journal entries: stream, sequence number, payload."""

    def __bool__(self) -> bool:
        return bool(self.maps or self.entries)

    def small(self, most: int, size: int) -> bool:
        """Whether it is at most so many changes of so many bytes together."""
        count = len(self.entries) + sum(len(values) for values in self.maps.values())
        return count <= most and size >= sum(
            len(value) for values in self.maps.values() for value in values.values() if value
        )

    def add(self, batch: Batch) -> list[int]:
        """Fold a batch in; the sequence numbers of its journal entries. Raises Mismatch."""
        if batch.expect:
            self._expect(batch.expect)
        maps = self.maps
        for bucket, key in batch.deletes:
            maps.setdefault(bucket, {})[key] = None
        for bucket, key, value in batch.puts:
            maps.setdefault(bucket, {})[key] = value
        if not batch.journal:
            return []
        first = self.seq + 1
        for stream, payload in batch.journal:
            self.seq += 1
            self.entries.append((stream, self.seq, payload))
        return list(range(first, self.seq + 1))

    def _expect(self, expect: Sequence[tuple[Bucket, bytes, bytes | None]]) -> None:
        for index, (bucket, key, wanted) in enumerate(expect):
            changed = self.maps.get(bucket)
            if changed is not None and key in changed:
                found = changed[key]
            else:
                found = self._read(bucket, key)
            if found != wanted:
                raise Mismatch(index)
