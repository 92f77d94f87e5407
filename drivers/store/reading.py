"""What can be read of an LMDB store within one transaction; and one that is kept open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import lmdb

from drivers.store.changes import MAX_STREAM, check_key, journal_key
from syscalls.errors import EAGAIN, EIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from drivers.contracts import Bucket

T = TypeVar("T")


def scan(
    txn: Any, db: Any, start: bytes, stop: bytes, limit: int, *, reverse: bool
) -> list[tuple[bytes, bytes]]:
    """Items with ``start <= key < stop`` in order; ``limit`` 0 means all."""
    found: list[tuple[bytes, bytes]] = []
    if start >= stop:
        return found
    cursor = txn.cursor(db)
    if reverse:
        there = cursor.prev() if cursor.set_range(stop) else cursor.last()
        for item in cursor.iterprev() if there else ():
            if item[0] < start:
                break
            found.append(item)
            if len(found) == limit:
                break
    else:
        there = cursor.set_range(start) if start else cursor.first()
        for item in cursor.iternext() if there else ():
            if item[0] >= stop:
                break
            found.append(item)
            if len(found) == limit:
                break
    return found


def journal(txn: Any, entries: Any, stream: int, after: int, limit: int) -> list[tuple[int, bytes]]:
    """Entries of a stream above ``after``, in order; ``limit`` 0 means all."""
    found: list[tuple[int, bytes]] = []
    if after >= MAX_STREAM:
        return found
    prefix = stream.to_bytes(8, "big")
    cursor = txn.cursor(entries)
    there = cursor.set_range(journal_key(stream, after + 1))
    for key, payload in cursor.iternext() if there else ():
        if not key.startswith(prefix):
            break
        found.append((int.from_bytes(key[8:], "big"), payload))
        if len(found) == limit:
            break
    return found


def last(txn: Any, entries: Any, stream: int) -> int:
    """The last sequence number of a stream; 0 when it has none."""
    cursor = txn.cursor(entries)
    beyond = stream < MAX_STREAM and cursor.set_range(journal_key(stream + 1, 0))
    there = cursor.prev() if beyond else cursor.last()
    key = cursor.key() if there else b""
    return int.from_bytes(key[8:], "big") if key[:8] == stream.to_bytes(8, "big") else 0


class LmdbFrozen:
    """``drivers.contracts.Frozen`` on LMDB: a reading transaction that stays open.

    The map cannot grow under a reader, and a writer does not wait: ``end`` is called first, and
    what is read afterwards raises EAGAIN.
    """

    def __init__(
        self,
        txn: Any,
        buckets: Mapping[Bucket, Any],
        entries: Any,
        closed: Callable[[LmdbFrozen], None],
    ) -> None:
        self._txn: Any | None = txn
        self._buckets = buckets
        self._entries = entries
        self._closed = closed

    def _read(self, look: Callable[[Any], T]) -> T:
        if self._txn is None:
            raise EAGAIN("store: it has grown meanwhile", hint="begin again", retry_after=0.05)
        try:
            return look(self._txn)
        except lmdb.Error as error:
            raise EIO(f"store: {error}", driver="store") from error

    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        """See ``Store.get``."""
        return self.get_many(bucket, (key,))[0]

    def get_many(self, bucket: Bucket, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Store.get_many``."""
        for key in keys:
            check_key(bucket, key)
        db = self._buckets[bucket]
        return self._read(lambda txn: [txn.get(key, db=db) for key in keys])

    def scan(
        self, bucket: Bucket, start: bytes, stop: bytes, *, limit: int = 0, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """See ``Store.scan``."""
        db = self._buckets[bucket]
        return self._read(lambda txn: scan(txn, db, start, stop, limit, reverse=reverse))

    def journal(self, stream: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """See ``Store.journal``."""
        return self._read(lambda txn: journal(txn, self._entries, stream, after, limit))

    def last(self, stream: int) -> int:
        """See ``Store.last``."""
        return self._read(lambda txn: last(txn, self._entries, stream))

    def end(self) -> None:
        """Let go of the transaction; again is nothing."""
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.abort()

    def close(self) -> None:
        """See ``Frozen.close``."""
        self.end()
        self._closed(self)
