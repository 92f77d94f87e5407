"""The schedules of init's file: at their times they start a program or send a message.

That a schedule ran is on disk with the message it sends, or before the program starts: a run
is made once at most, whenever the kernel dies. A run that is over a minute late was missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from kernel.supervision.alarms import sleep_until
from kernel.supervision.identities import Identities
from kernel.supervision.ties import UNBOUNDED
from procs.cron import Cron
from syscalls.calls.proc import Spawn
from syscalls.calls.supervise import Planned
from syscalls.errors import EngramError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drivers.contracts import Batch
    from kernel.kernel import Kernel
    from procs.inittab import Schedule

LATE = 60.0


class Plans:
    """The schedules. ``box`` tells the mailbox of a name, or None."""

    def __init__(self, kernel: Kernel, box: Callable[[str], int | None]) -> None:
        self._kernel = kernel
        self._box = box
        self._identities = Identities(kernel.machine.store)
        self._schedules: Sequence[Schedule] = ()
        self._changed = trio.Event()
        self._running: dict[str, int] = {}
        """APIDs of the programs that schedules started last."""

    def change(self, schedules: Sequence[Schedule]) -> None:
        """Follow these from now on."""
        self._schedules = schedules
        self._changed.set()

    def planned(self) -> list[Planned]:
        """The schedules, and when they run."""
        now = self._kernel.clock.now()
        return [
            Planned(
                name=one.name,
                cron=one.cron,
                zone=one.zone,
                next=Cron(one.cron, one.zone).after(now),
                last=self._identities.last_run(one.name),
            )
            for one in self._schedules
        ]

    async def run(self) -> None:
        """Follow the schedules until cancelled."""
        while True:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                for schedule in self._schedules:
                    nursery.start_soon(self._follow, schedule)
                await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _follow(self, schedule: Schedule) -> None:
        kernel, cron = self._kernel, Cron(schedule.cron, schedule.zone)
        last = self._identities.last_run(schedule.name)
        if not last:  # seen for the first time: nothing was missed before that
            last = kernel.clock.now()
            await kernel.machine.store.commit(self._identities.ran(schedule.name, last))
        while True:
            due = cron.after(last)
            await sleep_until(kernel, due)
            now = kernel.clock.now()
            if now - due > LATE and schedule.missed == "skip":
                last = now - LATE
                continue
            last = due if now - due <= LATE else now
            with trio.CancelScope(shield=True):  # a reload does not stop it half way
                await self._run(schedule, self._identities.ran(schedule.name, last))

    async def _run(self, schedule: Schedule, ran: Batch) -> None:
        kernel = self._kernel
        kernel.log("debug", "schedule", f"{schedule.name} runs")
        try:
            if schedule.to:
                await self._send(schedule, ran)
            else:
                await self._start(schedule, ran)
        except EngramError as error:
            kernel.log("warning", "schedule", f"{schedule.name}: {error}")

    async def _send(self, schedule: Schedule, ran: Batch) -> None:
        kernel = self._kernel
        box = self._box(schedule.to)
        if box is None:
            box = kernel.processes.find(schedule.to).apid
        message = kernel.message(kernel.init, schedule.body, type=schedule.type)
        await kernel.mailboxes.send(box, message, bound=UNBOUNDED, beside=ran)

    async def _start(self, schedule: Schedule, ran: Batch) -> None:
        kernel = self._kernel
        before = self._running.get(schedule.name, 0)
        await kernel.machine.store.commit(ran)
        if any(process.apid == before for process in kernel.processes.live()):
            kernel.log("warning", "schedule", f"{schedule.name} still runs: not started again")
            return
        call = Spawn(
            program=schedule.program,
            name=schedule.name,
            args=schedule.args,
            goal=schedule.goal,
            caps=schedule.caps,
            space=schedule.space,
            cwd=schedule.cwd,
        )
        self._running[schedule.name] = await kernel.nurse.spawn(kernel.init, call)
