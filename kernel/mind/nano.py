"""The dialect of nano: the embedded model that writes programs and copies their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivers.llm.contract import GenerateRequest
from drivers.nano import dialect
from kernel.mind.dialect import Thought
from syscalls.calls import llm

if TYPE_CHECKING:
    from kernel.mind.grammar import Surface
    from kernel.mind.prompt import Context


class NanoDialect:
    """One decoding, no context: nano sees the words of its user and nothing else."""

    name = "nano"
    looks = False

    def render(self, context: Context, surface: Surface) -> GenerateRequest:
        """The words, and the grammar of programs that copy from them."""
        return GenerateRequest(
            prompt=dialect.render(context.text),
            grammar=dialect.grammar(context.text, surface.calls),
            special=True,
            max_tokens=dialect.MOST_TOKENS,
            stop=[dialect.STOP],
            salt=surface.salt,
        )

    def parse(self, text: str, context: Context) -> Thought:
        """The program; arguments are counted and trimmed by the dialect's own rules."""
        try:
            steps = dialect.parse(text, context.text)
        except dialect.Malformed:
            return Thought([], understood=False)
        return Thought([llm.Planned(step["call"], step["args"]) for step in steps])
