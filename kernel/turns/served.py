"""What the model has served, to whom, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel.turns.fairness import cost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syscalls.shapes import Usage

WINDOW = 1.0
"""Seconds over which a rate is measured, at least."""
LEARN = 0.2
"""Weight of a new observation."""
MEASURED = 256
"""Tokens of a prompt from which on its time says something about the engine's speed."""


class Served(msgspec.Struct, frozen=True):
    """Figures of one process."""

    apid: int
    session: int
    prompt: int
    """Tokens of its prompts; ``cached`` of them were not computed again."""
    cached: int
    completion: int
    waiting: int
    running: int
    wait_p50: float
    """Seconds between asking and the start, of the last generations."""
    wait_p95: float
    preemptions: int
    refusals: int


class SchedulerStatistics(msgspec.Struct, frozen=True):
    """Figures of the scheduler of one engine."""

    order: str
    slots: int
    ordinary: int
    """Of the slots, those that are not kept for requests that go ahead."""
    running: int
    waiting: int
    parked: int
    """Begun, and suspended while their process is stopped or their reader does not read."""
    computing: int
    """Tokens of prompts that the engine is computing now, estimated."""
    kv_used: int
    """Tokens of keys and values of what runs, estimated."""
    kv_tokens: int
    """Those that the engine has room for; 0 where it does not say."""
    rate: float
    """Cost served in a second while there is work: a computed token of a prompt costs 1, one
    of a completion 2."""
    admitted: int
    ahead: int
    """Of those, the interactive and urgent ones that went ahead of their turn."""
    preemptions: int
    refusals: int
    expired: int
    """Refused because their deadline could not be met."""
    processes: list[Served]


class Speed:
    """How fast an engine is, as seen from outside."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.rate = 0.0
        """Cost in a second; 0 as long as nothing is known."""
        self.mean = 512.0
        """Cost of a request."""
        self.completion = 128.0
        """Tokens of a completion."""
        self._now = now
        self._slowness = 0.0
        """Seconds that a request takes in the engine, for each unit of its cost."""
        self.prefill = 0.0
        """Tokens of a prompt in a second, the most that was seen; 0 as long as none was."""
        self._since = -1.0
        self._spent = 0.0

    def working(self, running: int) -> None:
        """So many requests are in the engine now: without any no time is counted."""
        if not running:
            self._measure()
            self._since = -1.0
        elif self._since < 0:
            self._since, self._spent = self._now(), 0.0

    def served(self, spent: float) -> None:
        """Something was served."""
        self._spent += spent
        if self._since >= 0 and self._now() - self._since >= WINDOW:
            self._measure()

    def _measure(self) -> None:
        taken = self._now() - self._since
        if self._since < 0 or taken < WINDOW / 2 or self._spent <= 0:
            return
        rate = self._spent / taken
        self.rate += (LEARN if self.rate else 1.0) * (rate - self.rate)
        self._since, self._spent = self._now(), 0.0

    def spoke(self, computed: float, seconds: float) -> None:
        """The first piece of an answer came after so many tokens of its prompt and seconds."""
        if computed >= MEASURED and seconds > 0:
            self.prefill = max(self.prefill, computed / seconds)

    def finished(self, seconds: float, usage: Usage) -> None:
        """A request has ended."""
        spent = cost(usage.prompt, usage.cached, usage.completion)
        self.mean += LEARN * (spent - self.mean)
        self.completion += LEARN * (usage.completion - self.completion)
        if spent > 0:
            slowness = seconds / spent
            self._slowness += (LEARN if self._slowness else 1.0) * (slowness - self._slowness)

    def estimate(self, computed: float, most: int) -> float:
        """Seconds that a request would take in the engine; 0 as long as nothing is known."""
        return cost(computed, 0, min(most, self.completion)) * self._slowness

    def least(self, computed: float) -> float:
        """Seconds that so many tokens of a prompt take at least."""
        return computed / self.prefill if self.prefill else 0.0

    def after(self, requests: float) -> float:
        """Seconds until so many more requests will have been served."""
        return requests * self.mean / self.rate if self.rate else 1.0


def part(values: Sequence[float], share: float) -> float:
    """The value below which a share (0 to 1) of ``values`` lie; 0 where there are none."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
