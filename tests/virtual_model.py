"""An engine on trio's clock: batches by steps, a cache of blocks by prefix, no model.

    step:  every running one makes a token; prompts are computed, so many tokens in all
    cache: blocks of 128 tokens, known by all that is before them; those in use stay, of the
           others the least recently used go

It stands for vLLM where a test wants minutes of load in a moment, and the same each time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from math import ceil
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.llm.contract import LLMInfo, Piece
from syscalls.errors import EIO
from syscalls.shapes import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from drivers.contracts import DriverState
    from drivers.llm.contract import GenerateRequest
    from syscalls.shapes import ChatMessage

BLOCK = 128
CHARS = 4
"""Characters of a token."""


class Costs(msgspec.Struct, frozen=True):
    """Seconds, and tokens of prompts that one step computes."""

    step: float = 0.01
    decode: float = 0.0005
    prefill: float = 0.0001
    chunk: int = 512


class Figures(msgspec.Struct, frozen=True):
    """Figures of the virtual model."""

    steps: int


class Sequence:
    """One generation."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        text = request.prompt or ""
        self.prompt = ceil(len(text) / CHARS)
        self.blocks = []
        mark = hash(request.salt)
        for end in range(BLOCK * CHARS, len(text) + 1, BLOCK * CHARS):
            mark = hash((mark, text[end - BLOCK * CHARS : end]))
            self.blocks.append(mark)
        self.done = self.made = 0
        self.cached = -1
        self.send, self.receive = trio.open_memory_channel[Piece | EIO](1 << 20)


class VirtualLLM:
    """``contracts.LLM`` and ``Suspends``; ``run`` it in a nursery."""

    state: DriverState = "ready"

    def __init__(self, batch: int = 8, blocks: int = 64, costs: Costs | None = None) -> None:
        self.info = LLMInfo(
            "virtual", "virtual", 1 << 20, slots=batch, kv_tokens=blocks * BLOCK, suspends=True
        )
        self.steps = self.suspensions = 0
        self.most = 0
        """Generations that were in the engine at once."""
        self._costs = costs or Costs()
        self._batch, self._room = batch, blocks
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._paused: dict[int, Sequence] = {}
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._work = trio.Event()

    async def ready(self) -> LLMInfo:
        await trio.lowlevel.checkpoint()
        return self.info

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        await trio.lowlevel.checkpoint()
        return ceil(len(text or "") / CHARS)

    def statistics(self) -> Figures:
        return Figures(self.steps)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        await trio.lowlevel.checkpoint()
        sequence = Sequence(request)
        self._waiting.append(sequence)
        self._work.set()
        try:
            async for piece in sequence.receive:
                if isinstance(piece, EIO):
                    raise piece
                yield piece
        finally:
            self._paused.pop(id(request), None)
            for place in (self._waiting, self._running):
                if sequence in place:
                    place.remove(sequence)

    def suspend(self, request: GenerateRequest, *, on: bool) -> None:
        if not on:
            if (sequence := self._paused.pop(id(request), None)) is not None:
                sequence.done = 0
                self._waiting.appendleft(sequence)
                self._work.set()
            return
        for place in (self._waiting, self._running):
            for sequence in [each for each in place if each.request is request]:
                place.remove(sequence)
                self._paused[id(request)] = sequence
                self.suspensions += 1

    def die(self) -> None:
        """Fail everything under way, and forget what was cached."""
        for sequence in [*self._running, *self._waiting, *self._paused.values()]:
            sequence.send.send_nowait(EIO("the virtual engine died", driver="llm", retryable=True))
        self._running.clear()
        self._waiting.clear()
        self._paused.clear()
        self._cache.clear()

    async def run(self) -> None:
        """Step for ever."""
        while True:
            while not (self._running or self._waiting):
                self._work = trio.Event()
                await self._work.wait()
            self._admit()
            seconds, speaking = self._step()
            await trio.sleep(seconds)
            for sequence in speaking:
                if sequence in self._running:  # nobody has taken it out meanwhile
                    self._token(sequence)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._batch:
            if self._running and not self._fits(self._waiting[0]):
                return
            sequence = self._waiting.popleft()
            known = 0
            while known < len(sequence.blocks) and sequence.blocks[known] in self._cache:
                known += 1
            sequence.done = min(known * BLOCK, sequence.prompt - 1)
            if sequence.cached < 0:
                sequence.cached = sequence.done
            self._running.append(sequence)
            self.most = max(self.most, len(self._running) + len(self._waiting))
            for block in reversed(sequence.blocks):
                self._cache[block] = None
                self._cache.move_to_end(block)
            self._evict()

    def _used(self) -> int:
        blocks = {block for each in self._running for block in each.blocks}
        rest = sum(ceil((each.made + each.prompt % BLOCK) / BLOCK) for each in self._running)
        return len(blocks) + rest

    def _fits(self, sequence: Sequence) -> bool:
        return self._used() + len(sequence.blocks) + 1 <= self._room

    def _evict(self) -> None:
        pinned = {block for each in self._running for block in each.blocks}
        tails = self._used() - len(pinned)
        for block in [each for each in self._cache if each not in pinned]:
            if len(self._cache) + tails <= self._room:
                return
            del self._cache[block]

    def _step(self) -> tuple[float, list[Sequence]]:
        """One step: the seconds it takes, and who has a token at its end."""
        self.steps += 1
        speaking = []
        computed = decoded = 0
        for sequence in list(self._running):
            due = sequence.prompt + sequence.made - sequence.done
            if due > 1 or not sequence.made:
                part = min(due, self._costs.chunk - computed)
                computed += part
                sequence.done += part
                if part < due:
                    continue
            else:
                decoded += 1
                sequence.done += 1
            speaking.append(sequence)
        costs = self._costs
        return costs.step + costs.prefill * computed + costs.decode * decoded, speaking

    def _token(self, sequence: Sequence) -> None:
        sequence.made += 1
        if sequence.made < sequence.request.max_tokens:
            sequence.send.send_nowait(Piece("word ", tokens=1))
            return
        self._running.remove(sequence)
        usage = Usage(sequence.prompt, sequence.cached, sequence.made)
        sequence.send.send_nowait(Piece("end", "length", usage))
        sequence.send.close()
