"""What memory consists of, how it is put together, and what it does by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.errors import LoadFault, MachineFault
from ums.activation import Uses, UsesStatistics
from ums.audit import Audit
from ums.blobs import Blobs, BlobsStatistics
from ums.cascade import Cascade, CascadeStatistics
from ums.consolidate import Consolidator
from ums.echo import Echoes, EchoStatistics
from ums.folding import Folding, FoldingStatistics
from ums.graph import Grapher, GrapherStatistics
from ums.handed import Handed
from ums.indexer import Indexer, IndexerStatistics
from ums.keeper import Keeper, KeeperStatistics
from ums.past import Past
from ums.prefixes import Prefixes
from ums.recall.search import Recall, RecallStatistics
from ums.settings import MemorySettings
from ums.sharing import Sharing
from ums.spaces import Spaces
from ums.working import Working, WorkingStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from drivers.contracts import (
        Clock,
        Embedder,
        GraphFactory,
        IndexFactory,
        Offload,
        Store,
    )
    from ums.capsule.desk import Capsules
    from ums.meter import Meter
    from ums.settings import Log


def _no_graphs() -> GraphFactory:
    from drivers.graph import NoGraphs

    return NoGraphs()


class MemoryStatistics(msgspec.Struct, frozen=True):
    """Figures of memory since the start."""

    spaces_open: int
    grants: int
    written: int
    """Records written, new versions included."""
    expired: int
    """Times that a sweep changed a space."""
    audited: int
    """Uses of a space by others that were noted."""
    folding: FoldingStatistics
    indexes: IndexerStatistics
    recall: RecallStatistics
    working: WorkingStatistics
    uses: UsesStatistics
    lifecycle: KeeperStatistics
    cascades: CascadeStatistics
    echoes: EchoStatistics
    blobs: BlobsStatistics
    graph: GrapherStatistics


@dataclass(eq=False, repr=False)
class Parts:
    """The parts of memory. ``Memory`` adds the calls."""

    store: Store
    indexes: IndexFactory
    embedder: Embedder
    clock: Clock
    random: Random
    offload: Offload
    log: Log
    settings: MemorySettings = field(default_factory=MemorySettings)
    graphs: GraphFactory = field(default_factory=_no_graphs)
    former: Embedder | None = None
    """The embedder used before, where there is one at hand."""

    def __post_init__(self) -> None:
        self._lay_down()
        self._settle_in()
        self._look_up()
        self._written = 0
        self._expired = 0

    def _lay_down(self) -> None:
        """The spaces, who may use them, and what follows from a change."""
        self.echoes = Echoes()
        """What was handed to whom, so that it is known again when it comes back."""
        self.handed = Handed()
        """The same by record, so that who pins a text knows what it rests on."""
        self.sharing = Sharing(self.store, self.clock, self._ended)
        """The grants: what a process may do with what is not its own."""
        self._spaces = Spaces(
            self.store,
            self.clock,
            self.random,
            self.sharing.alive,
            self.sharing.until,
            self.echoes.mark,
        )
        self.cascade = Cascade(
            self.store,
            self._spaces.open,
            lambda space: self._changed(space, erased=True),
            self.log,
        )
        """What follows when the source of a record changes."""
        self.unread: set[int] = set()
        """Spaces that have changed since consolidation last looked."""
        self.touched: set[int] = set()
        """Spaces that have changed; who follows them takes them out."""

    def _settle_in(self) -> None:
        """The life of records: learning, uses, states, folding, originals."""
        self._consolidator = Consolidator(self.store, self.clock)
        self.folding = Folding(self.store, self._spaces, self.clock, self._indexed)
        self.audit = Audit(self.store, self.clock, self.settings.audit_lines)
        """Who used what that is not his own."""
        self.uses = Uses(self.store, self.clock)
        """How recently and how often each record was used."""
        self.keeper = Keeper(
            self.store,
            self._spaces,
            self.uses,
            self.clock,
            lambda space: self._changed(space, erased=True),
        )
        """The states of records: pin, archive, merge, forget, undo."""
        self.keeper.on_gone(self._gone)
        self.prefixes = Prefixes(self.store, self._spaces.open)
        """Beginnings of prompts whose model state is kept, and the records they rest on."""
        self.blobs = Blobs(self.store, self.clock, self.random)
        """The originals that records were made from."""

    @cached_property
    def capsules(self) -> Capsules:
        """Spaces as files, out and in again; made at the first one."""
        from ums.capsule.desk import Capsules

        return Capsules(
            self.store, self._spaces, self.blobs, self.clock, self.random, self._changed
        )

    def _look_up(self) -> None:
        """What is derived, and what is asked."""
        self._indexer = Indexer(
            self.store,
            self.indexes,
            self.embedder,
            self.offload,
            self.log,
            self.settings,
            self.former,
        )
        self._recall = Recall(self.store, self._indexer, self.embedder, self.clock, self.settings)
        self.working = Working(self.store, self._spaces.open, self._changed)
        """What lies on the desk of each space."""
        self.grapher = Grapher(self.store, self.graphs, self.offload, self.log)
        """The entity graphs: none is opened before the first question."""
        self.past = Past(self.store, self.clock, self._spaces.open)
        """What was so and what was believed at a moment; the facts about an entity."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Index, expire and check in the background until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._indexer.run, self._spaces.layers())
            nursery.start_soon(self._keep_house)
            nursery.start_soon(self.grapher.run)
            nursery.start_soon(self._note_uses)
            nursery.start_soon(self.cascade.run)
            task_status.started()

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(self.settings.housekeeping)
            try:
                await self.sweep()
                await self._spaces.checkpoint()
                await self.folding.step()
            except (MachineFault, LoadFault) as error:
                # Nothing depends on it now: expired records are invisible without it.
                self.log("warning", "memory", f"housekeeping is put off: {error.message}")

    async def _note_uses(self) -> None:
        while True:
            await self.uses.due(self.settings.uses_after)
            try:
                await self.uses.flush()
            except (MachineFault, LoadFault) as error:
                self.log("warning", "memory", f"uses are not noted yet: {error.message}")

    async def sweep(self) -> None:
        """Erase the records whose time to live is over (they are invisible already).

        Shares whose time is over are taken back.
        """
        for space in await self._spaces.sweep():
            self._expired += 1
            self._changed(space, erased=True)
            await self.cascade.follow(space)
        await self.sharing.sweep()
        await self.keeper.lapse()
        await self.blobs.sweep()

    def _changed(self, space: int, *, erased: bool = False) -> None:
        """A space has changed: index it. What was erased may have been in a lower layer."""
        self.touched.add(space)
        self.unread.add(space)
        home = self._spaces.open(space)
        for layer in home.own if erased else (home.top.number,):
            self._indexer.changed(layer)
            self.grapher.changed(layer)

    def on_growth(self, meter: Meter) -> None:
        """Have ``meter`` asked and told of what is stored; before any space is opened."""
        self._spaces.meter = self.blobs.meter = meter

    def on_lapsed(self, hook: Callable[[], None]) -> None:
        """Have ``hook`` called when a pinned prefix has to follow its records."""
        self._spaces.lapsed = hook

    async def _gone(self, space: int, _rids: Sequence[str], _event: str) -> None:
        await self.cascade.follow(space)

    async def _indexed(self, layer: int) -> bool:
        """Whether the indexes have all of a layer; sees to it that they will."""
        last = self.store.last(layer)
        ready = all(at >= last for at in (await self._indexer.positions(layer)).values())
        if not ready:
            self._indexer.changed(layer)
        return ready

    def _ended(self, grants: frozenset[int]) -> None:
        self._spaces.ended(grants)

    async def aclose(self) -> None:
        """Close the indexes and store the sums. ``run`` has ended."""
        await self._indexer.aclose()
        await self.grapher.aclose()
        try:
            await self.uses.flush()
            await self._spaces.checkpoint(everything=True)
        except MachineFault as error:
            self.log("warning", "memory", f"the sums are left to the journal: {error.message}")

    def statistics(self) -> MemoryStatistics:
        """Figures for ``sys.stats``."""
        return MemoryStatistics(
            len(self._spaces),
            len(self.sharing),
            self._written,
            self._expired,
            self.audit.written,
            self.folding.statistics(),
            self._indexer.statistics(),
            self._recall.statistics(),
            self.working.statistics(),
            self.uses.statistics(),
            self.keeper.statistics(),
            self.cascade.statistics(),
            self.echoes.statistics(),
            self.blobs.statistics(),
            self.grapher.statistics(),
        )
