"""The one way of a generation: what a process has attached, the engine, what came of it.

    request ── salt, attached prefix, adapter ──> engine ── pieces ──> caller

Everything that a process has the model do goes through here, the programs of the mind included,
so what is attached to it, counted for it and due to it is the same wherever it asks.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from drivers.contracts import LLM, GenerateRequest, Piece
    from kernel.kernel import Kernel
    from procs.process import Process


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

    ``engine`` is the attached model where it is not said. Raises what the engine raises.
    """
    request.owner = caller.apid
    own = salt_of(caller)
    request.salt = f"{request.salt}/{own}" if request.salt else own
    async with aclosing((engine or kernel.llm).generate(request)) as pieces:
        async for piece in pieces:
            yield piece
