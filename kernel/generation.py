"""The one way of a generation: what a process has attached, the engine, what came of it.

    request ── salt, attached prefix, adapter ──> scheduler ──> engine ── pieces ──> caller

Everything that a process has the model do goes through here, the programs of the mind included,
so what is attached to it, counted for it and due to it is the same wherever it asks.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import msgspec

    from drivers.contracts import DriverState
    from drivers.llm.contract import LLM, GenerateRequest, LLMInfo, Piece
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.shapes import ChatMessage


def salt_of(process: Process) -> str:
    """What marks the keys and values of a process: nobody with another mark ever gets a hit.

    Processes that work in one space share it, as they share what is in the space. A space is
    there after a reboot, and its activation memory with it.
    """
    if process.salt:
        return process.salt
    return f"space/{process.space}" if process.space else f"apid/{process.apid}"


async def generate(
    kernel: Kernel, caller: Process, request: GenerateRequest, engine: LLM | None = None
) -> AsyncGenerator[Piece, None]:
    """Pieces of a text, as ``LLM.generate`` gives them, for ``caller``.

    ``engine`` is the attached model where it is not said. When it goes to the engine the
    scheduler decides. Where a quota has less left than ``max_tokens`` it becomes what is left.
    Raises EDQUOT (nothing is), EAGAIN (too many wait for it already), ETIME (it cannot be done by
    the deadline of the caller's scope), and what the engine raises.
    """
    request.owner = caller.apid
    own = salt_of(caller)
    request.salt = f"{request.salt}/{own}" if request.salt else own
    own_words = engine is None  # the mind's programs have a prompt of their own
    engine = engine or kernel.llm
    await kernel.adapters.apply(caller, request, engine)
    pins = kernel.pins if engine is kernel.llm else None
    begun = None if pins is None else pins.begin(caller, request, attach=own_words)
    if engine.info is None:
        await engine.ready()  # how much it takes is known then
    patience = trio.current_effective_deadline() - trio.current_time()
    if patience <= 0:
        await trio.lowlevel.checkpoint()  # cancelled, or about to be
    with (
        kernel.accounts.generating(caller, request) as reserved,
        kernel.schedulers.of(engine).ask(caller, request, patience) as ticket,
    ):
        if ticket.state != "running":
            await ticket.admitted()
        async with aclosing(engine.generate(request)) as pieces:
            async for piece in pieces:
                reserved.spend(piece.tokens)
                await ticket.took(piece)
                if begun is not None and piece.usage is not None:
                    kernel.pins.done(begun, piece.usage)
                yield piece
                ticket.read()


class Background:
    """The attached model for the kernel's own work: in init's turn, as one session among all."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @property
    def state(self) -> DriverState:
        """The model's."""
        return self._kernel.llm.state

    @property
    def info(self) -> LLMInfo | None:
        """The model's."""
        return self._kernel.llm.info

    async def ready(self) -> LLMInfo:
        """Wait until it can serve; raises what the model raises."""
        return await self._kernel.llm.ready()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Pieces of a text, when it is init's turn. Raises as ``generate`` does."""
        kernel = self._kernel
        return generate(kernel, kernel.init, request, kernel.llm)

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        """Tokens of a text or of messages."""
        return await self._kernel.llm.count(text, messages)

    def statistics(self) -> msgspec.Struct:
        """The model's."""
        return self._kernel.llm.statistics()
