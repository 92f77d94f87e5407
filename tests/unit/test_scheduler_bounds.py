"""LLM time under load, on a virtual engine and clock: fair, prompt for shells, local, busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio
from trio.testing import MockClock

from kernel.turns.fairness import make_policy
from kernel.turns.scheduler import Limits
from tests.load import Class, jain, process, serving, shell
from tests.virtual_model import VirtualLLM

if TYPE_CHECKING:
    from kernel.turns.fairness import Order

SLOTS = 8
WARM, LONG = 5.0, 40.0
"""Seconds, virtual, before and while tokens are counted."""
MANY, FEW = 60, 6
"""Requests that the two classes always have: ten to one."""
DOCUMENTS, TOKENS = 6, 512
BLOCKS = 48
"""Room for half of the documents, and for what runs."""


class Outcome(msgspec.Struct):
    """What one run came to."""

    jain: float
    served: int
    """Tokens, those that were cached included."""
    hits: float
    """Part of the prompts that was cached."""
    ttft: float
    """Seconds to the first piece for a shell, 95th percentile."""


async def _loaded(order: Order, slots: int) -> Outcome:
    llm = VirtualLLM(batch=SLOTS, blocks=BLOCKS)
    many = Class(process(10, 2), MANY, DOCUMENTS, TOKENS)
    few = Class(process(20, 3), FEW, DOCUMENTS, TOKENS)
    taken: list[float] = []
    async with (
        serving(llm, make_policy(order), Limits(slots, 1000)) as scheduler,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            user = process(4, 4, kind="session")
            while True:
                taken.extend(await shell(scheduler, llm, user, 1))

        for each in (many, few):
            nursery.start_soon(each.run, scheduler, llm)
        await trio.sleep(WARM)
        nursery.start_soon(ask)
        for each in (many, few):
            each.count()
        await trio.sleep(LONG)
        nursery.cancel_scope.cancel()
    both = [many.usage, few.usage]
    computed = [float(each.prompt - each.cached + each.completion) for each in both]
    prompt, cached = sum(each.prompt for each in both), sum(each.cached for each in both)
    return Outcome(
        jain=jain(computed),
        served=prompt + sum(each.completion for each in both),
        hits=cached / prompt,
        ttft=sorted(taken)[int(0.95 * len(taken))] if taken else LONG,
    )


def loaded(order: Order, slots: int = SLOTS) -> Outcome:
    return trio.run(_loaded, order, slots, clock=MockClock(autojump_threshold=0))


async def _alone() -> float:
    llm = VirtualLLM(batch=SLOTS, blocks=BLOCKS)
    async with serving(llm, make_policy("dlpm")) as scheduler:
        taken = await shell(scheduler, llm, process(4, 4, kind="session"), 40)
    return sorted(taken)[int(0.95 * len(taken))]


def test_ten_to_one_is_shared_equally_and_what_is_cached_goes_first() -> None:
    unloaded = trio.run(_alone, clock=MockClock(autojump_threshold=0))
    unscheduled, first = loaded("fcfs", 1 << 20), loaded("fcfs")
    vtc, local, fair = loaded("vtc"), loaded("lpm"), loaded("dlpm")
    assert fair.jain >= 0.97 and vtc.jain >= 0.97
    assert first.jain < 0.9 and local.jain < 0.9, "the load would not tell fair from unfair"
    assert fair.ttft <= 3 * unloaded
    assert first.ttft > 3 * unloaded
    assert fair.served >= 0.95 * unscheduled.served
    assert fair.hits >= 0.9 * local.hits
    assert fair.hits > vtc.hits * 1.1
