"""Memory: what the kernel's handlers call. The map is in the package's docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from drivers.contracts import Batch
from syscalls.calls.mem import Search
from syscalls.errors import EDQUOT, ENOENT
from syscalls.records import AuditLine
from ums.attic import rummage
from ums.parts import Parts
from ums.reach import Reach
from ums.rid import pack, space_of
from ums.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from syscalls.calls.learn import Consolidated
    from syscalls.calls.mem import Hits, Update, Written
    from syscalls.records import Filter, Grant, Note, Record, SpaceInfo, Version
    from syscalls.shapes import Access, Segment
    from ums.consolidate import Task
    from ums.moment import Moment
    from ums.records import Stored
    from ums.sharing import Scope
    from ums.view import Allows, Guard, View

T = TypeVar("T")
ALIKE = 1000
"""Characters by which records that are alike are looked for."""
USED = 10
"""Hits of a search that count as used."""


class Memory(Parts):
    """All spaces with their indexes and grants: what can be asked of them."""

    # --- spaces

    async def create_space(self, owner: int, name: str = "") -> int:
        """Make a space and return its number; durable. Raises EEXIST."""
        return await self._spaces.create(owner, name)

    def resolve(self, ref: int | str) -> int:
        """The number of the space that ``ref`` numbers or names. Raises ENOENT."""
        return self._spaces.resolve(ref)

    def known(self, ref: int | str) -> int | None:
        """As ``resolve``; None when there is none."""
        return self._spaces.known(ref)

    def space_of(self, rid: str) -> int:
        """The number of the space that a record was written to, there or not. Raises EINVAL."""
        layer = space_of(rid)
        try:
            return self._spaces.home(layer)
        except ENOENT:
            return layer

    def holds(self, space: int, rid: str) -> bool:
        """Whether a record is, or was, one of a space's: its own or of a layer below."""
        known = self.known(space)
        return known is not None and self._spaces.open(known).stack.holds(pack(rid))

    def view(self, space: int) -> View:
        """What can be read of a space, through its layers. Raises ENOENT."""
        return self._spaces.open(space)

    def size(self, space: int) -> tuple[int, int]:
        """Records and bytes that were written for a space itself. Raises ENOENT."""
        return self._spaces.size(space)

    async def stat(self, space: int) -> SpaceInfo:
        """Sums, indexes and grants of a space. Raises ENOENT."""
        info = self._spaces.open(space).info()
        info.indexed = await self._positions(info)
        info.grants = self.sharing.of(space)
        return info

    async def _positions(self, info: SpaceInfo) -> dict[str, int]:
        """How far each kind of index is: where any layer's is behind, as far as that one."""
        reached: dict[str, int] = {}
        for layer in info.layers:
            last = self.store.last(layer)
            if not last and len(info.layers) > 1:
                continue  # nothing in it, nothing to open
            for kind, position in (await self._indexer.positions(layer)).items():
                at = info.seq if position >= last else min(position, info.seq)
                reached[kind] = min(reached.get(kind, at), at)
        return reached

    # --- layers

    async def snapshot(self, space: int, owner: int, name: str = "") -> int:
        """Keep a space as it is now; the number of the snapshot, a space that stays so.

        A few keys of the store, whatever the space holds. Raises ENOENT, EEXIST, EAGAIN.
        """
        return await self._spaces.branch(space, owner, name, sealed=True)

    async def fork(self, space: int, owner: int, name: str = "") -> int:
        """As ``snapshot``, but of a space that goes on by itself."""
        return await self._spaces.branch(space, owner, name, sealed=False)

    def newer(self, space: int, allows: Allows | None = None) -> Allows:
        """What was first written to a space itself, and not to the one that it was made from."""
        home = self._spaces.open(space)
        before = self.known(home.header.origin) if home.header.origin else None
        below = set(self._spaces.open(before).stack.layers) if before is not None else set()
        own = set(home.stack.layers) - below

        def allowed(rid: str, stored: Stored) -> bool:
            return space_of(rid) in own and (allows is None or allows(rid, stored))

        return allowed

    async def attach(self, space: int, other: int, grant: int = 0) -> None:
        """Put another space, as it is now, under a space's own records; read-only.

        ``grant`` is the share that this rests on and ends with. Raises ENOENT, EEXIST, EINVAL.
        """
        await self._spaces.attach(space, other, grant)

    async def detach(self, space: int, other: int) -> None:
        """Take an attached space away again. Raises ENOENT."""
        await self._spaces.detach(space, other)

    # --- sharing

    async def share(
        self,
        space: int,
        apid: int,
        access: Access,
        by: int = 0,
        *,
        only: str | Filter | None = None,
        ttl: float | None = None,
        parent: int = 0,
    ) -> Grant:
        """Let a process use a space, or only a record (rid) of it, or what fits a filter.

        ``ttl`` is in seconds; ``parent`` is the grant that it is passed on from, which it never
        exceeds. Raises ENOENT, EPERM.
        """
        return await self.sharing.share(
            self.resolve(space), apid, access, by, only=only, ttl=ttl, parent=parent
        )

    async def revoke(
        self, space: int, apid: int, *, by: int | None = None, grant: int | None = None
    ) -> None:
        """Take grants back (those that ``by`` gave, or one), and what was passed on of them.

        Effective from the moment of the call. Raises ENOENT.
        """
        await self.sharing.revoke(space, apid, by=by, grant=grant)

    def access(self, apid: int, space: int, own_space: int = 0) -> Access | None:
        """What a process may do with a whole space; None is nothing, or only with a part."""
        return self.sharing.access(apid, own_space, space)

    def shared_with(self, apid: int) -> list[int]:
        """The spaces of which something was shared with a process."""
        return self.sharing.shared_with(apid)

    # --- records

    async def write(
        self,
        space: int,
        writer: int,
        note: Note,
        call: str = "mem.write",
        limit: int | None = None,
    ) -> Written:
        """Write one record; ``limit`` is the most the space may hold.

        Raises ENOENT, EDQUOT, ECONFLICT, EINVAL, EIO.
        """
        home = self._spaces.open(space)
        written = await self._swept(lambda: home.write(note, writer, call, limit=limit))
        self._written += 1
        self._changed(space)
        await self.cascade.follow(space)
        return written

    async def _swept(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write; where that is over a limit, erase what has expired, which does not count."""
        try:
            return await write()
        except EDQUOT:
            await self.sweep()
            return await write()

    async def write_many(
        self,
        space: int,
        writer: int,
        notes: Sequence[Note],
        call: str = "mem.write_many",
        limit: int | None = None,
    ) -> list[Written]:
        """Write several records, all or none; the errors are those of ``write``."""
        home = self._spaces.open(space)
        written = await self._swept(lambda: home.write_many(notes, writer, call, limit=limit))
        self._written += len(written)
        self._changed(space)
        await self.cascade.follow(space)
        return written

    def read(
        self,
        rid: str,
        version: int | None = None,
        space: int | None = None,
        guard: Guard | None = None,
    ) -> Record:
        """A record, or an older version of it, as ``space`` has it (default: its home).

        ``guard`` is asked about the version. Raises ENOENT, EINVAL, EPERM.
        """
        record = self._spaces.open(self._place(rid, space)).read(rid, version, guard)
        return self.keeper.shown(record)

    def _place(self, rid: str, space: int | None) -> int:
        return self.space_of(rid) if space is None else space

    def read_key(
        self, space: int, key: str, version: int | None = None, guard: Guard | None = None
    ) -> Record:
        """The record of a key. Raises ENOENT, EPERM."""
        return self.keeper.shown(self._spaces.open(space).find(key, version, guard))

    async def newest(
        self,
        space: int,
        segment: Segment | None = None,
        limit: int = 20,
        before: str | None = None,
        *,
        allows: Allows | None = None,
    ) -> list[Record]:
        """Live records, newest first, from just before the rid ``before``.

        ``allows`` leaves out what the reader may not see.
        """
        home = self._spaces.open(space)
        found = await home.newest(limit, before=before, segment=segment, allows=allows)
        return [self.keeper.shown(record) for record in found]

    async def search(self, spaces: Sequence[int | Scope], call: Search) -> Hits:
        """The best records of all these spaces together; never raises for a failing index.

        Of a ``Scope`` only what it covers is searched, and what is answered with is noted in
        the audit of its space. Raises EIO where that cannot be.
        """
        reach = self.reach(spaces)
        hits = await self._recall.search(reach, call)
        if call.include_archived and len(hits.hits) < call.k:
            hits.hits += await rummage(reach, call, self.clock.now(), hits.hits)
        lines = []
        for scope in spaces:
            if not isinstance(scope, int) and scope.apid:
                rids = [hit.rid for hit in hits.hits if hit.provenance.space == scope.space]
                if rids or len(spaces) == 1:
                    line = AuditLine(scope.space, scope.apid, "mem.search", rids=rids)
                    line.query = call.query
                    lines.append(line)
        await self.audit.note(*lines)
        for hit in hits.hits[:USED]:
            self.uses.note(hit.provenance.space, [hit.rid])
        return hits

    async def note_answer(
        self, spaces: Sequence[int | Scope], call: str, rids: Sequence[str], query: str
    ) -> None:
        """Note in the audits of shared spaces which of their records were answered with."""
        shared = [one for one in spaces if not isinstance(one, int) and one.apid]
        if not shared:
            return
        places = self.reach(spaces).places(rids)
        lines = []
        for scope in shared:
            found = [r for r, p in zip(rids, places, strict=True) if p and p.space == scope.space]
            if found:
                lines.append(AuditLine(scope.space, scope.apid, call, rids=found, query=query))
        await self.audit.note(*lines)

    def walk(
        self, spaces: Sequence[int | Scope], moment: Moment, deadline: float | None = None
    ) -> Walk:
        """A question to the entity graph of some spaces; ``deadline`` is in seconds."""
        return Walk(self.grapher, self.store, self.reach(spaces), moment, deadline)

    def reach(self, spaces: Sequence[int | Scope]) -> Reach:
        """What a search of these spaces may see."""
        return Reach(
            (self._spaces.open(one), None)
            if isinstance(one, int)
            else (self._spaces.open(one.space), None if one.access() else one.covers)
            for one in spaces
        )

    async def update(
        self,
        writer: int,
        call: Update,
        name: str = "mem.update",
        *,
        space: int | None = None,
        guard: Guard | None = None,
    ) -> Written:
        """Add a version, in ``space`` (default: the record's home).

        ``guard`` is asked about the record as it is and as it would be. Raises ENOENT,
        ECONFLICT, EINVAL, EPERM.
        """
        home = self._spaces.open(self._place(call.rid, space))
        written = await home.update(call, writer, name, guard=guard)
        self._written += 1
        self._changed(home.number)
        await self.cascade.follow(home.number)
        return written

    async def delete(
        self,
        writer: int,
        rid: str,
        expect: int | None = None,
        name: str = "mem.delete",
        *,
        space: int | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Erase a record with all its versions, in ``space`` (default: its home).

        Another space that stands on the same layers keeps it until it deletes it too.
        Raises ENOENT, ECONFLICT, EPERM.
        """
        home = self._spaces.open(self._place(rid, space))
        twins = self.keeper.merged_into(home.number, rid)
        try:
            await home.delete(rid, writer, name, expect=expect, guard=guard)
        except ENOENT:
            if await self.keeper.burn(home.number, rid):
                return  # it was forgotten; now that cannot be undone either
            raise
        self._changed(home.number, erased=True)
        await self.keeper.deleted(home.number, rid, twins)

    def up_to_date(self, space: int) -> bool:
        """Whether a space has nothing to be learned from, or is a snapshot."""
        if self._consolidator.read_whole(space):
            return True  # it is not opened for that
        home = self._spaces.open(space)
        return home.header.sealed or not self._consolidator.behind(home)

    async def consolidate(self, space: int, task: Task) -> Consolidated:
        """Learn from the episodes of a space that are new: see ``ums.consolidate``.

        Raises ENOENT, EDQUOT, EPERM (a snapshot), EIO.
        """
        home = self._spaces.open(space)
        try:
            return await self._consolidator.run(home, task)
        finally:
            self._changed(space)
            await self.cascade.follow(space)

    def history(
        self, rid: str, *, space: int | None = None, allows: Allows | None = None
    ) -> list[Version]:
        """All versions, oldest first. Raises ENOENT."""
        return self._spaces.open(self._place(rid, space)).history(rid, allows)

    # --- for the policy of forgetting

    def numbers(self) -> list[int]:
        """Every space there is."""
        return self._spaces.numbers()

    async def remember(self, key: bytes, value: bytes) -> None:
        """Keep a ``meta`` key of who works on the spaces in the background. Raises EIO."""
        await self.store.commit(Batch([("meta", key, value)]))

    async def alike(self, space: int, text: str, k: int = 6) -> list[str]:
        """The records of a space nearest to a text; it does not count as a use."""
        call = Search(query=text[:ALIKE], k=k, deadline=5.0)
        hits = await self._recall.search(self.reach([space]), call)
        return [hit.rid for hit in hits.hits]
