"""A model that is nothing but noise: random logits under a grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import trio

from drivers.llm.contract import LLMInfo, Piece
from syscalls.shapes import ChatMessage, Usage
from tests.minds import Figures

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from drivers.contracts import DriverState
    from drivers.llm.contract import GenerateRequest

PATIENCE = 60
"""Tokens after which closing tokens are favoured, where the grammar allows them."""
MOST = 3000
CLOSERS = ('"', "]", "}", "]}", '"}', '"]', '",', "<eos>")


class Noise:
    """Random logits under a constraint, on a tokenizer with ``<eos>`` at 0."""

    def __init__(self, tokenizer: Any, end: int, seed: int) -> None:
        from llguidance.hf import from_tokenizer

        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        self._trie = from_tokenizer(tokenizer, self._size, eos_token=end)
        self._end = end
        self._random = numpy.random.default_rng(seed)
        ids = tokenizer.get_vocab()
        self._tilt = numpy.zeros(self._size, dtype=numpy.float32)
        self._tilt[[ids[text] for text in CLOSERS if text in ids]] = 12.0
        self._tilt[end] = 12.0

    def matcher(self, request: GenerateRequest) -> Any:
        """A matcher of a request's grammar, compiled as the engine compiles it."""
        from llguidance import LLMatcher

        from drivers.llm.grammar import compiled

        matcher = LLMatcher(self._trie, compiled(request), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def program(self, matcher: Any) -> str:
        """One random text that the grammar takes to its end."""
        taken: list[int] = []
        while len(taken) < MOST:
            mask = numpy.frombuffer(matcher.compute_bitmask(), dtype=numpy.uint8)
            bits = numpy.unpackbits(mask, bitorder="little")[: self._size]
            logits = self._random.gumbel(size=self._size).astype(numpy.float32)
            if len(taken) > PATIENCE:
                logits += self._tilt
            token = int(numpy.where(bits == 1, logits, -numpy.inf).argmax())
            assert bits[token], "the grammar leaves nothing to say"
            if token == self._end:
                return str(self._tokenizer.decode(taken, skip_special_tokens=False))
            assert matcher.consume_token(token), matcher.get_error()
            taken.append(token)
            if matcher.is_stopped():
                return str(self._tokenizer.decode(taken, skip_special_tokens=False))
        raise AssertionError(f"no end after {MOST} tokens: {self._tokenizer.decode(taken)[:500]}")


class Babbler:
    """``contracts.LLM`` of noise: obeys the grammar and nothing else."""

    state: DriverState = "ready"
    info = LLMInfo("noise", "test", 1 << 20)

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._matchers: dict[str, Any] = {}
        self.requests: list[GenerateRequest] = []

    async def ready(self) -> LLMInfo:
        await trio.lowlevel.checkpoint()
        return self.info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        self.requests.append(request)
        matcher = self._matchers.get(request.salt)
        if matcher is None:
            matcher = self._matchers[request.salt] = self._noise.matcher(request)
        await trio.lowlevel.checkpoint()
        yield Piece(self._noise.program(matcher.deep_copy()), "stop", Usage(1, 0, 1))

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        await trio.lowlevel.checkpoint()
        return 1

    def statistics(self) -> Figures:
        return Figures(len(self.requests))
