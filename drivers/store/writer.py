"""One thread that writes: an ``Offload`` with half the latency of a thread pool.

A durable commit on a fast disk takes about as long as it takes to hand work to a pool and
to come back. A thread that is there already, without limiter, name and context variables
for each piece of work, leaves little more than the two wake-ups themselves.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Writer:
    """Runs work in one thread, one piece after the other; see ``drivers.contracts.Offload``."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[tuple[trio.lowlevel.Task, Callable[[], Any]] | None] = SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        # A daemon, so that a loop that crashed before `stop` does not hang at the exit of
        # the interpreter; LMDB loses nothing by it.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the thread; waited for even when the caller is cancelled."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._work.put((trio.lowlevel.current_task(), work))
        result: T = await trio.lowlevel.wait_task_rescheduled(
            lambda _: trio.lowlevel.Abort.FAILED,
        )
        return result

    def stop(self) -> None:
        """End the thread after what it has been given, and wait for it."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            task, work = item
            result = outcome.capture(work)
            try:
                self._token.run_sync_soon(trio.lowlevel.reschedule, task, result)
            except trio.RunFinishedError:
                return  # the loop is gone, and with it whoever waited
            del item, task, work, result  # hold nothing while waiting
