"""Alarms: messages that a process has sent to itself later."""

from __future__ import annotations

from collections import Counter
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

RETRY_AFTER = 1.0
"""Seconds after which one of too many alarms may have rung."""
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
        self._waiting = Counter[int]()
        """Alarms that are to come, by the number of the mailbox that they come into."""
        self._durable = self._rung = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait for the alarms' times until cancelled, first for those from before the boot."""
        kept = self._identities.alerts()
        self._numbers = count(1 + max((alert.number for alert in kept), default=0))
        async with trio.open_nursery() as self._nursery:
            for alert in kept:
                self._waiting[alert.box] += 1
                self._nursery.start_soon(self._ring_durable, alert)
            task_status.started()
            await trio.sleep_forever()

    async def set(self, process: Process, after: float, text: str, *, durable: bool) -> None:
        """Ring after some seconds. A durable one is on disk when this returns.

        Raises EINVAL (durable, for a process that nobody supervises), EAGAIN (as many are to
        come as its mailbox holds), EIO.
        """
        assert self._nursery is not None
        kernel = self._kernel
        box = kernel.mailboxes.number(process.apid)
        if durable and box == process.apid:
            raise EINVAL(
                f"nobody starts process {process.apid} again after a reboot",
                hint="a durable alarm is for a supervised process (docs/supervision.md)",
            )
        most = kernel.accounts.limit(process, "mailbox")
        if self._waiting[box] >= most:
            raise EAGAIN(
                f"{most} alarms of process {process.apid} are to come already, as many as its "
                "mailbox holds",
                retry_after=RETRY_AFTER,
                limit=most,
            )
        self._waiting[box] += 1
        if not durable:
            self._nursery.start_soon(self._ring, process, box, after, text)
            return
        alert = Alert(box, next(self._numbers), kernel.clock.now() + after, text)
        try:
            await kernel.machine.store.commit(self._identities.plan(alert))
        except BaseException:
            self._over(box)
            raise
        self._nursery.start_soon(self._ring_durable, alert)

    def statistics(self) -> AlarmsStatistics:
        """Figures for ``/proc``."""
        return AlarmsStatistics(self._waiting.total(), self._durable, self._rung)

    def _over(self, box: int) -> None:
        """One alarm less is to come into a mailbox."""
        self._waiting[box] -= 1
        if not self._waiting[box]:
            del self._waiting[box]

    async def _ring(self, process: Process, box: int, after: float, text: str) -> None:
        kernel = self._kernel
        try:
            with trio.move_on_after(after):
                await process.ended.wait()  # nobody is left to be told
        finally:
            self._over(box)
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
        self._durable += 1
        try:
            await sleep_until(kernel, alert.at)
        finally:
            self._over(alert.box)
            self._durable -= 1
        if self._identities.there(alert):  # it is not, when its process was given up for good
            message = kernel.message(kernel.init, alert.text, type="alarm")
            done = self._identities.rung(alert)
            try:
                await kernel.mailboxes.send(alert.box, message, bound=UNBOUNDED, beside=done)
                self._rung += 1
            except ESRCH as error:  # given up while the message was on its way
                kernel.log("debug", "alarm", error.message)


async def sleep_until(kernel: Kernel, at: float) -> None:
    """Until the computer's clock says ``at``, whatever is done to that meanwhile."""
    left = at - kernel.clock.now()
    while left > 0:
        await trio.sleep(min(left, STRIDE))
        left = at - kernel.clock.now()
