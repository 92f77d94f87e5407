"""Group commit without a task of its own: the callers take turns at leading.

    caller A ─ commit() ─ leads: folds what waits, writes ───────────┐ wakes its group
    caller B ─ commit() ─ waits ┐                                    │
    caller C ─ commit() ─ waits ┴─ B is told to lead; C is in its group ──> ...

The first caller that finds nobody leading leads; those that come while it writes wait, and
the first of them leads the next group. Nothing is delayed to make groups larger: a group is
whatever came during the write before it. There is no background task that could die, and
no state but the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING

import outcome
import trio

if TYPE_CHECKING:
    from drivers.contracts import Batch

    Result = outcome.Outcome[list[int]]

ALONE = 30e-6
"""Seconds after a group of one within which another batch counts as company."""

Write = Callable[["list[Batch]"], Awaitable["list[Result]"]]
"""Makes a group of batches durable; one outcome each. Raises only what fails them all."""


class _Waiter:
    """A batch and the task that waits for it."""

    __slots__ = ("batch", "task")

    def __init__(self, batch: Batch, task: trio.lowlevel.Task) -> None:
        self.batch = batch
        self.task = task


class GroupCommit:
    """Runs ``write`` for one group of batches at a time."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: deque[_Waiter] = deque()
        self._leading = False
        self._idle: trio.Event | None = None
        self._latest = 0
        self._ended = 0.0
        self.largest = 0
        """Most batches that shared a group."""

    @property
    def pending(self) -> int:
        """Batches that wait for the next group."""
        return len(self._waiting)

    async def submit(self, batch: Batch) -> list[int]:
        """Have a batch written with the next group and return its result, or raise."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._leading:
            self._leading = True
            return await self._lead(batch)
        self._waiting.append(_Waiter(batch, trio.lowlevel.current_task()))
        # Once it is queued it is decided: whoever asked must hear whether it happened.
        result = await trio.lowlevel.wait_task_rescheduled(_keep_waiting)
        if result is None:
            return await self._lead(batch)
        return list(result)

    async def drain(self) -> None:
        """Wait until nothing is written and nothing waits."""
        while self._leading:
            if self._idle is None:
                self._idle = trio.Event()
            await self._idle.wait()

    async def _lead(self, batch: Batch) -> list[int]:
        group: list[_Waiter] = []
        results: list[Result] = []
        # Others depend on the leader, so that cancelling it takes effect afterwards.
        with trio.CancelScope(shield=True):
            try:
                await self._gather()
                group = list(self._waiting)
                self._waiting.clear()
                self._latest = len(group) + 1
                self.largest = max(self.largest, self._latest)
                results = await self._write([batch, *(waiter.batch for waiter in group)])
            except BaseException as error:
                # Whatever it is, it must reach all of the group, or they wait for ever.
                results = [outcome.Error(error) for _ in range(len(group) + 1)]
                raise
            finally:
                for waiter, result in zip(group, results[1:], strict=True):
                    trio.lowlevel.reschedule(waiter.task, result)
                self._ended = perf_counter()
                self._hand_over()
        return results[0].unwrap()

    async def _gather(self) -> None:
        """Let those that come at the same moment join: none, one or two turns of the loop.

        Callers that the last group woke, the leader among them, come back within one turn
        but in any order: after the second all are here, and share this commit instead of
        every other one. Who comes some time after a group of one has no company, and a turn
        for nothing would cost him as much as all the rest of it but the disk.
        """
        if self._latest <= 1 and perf_counter() - self._ended > ALONE:
            return
        await trio.lowlevel.cancel_shielded_checkpoint()
        if self._latest > 1:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _hand_over(self) -> None:
        if self._waiting:
            trio.lowlevel.reschedule(self._waiting.popleft().task, outcome.Value(None))
            return
        self._leading = False
        if self._idle is not None:
            self._idle.set()
            self._idle = None


def _keep_waiting(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
