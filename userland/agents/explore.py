"""explore: five branches of one agent, and the memory of the best one comes back.

    engram run explore "4 8 15 16 23 42"

                   trunk ── remembers the task, forks five times ───────────────┐
          branch 1 ... branch 5 ── each with a view of the trunk's memory, tries its own way,
                                   remembers what it found, shares its space with the trunk
                   trunk ── takes the new records of the best branch, and forgets nothing else

The task is a stand-in for one that a model would work on: divide the numbers into two heaps that
differ as little as possible. Each branch begins elsewhere and improves while it can.
"""

from random import Random
from typing import Any

from userland.agent import Agent
from userland.merging import merge

BRANCHES = 5
PATIENCE = 60.0
NUMBERS = "31 41 59 26 53 58 97 93 23 84"


async def main(agent: Agent) -> Any:
    """Be the trunk; or a branch, where this process was forked from one."""
    if agent.forked:
        return await branch(agent, agent.state["numbers"], int(agent.goal.rpartition(" ")[2]))
    numbers = [int(word) for word in (agent.args[0] if agent.args else NUMBERS).split()]
    await agent.remember(f"The task: divide {numbers} into two heaps of nearly the same sum.")
    await agent.declare({"numbers": numbers})
    branches = [await agent.fork(f"branch {number + 1}") for number in range(BRANCHES)]
    found = []
    for child in branches:
        found.append((await child.wait(PATIENCE)).value)
        agent.print(f"process {child.apid}: the heaps differ by {found[-1]['differ']}")
    best = min(found, key=lambda one: int(one["differ"]))
    taken = await merge(agent, best["space"])
    agent.print(f"took {taken.records} records of the best branch")
    hits = await agent.recall("which heaps are best?", k=1, space=agent.space)
    agent.print(hits[0].content)
    return [hit.content for hit in hits]


async def branch(agent: Agent, numbers: list[int], seed: int) -> dict[str, int]:
    """Try from one beginning; returns what was found. The trunk may read what is remembered."""
    chance = Random(seed)
    left = {place for place in range(len(numbers)) if chance.random() < 0.5}

    def differ(heap: set[int]) -> int:
        return abs(sum(numbers) - 2 * sum(numbers[place] for place in heap))

    better = True
    while better:
        tries = [left ^ {place} for place in range(len(numbers))]
        nearest = min(tries, key=differ)
        better = differ(nearest) < differ(left)
        left = nearest if better else left
    heap = sorted(numbers[place] for place in left)
    said = f"Of the heaps that were tried, {heap} against the rest is best: they differ by"
    said = f"{said} {differ(left)}"
    await agent.remember(said, "semantic", tags=["heaps"])
    await agent.share(agent.forked, "read")
    return {"differ": differ(left), "space": agent.space}
