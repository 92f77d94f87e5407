"""Reads what has happened, in the background, so that what is so is known when it is asked for.

Every space that has changed gets its turn, a bounded one, with the model where one is ready.
What is learned from what, and what is not, is ``ums.consolidate``'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.errors import EngramError
from ums.consolidate import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel.mind.miner import Miner
    from ums.memory import Memory
    from ums.settings import Log

TURN = 200
"""Records that one turn reads."""


class StudentStatistics(msgspec.Struct, frozen=True):
    """Figures since boot."""

    turns: int
    read: int
    made: int


class Student:
    """Consolidates spaces that have changed."""

    def __init__(self, memory: Memory, miner: Callable[[], Miner], log: Log) -> None:
        self._memory = memory
        self._miner = miner
        self._log = log
        self._turns = self._read = self._made = 0

    async def run(self, every: float) -> None:
        """Read in every space that has changed, every so many seconds, until cancelled."""
        waiting = set(self._memory.numbers())
        while True:
            await trio.sleep(every)
            waiting |= self._memory.unread
            self._memory.unread.clear()
            for space in sorted(waiting):
                try:
                    if await self.turn(space):
                        waiting.discard(space)
                except EngramError as error:
                    # Full, or the disk is: it is read when there is room again.
                    waiting.discard(space)
                    self._log("warning", "study", f"space {space} is not read: {error.message}")
                await trio.lowlevel.checkpoint()

    async def turn(self, space: int) -> bool:
        """One bounded run over a space; whether it is read to its end."""
        memory = self._memory
        if memory.up_to_date(space):
            return True
        learned = await memory.consolidate(space, Task(0, TURN, mine=self._miner().run(space)))
        self._turns += 1
        self._read += learned.read
        self._made += len(learned.made)
        if learned.made:
            self._log("debug", "study", f"space {space}: {len(learned.made)} facts learned")
        return learned.done

    def statistics(self) -> StudentStatistics:
        """Figures for ``/proc``."""
        return StudentStatistics(self._turns, self._read, self._made)
