"""A language model in a driver host, and the absence of one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NoReturn

import msgspec
import trio

from drivers.kv.contract import Pinned, PinRequest
from drivers.llm.contract import GenerateRequest, LLMInfo, Piece
from drivers.llm.shapes import (
    AdapterArguments,
    AdaptersArguments,
    AdapterStatistics,
    CountArguments,
    DropArguments,
    HandleArguments,
    HeldAnswer,
    HeldArguments,
    RunningArguments,
)
from drivers.supervisor import Host, HostStatistics
from syscalls.errors import ENODEV, EngramError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from drivers.contracts import DriverState
    from drivers.kv.contract import Held, KVStatistics
    from drivers.life import Exchange
    from syscalls.shapes import ChatMessage

FAREWELL = 5.0
"""Seconds that a cancelled pin waits for the engine to let go of what it had kept."""
CREDIT = 32
"""Pieces that the host may send before the reader has taken half of them."""


class LLMStatistics(msgspec.Struct, frozen=True):
    """Figures of a hosted language model."""

    host: HostStatistics | None
    generations: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class HostedLLM:
    """``contracts.LLM`` on a supervised host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._info: LLMInfo | None = None
        self._generations = self._prompt = self._cached = self._completion = 0
        self._open: dict[Exchange, GenerateRequest] = {}
        """Generations under way. One request may be asked several times at once."""

    @property
    def state(self) -> DriverState:
        """The host's."""
        return self._host.state

    @property
    def info(self) -> LLMInfo | None:
        """None until it is ready for the first time."""
        return self._info

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise the host until cancelled."""
        await self._host.run(task_status=task_status)

    async def ready(self) -> LLMInfo:
        """Wait until it can serve. Raises EIO (failed for good, or stopped)."""
        raw = await self._host.ready()
        if self._info is None:
            self._info = msgspec.msgpack.decode(raw, type=LLMInfo)
        return self._info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Pieces of text as they come. Closing the iterator aborts the generation.

        Raises EINVAL for an empty or over-long prompt, EIO when the host dies.
        """
        await self.ready()
        exchange = await self._host.begin("generate", request, credit=CREDIT)
        self._open[exchange] = request
        try:
            async for raw in exchange:
                yield msgspec.msgpack.decode(raw, type=Piece)
            last = msgspec.msgpack.decode(await exchange.result(), type=Piece)
            self._generations += 1
            if last.usage is not None:
                self._prompt += last.usage.prompt
                self._cached += last.usage.cached
                self._completion += last.usage.completion
            yield last
        finally:
            del self._open[exchange]
            exchange.close()

    def suspend(self, request: GenerateRequest, *, on: bool) -> None:
        """Have a generation stand still, or go on. One that has not begun is not suspended."""
        for exchange, asked in self._open.items():
            if asked is request:
                exchange.suspend(on=on)

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        """Tokens of a text, or of messages with the chat template."""
        await self.ready()
        raw = await self._host.call("count", CountArguments(text, messages), replays=1)
        return msgspec.msgpack.decode(raw, type=int)

    async def load_adapter(self, name: str, path: str) -> None:
        """Make the LoRA adapter in a folder known by a name; it is gone when the host dies.

        Raises EEXIST, ENOENT (no such folder), EINVAL (it does not fit the model, or the engine
        takes none).
        """
        await self._host.call("load_adapter", AdapterArguments(name, path))

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises ENOENT, EBUSY, and EINVAL where the engine takes none."""
        await self._host.call("unload_adapter", AdapterArguments(name))

    async def adapters(self) -> AdapterStatistics:
        """What the engine holds now."""
        await self.ready()
        raw = await self._host.call("adapters", AdaptersArguments(), replays=1)
        return msgspec.msgpack.decode(raw, type=AdapterStatistics)

    async def pin(self, request: PinRequest) -> Pinned:
        """Compute or restore a beginning and keep it, as ``kv.contract.Activation`` says.

        Raises EINVAL, EAGAIN, and EIO when the host dies.
        """
        await self.ready()
        try:
            raw = await self._host.call("pin", request)
        except trio.Cancelled:
            # The answer may have crossed the cancellation; then nobody knows of the pin.
            with trio.move_on_after(FAREWELL, shield=True), contextlib.suppress(EngramError):
                await self._host.call("unpin", HandleArguments(request.handle))
            raise
        return msgspec.msgpack.decode(raw, type=Pinned)

    async def unpin(self, handle: str) -> None:
        """Let the engine evict it; its files stay. No error if unknown."""
        await self.ready()
        await self._host.call("unpin", HandleArguments(handle), replays=1)

    async def drop(self, handle: str, blocks: Sequence[str]) -> None:
        """Unpin, and erase these blocks everywhere. Raises EINVAL for what names no block."""
        await self.ready()
        await self._host.call("drop", DropArguments(handle, list(blocks)), replays=1)

    async def held(self) -> tuple[list[Held], KVStatistics]:
        """The pins that the engine has now, and the figures of its tiers."""
        await self.ready()
        raw = await self._host.call("held", HeldArguments(), replays=1)
        answer = msgspec.msgpack.decode(raw, type=HeldAnswer)
        return answer.pins, answer.statistics

    async def running(self) -> int:
        """Generations that the engine itself is at work on, those nobody waits for included."""
        await self.ready()
        raw = await self._host.call("running", RunningArguments())
        return msgspec.msgpack.decode(raw, type=int)

    def statistics(self) -> LLMStatistics:
        """Figures since it was made."""
        return LLMStatistics(
            self._host.statistics(),
            self._generations,
            self._prompt,
            self._cached,
            self._completion,
        )


class NoLLM:
    """The language model of a system that has none."""

    state: DriverState = "absent"
    info: LLMInfo | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing to supervise."""
        task_status.started()

    async def ready(self) -> NoReturn:
        """Raises ENODEV."""
        await trio.lowlevel.checkpoint()
        raise ENODEV(
            "no language model is attached",
            hint="attach one with `engram boot --model FOLDER_OR_NAME`, or set `model`",
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Raises ENODEV."""
        await self.ready()
        yield Piece()

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> NoReturn:
        """Raises ENODEV."""
        await self.ready()

    async def pin(self, request: PinRequest) -> NoReturn:
        """Raises ENODEV."""
        await self.ready()

    async def unpin(self, handle: str) -> NoReturn:
        """Raises ENODEV."""
        await self.ready()

    async def drop(self, handle: str, blocks: Sequence[str]) -> NoReturn:
        """Raises ENODEV."""
        await self.ready()

    async def held(self) -> NoReturn:
        """Raises ENODEV."""
        await self.ready()

    def statistics(self) -> LLMStatistics:
        """Nothing but zeros."""
        return LLMStatistics(None)
