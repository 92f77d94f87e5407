"""A change being put together: what it read is what the store must still hold.

A draft reads through itself, so that one change may touch a record twice; everything it
read from the store becomes an expectation of the batch.
"""

from drivers.contracts import Batch, Bucket, Store
from ums.records import Change, Stored, after, encode_change
from ums.rid import SIZE


class Draft:
    """Puts, deletes and changes of one batch, with the reads that they rest on."""

    __slots__ = (
        "_expect",
        "_families",
        "_store",
        "_written",
        "changes",
        "lapsed",
        "purges",
        "returned",
        "touched",
        "turned",
    )

    def __init__(self, store: Store) -> None:
        self._store = store
        self._expect: dict[tuple[Bucket, bytes], bytes | None] = {}
        self._written: dict[tuple[Bucket, bytes], bytes | None] = {}
        self.changes: list[Change] = []
        self.purges: list[tuple[int, Change]] = []
        """What is erased from frozen layers; it counts in no sums."""
        self._families: dict[bytes, dict[bytes, bytes | None]] = {}
        self.touched: dict[bytes, str] = {}
        """Slots of facts that are to be settled before it is committed, with their subjects."""
        self.turned: dict[bytes, tuple[Stored | None, Stored | None]] = {}
        """Records before and after it, None for not there: what lineage follows."""
        self.returned: set[bytes] = set()
        """Those of them that come back as they were before they had gone."""
        self.lapsed = False
        """Whether a pinned prefix rests on one of them."""

    def turn(self, rid: bytes, old: Stored | None, new: Stored | None) -> None:
        """Note how a record was before this draft, and how it leaves it."""
        self.turned[rid] = (self.turned[rid][0] if rid in self.turned else old, new)

    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        """The value as this draft leaves it; what comes from the store is expected to stay."""
        place = (bucket, key)
        if place in self._written:
            return self._written[place]
        if place not in self._expect:
            self._expect[place] = self._store.get(bucket, key)
        return self._expect[place]

    def peek(self, bucket: Bucket, key: bytes) -> bytes | None:
        """As ``get``, but without an expectation: for what another expectation covers."""
        place = (bucket, key)
        if place in self._written:
            return self._written[place]
        return self._store.get(bucket, key)

    def last(self, bucket: Bucket, prefix: bytes) -> bytes | None:
        """The greatest key that begins with ``prefix``; another expectation covers it."""
        here = [k for b, k in self._written if b == bucket and k.startswith(prefix)]
        there = self._store.scan(bucket, prefix, after(prefix), limit=1, reverse=True)
        return max([*here, *(key for key, _ in there)], default=None)

    def put_member(self, bucket: Bucket, family: bytes, rid: bytes, value: bytes | None) -> None:
        """Set or remove (None) the entry of a rid in a family of keys, so that it is listed."""
        self._written[bucket, family + rid] = value
        self._families.setdefault(family, {})[rid] = value

    def members(self, bucket: Bucket, family: bytes) -> dict[bytes, bytes]:
        """Rid and value of each entry of a family; another expectation covers them."""
        found = {
            key[-SIZE:]: value
            for key, value in self._store.scan(bucket, family, after(family))
            if len(key) == len(family) + SIZE
        }
        for rid, value in self._families.get(family, {}).items():
            if value is None:
                found.pop(rid, None)
            else:
                found[rid] = value
        return found

    def any(self, bucket: Bucket, prefix: bytes) -> bool:
        """Whether there is any entry of the families that begin with ``prefix``."""
        if self._store.scan(bucket, prefix, after(prefix), limit=1):
            return True
        return any(family.startswith(prefix) for family in self._families)

    def families(self, bucket: Bucket, prefix: bytes) -> list[bytes]:
        """The families that begin with ``prefix``, in order."""
        found = {key[:-SIZE] for key, _ in self._store.scan(bucket, prefix, after(prefix))}
        found.update(family for family in self._families if family.startswith(prefix))
        return sorted(found)

    def put(self, bucket: Bucket, key: bytes, value: bytes) -> None:
        """Set a value."""
        self._written[bucket, key] = value

    def delete(self, bucket: Bucket, key: bytes) -> None:
        """Remove a key."""
        self._written[bucket, key] = None

    def batch(self, stream: int) -> Batch:
        """The draft as one atomic batch, its changes journalled in ``stream``."""
        return Batch(
            [
                (bucket, key, value)
                for (bucket, key), value in self._written.items()
                if value is not None
            ],
            [place for place, value in self._written.items() if value is None],
            [(bucket, key, value) for (bucket, key), value in self._expect.items()],
            [
                *((layer, encode_change(change)) for layer, change in self.purges),
                *((stream, encode_change(change)) for change in self.changes),
            ],
        )
