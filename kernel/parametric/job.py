"""One training job: how it is to be done, and where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.calls import lora

if TYPE_CHECKING:
    from drivers.lora.contract import Progress
    from ums.adapters import Version

PATIENCE = 10.0
"""Seconds after which to ask again where nothing is known of the job that is in the way."""


class Order(msgspec.Struct, omit_defaults=True):
    """How to train; what is kept of a call for the next time."""

    base: str = ""
    rank: int = 0
    epochs: int = 0
    steps: int = 0
    rate: float = 0.0
    batch: int = 0
    seed: int = 0
    held_out: float = 0.25
    seconds: float = 1800.0
    chosen: int = 0
    """How many of the version's sources, from the first on, were chosen by themselves; the
    others are those of examples."""


class Running:
    """One job at work."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self.scope = trio.CancelScope()
        self.progress: lora.TrainingProgress | None = None
        self.moved = trio.Event()
        """Set, and replaced, at each progress."""
        self.over = trio.Event()
        self.ending = False
        """Whether it is at its last step: who ends its version then is it itself."""

    def advance(self, progress: Progress) -> None:
        """Note where it is."""
        self.progress = lora.TrainingProgress(
            phase=progress.phase,
            step=progress.step,
            of=progress.of,
            loss=progress.loss,
            seconds=progress.seconds,
        )
        self._wake()

    def end(self) -> None:
        """It is over."""
        self.over.set()
        self._wake()

    def _wake(self) -> None:
        self.moved.set()
        self.moved = trio.Event()


def left_of(running: Running) -> float:
    """Seconds that a job is likely to take still."""
    now = running.progress
    if now is None or not now.step or not now.of:
        return PATIENCE
    return max(1.0, now.seconds / now.step * (now.of - now.step))
