"""What can be read of a space: through its layers, at this moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from syscalls.errors import ENOENT
from syscalls.records import Record, SpaceInfo, Version
from syscalls.shapes import SEGMENTS, Segment
from ums import records as form
from ums.layers import Found, Layer, Stack, total
from ums.records import TAGS, Attachment, Header, Stored
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drivers.contracts import Clock, Store
    from ums.moment import Moment

Allows = Callable[[str, Stored], bool]
"""Whether a reader may see a version of a record."""
Guard = Callable[[str, Stored], None]
"""Raises EPERM where a version of a record may not be seen, or changed, or be so."""

PAGE = 256


class View:
    """The reading half of a space."""

    def __init__(
        self, number: int, header: Header, store: Store, clock: Clock, layers: Sequence[Layer]
    ) -> None:
        self.number = number
        self.header = header
        self._store = store
        self._clock = clock
        self._set(header, layers)

    def _set(self, header: Header, layers: Sequence[Layer]) -> None:
        """Stand on other layers: of the header's, ``layers`` are the opened ones."""
        self.header = header
        self._layers = {layer.number: layer for layer in layers}
        self._own = header.layers or [self.number]
        self._top = self._layers[self._own[0]]
        self._prefix = self._top.prefix
        self._restack(header.attached)

    def _restack(self, attached: Sequence[Attachment]) -> None:
        self._attached = list(attached)
        ends = [one.until for one in attached if one.until is not None]
        self._until = min(ends, default=None)
        below = (layer for one in attached for layer in one.layers)
        self._stack = Stack(self._store, [*self._own, *below])

    @property
    def stack(self) -> Stack:
        """The layers, top first; what was attached for a time only as long as that is."""
        if self._until is not None and self._until <= self._clock.now():
            now = self._clock.now()
            self._restack([a for a in self._attached if a.until is None or a.until > now])
        return self._stack

    def drop_attached(self, grants: frozenset[int]) -> None:
        """Stop standing on what these shares allowed; the store follows later."""
        self._restack([one for one in self._attached if one.grant not in grants])

    # --- one record

    def read(self, rid: str, version: int | None = None, guard: Guard | None = None) -> Record:
        """A record, or an older version of it. Raises ENOENT, EPERM."""
        tag, stored = self.stored(rid, version, guard)
        return form.to_record(self.number, rid, tag, stored)

    def stored(
        self, rid: str, version: int | None = None, guard: Guard | None = None
    ) -> tuple[int, Stored]:
        """Segment number and stored form of a live record or an older version.

        Raises ENOENT; EPERM of the guard, for what is not there too.
        """
        packed = pack(rid)
        found = self.stack.find(packed)
        current = None if found is None else form.decode(found.value)
        if found is None or current is None or current.expired(self._clock.now()):
            if guard is not None:
                guard(rid, form.NOTHING)
            raise ENOENT(f"no record {rid} in space {self.number}")
        if guard is not None:
            guard(rid, current)
        if version is None or version == current.version:
            return form.tag_of(found.value), current
        past = self._stack.version(packed, version, found.depth)
        if past is None or version > current.version:
            raise ENOENT(f"record {rid} has no version {version}", version=current.version)
        older = form.decode(past)
        if guard is not None:
            guard(rid, older)
        return form.tag_of(past), older

    def lookup(self, key: str) -> str | None:
        """The rid that a key names, dead or alive; None for none."""
        packed = self.stack.named("keys", key)
        return None if packed is None else unpack(packed)

    def find(self, key: str, version: int | None = None, guard: Guard | None = None) -> Record:
        """The record of a key. Raises ENOENT, EPERM."""
        rid = self.lookup(key)
        if rid is None:
            if guard is not None:
                guard("", form.NOTHING)
            raise ENOENT(f"no record with the key {key!r} in space {self.number}")
        return self.read(rid, version, guard)

    def sees(self, rid: bytes) -> bool:
        """Whether a record is there and alive."""
        found = self.stack.find(rid)
        return found is not None and not form.decode(found.value).expired(self._clock.now())

    def version(self, rid: str, current: Stored, moment: Moment) -> Stored | None:
        """The version of a record that answers a question about the past; None for none."""
        return moment.version(current, lambda: (stored for _, stored in self.versions(rid)))

    # --- several

    async def newest(
        self,
        limit: int,
        *,
        before: str | None = None,
        segment: Segment | None = None,
        allows: Allows | None = None,
        moment: Moment | None = None,
    ) -> list[Record]:
        """Live records, newest first, from just before the rid ``before``; no archived ones.

        ``allows`` leaves out those that the reader may not see; ``moment`` answers from the
        past, with the versions of that time.
        """
        found: list[Record] = []
        now = self._clock.now()
        wanted = None if segment is None else TAGS[segment]
        stop = None if before is None else pack(before)
        for count, (rid, value) in enumerate(self.stack.descend(stop), 1):
            if len(found) == limit:
                break
            tag = form.tag_of(value)
            if (wanted is None or tag == wanted) and not form.is_packed(value):
                stored, name = form.decode(value), unpack(rid)
                if moment is not None:
                    past = self.version(name, stored, moment)
                    if past is None or not moment.holds(past):
                        continue
                    stored = past
                if not stored.expired(now) and (allows is None or allows(name, stored)):
                    found.append(form.to_record(self.number, name, tag, stored))
            if count % PAGE == 0:
                await trio.lowlevel.checkpoint()
        return found

    def named(
        self, prefix: str, after: str = "", limit: int = 1000, allows: Allows | None = None
    ) -> list[Record]:
        """Records whose key begins so, above ``after``, in the order of their keys.

        Archived ones too; not those whose key is over 400 bytes.
        """
        found: list[Record] = []
        now = self._clock.now()
        for key, packed in self.stack.names(prefix, after):
            place = self.stack.find(packed)
            stored = None if place is None else form.decode(place.value)
            if place is None or stored is None or stored.expired(now) or stored.key != key:
                continue
            rid = unpack(packed)
            if allows is None or allows(rid, stored):
                tag = form.tag_of(place.value)
                found.append(form.to_record(self.number, rid, tag, stored))
                if len(found) == limit:
                    break
        return found

    def history(self, rid: str, allows: Allows | None = None) -> list[Version]:
        """All versions, oldest first, those of a deleted record too. Raises ENOENT."""
        versions = [
            form.to_version(stored)
            for _, stored in self.versions(rid)
            if allows is None or allows(rid, stored)
        ]
        if not versions:
            raise ENOENT(f"no record {rid} in space {self.number}")
        return versions

    def versions(self, rid: str) -> Iterator[tuple[int, Stored]]:
        """Segment number and stored form of each version, oldest first.

        Of a record that is gone from here only what an erased one shows, also where a layer
        that another space stands on too still holds it.
        """
        packed = pack(rid)
        gone = not self.sees(packed)
        for value in self._stack.versions(packed):
            stored = form.decode(value)
            yield form.tag_of(value), form.erased(stored) if gone else stored

    def found(self, rids: Sequence[str]) -> list[Found | None]:
        """Where several records are, expired or not."""
        return self.stack.find_many([pack(rid) for rid in rids])

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Stored values of several records; keys as in ``records``."""
        found = self.stack.find_many([key[form.SPACE_SIZE :] for key in keys])
        return [None if one is None else one.value for one in found]

    def info(self) -> SpaceInfo:
        """The space and its sums; grants and indexes are filled in by who knows them."""
        stack = self.stack
        sums = total([self._layers[layer] for layer in stack.layers])
        return SpaceInfo(
            self.number,
            self.header.name,
            self.header.owner,
            self.header.created,
            sums.records,
            dict(zip(SEGMENTS, sums.segments, strict=True)),
            sums.bytes,
            max(self._store.last(layer) for layer in stack.layers),
            {},
            [],
            list(stack.layers),
            [one.space for one in self._attached],
            self.header.origin,
            self.header.sealed,
        )
