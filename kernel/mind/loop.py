"""The intent loop: decode, run each call as the caller, observe, go on or reply.

             +--------------- observations ----------------+
             v                                             |
    render -> engine -> parse -> program -> resolve -> execute (the trap's, as the caller)
                                    |
                                    +-> no steps: the reply

A call that fails is an observation like any other. Time that runs out and a model that dies
are errors, and say in ``detail.done`` what was done before, and in ``detail.interrupted`` which
call was under way: whether that one took effect is then for the caller to find out.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from kernel.mind import replies
from kernel.mind.grammar import Surface, Surfaces, SurfaceStatistics
from kernel.mind.prompt import Context
from kernel.mind.quotes import only_quoted
from kernel.mind.resolve import checked, to_call
from syscalls.calls import llm, mem, proc
from syscalls.errors import ECANCELED, EPERM, ERRORS, ETIME, EngramError
from syscalls.table import TABLE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from drivers.contracts import Clock
    from drivers.llm.contract import LLM, GenerateRequest, Piece
    from kernel.mind.dialect import Seat, Thought
    from kernel.mind.resolve import Processes
    from procs.process import Process
    from syscalls.table import Call

    Execute = Callable[[Process, Call], Awaitable[Any]]
    Generate = Callable[[Process, GenerateRequest, LLM], AsyncGenerator[Piece, None]]

FOREVER = float("inf")
WHOLE = 3600.0
"""Seconds between pieces: a program is of no use before its end, so it comes as one message."""
REMEMBERED = 5
"""Records of working memory that are shown."""
LISTED = 50
"""Processes that are shown."""


class MindStatistics(msgspec.Struct, frozen=True):
    """Figures of the mind since boot. Times in seconds."""

    intents: int
    plans: int
    """Of the intents, those that were not to be run."""
    decodings: int
    calls: int
    failed: int
    """Of the calls, those that failed or were not run."""
    total: float
    decoding: float
    """Waiting for the engine."""
    running: float
    """In the calls."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    surfaces: SurfaceStatistics


def _plainly(
    _caller: Process, request: GenerateRequest, engine: LLM
) -> AsyncGenerator[Piece, None]:
    return engine.generate(request)


class Mind:
    """Understands intents. ``execute`` runs a call as a process, with all checks.

    ``generate`` has an engine write for a process, with what is attached to it.
    """

    def __init__(
        self,
        seat: Callable[[], Seat],
        execute: Execute,
        processes: Processes,
        clock: Clock,
        generate: Generate = _plainly,
    ) -> None:
        self._seat = seat
        self._generate = generate
        self.execute = execute
        self.processes = processes
        self.clock = clock
        self._surfaces = Surfaces()
        self._intents = self._plans = self._decodings = self._calls = self._failed = 0
        self._prompt = self._cached = self._completion = 0
        self._total = self._decoding = self._running = 0.0

    def statistics(self) -> MindStatistics:
        """Figures for ``/proc``."""
        return MindStatistics(
            self._intents,
            self._plans,
            self._decodings,
            self._calls,
            self._failed,
            self._total,
            self._decoding,
            self._running,
            self._prompt,
            self._cached,
            self._completion,
            self._surfaces.statistics(),
        )

    async def understand(self, caller: Process, call: llm.Intent) -> llm.Understood:
        """The program of an intent, run unless ``execute`` is off.

        Raises ENODEV, EINVAL, ETIME, EIO; ``detail.done`` says what was done.
        """
        began = self.clock.monotonic()
        run = Run(self, caller, call)
        self._intents += 1
        self._plans += not call.execute
        try:
            with trio.move_on_after(FOREVER if call.deadline is None else call.deadline):
                return await self._understand(run)
        except EngramError as error:
            raise ERRORS[error.number](
                error.message, hint=error.hint, **{**error.detail, **run.account()}
            ) from error
        finally:
            self._total += self.clock.monotonic() - began
        raise ETIME(
            f"the intent was not done within {call.deadline:g} s",
            deadline=call.deadline,
            **run.account(),
        )

    async def _understand(self, run: Run) -> llm.Understood:
        if run.call.program is not None:
            return await run.given(run.call.program)
        seat = self._seat()
        if seat.dialect.looks:
            return await run.conversed(seat)
        return await run.asked_once(seat)

    # --- the parts of a run

    def surface(self, caller: Process) -> Surface:
        """What the caller may say."""
        return self._surfaces.of(caller.caps)

    async def decode(self, caller: Process, seat: Seat, request: GenerateRequest) -> str:
        """The whole text of one generation. Raises what the engine raises."""
        began = self.clock.monotonic()
        self._decodings += 1
        texts: list[str] = []
        request.pace = WHOLE
        try:
            async with aclosing(self._generate(caller, request, seat.engine)) as pieces:
                async for piece in pieces:
                    texts.append(piece.text)
                    if piece.usage is not None:
                        self._prompt += piece.usage.prompt
                        self._cached += piece.usage.cached
                        self._completion += piece.usage.completion
        finally:
            self._decoding += self.clock.monotonic() - began
        return "".join(texts)

    async def perform(self, caller: Process, planned: llm.Planned) -> llm.Step:
        """Run one call as the caller; a failure is a step like any other."""
        began = self.clock.monotonic()
        self._calls += 1
        try:
            call = to_call(planned, self.processes, caller.apid)
            value = await self.execute(caller, call)
        except EngramError as error:
            self._failed += 1
            told = msgspec.to_builtins(error.to_value())
            return llm.Step(planned.call, planned.args, ok=False, value=told)
        finally:
            self._running += self.clock.monotonic() - began
        shown = msgspec.to_builtins(value, builtin_types=(bytes,))
        return llm.Step(planned.call, planned.args, ok=True, value=shown)

    def refused(self, planned: llm.Planned, why: str) -> llm.Step:
        """A call that is not run, as an observation."""
        self._calls += 1
        self._failed += 1
        told = msgspec.to_builtins(ECANCELED(f"not run: {why}").to_value())
        return llm.Step(planned.call, planned.args, ok=False, value=told)


class Run:
    """One intent on its way."""

    def __init__(self, mind: Mind, caller: Process, call: llm.Intent) -> None:
        self.call = call
        self._mind = mind
        self._caller = caller
        self._surface = mind.surface(caller)
        self._program: list[llm.Planned] = []
        self._results: list[llm.Step] = []
        self._left_out: list[llm.Planned] = []
        """Destructive steps that quoted text alone named."""
        self._interrupted: llm.Planned | None = None

    def account(self) -> dict[str, Any]:
        """What was done, for an error's detail; nothing where nothing was begun."""
        done = msgspec.to_builtins(self._results, builtin_types=(bytes,))
        account: dict[str, Any] = {"done": done}
        if self._interrupted is not None:
            account["interrupted"] = msgspec.to_builtins(self._interrupted)
        return account

    async def given(self, program: list[llm.Planned]) -> llm.Understood:
        """Run a program that was planned before. Raises EINVAL before anything is run."""
        for planned in program:
            checked(planned)
        await self._perform(program)
        return self._understood(replies.reply(self._results) if self.call.execute else "")

    async def asked_once(self, seat: Seat) -> llm.Understood:
        """One program; what is said about it is said by code."""
        thought = await self._think(seat)
        if not thought.understood:
            return self._understood(replies.NOT_UNDERSTOOD)
        await self._perform(thought.steps)
        if not self.call.execute:
            return self._understood("")
        return self._understood(thought.reply or replies.reply(self._results))

    async def conversed(self, seat: Seat) -> llm.Understood:
        """Programs until the model has nothing more to do, or no steps are left."""
        while True:
            thought = await self._think(seat)
            if not thought.understood:
                said = replies.reply(self._results) + "\n" if self._results else ""
                return self._understood(said + replies.NOT_UNDERSTOOD)
            await self._perform(thought.steps)
            if not self.call.execute:
                return self._understood(thought.reply)
            if not thought.steps or len(self._results) >= self.call.max_steps:
                return self._understood(thought.reply or replies.reply(self._results))

    async def _think(self, seat: Seat) -> Thought:
        context = Context(self.call.text, self._surface.calls, observations=self._results)
        if seat.dialect.looks:
            context.processes = await self._processes()
            context.memory = await self._memory()
        request = seat.dialect.render(context, self._surface)
        thought = seat.dialect.parse(await self._mind.decode(self._caller, seat, request), context)
        left = [step for step in thought.steps if only_quoted(step, context.text)]
        thought.steps = [step for step in thought.steps if step not in left]
        self._left_out += left
        return thought

    async def _perform(self, steps: Sequence[llm.Planned]) -> None:
        """Add the steps to the program and, if it is to be run, run them in order."""
        self._program += steps
        if not self.call.execute:
            return
        for planned in steps:
            why = self._reason_against(planned)
            if why:
                self._results.append(self._mind.refused(planned, why))
                continue
            self._interrupted = planned
            self._results.append(await self._mind.perform(self._caller, planned))
            self._interrupted = None

    def _reason_against(self, planned: llm.Planned) -> str:
        """Why a step is not run: too many of them, or what was to come first has failed."""
        if len(self._results) >= self.call.max_steps:
            return f"the intent has used up its {self.call.max_steps} steps"
        entry = TABLE.by_name.get(planned.call)
        if entry is None or not entry.destructive:
            return ""
        # "save it, then kill it": nothing is destroyed after something else has failed.
        for step in self._results:
            before = TABLE.by_name.get(step.call)
            if not step.ok and not (before is not None and before.destructive):
                return f"{step.call} failed before it"
        return ""

    def _understood(self, reply: str) -> llm.Understood:
        if self._left_out:
            said = [replies.left_out(step) for step in self._left_out]
            reply = "\n".join([*said, reply] if reply else said)
        return llm.Understood(self._program, self._results, reply)

    # --- what a model is shown, by the caller's own rights

    async def _processes(self) -> list[dict[str, Any]]:
        try:
            listed = await self._mind.execute(self._caller, proc.ListCall())
        except EPERM:
            return []
        return [
            {"apid": each.apid, "name": each.name, "state": each.state}
            for each in listed.processes[-LISTED:]
        ]

    async def _memory(self) -> list[str]:
        look = mem.Read(segment="working", limit=REMEMBERED)
        try:
            read = await self._mind.execute(self._caller, look)
        except EPERM:
            return []
        return [record.content for record in read.records]
