"""A model that keeps state as the contract of activation memory says, without computing any.

A token is four characters, a block 16 tokens. A block's file has the words up to its end in it,
so that a test can look for what must not be there.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from drivers.kv.contract import Held, KVStatistics, Pinned
from drivers.kv.files import block_path
from drivers.llm.contract import LLMInfo, Piece
from kernel.activation.promotion import flat
from syscalls.errors import EAGAIN, EINVAL, EIO
from syscalls.shapes import ChatMessage, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from drivers.contracts import DriverState
    from drivers.kv.contract import PinRequest
    from drivers.llm.contract import GenerateRequest

TOKEN = 4
BLOCK = 16
BYTES = 10
"""Bytes of a token's state."""
RATE = 100.0
"""Tokens computed in a second, as it says."""
NAMESPACE = "test"


class Figures(msgspec.Struct, frozen=True):
    """Nothing."""

    asked: int


class Remembering:
    """``contracts.LLM`` with ``kv.contract.Activation``; files in a folder, where it is given."""

    state: DriverState = "ready"

    def __init__(self, folder: Path | None = None, room: int = 1 << 20) -> None:
        self.info = LLMInfo("remembering", "test", 1 << 20)
        self.folder = folder
        self.room = room
        self.pins: dict[str, list[str]] = {}
        self.known: set[str] = set()
        self.requests: list[GenerateRequest] = []
        self.dropped: list[str] = []
        self.gate: trio.Event | None = None
        """While it is not set, a pin is under way."""
        self.broken = False

    async def ready(self) -> LLMInfo:
        await trio.lowlevel.checkpoint()
        return self.info

    # --- generating

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        text = _text(request.messages, request.prompt)
        blocks = [name for name, _ in _blocks(request.salt, text)]
        cached = 0
        for name in blocks:
            if name not in self.known:
                break
            cached += BLOCK
        self.known.update(blocks)
        yield Piece(text="yes", finish="stop", usage=Usage(len(text) // TOKEN, cached, 1))

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        await trio.lowlevel.checkpoint()
        return len(_text(messages, text)) // TOKEN

    def statistics(self) -> Any:
        return Figures(len(self.requests))

    # --- keeping

    async def pin(self, request: PinRequest) -> Pinned:
        await trio.lowlevel.checkpoint()
        blocks = _blocks(request.salt, _text(request.messages, request.prompt))
        if not blocks:
            raise EINVAL("shorter than a block")
        if sum(map(len, self.pins.values())) + len(blocks) > self.room:
            raise EAGAIN("no room among the pinned")
        names = [name for name, _ in blocks]
        cached = sum(BLOCK for name in names if name in self.known)
        self.known.update(names)
        for name, said in blocks:
            if self.folder is not None:
                path = block_path(self.folder, NAMESPACE, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(said)
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise EIO("the host has died", driver="llm")
        self.pins[request.handle] = names
        tokens = BLOCK * len(names)
        return Pinned(
            request.handle,
            tokens,
            BYTES * tokens,
            names,
            NAMESPACE,
            cached,
            seconds=0.5,
            prefill=tokens / RATE,
        )

    async def unpin(self, handle: str) -> None:
        await trio.lowlevel.checkpoint()
        self.pins.pop(handle, None)

    async def drop(self, handle: str, blocks: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise EIO("the host has died", driver="llm")
        self.pins.pop(handle, None)
        self.known.difference_update(blocks)
        self.dropped += blocks

    async def held(self) -> tuple[list[Held], KVStatistics]:
        await trio.lowlevel.checkpoint()
        pins = [
            Held(name, BLOCK * len(blocks), BYTES * BLOCK * len(blocks), "engine")
            for name, blocks in self.pins.items()
        ]
        return pins, KVStatistics(pins=len(pins))


def _text(messages: Sequence[ChatMessage] | None, prompt: str | None) -> str:
    return prompt or flat(messages or [])


def _blocks(salt: str, text: str) -> list[tuple[str, str]]:
    size = TOKEN * BLOCK
    ends = range(size, len(text) + 1, size)
    return [
        (blake2b(f"{salt}|{text[:end]}".encode(), digest_size=16).hexdigest(), text[:end])
        for end in ends
    ]
