"""Feeds the derived indexes of all spaces, and opens and closes them.

Who needs an index up to date brings it there himself: a search advances its spaces to the
last change before it looks. Workers in the background do the same for everybody else, so
that mostly there is nothing left to do. Both go through the same followers, page by page,
and take turns there.

    write ──changed(space)──> backlog ──worker──> follower.step ──> index
                                                     ^
    search ──────────────────── advance(to last) ────┘

A vector index that has grown large is rebuilt aside, one at a time, while it goes on serving:

    worker sees ``dense.large`` ──> large backlog ──> builder ──> follower.rebuild

An index that fails in use is removed with the other one of its space (they share a folder),
opens empty, and is fed again.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.errors import EIO, ENODEV
from ums.backlog import Backlog
from ums.follower import Damaged, DenseFollower, Kind, LexicalFollower
from ums.pair import Pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from drivers.contracts import Embedder, IndexFactory, Located, Offload, Store
    from ums.settings import Log, MemorySettings

PROGRESS = 5.0
PATIENT_FAILURES = 3
"""Damages in a row after which an index is left to the workers, who pause ever longer."""


class IndexerStatistics(msgspec.Struct, frozen=True):
    """Figures of the indexer since the start."""

    open: int
    """Spaces with open indexes."""
    lexical_backlog: int
    """Spaces that wait for a worker."""
    dense_backlog: int
    rebuilding: int
    """Spaces whose vector index is being rebuilt, or waits for that."""
    damaged: int
    """Times that indexes were removed because one of them failed."""
    recovering: str
    """What the pass after the start is at; empty when it is done."""


class Indexer:
    """The indexes of all spaces."""

    def __init__(
        self,
        store: Store,
        factory: IndexFactory,
        embedder: Embedder,
        offload: Offload,
        log: Log,
        settings: MemorySettings,
        former: Embedder | None = None,
    ) -> None:
        self._store = store
        self._factory = factory
        self._embedder = embedder
        self._former = former
        self._offload = offload
        self._log = log
        self._settings = settings
        self._pairs: dict[int, Pair] = {}
        self._backlogs: dict[Kind, Backlog] = {"lexical": Backlog(), "dense": Backlog()}
        self._pages = {"lexical": settings.lexical_page, "dense": settings.dense_page}
        self._rates = {"lexical": settings.lexical_rate, "dense": settings.dense_rate}
        self._large = Backlog()
        self._building = 0
        self._crowded = trio.Event()
        self._bytes = 0
        """Memory of all pairs, as last weighed."""
        self._damaged = 0
        self._recovering = ""
        self._told = False

    def changed(self, space: int) -> None:
        """A space has new journal entries: index them when there is time."""
        for backlog in self._backlogs.values():
            backlog.add(space)

    @asynccontextmanager
    async def using(self, space: int) -> AsyncIterator[Pair]:
        """The indexes of a space, kept from being closed meanwhile.

        Where as many as may be are open already, one that nobody uses is closed first. So the
        most that are open is ``open_spaces`` and those in use at this moment.
        """
        if space not in self._pairs and len(self._pairs) >= self._settings.open_spaces:
            await self._make_room()
        pair = self._pairs.pop(space, None)
        if pair is None:
            pair = self._pair(space)
        self._pairs[space] = pair  # at the end: most recently used
        pair.users += 1
        try:
            yield pair
        finally:
            pair.users -= 1
            self._bytes += pair.weigh()
            if self._too_many() or self._bytes > self._settings.index_memory:
                self._crowded.set()

    def _pair(self, space: int) -> Pair:
        base = (space, self._store, self._factory, self._offload)
        former = None if self._former is None else DenseFollower(*base, self._former)
        return Pair(LexicalFollower(*base), DenseFollower(*base, self._embedder), former)

    async def formerly(
        self, pair: Pair, query: str, n: int, tags: frozenset[int] | None
    ) -> list[Located]:
        """What the embedder before finds, as long as the vectors of the new one are not complete.

        Nothing when that embedder is not at hand. What was written since it went is not among
        its vectors, but found by its words. Never raises for a failing index.
        """
        old, former = self._former, pair.former
        if old is None or former is None or old.state != "ready":
            return []
        if pair.dense.position >= self._store.last(pair.dense.space):
            return []
        try:
            await old.ready()
            vector = (await old.embed([query]))[0]
            return await former.search(vector, n, tags)
        except (Damaged, EIO, ENODEV) as error:
            self._log("warning", "indexes", f"the embedder before is of no use: {error}")
            return []

    async def caught_up(self, pair: Pair, kind: Kind, seq: int, deadline: float) -> bool:
        """Bring an index up to ``seq`` before ``deadline`` (trio's clock); whether it is.

        What cannot be done in time is not begun but left to the background. Raises Damaged;
        EIO and ENODEV of the embedder. Cancel it at the deadline.
        """
        side = pair.side(kind)
        if kind == "dense":
            await self._embedder.ready()
        await side.opened()
        if side.position >= seq:
            return True
        most = int(self._rates[kind] * max(0.0, deadline - trio.current_time())) + 1
        if len(self._store.journal(side.space, side.position, most + 1)) > most:
            self._backlogs[kind].add(side.space)
            return False
        await side.advance(seq, self._pages[kind])
        pair.failures = 0
        return side.position >= seq

    async def mend(self, pair: Pair, damage: Damaged) -> None:
        """Remove the indexes of a space after one failed; they are fed again from nothing."""
        async with pair.lexical.use, pair.dense.use:
            if pair.side(damage.kind).openings != damage.opening:
                return  # another task has mended it
            space = pair.lexical.space
            self._damaged += 1
            pair.failures += 1
            self._log("error", "indexes", f"space {space}: {damage}; removed, to be built again")
            for side in (pair.lexical, pair.dense):
                side.openings += 1
                try:
                    await side.close_held()
                except Damaged as error:
                    self._log("warning", "indexes", f"space {space}: closing the {error}")
            try:
                await self._offload(lambda: self._factory.remove(space))
            except OSError as error:
                self._log("error", "indexes", f"space {space}: cannot be removed: {error}")
        self.changed(space)

    async def positions(self, space: int) -> dict[str, int]:
        """The sequence number that each index has reached; opens those that can be."""
        kinds: list[Kind] = ["lexical"] if self._embedder.info is None else ["lexical", "dense"]
        reached: dict[str, int] = {}
        async with self.using(space) as pair:
            for kind in kinds:
                try:
                    await pair.side(kind).opened()
                except Damaged as damage:
                    await self.mend(pair, damage)
                reached[kind] = pair.side(kind).position
        return reached

    # --- in the background

    async def run(self, spaces: Sequence[int]) -> None:
        """Serve until cancelled; ``spaces`` are those that may be behind at the start."""
        settings = self._settings
        async with trio.open_nursery() as nursery:
            for _ in range(settings.lexical_workers):
                nursery.start_soon(self._work, "lexical")
            for _ in range(settings.dense_workers):
                nursery.start_soon(self._work, "dense")
            nursery.start_soon(self._build)
            nursery.start_soon(self._evict)
            nursery.start_soon(self._flush)
            nursery.start_soon(self.recover, spaces)

    async def _work(self, kind: Kind) -> None:
        """Feed one kind of index, a page of a space at a time."""
        backlog = self._backlogs[kind]
        if kind == "dense" and not await self._embedder_ready():
            return
        while True:
            space = await backlog.take(self._settings.linger)
            async with self.using(space) as pair:
                going = await self._step(pair, kind) or await self._rest(pair, kind)
                if pair.side(kind).position < self._store.last(space):
                    backlog.add(space)
                if pair.dense.large:
                    self._large.add(space)
            if not going:
                return

    async def _step(self, pair: Pair, kind: Kind) -> bool:
        """Apply one page; False when something failed and was logged."""
        space = pair.lexical.space
        try:
            if await pair.side(kind).step(self._pages[kind], background=True):
                pair.failures = 0
        except Damaged as damage:
            await self.mend(pair, damage)
            return pair.failures < 2
        except (EIO, ENODEV) as error:
            self._log("warning", "indexes", f"space {space}: {kind} waits: {error.message}")
            return False
        return True

    async def _build(self) -> None:
        """Rebuild vector indexes that have grown large, one at a time: a build takes memory."""
        while True:
            space = await self._large.take(0.0)
            self._building = 1
            async with self.using(space) as pair:
                try:
                    while pair.dense.large:
                        began = trio.current_time()
                        await pair.dense.rebuild()
                        taken = trio.current_time() - began
                        self._log("info", "indexes", f"space {space}: rebuilt in {taken:.1f} s")
                except Damaged as damage:
                    await self.mend(pair, damage)
                except (EIO, ENODEV) as error:
                    # It serves as it is; the next change of the space tries again.
                    self._log("warning", "indexes", f"space {space}: not rebuilt: {error.message}")
                    await trio.sleep(self._settings.retry)
            self._building = 0

    async def _rest(self, pair: Pair, kind: Kind) -> bool:
        """Wait after a failure, longer each time; False when there is no use in going on."""
        await trio.sleep(self._settings.retry * 2 ** min(pair.failures, 5))
        return kind == "lexical" or await self._embedder_ready()

    async def _embedder_ready(self) -> bool:
        try:
            await self._embedder.ready()
        except ENODEV:
            return False
        except EIO as error:
            if not self._told:
                self._log("error", "indexes", f"nothing is embedded: {error.message}")
            self._told = True
            return False
        return True

    def _too_many(self) -> bool:
        return len(self._pairs) > self._settings.open_spaces

    async def _evict(self) -> None:
        """Close the least recently used indexes when there are too many or they are too big."""
        while True:
            await self._crowded.wait()
            self._crowded = trio.Event()
            for space in list(self._pairs):
                if not self._too_many() and self._bytes <= self._settings.index_memory:
                    break
                await self._close(space)
            else:
                await trio.sleep(self._settings.linger)  # all are in use: who leaves calls again

    async def _make_room(self) -> None:
        """Close the least recently used pairs that nobody uses, until there is room for one.

        Tasks that need room at the same time close different ones.
        """
        while len(self._pairs) >= self._settings.open_spaces:
            idle = (space for space, pair in self._pairs.items() if pair.idle())
            space = next(idle, None)
            if space is None:
                return
            await self._close(space)

    async def _close(self, space: int) -> None:
        """Close the indexes of a space, unless somebody uses or closes them."""
        pair = self._pairs.get(space)
        if pair is None or not pair.idle():
            return
        pair.closing = True
        try:
            for side in pair.sides:
                try:
                    await side.close()
                except Damaged as damage:
                    await self.mend(pair, damage)
        finally:
            pair.closing = False
        self._bytes += pair.weigh()
        # Somebody may have come while it was closing, and opens it again.
        if pair.idle() and not pair.is_open() and self._pairs.get(space) is pair:
            del self._pairs[space]

    async def _flush(self) -> None:
        """Write out what has been in an index's memory only for long enough."""
        while True:
            await trio.sleep(self._settings.flush_after / 2)
            oldest = trio.current_time() - self._settings.flush_after
            for pair in list(self._pairs.values()):
                for side in pair.sides:
                    if side.dirty_since is not None and side.dirty_since <= oldest:
                        try:
                            await side.flush()
                        except Damaged as damage:
                            await self.mend(pair, damage)

    async def recover(self, spaces: Sequence[int]) -> None:
        """Open the indexes of every space once and feed those that are behind.

        The most recently changed spaces come first. Indexes that were deleted or found
        damaged open empty, so this is where they are rebuilt.
        """
        found = [(self._store.last(space), space) for space in spaces]
        order = [space for last, space in sorted(found, reverse=True) if last]
        try:
            await self._recover_kind("lexical", order)
            if await self._embedder_ready():
                await self._recover_kind("dense", order)
        finally:
            self._recovering = ""

    async def _recover_kind(self, kind: Kind, order: Sequence[int]) -> None:
        behind = 0
        told = trio.current_time()
        for number, space in enumerate(order, 1):
            async with self.using(space) as pair:
                last = self._store.last(space)
                side = pair.side(kind)
                try:
                    await side.opened()
                except Damaged as damage:
                    await self.mend(pair, damage)
                start = side.position
                behind += start < last
                while side.position < last and pair.failures < PATIENT_FAILURES:
                    if not (await self._step(pair, kind) or await self._rest(pair, kind)):
                        return
                    if trio.current_time() - told >= PROGRESS:
                        told = trio.current_time()
                        done = (side.position - start) / max(1, last - start)
                        self._log(
                            "info",
                            "indexes",
                            f"{kind}: space {number} of {len(order)}: {done:.0%} rebuilt",
                        )
                if pair.dense.large:
                    self._large.add(space)
            self._recovering = f"{kind}: {number} of {len(order)} spaces"
            await trio.lowlevel.checkpoint()
        if behind:
            self._log("info", "indexes", f"{kind}: {behind} of {len(order)} spaces caught up")

    async def aclose(self) -> None:
        """Close all indexes; nobody uses them any more."""
        for pair in list(self._pairs.values()):
            for side in pair.sides:
                try:
                    await side.close()
                except Damaged as damage:
                    self._log("error", "indexes", f"space {side.space}: {damage}")
        self._pairs.clear()

    def statistics(self) -> IndexerStatistics:
        """Figures for ``sys.stats``."""
        return IndexerStatistics(
            sum(pair.is_open() for pair in self._pairs.values()),
            len(self._backlogs["lexical"]),
            len(self._backlogs["dense"]),
            len(self._large) + self._building,
            self._damaged,
            self._recovering,
        )
