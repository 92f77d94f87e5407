"""One scheduler for each engine, and what concerns all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from kernel.turns.fairness import make_policy
from kernel.turns.scheduler import Limits, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivers.contracts import Clock
    from drivers.llm.contract import LLM
    from kernel.turns.fairness import Order
    from kernel.turns.served import SchedulerStatistics
    from procs.process import Process
    from syscalls.shapes import Usage


class Schedulers:
    """The schedulers of all engines, one each."""

    def __init__(self, clock: Clock, order: Order, limits: Limits) -> None:
        self.on_served: list[Callable[[Process, Usage], None]] = []
        """As of ``Scheduler``, for all of them."""
        self._clock = clock
        self._order = order
        self._limits = limits
        self._held: set[int] = set()
        self._made: dict[int, Scheduler] = {}
        self._nursery: trio.Nursery | None = None

    def of(self, engine: LLM) -> Scheduler:
        """The scheduler of an engine."""
        scheduler = self._made.get(id(engine))
        if scheduler is None:
            policy = make_policy(self._order)
            scheduler = Scheduler(engine, policy, self._clock, self._limits, self._held)
            scheduler.on_served = self.on_served
            self._made[id(engine)] = scheduler
            if self._nursery is not None:
                self._nursery.start_soon(scheduler.run)
        return scheduler

    async def run(self) -> None:
        """Keep time for all of them, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for scheduler in self._made.values():
                self._nursery.start_soon(scheduler.run)
            await trio.sleep_forever()

    def hold(self, apid: int) -> None:
        """A process is stopped; see ``Scheduler.hold``."""
        self._held.add(apid)
        for scheduler in self._made.values():
            scheduler.hold(apid)

    def release(self, apid: int) -> None:
        """It goes on."""
        self._held.discard(apid)
        for scheduler in self._made.values():
            scheduler.release(apid)

    def ended(self, apid: int) -> None:
        """A process has ended."""
        self._held.discard(apid)
        for scheduler in self._made.values():
            scheduler.ended(apid)

    def figures(self, engine: LLM) -> SchedulerStatistics:
        """Those of one engine's scheduler."""
        return self.of(engine).statistics()
