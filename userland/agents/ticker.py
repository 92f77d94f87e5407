"""ticker: publishes a number on the topic ``ticks``, again and again.

engram spawn ticker 0.5 10        ten ticks, half a second apart (default: 1, without end)
"""

import itertools

import trio

from userland.agent import Agent


async def main(agent: Agent) -> int:
    """Publish, and return how many ticks there were."""
    period = float(agent.args[0]) if agent.args else 1.0
    ticks = int(agent.args[1]) if len(agent.args) > 1 else None
    for tick in itertools.count(1):
        listeners = await agent.publish("ticks", tick)
        agent.print(f"tick {tick} ({listeners} listening)")
        if tick == ticks:
            break
        await trio.sleep(period)
    return tick
