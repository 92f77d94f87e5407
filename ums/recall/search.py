"""Search: the union of what is near in meaning and what shares words, as one ranking.

    query ──embed──> vector ──> dense top n ─┐
      └────────────────────> lexical top n ──┴─ similarities of the lexical ones
                                                  │ of every space
                                                fuse ──> read best first, sieve ──> k hits

The records themselves are read only as far down the ranking as it takes. Where the sieve
leaves fewer than k while an index had more to give, the same is done with a larger n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.calls.mem import Hits, Search
from syscalls.errors import EIO, ENODEV
from syscalls.shapes import SEGMENTS, Hit, Parts
from ums import records as form
from ums.follower import Damaged
from ums.indexer import PATIENT_FAILURES
from ums.recall.fuse import Candidate, balance, fuse
from ums.recall.query import words_of
from ums.recall.sieve import Sieve
from ums.records import TAGS, Stored
from ums.rid import space_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from drivers.contracts import Clock, Embedder, Located, Store, Vectors
    from ums.follower import Kind
    from ums.indexer import Indexer, Pair
    from ums.settings import MemorySettings

WIDEN = 8
CHUNK = 64


class RecallStatistics(msgspec.Struct, frozen=True):
    """Figures of searches since the start."""

    searches: int
    degraded: int
    """Searches that a signal could not take part in."""
    widened: int
    """Times that a search had to ask the indexes again for more."""


class Recall:
    """Searches spaces."""

    def __init__(
        self,
        store: Store,
        indexer: Indexer,
        embedder: Embedder,
        clock: Clock,
        settings: MemorySettings,
    ) -> None:
        self._store = store
        self._indexer = indexer
        self._embedder = embedder
        self._clock = clock
        self._settings = settings
        self._searches = 0
        self._degraded = 0
        self._widened = 0

    async def search(self, spaces: Sequence[int], call: Search) -> Hits:
        """The best ``k`` records of the spaces together. Never raises for a failing index."""
        self._searches += 1
        patience = self._settings.patience if call.deadline is None else call.deadline
        probe = _Probe(self, call, patience)
        sieve = Sieve(call, self._clock.now())
        n = max(self._settings.candidates, 5 * call.k) * (4 if sieve.narrow else 1)
        seen: dict[str, bytes | None] = {}
        while True:
            full = await probe.gather(spaces, n)
            ranked = fuse(
                probe.dense,
                probe.lexical,
                *balance(call.query, self._settings.weights),
                self._settings.weights,
            )
            hits = await self._read(ranked, call, sieve, seen)
            if len(hits) == call.k or not full:
                break
            n *= WIDEN
            self._widened += 1
        self._degraded += bool(probe.degraded)
        return Hits(hits, sorted(probe.degraded))

    async def _read(
        self,
        ranked: Sequence[Candidate],
        call: Search,
        sieve: Sieve,
        seen: dict[str, bytes | None],
    ) -> list[Hit]:
        """The first ``k`` of the ranking that pass; ``seen`` keeps what was read before."""
        hits: list[Hit] = []
        size = call.k + 4
        for start in range(0, len(ranked), size):
            chunk = ranked[start : start + size]
            missing = [c.rid for c in chunk if c.rid not in seen]
            keys = [form.record_key(space_of(rid), rid) for rid in missing]
            seen.update(zip(missing, self._store.get_many("records", keys), strict=True))
            for candidate in chunk:
                value = seen[candidate.rid]
                if value is None:
                    continue
                stored = self._as_of(candidate.rid, form.decode(value), call.as_of)
                if sieve.passes(stored):
                    hits.append(to_hit(candidate, form.tag_of(value), stored, call.explain))
                    if len(hits) == call.k:
                        return hits
            await trio.lowlevel.checkpoint()
        return hits

    def _as_of(self, rid: str, stored: Stored, moment: float | None) -> Stored:
        """The version that was current at a moment (the first one, before its time)."""
        if moment is None or stored.updated <= moment:
            return stored
        key = form.record_key(space_of(rid), rid)
        earlier = self._store.scan("versions", key, form.after(key), reverse=True)
        for _, value in earlier:
            stored = form.decode(value)
            if stored.updated <= moment:
                break
        return stored

    def statistics(self) -> RecallStatistics:
        """Figures for ``sys.stats``."""
        return RecallStatistics(self._searches, self._degraded, self._widened)


class _Probe:
    """The candidates of one search and what could not be asked."""

    def __init__(self, recall: Recall, call: Search, patience: float) -> None:
        self._indexer = recall._indexer
        self._embedder = recall._embedder
        self._store = recall._store
        self._call = call
        self._words = words_of(call.query)
        now = trio.current_time()
        # The call's deadline is for the embedder; words are waited for in any case.
        self._deadlines: dict[Kind, float] = {
            "dense": now + patience,
            "lexical": now + max(patience, recall._settings.patience),
        }
        self._tags = (
            None if call.segments is None else frozenset(TAGS[name] for name in call.segments)
        )
        self._vector: Vectors | None = None
        self._embedded = trio.Event()
        self._full = False
        self.dense: dict[str, float] = {}
        self.lexical: dict[str, float] = {}
        self.degraded: set[str] = set()

    async def gather(self, spaces: Sequence[int], n: int) -> bool:
        """Ask every space for ``n`` of each kind; whether some index may have more."""
        self._full = False
        self.dense.clear()
        self.lexical.clear()
        async with trio.open_nursery() as nursery:
            if not self._embedded.is_set():
                nursery.start_soon(self._embed)
            for space in spaces:
                nursery.start_soon(self._ask, space, n)
        return self._full

    async def _embed(self) -> None:
        try:
            with trio.move_on_at(self._deadlines["dense"]):
                await self._embedder.ready()
                self._vector = (await self._embedder.embed([self._call.query]))[0]
        except (ENODEV, EIO):
            pass
        if self._vector is None:
            self.degraded.add("dense")
        self._embedded.set()

    async def _ask(self, space: int, n: int) -> None:
        """The candidates of one space, into the dictionaries."""
        seq = self._store.last(space)
        if not seq:
            return
        async with self._indexer.using(space) as pair:
            said: list[Located] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._near, pair, seq, n)
                said += await self._guarded(pair, "lexical", lambda: self._said(pair, seq, n))
            self.lexical.update((found.rid, found.score) for found in said)
            self._full |= len(said) >= n
            await self._compare(pair, [found.rid for found in said])

    async def _said(self, pair: Pair, seq: int, n: int) -> list[Located]:
        await self._follow(pair, "lexical", seq)
        return await pair.lexical.search(self._words, n, self._tags)

    async def _near(self, pair: Pair, seq: int, n: int) -> None:
        async def ask() -> list[Located]:
            await self._follow(pair, "dense", seq)
            await self._embedded.wait()
            if self._vector is None:
                return []
            return await pair.dense.search(self._vector, n, self._tags)

        found = await self._guarded(pair, "dense", ask)
        self.dense.update((near.rid, near.score) for near in found)
        self._full |= len(found) >= n

    async def _compare(self, pair: Pair, rids: Sequence[str]) -> None:
        """Fill in the similarities of candidates that only their words found."""
        vector, only = self._vector, [rid for rid in rids if rid not in self.dense]
        if vector is None or not only:
            return

        async def ask() -> list[Located]:
            scores = await pair.dense.scores(vector, only)
            self.dense.update(
                (rid, score) for rid, score in zip(only, scores, strict=True) if score is not None
            )
            return []

        await self._guarded(pair, "dense", ask)

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

    async def _guarded(
        self, pair: Pair, kind: Kind, ask: Callable[[], Awaitable[list[Located]]]
    ) -> list[Located]:
        """The answer of an index; one that fails is mended and asked once more."""
        for _ in range(2):
            try:
                return await ask()
            except Damaged as damage:
                if pair.failures >= PATIENT_FAILURES:
                    break
                await self._indexer.mend(pair, damage)
        self.degraded.add(kind)
        return []


def to_hit(candidate: Candidate, tag: int, stored: Stored, explain: bool) -> Hit:
    """A record of the ranking as callers see it."""
    return Hit(
        candidate.rid,
        stored.content,
        candidate.score,
        SEGMENTS[tag],
        form.provenance(space_of(candidate.rid), stored),
        stored.kind,
        stored.key,
        stored.tags,
        stored.meta,
        Parts(candidate.dense, candidate.lexical) if explain else None,
        stored.stale,
    )
