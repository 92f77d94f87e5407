"""Asks the indexes of every layer within reach for candidates.

    question ──embed──> gist (one vector), parts ──> dense top n of each ─┐
       └──> words, names ──────────────────────────> lexical top n ───────┴─ union, and for all
                                                of it similarity, BM25 and its ceiling

A layer's indexes are brought up to date first; one that cannot be in time, or that fails,
is left out and named in ``degraded``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from syscalls.errors import EIO, ENODEV
from ums.follower import Damaged
from ums.indexer import PATIENT_FAILURES
from ums.records import TAGS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from drivers.contracts import Embedder, LexicalIndex, Located, Store, VectorIndex, Vectors
    from syscalls.calls.mem import Search
    from ums.follower import Kind
    from ums.indexer import Indexer
    from ums.pair import Pair
    from ums.reach import Reach
    from ums.recall.question import Question

T = TypeVar("T")
PART = 0.35
"""How much the best part of a query counts against its gist."""


class Probe:
    """The candidates of one search and what could not be asked."""

    def __init__(
        self,
        parts: tuple[Store, Indexer, Embedder],
        call: Search,
        question: Question,
        reach: Reach,
        patience: tuple[float, float],
    ) -> None:
        """``patience``: seconds for the embedder, and for words."""
        self._store, self._indexer, self._embedder = parts
        self._question = question
        self._reach = reach
        now = trio.current_time()
        self._deadlines: dict[Kind, float] = {
            "dense": now + patience[0],
            "lexical": now + patience[1],
        }
        self._tags = (
            None if call.segments is None else frozenset(TAGS[name] for name in call.segments)
        )
        self._vectors: list[Vectors] = []
        """That of the gist, then those of the parts."""
        self._embedded = trio.Event()
        self._full = False
        self.dense: dict[str, float] = {}
        self.lexical: dict[str, float] = {}
        self.ceilings: dict[str, float] = {}
        """For each candidate what the query's words are worth in its layer."""
        self.layers: dict[str, int] = {}
        """In which layer's indexes each candidate was found."""
        self.degraded: set[str] = set()

    async def gather(self, n: int) -> bool:
        """Ask every layer for ``n`` of each kind; whether some index may have more."""
        self._full = False
        for found in (self.dense, self.lexical, self.ceilings, self.layers):
            found.clear()
        async with trio.open_nursery() as nursery:
            if not self._embedded.is_set():
                nursery.start_soon(self._embed)
            for layer in self._reach.layers:
                nursery.start_soon(self._ask, layer, n)
        return self._full

    def wants(self, tag: int) -> bool:
        """Whether the search is for records of a segment."""
        return self._tags is None or tag in self._tags

    async def measure(self, layer: int, rids: Sequence[str]) -> None:
        """Add records of a layer that no index has named, with their figures."""
        async with self._indexer.using(layer) as pair:
            await self._fill(pair, rids)

    async def _embed(self) -> None:
        gist, parts = self._question.gist, self._question.parts
        try:
            with trio.move_on_at(self._deadlines["dense"]):
                await self._embedder.ready()
                vectors = await self._embedder.embed([*gist, *parts])
                mean = vectors[: len(gist)].mean(axis=0)
                length = float((mean @ mean) ** 0.5)
                self._vectors = [mean / length if length else vectors[0]]
                self._vectors += list(vectors[len(gist) :])
        except (ENODEV, EIO):
            pass
        if not self._vectors:
            self.degraded.add("dense")
        self._embedded.set()

    async def _ask(self, layer: int, n: int) -> None:
        """The candidates of one layer, into the dictionaries."""
        seq = self._store.last(layer)
        if not seq:
            return
        async with self._indexer.using(layer) as pair:
            found: dict[str, None] = {}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._near, pair, seq, n, found)
                await self._said(pair, seq, n, found)
            await self._fill(pair, list(found))

    async def _said(self, pair: Pair, seq: int, n: int, found: dict[str, None]) -> None:
        question = self._question
        names = " ".join(sorted(question.names))

        def ask(index: LexicalIndex) -> tuple[list[Located], list[Located]]:
            about = index.search(names, n // 2, self._tags) if names else []
            return index.search(question.words, n, self._tags), about

        async def asked() -> tuple[list[Located], list[Located]]:
            await self._follow(pair, "lexical", seq)
            return await pair.lexical.call(ask)

        said, about = await self._guarded(pair, "lexical", asked) or ([], [])
        self._full |= len(said) >= n
        screened = self._reach.screen(pair.lexical.space, said)
        self.lexical.update((one.rid, one.score) for one in screened)
        screened += self._reach.screen(pair.lexical.space, about)
        found.update(dict.fromkeys(one.rid for one in screened))

    async def _near(self, pair: Pair, seq: int, n: int, found: dict[str, None]) -> None:
        def ask(index: VectorIndex) -> list[list[Located]]:
            return [
                index.search(vector, n // 2 if number else n, self._tags)
                for number, vector in enumerate(self._vectors)
            ]

        async def asked() -> list[list[Located]]:
            await self._follow(pair, "dense", seq)
            await self._embedded.wait()
            return await pair.dense.call(ask) if self._vectors else []

        for number, near in enumerate(await self._guarded(pair, "dense", asked) or []):
            self._full |= not number and len(near) >= n
            screened = self._reach.screen(pair.lexical.space, near)
            found.update(dict.fromkeys(one.rid for one in screened))
            if len(self._vectors) == 1:
                self.dense.update((one.rid, one.score) for one in screened)
        former = await self._indexer.formerly(pair, self._question.text, n, self._tags)
        for one in self._reach.screen(pair.lexical.space, former):
            self.dense.setdefault(one.rid, one.score)
            found[one.rid] = None

    async def _fill(self, pair: Pair, rids: Sequence[str]) -> None:
        """The figures of records that are not known yet."""
        self.layers.update(dict.fromkeys(rids, pair.lexical.space))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._compare, pair, [rid for rid in rids if rid not in self.dense])
            await self._weigh(pair, rids, [rid for rid in rids if rid not in self.lexical])

    async def _weigh(self, pair: Pair, rids: Sequence[str], only: Sequence[str]) -> None:
        words = self._question.words

        def ask(index: LexicalIndex) -> tuple[list[float], float]:
            return index.scores(words, only), index.ceiling(words)

        async def asked() -> tuple[list[float], float]:
            return await pair.lexical.call(ask)

        scores, ceiling = await self._guarded(pair, "lexical", asked) or ([0.0] * len(only), 0.0)
        self.lexical.update(zip(only, scores, strict=True))
        self.ceilings.update(dict.fromkeys(rids, ceiling))

    async def _compare(self, pair: Pair, only: Sequence[str]) -> None:
        if not self._vectors or not only:
            return

        def ask(index: VectorIndex) -> list[list[float | None]]:
            return [index.scores(vector, only) for vector in self._vectors]

        async def asked() -> list[list[float | None]]:
            return await pair.dense.call(ask)

        gist, *parts = await self._guarded(pair, "dense", asked) or [[None] * len(only)]
        for number, (rid, score) in enumerate(zip(only, gist, strict=True)):
            if score is not None:
                best = max((part[number] or 0.0 for part in parts), default=score)
                self.dense[rid] = score + PART * (best - score)

    async def _follow(self, pair: Pair, kind: Kind, seq: int) -> None:
        """Bring an index up to date within the deadline; degraded when that fails."""
        deadline, reached = self._deadlines[kind], False
        try:
            with trio.move_on_at(deadline):
                reached = await self._indexer.caught_up(pair, kind, seq, deadline)
        except (ENODEV, EIO):
            pass
        if not reached:
            self.degraded.add(kind)

    async def _guarded(self, pair: Pair, kind: Kind, ask: Callable[[], Awaitable[T]]) -> T | None:
        """The answer of an index; one that fails is mended and asked once more."""
        for _ in range(2):
            try:
                return await ask()
            except Damaged as damage:
                if pair.failures >= PATIENT_FAILURES:
                    break
                await self._indexer.mend(pair, damage)
        self.degraded.add(kind)
        return None
