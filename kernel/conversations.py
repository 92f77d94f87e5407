"""The model context of each process: the conversation that its generations go on with.

    llm.generate(messages, context=True)

    kept      [system][user 1][assistant 1]
    asked     [system][user 1][assistant 1][user 2]      its beginning is in the prefix cache
    kept      [system][user 1][assistant 1][user 2][assistant 2]

What is kept is text; what it costs to have a model know it is the prefix cache's business. A
fork begins with its parent's, so its first generation finds nearly all of it computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syscalls.errors import EDQUOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syscalls.shapes import ChatMessage

MOST = 4 << 20
"""Characters, and bytes of pictures, of one context."""


class Conversations:
    """The contexts, by APID. They end with their processes."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[ChatMessage, ...]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, apid: int) -> list[ChatMessage]:
        """What a process has said and been told, oldest first."""
        return list(self._kept.get(apid, ()))

    def going_on(self, apid: int, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The context and what comes next. Raises EDQUOT where it would be too long."""
        whole = [*self._kept.get(apid, ()), *messages]
        size = sum(len(one.content) + sum(map(len, one.images)) for one in whole)
        if size > MOST:
            raise EDQUOT(
                f"the context of apid {apid} would have {size} characters",
                hint="begin anew with proc.context(clear=True); mem.context pages by itself",
                quota="context",
                limit=MOST,
                used=size,
            )
        return whole

    def put(self, apid: int, messages: Sequence[ChatMessage]) -> None:
        """Let this be the context of a process."""
        if messages:
            self._kept[apid] = tuple(messages)
        else:
            self._kept.pop(apid, None)

    def fork(self, parent: int, child: int) -> None:
        """A child begins with its parent's; the messages are shared, nothing is copied."""
        if parent in self._kept:
            self._kept[child] = self._kept[parent]

    def drop(self, apid: int) -> None:
        """A process has ended."""
        self._kept.pop(apid, None)
