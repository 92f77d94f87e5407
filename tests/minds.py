"""Parts for tests of the mind: a scripted model, and a way to seat it in a simulated kernel."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from drivers.llm.contract import LLMInfo, Piece
from kernel.mind.chat import ChatDialect
from kernel.mind.dialect import Seat
from kernel.mind.loop import Mind
from syscalls.errors import EngramError
from syscalls.shapes import ChatMessage, Usage
from tests.simulation import Program, World, simulated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from drivers.contracts import DriverState
    from drivers.llm.contract import GenerateRequest
    from kernel.kernel import Kernel
    from kernel.mind.dialect import Dialect
    from userland.channel import Channel

Answer = str | EngramError | float
"""A text, an error that is raised, or seconds that pass before the next answer."""


class Figures(msgspec.Struct, frozen=True):
    """Figures of a scripted model."""

    asked: int


class Scripted:
    """``contracts.LLM`` that says what it was told to, in order."""

    state: DriverState = "ready"
    info = LLMInfo("scripted", "test", 1 << 20)

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[GenerateRequest] = []

    async def ready(self) -> LLMInfo:
        await trio.lowlevel.checkpoint()
        return self.info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        self.requests.append(request)
        answer = self.answers.pop(0)
        while isinstance(answer, float):
            await trio.sleep(answer)
            answer = self.answers.pop(0)
        if isinstance(answer, EngramError):
            raise answer
        half = len(answer) // 2
        yield Piece(text=answer[:half])
        yield Piece(text=answer[half:])
        yield Piece(finish="stop", usage=Usage(10, 0, len(answer)))

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        await trio.lowlevel.checkpoint()
        return len(text or "")

    def statistics(self) -> Figures:
        return Figures(len(self.requests))


def says(*steps: tuple[str, dict[str, Any]], reply: str = "") -> str:
    """What a chat model writes for these calls."""
    planned = [{"call": call, "args": args} for call, args in steps]
    return json.dumps({"steps": planned, "reply": reply}, ensure_ascii=False)


def seat(kernel: Kernel, *answers: Answer, dialect: Dialect | None = None) -> Scripted:
    """Have a scripted model understand the intents of a kernel."""
    model = Scripted(*answers)
    taken = Seat(dialect or ChatDialect(), model)
    kernel.mind = Mind(lambda: taken, kernel.act, kernel.processes, kernel.clock)
    return model


@asynccontextmanager
async def system(seed: int, programs: dict[str, Program], **settings: Any) -> AsyncIterator[Sys]:
    """A simulated system whose shells are closed at the end."""
    async with simulated(seed, programs, **settings) as world:
        running = Sys(world)
        try:
            yield running
        finally:
            for shell in running.shells:
                shell.close()


class Sys:
    """A simulated world and the shells attached to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernel = world.kernel
        self.shells: list[Channel] = []

    def attach(self, *grants: str) -> Channel:
        """A new shell; with every capability unless some are named."""
        shell = self.world.attach(*grants)
        self.shells.append(shell)
        return shell
