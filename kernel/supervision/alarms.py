"""Alarms: messages that a process has sent to itself later."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import msgspec
import trio

from kernel.supervision.identities import Alert, Identities
from kernel.supervision.ties import UNBOUNDED
from syscalls.errors import EAGAIN, EINVAL, ESRCH

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process

STRIDE = 60.0
"""Longest sleep, so that the computer's clock may be set, and the machine suspended."""


class AlarmsStatistics(msgspec.Struct, frozen=True):
    """Figures of the alarms."""

    waiting: int
    durable: int
    """Those of ``waiting`` that outlive a reboot."""
    rung: int


class Alarms:
    """The alarms that are to come."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._identities = Identities(kernel.machine.store)
        self._nursery: trio.Nursery | None = None
        self._numbers = count(1)
        self._waiting = self._durable = self._rung = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait for the alarms' times until cancelled, first for those from before the boot."""
        kept = self._identities.alerts()
        self._numbers = count(1 + max((alert.number for alert in kept), default=0))
        async with trio.open_nursery() as self._nursery:
            for alert in kept:
                self._nursery.start_soon(self._ring_durable, alert)
            task_status.started()
            await trio.sleep_forever()

    async def set(self, process: Process, after: float, text: str, *, durable: bool) -> None:
        """Ring after some seconds. A durable one is on disk when this returns.

        Raises EINVAL (durable, for a process that nobody supervises), EIO.
        """
        assert self._nursery is not None
        if not durable:
            self._nursery.start_soon(self._ring, process, after, text)
            return
        kernel = self._kernel
        box = kernel.mailboxes.number(process.apid)
        if box == process.apid:
            raise EINVAL(
                f"nobody starts process {process.apid} again after a reboot",
                hint="a durable alarm is for a supervised process (docs/supervision.md)",
            )
        alert = Alert(box, next(self._numbers), kernel.clock.now() + after, text)
        await kernel.machine.store.commit(self._identities.plan(alert))
        self._nursery.start_soon(self._ring_durable, alert)

    def statistics(self) -> AlarmsStatistics:
        """Figures for ``/proc``."""
        return AlarmsStatistics(self._waiting, self._durable, self._rung)

    async def _ring(self, process: Process, after: float, text: str) -> None:
        kernel = self._kernel
        self._waiting += 1
        try:
            await trio.sleep(after)
        finally:
            self._waiting -= 1
        if not process.alive:
            return
        message = kernel.message(kernel.init, text, type="alarm")
        bound = kernel.accounts.limit(process, "mailbox")
        try:
            await kernel.mailboxes.send(process.apid, message, bound=bound)
            self._rung += 1
        except EAGAIN:
            kernel.log("warning", "alarm", f"the mailbox of {process.apid} is full: alarm lost")
        except ESRCH as error:
            kernel.log("debug", "alarm", error.message)

    async def _ring_durable(self, alert: Alert) -> None:
        """The message is put and the alarm deleted in one commit: it rings once."""
        kernel = self._kernel
        self._waiting += 1
        self._durable += 1
        try:
            await sleep_until(kernel, alert.at)
        finally:
            self._waiting -= 1
            self._durable -= 1
        if self._identities.there(alert):  # it is not, when its process was given up for good
            message = kernel.message(kernel.init, alert.text, type="alarm")
            done = self._identities.rung(alert)
            await kernel.mailboxes.send(alert.box, message, bound=UNBOUNDED, beside=done)
            self._rung += 1


async def sleep_until(kernel: Kernel, at: float) -> None:
    """Until the computer's clock says ``at``, whatever is done to that meanwhile."""
    left = at - kernel.clock.now()
    while left > 0:
        await trio.sleep(min(left, STRIDE))
        left = at - kernel.clock.now()
