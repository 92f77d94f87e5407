"""A change being put together: what it read is what the store must still hold.

A draft reads through itself, so that one change may touch a record twice; everything it
read from the store becomes an expectation of the batch.
"""

from drivers.contracts import Batch, Bucket, Store
from ums.records import Change, encode_change


class Draft:
    """Puts, deletes and changes of one batch, with the reads that they rest on."""

    __slots__ = ("_expect", "_store", "_written", "changes")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._expect: dict[tuple[Bucket, bytes], bytes | None] = {}
        self._written: dict[tuple[Bucket, bytes], bytes | None] = {}
        self.changes: list[Change] = []

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
            [(stream, encode_change(change)) for change in self.changes],
        )
