"""What a driver of language models does, as data and as a protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from syscalls.shapes import ChatMessage, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from drivers.contracts import DriverState


class GenerateRequest(msgspec.Struct, omit_defaults=True):
    """What an LLM engine is asked for; ``messages`` or ``prompt`` is set."""

    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: list[str] = []
    seed: int | None = None
    schema: dict[str, Any] | None = None
    """JSON Schema that the text must follow."""
    grammar: str = ""
    """Lark grammar (llguidance's dialect) that the text must follow."""
    special: bool = False
    """Special tokens written in the prompt are tokens, and those generated are in the text."""
    adapter: str = ""
    """Identity of a LoRA adapter: ``NAME@VERSION-DIGEST``, where the digest is its content's."""
    adapter_path: str = ""
    """Its folder; the engine loads it when it has not, and lets go of the least recently used."""
    owner: int = 0
    """APID: what is cached for one owner is never used for another."""
    salt: str = ""
    """In place of ``owner``: what is cached under one salt is used for equal salts only."""
    pace: float = 0.0
    """Seconds between two pieces, at least: who waits for the whole wants few."""


class Piece(msgspec.Struct, omit_defaults=True):
    """A piece of a generation; the last one has ``finish`` and ``usage``."""

    text: str = ""
    finish: str = ""
    usage: Usage | None = None
    tokens: int = 0
    """Of the completion, in this piece; 0 in the last one, and where the engine cannot say."""


class LLMInfo(msgspec.Struct, frozen=True):
    """What a language model is; known once it has loaded."""

    name: str
    engine: str
    context: int
    """Most tokens of prompt and completion together."""
    fingerprint: str = ""
    why: str = ""
    """Why this engine, where ``auto`` chose it."""
    sees: bool = False
    """Whether messages may have pictures."""
    keeps: bool = True
    """Whether prefixes can be pinned in it; a server elsewhere keeps its own."""
    slots: int = 0
    """Generations that it does well at once; 0 where it does not say."""
    kv_tokens: int = 0
    """Tokens whose keys and values it has room for; 0 where it does not say."""
    suspends: bool = False
    """Whether generations can be suspended."""


class LLM(Protocol):
    """A language model."""

    @property
    def state(self) -> DriverState:
        """``absent`` when none is configured."""

    @property
    def info(self) -> LLMInfo | None:
        """None until it is ready for the first time."""

    async def ready(self) -> LLMInfo:
        """Wait until it can serve. Raises ENODEV (absent), EIO (failed for good)."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Pieces of text as they come. Closing the generator aborts the generation.

        Raises ENODEV, also for pictures where the model does not see; EINVAL for an empty or
        over-long prompt; EIO when the host dies.
        """

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        """Tokens of a text, or of messages with the chat template."""

    def statistics(self) -> msgspec.Struct:
        """Figures for ``/proc`` and metrics."""


@runtime_checkable
class Suspends(Protocol):
    """A language model whose generations can be suspended; ``LLMInfo.suspends`` says so."""

    def suspend(self, request: GenerateRequest, *, on: bool) -> None:
        """Have the generation of this very request stand still, or (off) go on where it was.

        Never waits. A piece that is on its way still comes. Closing it works as ever.
        """
