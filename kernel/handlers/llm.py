"""``llm.*``: language models and the embedder."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

from drivers.llm.contract import GenerateRequest
from kernel.generation import generate as generated
from kernel.paging import fault
from kernel.trap import Emit, handles
from syscalls.calls import llm
from syscalls.errors import EINVAL, ETIME
from syscalls.shapes import ChatMessage, Usage

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process

FOREVER = float("inf")
PACE = 0.25
"""Seconds between pieces of a text that is wanted whole; more would be lost at a deadline."""


@handles(llm.Generate, waits=True)
async def generate(
    kernel: Kernel, caller: Process, call: llm.Generate, emit: Emit
) -> llm.Generated:
    """Text from the attached model."""
    if (call.messages is None) == (call.prompt is None):
        raise EINVAL("llm.generate takes either messages or a prompt")
    said = call.messages
    if call.context:
        said = kernel.conversations.going_on(caller.apid, said or _turn(call.prompt))
    request = GenerateRequest(
        messages=None if said is None else list(said),
        prompt=None if call.context else call.prompt,
        max_tokens=call.max_tokens,
        temperature=call.temperature,
        top_p=call.top_p,
        stop=call.stop,
        seed=call.seed,
        schema=call.schema,
        adapter=call.adapter,
        pace=0.0 if call.stream else PACE,
    )
    texts: list[str] = []
    wanted = call.memory == "auto"
    usage, finish = Usage(), "stop"
    with trio.move_on_after(_seconds(call.deadline)) as scope:
        info = await kernel.llm.ready()
        paged = await fault(kernel, caller, request, call.memory_budget) if wanted else []
        async with aclosing(generated(kernel, caller, request)) as pieces:
            async for piece in pieces:
                if piece.text:
                    texts.append(piece.text)
                    if call.stream:
                        await emit(llm.Chunk(text=piece.text))
                if piece.finish:
                    finish, usage = piece.finish, piece.usage or usage
        usage.paged = paged
        if call.context and said is not None:
            answer = ChatMessage("assistant", "".join(texts))
            kernel.conversations.put(caller.apid, [*said, answer])
        return llm.Generated(text="".join(texts), usage=usage, finish=finish, model=info.name)
    assert scope.cancelled_caught
    raise ETIME(
        f"no complete answer within {call.deadline} s",
        text="".join(texts),
        deadline=call.deadline,
    )


def _turn(prompt: str | None) -> list[ChatMessage]:
    return [ChatMessage("user", prompt or "")]


@handles(llm.Embed, waits=True)
async def embed(kernel: Kernel, _caller: Process, call: llm.Embed) -> llm.Embedded:
    """Vectors of texts."""
    with trio.move_on_after(_seconds(call.deadline)):
        info = await kernel.embedder.ready()
        vectors = await kernel.embedder.embed(call.texts)
        return llm.Embedded(vectors=vectors.tolist(), dimension=info.dimension, model=info.name)
    raise ETIME(f"the embedder did not answer within {call.deadline} s", deadline=call.deadline)


@handles(llm.Count, waits=True)
async def count(kernel: Kernel, _caller: Process, call: llm.Count) -> llm.Counted:
    """Tokens of a text."""
    if (call.text is None) == (call.messages is None):
        raise EINVAL("llm.count takes either a text or messages")
    await kernel.llm.ready()
    return llm.Counted(tokens=await kernel.llm.count(call.text, call.messages))


@handles(llm.Intent, waits=True)
async def intent(kernel: Kernel, caller: Process, call: llm.Intent) -> llm.Understood:
    """Words into calls, with the rights of who said them."""
    return await kernel.mind.understand(caller, call)


def _seconds(deadline: float | None) -> float:
    return FOREVER if deadline is None else deadline
