"""Memory: what the kernel's handlers call. The map is in the package's docstring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.errors import EDQUOT, LoadFault, MachineFault
from ums.indexer import Indexer, IndexerStatistics
from ums.recall.search import Recall, RecallStatistics
from ums.rid import space_of
from ums.settings import MemorySettings
from ums.sharing import Sharing
from ums.spaces import Spaces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from drivers.contracts import Clock, Embedder, IndexFactory, Offload, Store
    from syscalls.calls.mem import Hits, Search, Update, Written
    from syscalls.shapes import Access, Grant, Note, Record, Segment, SpaceInfo, Version
    from ums.settings import Log


class MemoryStatistics(msgspec.Struct, frozen=True):
    """Figures of memory since the start."""

    spaces_open: int
    grants: int
    written: int
    """Records written, new versions included."""
    expired: int
    """Times that a sweep changed a space."""
    indexes: IndexerStatistics
    recall: RecallStatistics


@dataclass(eq=False, repr=False)
class Memory:
    """All spaces with their indexes and grants, and what they stand on."""

    store: Store
    indexes: IndexFactory
    embedder: Embedder
    clock: Clock
    random: Random
    offload: Offload
    log: Log
    settings: MemorySettings = field(default_factory=MemorySettings)

    def __post_init__(self) -> None:
        self._spaces = Spaces(self.store, self.clock, self.random)
        self._sharing = Sharing(self.store, self.clock)
        self._indexer = Indexer(
            self.store, self.indexes, self.embedder, self.offload, self.log, self.settings
        )
        self._recall = Recall(self.store, self._indexer, self.embedder, self.clock, self.settings)
        self._written = 0
        self._expired = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Index, expire and check in the background until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._indexer.run, self._spaces.numbers())
            nursery.start_soon(self._keep_house)
            task_status.started()

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(self.settings.housekeeping)
            try:
                await self.sweep()
                await self._spaces.checkpoint()
            except (MachineFault, LoadFault) as error:
                # Nothing depends on it now: expired records are invisible without it.
                self.log("warning", "memory", f"housekeeping is put off: {error.message}")

    async def sweep(self) -> None:
        """Erase the records whose time to live is over (they are invisible already)."""
        for space in await self._spaces.sweep():
            self._expired += 1
            self._indexer.changed(space)

    async def aclose(self) -> None:
        """Close the indexes and store the sums. ``run`` has ended."""
        await self._indexer.aclose()
        try:
            await self._spaces.checkpoint(everything=True)
        except MachineFault as error:
            self.log("warning", "memory", f"the sums are left to the journal: {error.message}")

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

    @staticmethod
    def space_of(rid: str) -> int:
        """The number of the space that a record is in, there or not. Raises EINVAL."""
        return space_of(rid)

    async def stat(self, space: int) -> SpaceInfo:
        """Sums, indexes and grants of a space. Raises ENOENT."""
        info = self._spaces.open(space).info()
        info.indexed = await self._indexer.positions(space)
        info.grants = self._sharing.of(space)
        return info

    async def share(self, space: int, apid: int, access: Access, by: int = 0) -> Grant:
        """Let a process use a space. Raises ENOENT."""
        return await self._sharing.share(self.resolve(space), apid, access, by)

    async def revoke(self, space: int, apid: int) -> None:
        """Take a grant back. Raises ENOENT."""
        await self._sharing.revoke(space, apid)

    def access(self, apid: int, space: int, own_space: int = 0) -> Access | None:
        """What a process may do with a space; None is nothing."""
        return self._sharing.access(apid, own_space, space)

    def shared_with(self, apid: int) -> list[int]:
        """The spaces that were shared with a process."""
        return self._sharing.shared_with(apid)

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
        try:
            written = await home.write(note, writer, call, limit=limit)
        except EDQUOT:
            # Expired records do not count: erase them, then it is refused or not.
            await self.sweep()
            written = await home.write(note, writer, call, limit=limit)
        self._written += 1
        self._indexer.changed(space)
        return written

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
        try:
            written = await home.write_many(notes, writer, call, limit=limit)
        except EDQUOT:
            # Expired records do not count: erase them, then it is refused or not.
            await self.sweep()
            written = await home.write_many(notes, writer, call, limit=limit)
        self._written += len(written)
        self._indexer.changed(space)
        return written

    def read(self, rid: str, version: int | None = None) -> Record:
        """A record, or an older version of it. Raises ENOENT, EINVAL."""
        return self._spaces.open(space_of(rid)).read(rid, version)

    def read_key(self, space: int, key: str, version: int | None = None) -> Record:
        """The record of a key. Raises ENOENT."""
        return self._spaces.open(space).find(key, version)

    async def newest(
        self,
        space: int,
        segment: Segment | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> list[Record]:
        """Live records, newest first, from just before the rid ``before``."""
        return await self._spaces.open(space).newest(limit, before=before, segment=segment)

    async def search(self, spaces: Sequence[int], call: Search) -> Hits:
        """The best records of all these spaces together; never raises for a failing index."""
        return await self._recall.search(spaces, call)

    async def update(self, writer: int, call: Update, name: str = "mem.update") -> Written:
        """Add a version. Raises ENOENT, ECONFLICT, EINVAL."""
        space = space_of(call.rid)
        written = await self._spaces.open(space).update(call, writer, name)
        self._written += 1
        self._indexer.changed(space)
        return written

    async def delete(
        self, writer: int, rid: str, expect: int | None = None, name: str = "mem.delete"
    ) -> None:
        """Erase a record with all its versions. Raises ENOENT, ECONFLICT."""
        space = space_of(rid)
        await self._spaces.open(space).delete(rid, writer, name, expect=expect)
        self._indexer.changed(space)

    def history(self, rid: str) -> list[Version]:
        """All versions, oldest first. Raises ENOENT."""
        return self._spaces.open(space_of(rid)).history(rid)

    def statistics(self) -> MemoryStatistics:
        """Figures for ``sys.stats``."""
        return MemoryStatistics(
            len(self._spaces),
            len(self._sharing),
            self._written,
            self._expired,
            self._indexer.statistics(),
            self._recall.statistics(),
        )
