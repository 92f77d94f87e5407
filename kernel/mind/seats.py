"""Which model understands intents: nano, the attached general model, or none."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import trio

from kernel.mind.dialect import Seat
from syscalls.errors import ENODEV

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import msgspec

    from drivers.contracts import DriverState
    from drivers.llm.contract import LLM, GenerateRequest, LLMInfo, Piece
    from drivers.llm.hosted import HostedLLM
    from syscalls.shapes import ChatMessage

Choice = Literal["nano", "model", "none"]


def seats(choice: Choice, nano: LLM, model: LLM) -> Callable[[], Seat]:
    """A function that gives the seat in use. It raises ENODEV where there is none."""
    kept: dict[str, Seat] = {}

    def take() -> Seat:
        if choice == "none":
            raise _absent("the setting `mind` is `none`", "`engram boot --mind nano`")
        if choice == "nano" and nano.state == "absent":
            raise _absent(
                "the weights of nano are not installed",
                "install EngramOS with drivers/nano/weights, or understand intents with a general "
                "model: `engram boot --model FOLDER_OR_NAME --mind model`",
            )
        if choice == "model" and model.state == "absent":
            raise _absent(
                "no general model is attached",
                "`engram boot --model FOLDER_OR_NAME --mind model`, or leave `mind` at `nano`",
            )
        if choice not in kept:
            kept[choice] = _made(choice, nano, model)
        return kept[choice]

    return take


def _made(choice: Choice, nano: LLM, model: LLM) -> Seat:
    if choice == "nano":
        from kernel.mind.nano import NanoDialect

        return Seat(NanoDialect(), nano)
    from kernel.mind.chat import ChatDialect

    return Seat(ChatDialect(), model)


def _absent(what: str, hint: str) -> ENODEV:
    return ENODEV(f"no model understands intents: {what}", hint=hint)


def nano_weights() -> Path | None:
    """The folder of nano's weights beside its code; None where they are not installed."""
    import drivers.nano

    folder = Path(drivers.nano.__path__[0], "weights")
    return folder if (folder / "config.json").is_file() else None


class Sleeper:
    """A hosted model that starts at its first use: who never speaks to it never pays for it."""

    def __init__(self, model: HostedLLM) -> None:
        self._model = model
        self._wanted = trio.Event()

    @property
    def state(self) -> DriverState:
        """``stopped`` until it is wanted."""
        return self._model.state if self._wanted.is_set() else "stopped"

    @property
    def info(self) -> LLMInfo | None:
        """None until it is ready for the first time."""
        return self._model.info

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sleep until wanted, then supervise the host until cancelled."""
        task_status.started()
        await self._wanted.wait()
        await self._model.run()

    async def ready(self) -> LLMInfo:
        """Wait until it can serve. Raises EIO (failed for good, or stopped)."""
        self._wanted.set()
        return await self._model.ready()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Pieces of text as they come; raises what the model raises."""
        self._wanted.set()
        async with aclosing(self._model.generate(request)) as pieces:
            async for piece in pieces:
                yield piece

    def suspend(self, request: GenerateRequest, *, on: bool) -> None:
        """Have a generation stand still, or go on."""
        self._model.suspend(request, on=on)

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        """Tokens of a text or of messages."""
        self._wanted.set()
        return await self._model.count(text, messages)

    def statistics(self) -> msgspec.Struct:
        """The model's."""
        return self._model.statistics()
