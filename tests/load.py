"""Load for a scheduler: classes of workers, a shell, and what they were served."""

from __future__ import annotations

import random
from contextlib import aclosing, asynccontextmanager
from math import inf
from typing import TYPE_CHECKING

import trio

from drivers.llm.contract import GenerateRequest
from kernel.turns.scheduler import Limits, Scheduler
from procs.process import Process
from syscalls.capability import compiled
from syscalls.shapes import Quota, Usage
from tests.virtual_model import CHARS, VirtualLLM

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from drivers.llm.contract import Piece
    from kernel.turns.fairness import Policy
    from syscalls.shapes import ProcKind


class TrioClock:
    """Trio's, which a ``MockClock`` makes jump."""

    def now(self) -> float:
        return trio.current_time()

    def monotonic(self) -> float:
        return trio.current_time()


def process(apid: int, session: int = 1, *, kind: ProcKind = "python", nice: int = 0) -> Process:
    """A process, as far as a scheduler looks at it."""
    return Process(
        apid=apid,
        name=f"p{apid}",
        kind=kind,
        parent=1,
        session=session,
        program="",
        goal="",
        args=[],
        caps=compiled(frozenset()),
        quota=Quota(),
        nice=nice,
        created=0.0,
    )


@asynccontextmanager
async def serving(
    llm: VirtualLLM, policy: Policy, limits: Limits | None = None
) -> AsyncIterator[Scheduler]:
    """A scheduler on a virtual model, both running."""
    scheduler = Scheduler(llm, policy, TrioClock(), limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(llm.run)
        nursery.start_soon(scheduler.run)
        yield scheduler
        nursery.cancel_scope.cancel()


async def pieces(
    scheduler: Scheduler,
    llm: VirtualLLM,
    process: Process,
    request: GenerateRequest,
    patience: float = inf,
) -> AsyncGenerator[Piece, None]:
    """A generation, as ``kernel/generation.py`` leads it through a scheduler."""
    with scheduler.ask(process, request, patience) as ticket:
        await ticket.admitted()
        async with aclosing(llm.generate(request)) as stream:
            async for piece in stream:
                await ticket.took(piece)
                yield piece
                ticket.read()


async def whole(
    scheduler: Scheduler, llm: VirtualLLM, process: Process, request: GenerateRequest
) -> Usage:
    """The usage of a generation, read to its end."""
    usage = Usage()
    async with aclosing(pieces(scheduler, llm, process, request)) as stream:
        async for piece in stream:
            usage = piece.usage or usage
    return usage


def jain(shares: list[float]) -> float:
    """Jain's index: 1 for equal shares, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(each * each for each in shares))


class Class:
    """Workers of one process that ask again as soon as they are answered.

    Each request begins with one of ``documents`` of ``tokens`` tokens, and goes on with words
    of its own.
    """

    def __init__(self, process: Process, workers: int, documents: int, tokens: int) -> None:
        self.process = process
        self.usage = Usage()
        self._workers, self._documents, self._tokens = workers, documents, tokens
        self._counting = False

    async def run(self, scheduler: Scheduler, llm: VirtualLLM) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self._workers):
                nursery.start_soon(self._work, scheduler, llm, number)

    def count(self) -> None:
        """From now on."""
        self._counting = True

    async def _work(self, scheduler: Scheduler, llm: VirtualLLM, number: int) -> None:
        own = random.Random(f"{self.process.apid} {number}")
        while True:
            document = f"{self.process.apid} {own.randrange(self._documents)} lorem ipsum "
            text = (document * self._tokens)[: self._tokens * CHARS]
            request = GenerateRequest(
                prompt=text + f"question {own.random()} " * 10,
                max_tokens=own.randrange(16, 48),
                salt=self.process.name,
            )
            usage = await whole(scheduler, llm, self.process, request)
            if self._counting:
                self.usage.prompt += usage.prompt
                self.usage.cached += usage.cached
                self.usage.completion += usage.completion


async def shell(
    scheduler: Scheduler, llm: VirtualLLM, process: Process, questions: int
) -> list[float]:
    """Seconds to the first piece of each answer, a question every second or so."""
    own = random.Random(3)
    taken = []
    for number in range(questions):
        await trio.sleep(0.5 + own.random())
        request = GenerateRequest(prompt=f"ask {number} " * 150, max_tokens=16, salt="shell")
        asked = trio.current_time()
        async with aclosing(pieces(scheduler, llm, process, request)) as stream:
            async for _ in stream:
                taken.append(trio.current_time() - asked)
                break
    return taken
