"""What a dialect is: how one kind of model is asked for a program, and how it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from drivers.llm.contract import LLM
from syscalls.calls import llm

if TYPE_CHECKING:
    from drivers.llm.contract import GenerateRequest
    from kernel.mind.grammar import Surface
    from kernel.mind.prompt import Context


class Thought(msgspec.Struct):
    """What a model wrote."""

    steps: list[llm.Planned]
    reply: str = ""
    understood: bool = True
    """Whether it was a program at all."""


class Dialect(Protocol):
    """Between intents and the text of one kind of model. Pure: no I/O, no state but caches."""

    name: str
    looks: bool
    """Whether it is shown the caller's processes and working memory, and what came of its
    calls, and is then asked again. One that does not is asked once."""

    def render(self, context: Context, surface: Surface) -> GenerateRequest:
        """The request for the next program; constrained to the surface."""

    def parse(self, text: str, context: Context) -> Thought:
        """What the model's text says. Never raises: what is no program is not understood."""


class Seat(msgspec.Struct, frozen=True):
    """A dialect and the engine that speaks it."""

    dialect: Dialect
    engine: LLM
