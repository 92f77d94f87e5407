"""A generation that comes by itself, given on as fast as its reader has room for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from drivers.llm.contract import Piece

if TYPE_CHECKING:
    from drivers.engine import Job
    from syscalls.shapes import Usage


class Flow:
    """Holds back text while the reader has no credit, or wants no more pieces yet.

    Pieces that wait become one. An engine that batches cannot halt one request without the
    others, so this is where it waits.
    """

    def __init__(self, job: Job, pace: float) -> None:
        self.job = job
        self._held = ""
        self._tokens = 0
        self._pace = pace
        self._next = 0.0  # the first piece is news: the prompt has been computed

    @property
    def ready(self) -> bool:
        """Whether something is held that could be sent now."""
        return (
            bool(self._held)
            and self.job.credit > 0
            and (not self._pace or time.monotonic() >= self._next)
        )

    def push(self, text: str, tokens: int = 1) -> None:
        """Send a piece, or hold it; ``tokens`` were generated for it."""
        self._held += text
        self._tokens += tokens
        self.send()

    def send(self) -> None:
        """Send what is held, if it is time and there is credit."""
        if self.ready:
            self.job.chunk(Piece(self._held, tokens=self._tokens))
            self._held = ""
            self._tokens = 0
            self._next = time.monotonic() + self._pace

    def end(self, text: str, finish: str, usage: Usage) -> None:
        """Send the last piece, which needs no credit."""
        self.job.done(Piece(self._held + text, finish, usage))
