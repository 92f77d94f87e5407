"""A hosted model with activation memory, for tests: real engines on a tiny model."""

from __future__ import annotations

import random
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivers.kv.contract import PinRequest
from drivers.kv.files import block_path
from drivers.llm import make_llm
from drivers.llm.contract import GenerateRequest
from drivers.llm.hosted import HostedLLM
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drivers.kv.contract import Pinned
    from syscalls.shapes import Usage

BLOCK = 128
CONTEXT = 1024
BLOCK_BYTES = 64 << 10
"""Of a block of ``tiny_llm``: two layers, keys and values, 32 wide, 4 bytes each."""
POOL = {"transformers": "prefix_bytes", "vllm": "kv_bytes"}
"""The option that limits an engine's own memory for keys and values."""
ENGINES = ["transformers", pytest.param("vllm", marks=pytest.mark.slow)]


class _WallClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Bench:
    """One engine after another on one folder of keys and values."""

    def __init__(self, engine: str, model: Path, place: Path) -> None:
        self.engine = engine
        self.model = model
        self.place = place
        self.kv_dir = place / "kv"
        self._lives = 0

    @asynccontextmanager
    async def life(self, *, blocks: int = 64, **options: Any) -> AsyncIterator[Life]:
        """A new host; its engine has room for ``blocks`` blocks of its own."""
        self._lives += 1
        llm = make_llm(
            str(self.model),
            engine=self.engine,
            run_dir=self.place / f"run{self._lives}",
            log=lambda *_: None,
            clock=_WallClock(),
            options={
                POOL[self.engine]: blocks * BLOCK_BYTES,
                "kv_dir": str(self.kv_dir),
                "kv_ram": 64 << 20,
                "kv_disk": 64 << 20,
                "threads": 1,
                "dtype": "float32",  # a GPU would have it otherwise, and blocks of 16 tokens
                "kv_block": BLOCK,
                **options,
            },
        )
        assert isinstance(llm, HostedLLM)
        with trio.fail_after(240):
            async with trio.open_nursery() as nursery:
                await nursery.start(llm.run)
                await llm.ready()
                yield Life(llm, self)
                nursery.cancel_scope.cancel()

    def kept(self, tokens: int) -> int:
        """How many of so many tokens a pin keeps: whole blocks, or with the part that follows."""
        return tokens if self.engine == "transformers" else tokens // BLOCK * BLOCK

    def file(self, pinned: Pinned, place: int) -> Path:
        """The file of one of a pin's blocks."""
        return block_path(self.kv_dir, pinned.namespace, pinned.blocks[place])


class Life:
    """One life of an engine."""

    def __init__(self, llm: HostedLLM, bench: Bench) -> None:
        self.llm = llm
        self.bench = bench
        self._oracles = 0

    @property
    def pid(self) -> int:
        """Of the host."""
        host = self.llm.statistics().host
        assert host is not None
        return host.pid

    async def say(self, prompt: str, salt: str, **more: Any) -> tuple[str, Usage]:
        """Greedy text, and what it took."""
        request = GenerateRequest(prompt=prompt, salt=salt, max_tokens=24, **more)
        text, usage = "", None
        async with aclosing(self.llm.generate(request)) as pieces:
            async for piece in pieces:
                text += piece.text
                if piece.usage is not None:
                    usage = piece.usage
        assert usage is not None
        return text, usage

    async def uncached(self, prompt: str, **more: Any) -> str:
        """What the engine says when it has to compute everything."""
        self._oracles += 1
        text, usage = await self.say(prompt, f"oracle {self._oracles} {id(self)}", **more)
        assert usage.cached == 0, "an oracle that nobody else's salt may reach"
        return text

    async def pin(self, handle: str, prompt: str, salt: str = "ana", **more: Any) -> Pinned:
        """Pin a prompt; the test is skipped while the engine cannot."""
        try:
            return await self.llm.pin(PinRequest(handle, prompt=prompt, salt=salt, **more))
        except EINVAL as error:
            if "no method" in error.message:
                pytest.skip(f"{self.bench.engine} keeps no activation memory")
            raise

    async def flood(self, blocks: int) -> None:
        """Other people's prompts, to push out what can be pushed out."""
        each = CONTEXT // BLOCK - 1
        for number in range(blocks // each + 1):
            await self.say(prompt_of(each * BLOCK, 1000 + number), f"flood {number}")


def prompt_of(tokens: int, seed: int) -> str:
    """A text of so many tokens: no two of these characters are ever one token of a tiny model."""
    source = random.Random(seed)
    return "".join(source.choice("0123456789") for _ in range(tokens))
