"""Search: what is near in meaning, shares words, or belongs to what does, as one ranking.

    query ──> question ──> probe: candidates of the indexes, with similarity and BM25
                             │ fuse: one base ranking
                             │ the best: records read, neighbours in the conversation added
                             │ signals: context, session, voice, time, form, ...
                             └─> best first, sieve ──> k hits

Further down than ``depth`` records are read only as far as it takes. Where the sieve leaves
fewer than k while an index had more to give, the same is done with a larger n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.calls.mem import Hits, Search
from syscalls.records import Hit, Parts
from syscalls.shapes import SEGMENTS
from ums import records as form
from ums.recall.fuse import Candidate, fuse
from ums.recall.probe import Probe
from ums.recall.question import question
from ums.recall.sieve import Sieve
from ums.recall.signals import judge, seen
from ums.recall.talk import Talk
from ums.recall.voice import Speakers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import Clock, Embedder, Store
    from ums.indexer import Indexer
    from ums.reach import Reach
    from ums.recall.fuse import Scale
    from ums.recall.question import Question
    from ums.recall.signals import Seen, Signal
    from ums.records import Stored
    from ums.settings import MemorySettings

WIDEN = 8


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
        signals: Sequence[Signal] = (),
    ) -> None:
        self._store = store
        self._indexer = indexer
        self._embedder = embedder
        self._clock = clock
        self._settings = settings
        self._signals = signals
        self._speakers = Speakers(store)
        self._searches = 0
        self._degraded = 0
        self._widened = 0

    async def search(self, reach: Reach, call: Search) -> Hits:
        """The best ``k`` records within reach. Never raises for a failing index."""
        self._searches += 1
        asked = self._question(reach, call)
        probe = self._probe(reach, call, asked)
        sieve = Sieve(call, self._clock.now())
        n = max(self._settings.candidates, 3 * call.k) * (4 if sieve.narrow else 1)
        while True:
            full = await probe.gather(n)
            await self._propose(probe, asked, reach, n)
            ranked = await self._rank(probe, asked, reach, call)
            hits = await self._answer(ranked, call, sieve, reach)
            if len(hits) == call.k or not full:
                break
            n *= WIDEN
            self._widened += 1
        self._degraded += bool(probe.degraded)
        return Hits(hits, sorted(probe.degraded))

    def _question(self, reach: Reach, call: Search) -> Question:
        known = {name for layer in reach.layers for name in self._speakers.of(layer)}
        return question(call.query, known, self._clock.now())

    def _probe(self, reach: Reach, call: Search, asked: Question) -> Probe:
        # The call's deadline is for the embedder; words are waited for in any case.
        patience = self._settings.patience if call.deadline is None else call.deadline
        return Probe(
            (self._store, self._indexer, self._embedder),
            call,
            asked,
            reach,
            (patience, max(patience, self._settings.patience)),
        )

    async def _propose(self, probe: Probe, asked: Question, reach: Reach, n: int) -> None:
        """Add the candidates that only other signals know."""
        for signal in self._signals:
            found = await signal.find(asked, reach, n)
            rids = [rid for rid in found if rid not in probe.layers]
            layers: dict[int, list[str]] = {}
            for rid, place in zip(rids, reach.places(rids), strict=True):
                if place is not None and probe.wants(form.tag_of(place.value)):
                    layers.setdefault(place.layer, []).append(rid)
            for layer, some in layers.items():
                await probe.measure(layer, some)

    async def _rank(
        self, probe: Probe, asked: Question, reach: Reach, call: Search
    ) -> list[Candidate]:
        """All candidates, best first: the best of the base ranking by every signal."""
        settings = self._settings
        ranked, scale = fuse(
            probe.dense, probe.lexical, probe.ceilings, call.query, settings.weights
        )
        depth = max(settings.depth, 2 * call.k)
        best = {one.rid: one for one in _read(ranked[:depth], reach)}
        await self._neighbours(best, probe, reach, scale)
        records = list(best.values())
        judge(records, asked, settings.weights)
        for signal in self._signals:
            weight = getattr(settings.weights, signal.name)
            for rid, value in signal.score(asked, records).items() if weight else ():
                best[rid].candidate.more[signal.name] = weight * value
        top = sorted(
            (one.candidate for one in records), key=lambda one: (one.score, one.rid), reverse=True
        )
        return top + ranked[depth:]

    async def _neighbours(
        self, best: dict[str, Seen], probe: Probe, reach: Reach, scale: Scale
    ) -> None:
        """Add to the best records what was said just before and after them."""
        weights = self._settings.weights
        if not (weights.context or weights.context_dense):
            return

        def read(rids: Sequence[str]) -> list[Seen | None]:
            found = {one.rid: one for one in _read([Candidate(r, 0.0, 0.0) for r in rids], reach)}
            return [
                one if one is not None and probe.wants(form.tag_of(one.place.value)) else None
                for one in map(found.get, rids)
            ]

        talk = Talk(self._store, reach, best)
        some = list(best.values())[: self._settings.neighbours]
        for layer, rids in talk.around(some, read).items():
            await probe.measure(layer, rids)
            for rid in rids:
                best[rid].candidate = scale.candidate(
                    rid, probe.dense.get(rid), probe.lexical[rid], probe.ceilings[rid]
                )

    async def _answer(
        self, ranked: Sequence[Candidate], call: Search, sieve: Sieve, reach: Reach
    ) -> list[Hit]:
        """The first ``k`` of the ranking that pass; what is stale only fills up the rest."""
        hits: list[Hit] = []
        stale: list[Hit] = []
        size = call.k + 4
        for start in range(0, len(ranked), size):
            chunk = ranked[start : start + size]
            places = reach.places([candidate.rid for candidate in chunk])
            for candidate, place in zip(chunk, places, strict=True):
                if place is None:
                    continue
                stored: Stored | None = form.decode(place.value)
                if stored is not None and not sieve.moment.plain:
                    stored = reach.version(candidate.rid, stored, sieve.moment)
                if stored is not None and sieve.passes(stored):
                    tag = form.tag_of(place.value)
                    hit = to_hit(candidate, place.space, tag, stored, call.explain)
                    (stale if stored.stale else hits).append(hit)
                    if len(hits) == call.k:
                        return hits
            await trio.lowlevel.checkpoint()
        return [*hits, *stale[: call.k - len(hits)]]

    def statistics(self) -> RecallStatistics:
        """Figures for ``sys.stats``."""
        return RecallStatistics(self._searches, self._degraded, self._widened)


def _read(candidates: Sequence[Candidate], reach: Reach) -> list[Seen]:
    """The candidates of which there is a record within reach, with it."""
    places = reach.places([one.rid for one in candidates])
    return [
        seen(one, place, form.decode(place.value))
        for one, place in zip(candidates, places, strict=True)
        if place is not None and not form.is_packed(place.value)
    ]


def to_hit(candidate: Candidate, space: int, tag: int, stored: Stored, explain: bool) -> Hit:
    """A record of the ranking as callers see it."""
    return Hit(
        candidate.rid,
        stored.content,
        candidate.score,
        SEGMENTS[tag],
        form.provenance(space, stored),
        stored.kind,
        stored.key,
        stored.tags,
        stored.meta,
        Parts(candidate.dense, candidate.lexical, **candidate.more) if explain else None,
        stored.stale,
    )
