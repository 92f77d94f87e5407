"""A pin on its way in the ``transformers`` engine, a little at a time between other requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from drivers.kv.chain import length, names
from drivers.kv.contract import Pinned
from drivers.kv.tensors import planes
from drivers.llm.pins import BLOCK, block_tensors, lasting
from drivers.llm.prefix import Kept, layers_of
from drivers.llm.restoring import PAUSE, Restoring
from syscalls.errors import ECANCELED

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from drivers.engine import Job
    from drivers.kv.chain import Mark
    from drivers.llm.pins import Pins
    from drivers.llm.restoring import Restored

BACKLOG = 256 << 20
"""Bytes waiting to be written, above which a pin waits before it saves more."""


class Wanted(NamedTuple):
    """What is to be pinned."""

    handle: str
    mark: Mark
    tokens: list[int]
    """Those of the whole beginning."""
    adapter: str | None = None
    """What the model calls its adapter."""


class Pinning:
    """Restores or computes a beginning, keeps it, saves it, and answers."""

    movable = True

    def __init__(self, job: Job, pins: Pins, wanted: Wanted) -> None:
        """Raises EINVAL, EAGAIN."""
        handle, mark, tokens, adapter = wanted
        pins.room(handle, len(tokens))
        self.job = job
        self.handle = handle
        self._pins = pins
        self._adapter = adapter
        self._mark = mark
        self._tokens = tokens
        self.blocks = names(mark, tokens, BLOCK)
        self._stopped = False
        self.waiting = False
        """Whether it waits for the disk."""
        self._pause = 0.0
        """Seconds that a step may wait for the disk."""
        self._work = self._steps()
        pins.under_way.append(self)

    def stop(self) -> None:
        """It is not wanted any more: its next step fails."""
        self._stopped = True

    def advance(self, *, alone: bool) -> None:
        """One step; ``alone`` when no other request could compute meanwhile."""
        if self._stopped:
            raise ECANCELED(f"the pin {self.handle!r} was dropped")
        self._pause = PAUSE if alone else 0.0
        next(self._work, None)

    def close(self) -> None:
        """It came to its end, or is let be: what it had kept goes with it then."""
        self._work.close()
        self._pins.under_way.remove(self)

    def _wait(self, done: bool) -> bool:
        self.waiting = not done
        return self.waiting

    def _steps(self) -> Generator[None, None, None]:
        pins, model, tokens = self._pins, self._pins.model, self._tokens
        cache = model.new_cache()
        began = time.perf_counter()
        restoring = Restoring(pins, self._mark, tokens, len(tokens))
        try:
            while self._wait(restoring.ready(self._pause)):
                yield
            known = restoring.fill(cache)
        finally:
            restoring.close()
        seconds = time.perf_counter() - began
        yield
        computing, done = 0.0, known.tokens
        while done < len(tokens):
            began = time.perf_counter()
            due = tokens[done : done + model.prefill]
            model.forward(due, cache, self._adapter)
            computing += time.perf_counter() - began
            done += len(due)
            yield
        costs = self._costs(known, computing)
        kept = Kept(self._mark, tokens, layers_of(cache))
        pins.keep(self.handle, kept, self.blocks)
        saved = False
        try:
            yield from self._save(kept, known, costs)
            saved = True
        finally:
            if not saved:
                pins.unpin(self.handle)
        pinned = Pinned(
            self.handle,
            len(tokens),
            kept.bytes,
            self.blocks,
            pins.namespace,
            cached=known.tokens,
            seconds=seconds + computing,
            prefill=sum(costs),
        )
        self.job.done(pinned)

    def _costs(self, known: Restored, computing: float) -> list[float]:
        """Seconds that computing each block cost, or would: measured, or by the model's rate."""
        model = self._pins.model
        fresh = len(self._tokens) - known.tokens
        rate = computing / fresh if fresh >= BLOCK else model.rate
        return [known.costs.get(name, rate * length(name, BLOCK)) for name in self.blocks]

    def _save(self, kept: Kept, known: Restored, costs: list[float]) -> Iterator[None]:
        tiers = self._pins.tiers
        if tiers is None or not lasting(self._mark):
            return
        for place, name in enumerate(self.blocks):
            while self._wait(tiers.backlog <= BACKLOG):
                tiers.settled(self.blocks, self._pause)
                yield
            if name not in known.costs and not (tiers.seems(name) and tiers.has(name, place)):
                tiers.put(name, planes(block_tensors(kept, place)), costs[place], place)
                yield
            else:
                tiers.keep(name)
        while self._wait(tiers.settled(self.blocks, self._pause)):
            yield
