"""Feeds the derived indexes of all spaces, and opens and closes them.

Who needs an index up to date brings it there himself: a search advances its spaces to the
last change before it looks. Workers in the background do the same for everybody else, so
that mostly there is nothing left to do. Both go through the same followers, page by page,
and take turns there.

    write ──changed(space)──> backlog ──worker──> follower.step ──> index
                                                     ^
    search ──────────────────── advance(to last) ────┘

An index that fails in use is removed with the other one of its space (they share a folder),
opens empty, and is fed again.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.errors import EIO, ENODEV
from ums.follower import Damaged, DenseFollower, Follower, Kind, LexicalFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from drivers.contracts import Embedder, IndexFactory, LexicalIndex, Offload, Store, VectorIndex
    from ums.settings import Log, MemorySettings

    AnyFollower = Follower[LexicalIndex] | Follower[VectorIndex]

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
    damaged: int
    """Times that indexes were removed because one of them failed."""
    recovering: str
    """What the pass after the start is at; empty when it is done."""


class Backlog:
    """Spaces that wait to be worked on, each once, first come first served."""

    def __init__(self) -> None:
        self._spaces: dict[int, float] = {}
        """With the time when they came."""
        self._come = trio.Event()

    def __len__(self) -> int:
        return len(self._spaces)

    def add(self, space: int) -> None:
        """Put a space at the end, if it is not waiting already."""
        if space not in self._spaces:
            self._spaces[space] = trio.current_time()
            self._come.set()

    async def take(self, linger: float) -> int:
        """The next space, ``linger`` seconds after it came at the soonest.

        Changes that follow each other closely are then applied together; a search in
        between does not wait for this but applies what it needs.
        """
        await trio.lowlevel.checkpoint()
        while True:
            while not self._spaces:
                self._come = trio.Event()
                await self._come.wait()
            due = next(iter(self._spaces.values())) + linger
            if due <= trio.current_time():
                break
            await trio.sleep_until(due)  # another worker may have taken it meanwhile
        space = next(iter(self._spaces))
        del self._spaces[space]
        return space


class Pair:
    """The two indexes of a space."""

    def __init__(self, lexical: LexicalFollower, dense: DenseFollower) -> None:
        self.lexical = lexical
        self.dense = dense
        self.users = 0
        """Tasks that are between two uses: it is not closed under them."""
        self.failures = 0
        """Damages since something was last applied."""

    def side(self, kind: Kind) -> AnyFollower:
        """One of the two."""
        return self.lexical if kind == "lexical" else self.dense

    def idle(self) -> bool:
        """Whether nobody uses it."""
        return self.users == 0

    def is_open(self) -> bool:
        """Whether either holds files and memory."""
        return self.lexical.is_open or self.dense.is_open


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
    ) -> None:
        self._store = store
        self._factory = factory
        self._embedder = embedder
        self._offload = offload
        self._log = log
        self._settings = settings
        self._pairs: dict[int, Pair] = {}
        self._backlogs: dict[Kind, Backlog] = {"lexical": Backlog(), "dense": Backlog()}
        self._pages = {"lexical": settings.lexical_page, "dense": settings.dense_page}
        self._rates = {"lexical": settings.lexical_rate, "dense": settings.dense_rate}
        self._crowded = trio.Event()
        self._damaged = 0
        self._recovering = ""
        self._told = False

    def changed(self, space: int) -> None:
        """A space has new journal entries: index them when there is time."""
        for backlog in self._backlogs.values():
            backlog.add(space)

    @asynccontextmanager
    async def using(self, space: int) -> AsyncIterator[Pair]:
        """The indexes of a space, kept from being closed meanwhile."""
        pair = self._pairs.pop(space, None)
        if pair is None:
            pair = Pair(
                LexicalFollower(space, self._store, self._factory, self._offload),
                DenseFollower(space, self._store, self._factory, self._offload, self._embedder),
            )
        self._pairs[space] = pair  # at the end: most recently used
        pair.users += 1
        try:
            yield pair
        finally:
            pair.users -= 1
            if len(self._pairs) > self._settings.open_spaces:
                self._crowded.set()

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

    async def _evict(self) -> None:
        """Close the least recently used indexes when there are too many or they are too big."""
        while True:
            with trio.move_on_after(self._settings.flush_after):
                await self._crowded.wait()
            self._crowded = trio.Event()
            held = {space: self._memory(pair) for space, pair in self._pairs.items()}
            total = sum(held.values())
            for space, size in held.items():
                many = len(self._pairs) > self._settings.open_spaces
                if not many and total <= self._settings.index_memory:
                    break
                if await self._close(space):
                    total -= size

    def _memory(self, pair: Pair) -> int:
        return pair.lexical.memory() + pair.dense.memory()

    async def _close(self, space: int) -> bool:
        """Close the indexes of a space that nobody uses; whether they are."""
        pair = self._pairs[space]
        if not pair.idle():
            return False
        for side in (pair.lexical, pair.dense):
            try:
                await side.close()
            except Damaged as damage:
                await self.mend(pair, damage)
        # Somebody may have come while it was closing, and opens it again.
        if pair.idle() and not pair.is_open():
            self._pairs.pop(space, None)
        return True

    async def _flush(self) -> None:
        """Write out what has been in an index's memory only for long enough."""
        while True:
            await trio.sleep(self._settings.flush_after / 2)
            oldest = trio.current_time() - self._settings.flush_after
            for pair in list(self._pairs.values()):
                for side in (pair.lexical, pair.dense):
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
            self._recovering = f"{kind}: {number} of {len(order)} spaces"
            await trio.lowlevel.checkpoint()
        if behind:
            self._log("info", "indexes", f"{kind}: {behind} of {len(order)} spaces caught up")

    async def aclose(self) -> None:
        """Close all indexes; nobody uses them any more."""
        for pair in list(self._pairs.values()):
            for side in (pair.lexical, pair.dense):
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
            self._damaged,
            self._recovering,
        )
