"""How many tokens a text is: by the attached model's tokenizer, or about.

The model may be absent, still loading, or slow. So asking it has a bound for the whole of one
piece of work; once that is over, or the model fails, the rest is estimated, and ``exact`` says
so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from syscalls.errors import EngramError
from ums.working import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.llm.contract import LLM
    from syscalls.shapes import ChatMessage

PATIENCE = 2.0
"""Seconds for all the counts of one piece of work."""
TURN = 4
"""Tokens that a chat template is taken to add to a message, where nobody knows."""


class Counter:
    """Counts for one piece of work."""

    def __init__(self, llm: LLM, patience: float = PATIENCE) -> None:
        self._llm = llm
        self._until = trio.current_time() + patience
        self.exact = llm.state == "ready"
        """Whether the model has answered each count so far, or will be asked for the first."""

    async def text(self, text: str) -> int:
        """Tokens of a text."""
        counted = await self._ask(text, None) if text else 0
        return estimate(text) if counted is None else counted

    async def messages(self, messages: Sequence[ChatMessage]) -> int:
        """Tokens of messages, with the chat template where there is one."""
        counted = await self._ask(None, list(messages)) if messages else 0
        return sized(messages) if counted is None else counted

    async def _ask(self, text: str | None, messages: list[ChatMessage] | None) -> int | None:
        if not self.exact:
            return None
        with trio.move_on_at(self._until):
            try:
                return await self._llm.count(text, messages)
            except EngramError:
                self.exact = False  # the caller is told, in what it gets
                return None
        self.exact = False
        return None


def sized(messages: Sequence[ChatMessage]) -> int:
    """About how many tokens messages are."""
    return sum(TURN + estimate(message.content) for message in messages)
