"""Layers: a space is a stack of them, and only the top one is written.

    space 7     layer 12   top       what was written since, copies of what was changed, whiteouts
                layer  7   frozen    as it was when snapshot 9 was made <──┐
    space 9     layer  9   top       (empty)                              │
                layer  7   frozen ────────────────────────────────────────┘
                layer 31   attached  of another space, read-only

A snapshot puts a fresh layer on top and lets another space stand on what is below: a few
keys of the store, whatever the space holds. This is the union of Plan 9's and of overlay
filesystems (Wright et al., "Versatility and Unix semantics in namespace unification", ACM
TOS 2006) for records. A layer's number is that of the space it was made with, or one that
no space has; a rid holds the number of the layer it was born in.

The topmost layer that says something about a rid decides: a record, or a whiteout. So a
changed record of a lower layer is copied up under its own rid, and a deleted one is covered.
A layer's sums are differences to what lies below it, and a stack's are their total.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from drivers.contracts import Batch
from ums import records as form
from ums.records import SPACE_SIZE
from ums.rid import SIZE
from ums.tally import Sums, Tally, decode_sums, encode_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from drivers.contracts import Bucket, Store

    Get = Callable[[Bucket, bytes], "bytes | None"]

PAGE = 256
FOLD = 1000


class Layer:
    """One open layer: its keys and its sums. All spaces that stand on it share it."""

    __slots__ = ("_store", "number", "prefix", "tally")

    def __init__(self, number: int, store: Store) -> None:
        self.number = number
        self.prefix = form.space_key(number)
        self._store = store
        value = store.get("meta", form.TALLY + self.prefix)
        sums = Sums() if value is None else decode_sums(value)
        saved = sums.seq
        while entries := store.journal(number, sums.seq, FOLD):
            for seq, payload in entries:
                sums.fold(form.decode_change(payload))
                sums.seq = seq
        self.tally = Tally(sums, saved)

    @property
    def empty(self) -> bool:
        """Whether nothing was ever written to it, nor is being written."""
        return not self.tally.busy and not self._store.last(self.number)

    async def checkpoint(self) -> None:
        """Store the sums, so that the next opening has less to fold."""
        sums = self.tally.checkpoint()
        seq = sums.seq
        if seq > self.tally.saved:
            batch = Batch([("meta", form.TALLY + self.prefix, encode_sums(sums))])
            await self._store.commit(batch)
            self.tally.saved = seq


class Found(NamedTuple):
    """Where a record was found."""

    depth: int
    """0 for the top layer."""
    key: bytes
    """Layer and rid, as in ``records``."""
    value: bytes


class Stack:
    """The layers of a space, top first, and what is read through them. Never changes."""

    __slots__ = ("_prefixes", "_store", "layers")

    def __init__(self, store: Store, layers: Sequence[int]) -> None:
        self._store = store
        self.layers = tuple(layers)
        self._prefixes = tuple(form.space_key(layer) for layer in layers)

    def find(self, rid: bytes, get: Get | None = None) -> Found | None:
        """The record of a rid as this stack has it, expired or not."""
        get = get or self._store.get
        last = len(self._prefixes) - 1
        for depth, prefix in enumerate(self._prefixes):
            key = prefix + rid
            value = get("records", key)
            if value is not None:
                return Found(depth, key, value)
            if prefix == form.born(rid):
                break  # no layer below its birth knows it
            if depth < last and get("whiteouts", key) is not None:
                break
        return None

    def find_many(self, rids: Sequence[bytes]) -> list[Found | None]:
        """As ``find`` for several, in two looks at the store."""
        reads: list[tuple[int, int, bytes]] = []
        for number, rid in enumerate(rids):
            for depth, prefix in enumerate(self._prefixes):
                reads.append((number, depth, prefix + rid))
                if prefix == form.born(rid):
                    break
        values = self._store.get_many("records", [key for _, _, key in reads])
        found: list[Found | None] = [None] * len(rids)
        for (number, depth, key), value in zip(reads, values, strict=True):
            if value is not None and found[number] is None:
                found[number] = Found(depth, key, value)
        covers = [
            (number, self._prefixes[depth] + rids[number])
            for number, one in enumerate(found)
            if one is not None
            for depth in range(one.depth)
        ]
        marks = self._store.get_many("whiteouts", [key for _, key in covers]) if covers else []
        for (number, _), mark in zip(covers, marks, strict=True):
            if mark is not None:
                found[number] = None
        return found

    def holds(self, rid: bytes) -> bool:
        """Whether a rid is one of this stack's, dead or alive."""
        return form.born(rid) in self._prefixes or self.find(rid) is not None

    def named(self, bucket: Bucket, name: str, get: Get | None = None) -> bytes | None:
        """What ``keys`` or ``idem`` hold under a name; the topmost counts."""
        get = get or self._store.get
        for prefix in self._prefixes:
            value = get(bucket, form.name_key(prefix, name))
            if value is not None:
                return value
        return None

    def names(self, prefix: str, after: str = "") -> Iterator[tuple[str, bytes]]:
        """The keys that begin so, above ``after``, in order, with the rids they name."""
        columns = [self._named(depth, prefix, after) for depth in range(len(self._prefixes))]
        last: bytes | None = None
        for name, _, rid in heapq.merge(*columns):
            if name != last:
                last = name
                yield name.decode(), rid

    def _named(self, depth: int, prefix: str, after: str) -> Iterator[tuple[bytes, int, bytes]]:
        head = self._prefixes[depth] + b"="
        start = head + max(prefix.encode(), after.encode() + b"\0" if after else b"")
        stop = form.after(head + prefix.encode())
        while True:
            page = self._store.scan("keys", start, stop, limit=PAGE)
            for key, rid in page:
                yield key[len(head) :], depth, rid
            if len(page) < PAGE:
                return
            start = page[-1][0] + b"\0"

    def version(self, rid: bytes, number: int, depth: int = 0) -> bytes | None:
        """The value of an earlier version, at ``depth`` or below."""
        for prefix in self._prefixes[depth:]:
            key = prefix + rid
            value = self._store.get("versions", form.version_key(key, number))
            if value is None:
                value = self._store.get("records", key)
                if value is not None and form.decode(value).version != number:
                    value = None
            if value is not None:
                return value
        return None

    def versions(self, rid: bytes) -> list[bytes]:
        """The values of all versions, oldest first: of the lowest layer first."""
        found: dict[int, bytes] = {}  # what a layer above says of a version counts
        for prefix in reversed(self._prefixes):
            key = prefix + rid
            for place, value in self._store.scan("versions", key, form.after(key)):
                found[int.from_bytes(place[-4:], "big")] = value
            current = self._store.get("records", key)
            if current is not None:
                found[form.decode(current).version] = current
        return [found[version] for version in sorted(found)]

    def descend(self, before: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Rid and value of every record, newest first, below ``before``; expired ones too."""
        if len(self._prefixes) == 1:
            for rid, _, value in self._column(0, before):
                yield rid, value
            return
        columns = [self._column(depth, before) for depth in range(len(self._prefixes))]
        hiding = [self._hides(prefix) for prefix in self._prefixes]
        last = b""
        for rid, depth, value in heapq.merge(*columns, key=_newest_first):
            if rid == last:
                continue
            last = rid
            covers = (p for p, hides in zip(self._prefixes[:depth], hiding, strict=False) if hides)
            if all(self._store.get("whiteouts", prefix + rid) is None for prefix in covers):
                yield rid, value

    def _column(self, depth: int, before: bytes | None) -> Iterator[tuple[bytes, int, bytes]]:
        prefix = self._prefixes[depth]
        stop = form.after(prefix) if before is None else prefix + before
        while True:
            page = self._store.scan("records", prefix, stop, limit=PAGE, reverse=True)
            for key, value in page:
                yield key[SPACE_SIZE:], depth, value
            if len(page) < PAGE:
                return
            stop = page[-1][0]

    def ascend(self, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """As ``descend``, but oldest first, above ``after``."""
        columns = [self._rising(depth, after) for depth in range(len(self._prefixes))]
        last = b""
        for rid, depth, value in heapq.merge(*columns, key=lambda item: item[:2]):
            if rid != last:
                last = rid
                covers = self._prefixes[:depth]
                if all(self._store.get("whiteouts", prefix + rid) is None for prefix in covers):
                    yield rid, value

    def _rising(self, depth: int, after: bytes | None) -> Iterator[tuple[bytes, int, bytes]]:
        prefix = self._prefixes[depth]
        start = prefix if after is None else prefix + after + b"\0"
        while True:
            page = self._store.scan("records", start, form.after(prefix), limit=PAGE)
            for key, value in page:
                yield key[SPACE_SIZE:], depth, value
            if len(page) < PAGE:
                return
            start = page[-1][0] + b"\0"

    def _hides(self, prefix: bytes) -> bool:
        """Whether a layer has any whiteout."""
        return bool(self._store.scan("whiteouts", prefix, form.after(prefix), limit=1))

    def newest_rid(self) -> int:
        """A number that no rid of the stack is above; -1 for none."""
        newest = -1
        for prefix in self._prefixes:
            for bucket in _RID_BUCKETS:
                page = self._store.scan(bucket, prefix, form.after(prefix), limit=1, reverse=True)
                for key, _ in page:
                    rid = int.from_bytes(key[SPACE_SIZE:][:SIZE], "big")
                    newest = max(newest, rid)
        return newest


_RID_BUCKETS: tuple[Bucket, ...] = ("records", "versions")


def _newest_first(item: tuple[bytes, int, bytes]) -> tuple[int, int]:
    return -int.from_bytes(item[0], "big"), item[1]


def total(layers: Sequence[Layer]) -> Sums:
    """The sums of several layers together."""
    result = Sums()
    for layer in layers:
        sums = layer.tally.now()
        result.bytes += sums.bytes
        for tag, count in enumerate(sums.segments):
            result.segments[tag] += count
    return result
