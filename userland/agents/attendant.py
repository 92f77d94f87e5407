"""attendant: knows a long manual, and has its model read it once.

    engram run --space desk attendant "where are the keys?"

The first run has the manual computed with the question, as any program would, and then pins it.
Every later one attaches what was pinned, after a reboot too: it was computed once and for all.
"""

from time import perf_counter

from syscalls.calls.llm import Generate
from syscalls.shapes import ChatMessage
from userland.agent import Agent

MANUAL = "manual"
LENGTH = 1500


async def main(agent: Agent) -> dict[str, float]:
    """Answer a question about the manual; how long it took to begin, and what was computed."""
    question = ChatMessage("user", agent.args[0] if agent.args else "where are the keys?")
    known = {one.handle for one in (await agent.kv.list()).prefixes}
    if MANUAL not in known:
        manual = [ChatMessage("system", manual_text())]
        asked = await ask(agent, [*manual, question], "computed")
        pinned = await agent.kv.pin(messages=manual, name=MANUAL)
        agent.print(f"pinned {pinned.tokens} tokens as {pinned.handle!r}, {pinned.bytes} bytes")
        return asked
    await agent.kv.attach(handle=MANUAL)
    return await ask(agent, [question], "brought back")


async def ask(agent: Agent, messages: list[ChatMessage], how: str) -> dict[str, float]:
    """Have the model answer; say how long its first token took."""
    began, first = perf_counter(), 0.0
    call = Generate(messages=messages, max_tokens=8, stream=True)
    async with agent.channel.stream(call) as pieces:
        async for _ in pieces:
            first = first or perf_counter() - began
        usage = pieces.reply.usage
    agent.print(
        f"the context was {how}: first token after {first:.2f} s, "
        f"{usage.cached} of {usage.prompt} tokens were there"
    )
    return {"seconds": first, "cached": usage.cached, "prompt": usage.prompt}


def manual_text() -> str:
    """A manual, as long as one is."""
    return " ".join(f"w{(7 * place * place + place) % 4093}" for place in range(LENGTH))
