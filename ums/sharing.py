"""Who may use which records of whose space, and for how long.

A grant is for a whole space, for one record, or for what fits a filter; it is to read, or to
read and write; it may end by itself. Who got a grant may pass a narrower one on:

    owner ──whole, write──> 7 ──filter, read──> 8 ──one record──> 9
              grant 1           grant 2            grant 3

What grant 3 allows is worked out along the whole chain each time that something in it
changes, so that no link ever allows more, or lasts longer, than the one it hangs on; a grant
that is revoked takes everything that hangs on it along. Grants are few and asked for on
every call, so all of them are in memory; the store has the truth.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from drivers.contracts import Batch, Bucket, Clock, Store
from syscalls.errors import ENOENT, EPERM
from syscalls.records import Filter, Grant
from syscalls.shapes import Access
from ums.recall.sieve import matches
from ums.records import NOTHING, Stored, space_key

COUNTER = b"ums/grants"
_LAST_KEY = b"\xff" * 32
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Grant)


class Part(NamedTuple):
    """What one grant comes to along its chain."""

    access: Access
    until: float | None
    rids: tuple[str, ...]
    """The record must be each of these: so it is one, or nothing."""
    filters: tuple[Filter, ...]
    """All of these must fit."""

    @property
    def whole(self) -> bool:
        """Whether it is for the whole space."""
        return not self.rids and not self.filters

    def covers(self, rid: str, stored: Stored) -> bool:
        """Whether it is for this version of a record."""
        return all(rid == one for one in self.rids) and all(
            matches(one, stored) for one in self.filters
        )


EVERYTHING = Part("write", None, (), ())
"""As by a right of one's own."""


class Scope(NamedTuple):
    """What one process may do with one space that is not its own."""

    space: int
    parts: tuple[Part, ...]
    apid: int = 0
    """Who is noted in the audit of the space for what a search answers with."""

    def access(self) -> Access | None:
        """What it may do with the whole space; None for nothing, or only with a part."""
        held = [part.access for part in self.parts if part.whole]
        return None if not held else "write" if "write" in held else "read"

    def covers(self, rid: str, stored: Stored, access: Access = "read") -> bool:
        """Whether it may do so with this version of a record."""
        return any(
            part.covers(rid, stored) for part in self.parts if access in ("read", part.access)
        )

    def may(self, access: Access) -> bool:
        """Whether there is any record that it may do so with."""
        return any(access in ("read", part.access) for part in self.parts)


class Sharing:
    """The grants of all spaces. ``ended`` hears at once which ones are over."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ended: Callable[[frozenset[int]], None] = lambda _grants: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ended = ended
        self._grants: dict[int, Grant] = {}
        self._keys: dict[int, bytes] = {}
        self._held: dict[int, set[int]] = {}
        self._scopes: dict[tuple[int, int], tuple[Scope, float | None]] = {}
        self._lent: set[tuple[int, int]] = set()
        self._last = int.from_bytes(store.get("meta", COUNTER) or b"", "big")
        for key, value in store.scan("grants", b"\x00", _LAST_KEY):
            grant = _decoder.decode(value)
            if not grant.id:  # written before grants had numbers
                self._last += 1
                grant.id = self._last
            self._remember(grant, key)

    def __len__(self) -> int:
        return len(self._grants)

    def _remember(self, grant: Grant, key: bytes) -> None:
        self._grants[grant.id] = grant
        self._keys[grant.id] = key
        self._held.setdefault(grant.apid, set()).add(grant.id)
        self._scopes.clear()

    # --- giving and taking

    async def share(
        self,
        space: int,
        apid: int,
        access: Access,
        by: int,
        *,
        only: str | Filter | None = None,
        ttl: float | None = None,
        parent: int = 0,
    ) -> Grant:
        """Let a process use a space; ``only`` narrows it to a rid, or to what fits a filter.

        The same again from the same giver replaces the earlier grant. ``ttl`` is in seconds,
        ``parent`` the grant that it is passed on from. Raises EPERM when it would outlast
        that, ENOENT.
        """
        now = self._clock.now()
        until = None if ttl is None else now + ttl
        if parent:
            held = self._part(parent)
            if held is None:
                raise ENOENT(f"there is no grant {parent}")
            if until is not None and held.until is not None and until > held.until:
                raise EPERM("a grant cannot be passed on for longer", until=held.until)
        rid, fits = (only, None) if isinstance(only, str) else ("", only)
        new = Grant(space, apid, access, now, by, 0, rid, fits, until, parent)
        old = new.id = self._same(new)
        if not old:
            self._last += 1
            new.id = self._last
        key = _key(new)
        puts: list[tuple[Bucket, bytes, bytes]] = [
            ("grants", key, _encoder.encode(new)),
            ("meta", COUNTER, _counter(self._last)),
        ]
        stale = self._keys.get(new.id, key)
        deletes: list[tuple[Bucket, bytes]] = [] if stale == key else [("grants", stale)]
        await self._store.commit(Batch(puts, deletes))
        if not old or old in self._grants:  # else it was revoked meanwhile, and stays so
            self._remember(new, key)
        return new

    def _same(self, new: Grant) -> int:
        """The number of an earlier grant of the same scope from the same giver; 0 for none."""
        for number in self._held.get(new.apid, ()):
            old = self._grants[number]
            if _scope_of(old) == _scope_of(new):
                return number
        return 0

    async def revoke(
        self, space: int, apid: int, *, by: int | None = None, grant: int | None = None
    ) -> frozenset[int]:
        """Take grants back, with all that was passed on; refused from the moment of the call.

        ``by`` narrows it to those that one process gave, ``grant`` to one. Returns the numbers
        of all that are over. Raises ENOENT.
        """
        chosen = [
            number
            for number in self._held.get(apid, ())
            if self._grants[number].space == space
            and by in (None, self._grants[number].by)
            and grant in (None, number)
        ]
        if not chosen:
            raise ENOENT(f"space {space} is not shared with process {apid}")
        return await self._end(self._with_children(chosen))

    async def sweep(self) -> None:
        """Remove the grants that are over; they are refused already."""
        late = [number for number in self._grants if not self.alive(number)]
        if late:
            await self._end(self._with_children(late))

    def _with_children(self, numbers: Iterable[int]) -> set[int]:
        found = set(numbers)
        while more := {g.id for g in self._grants.values() if g.parent in found} - found:
            found |= more
        return found

    async def _end(self, numbers: set[int]) -> frozenset[int]:
        gone = [(self._grants.pop(number), self._keys.pop(number)) for number in numbers]
        for grant, _ in gone:
            self._held[grant.apid].discard(grant.id)
        self._scopes.clear()
        over = frozenset(numbers)
        self._ended(over)
        try:
            await self._store.commit(Batch(deletes=[("grants", key) for _, key in gone]))
        except BaseException:
            for grant, key in gone:
                self._remember(grant, key)
            raise
        return over

    # --- asking

    def scope(self, apid: int, space: int) -> Scope:
        """What a process may do with a space by the grants that it holds now."""
        known = self._scopes.get((apid, space))
        now = self._clock.now()
        if known is not None and (known[1] is None or now < known[1]):
            return known[0]
        parts = [
            part
            for number in sorted(self._held.get(apid, ()))
            if self._grants[number].space == space
            and (part := self._part(number)) is not None
            and (part.until is None or now < part.until)
        ]
        scope = Scope(space, tuple(parts), apid)
        ends = [part.until for part in parts if part.until is not None]
        self._scopes[apid, space] = scope, min(ends, default=None)
        return scope

    def _part(self, number: int) -> Part | None:
        """What a grant comes to along its chain; None where a link is gone or over."""
        access: Access = "write"
        until: float | None = None
        rids: list[str] = []
        filters: list[Filter] = []
        while number:
            grant = self._grants.get(number)
            if grant is None:
                return None
            access = grant.access if access == "write" else access
            if grant.until is not None:
                until = grant.until if until is None else min(until, grant.until)
            rids += [grant.rid] if grant.rid else []
            filters += [grant.filter] if grant.filter is not None else []
            number = grant.parent
        return Part(access, until, tuple(rids), tuple(filters))

    def alive(self, number: int) -> bool:
        """Whether a grant is in force, with all that it hangs on."""
        part = self._part(number)
        return part is not None and (part.until is None or self._clock.now() < part.until)

    def until(self, number: int) -> float | None:
        """When a grant ends by itself; None for never. Raises ENOENT."""
        part = self._part(number)
        if part is None:
            raise ENOENT(f"there is no grant {number}")
        return part.until

    def passable(
        self,
        apid: int,
        space: int,
        access: Access,
        only: str | Filter | None = None,
        stored: Stored = NOTHING,
    ) -> int:
        """A grant that a process may pass on as asked; 0 for none.

        ``stored`` is the record of the rid ``only``. A filter is always narrower than what it
        is hung on, because both must fit. Of several grants a whole one is best, then the one
        that lasts longest.
        """
        best, rank = 0, (False, 0.0)
        for number in sorted(self._held.get(apid, ())):
            part = self._part(number)
            if part is None or self._grants[number].space != space or not self.alive(number):
                continue
            if access == "write" != part.access:
                continue
            lasts = float("inf") if part.until is None else part.until
            inside = isinstance(only, Filter) or (only is not None and part.covers(only, stored))
            if (part.whole or inside) and (part.whole, lasts) > rank:
                best, rank = number, (part.whole, lasts)
        return best

    def access(self, apid: int, own_space: int, space: int) -> Access | None:
        """What a process may do with a whole space; None is nothing, or only with a part."""
        if space == own_space:
            return "write"
        return self.scope(apid, space).access()

    def shared_with(self, apid: int) -> list[int]:
        """The spaces that others share with a process, in order of their numbers."""
        spaces = {self._grants[number].space for number in self._held.get(apid, ())}
        return sorted(space for space in spaces if self.scope(apid, space).parts)

    def of(self, space: int) -> list[Grant]:
        """The grants of a space in force, in order of the processes."""
        held = (g for g in self._grants.values() if g.space == space and self.alive(g.id))
        return sorted(held, key=lambda grant: (grant.apid, grant.id))

    # --- spaces that a process works in without owning them

    def lend(self, apid: int, space: int) -> None:
        """A process works in a space by a grant only: it is not its own."""
        self._lent.add((apid, space))

    def lent(self, apid: int, space: int) -> bool:
        """Whether a process works in a space by a grant only."""
        return (apid, space) in self._lent

    async def withdraw(self, apid: int) -> None:
        """Take back whatever a process was granted: it is over."""
        self._lent = {one for one in self._lent if one[0] != apid}
        if held := self._held.get(apid):
            await self._end(self._with_children(held))
        self._held.pop(apid, None)


def _scope_of(grant: Grant) -> tuple[object, ...]:
    return (grant.space, grant.apid, grant.by, grant.parent, grant.rid, grant.filter)


def _key(grant: Grant) -> bytes:
    return space_key(grant.space) + grant.apid.to_bytes(8, "big") + _counter(grant.id)


def _counter(number: int) -> bytes:
    return number.to_bytes(8, "big")
