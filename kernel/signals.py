"""Signals as the kernel delivers them: to agents, to what is being started, to trees and groups.

    TERM   the ladder of ``procs/signals.py``: the grace period, then KILL
    INT    waits in calls            they are answered with ECANCELED; what it does then is its own
           computes, or INT again    the ladder, that begins with SIGINT
             within the grace period
           an executable, or a       SIGINT and nothing more
             process that catches it
    STOP   its generations are held, in the queue and in the engine; then SIGSTOP
    CONT   SIGCONT; then its generations go on

TERM, KILL and INT to a stopped process resume it first. What is sent to a process that is being
started reaches it when it runs; and what is sent to a whole tree or group reaches those too whose
start is under way, so that none slips through.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kernel import monitor
from procs.signals import NUMBERS, deliver
from syscalls.errors import EPERM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel.kernel import Kernel
    from procs.launcher import ChildProcess
    from procs.process import Process
    from syscalls.calls import proc
    from syscalls.shapes import Signal


class Sent(NamedTuple):
    """A signal on its way."""

    name: Signal
    sender: Process
    grace: float | None = None


@dataclass(eq=False)
class Birth:
    """A process that is being started."""

    parent: Process
    inherits: bool
    """Whether it will be in its parent's process group."""
    child: Process | None = None
    """None as long as it has no number."""
    signals: list[Sent] = field(default_factory=list)


class SignalsStatistics(msgspec.Struct, frozen=True):
    """Figures of the signals."""

    sent: int
    starting: int
    """Processes that are being started, for which signals are kept."""


class Signals:
    """Delivers signals."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._births: list[Birth] = []
        self._sent = 0

    def statistics(self) -> SignalsStatistics:
        """Figures for ``/proc``."""
        return SignalsStatistics(self._sent, len(self._births))

    # --- what is being started

    @contextmanager
    def birth(self, parent: Process, call: proc.Spawn) -> Iterator[Birth]:
        """Keep what is sent to a process while it is being started, and deliver it at the end."""
        usual = "inherit" if parent.kind in ("python", "exec") else "new"
        birth = Birth(parent, (call.group or usual) == "inherit")
        self._births.append(birth)
        try:
            yield birth
        finally:
            self._births.remove(birth)
        child = birth.child
        for sent in birth.signals:
            if child is not None and child.alive:
                self.send(child, sent.name, sent.sender, sent.grace)

    # --- whom it concerns

    def send_all(self, caller: Process, call: proc.SignalCall, target: Process) -> None:
        """Deliver to a process, and to its tree and its group where the call says so."""
        victims = [target]
        if call.tree:
            victims += self._kernel.processes.descendants(target.apid)
        if call.group:
            victims += self._members(caller, target, {each.apid for each in victims})
        reached = {victim.apid for victim in victims}
        for birth in self._births:
            below = call.tree and birth.parent.apid in reached
            beside = call.group and birth.inherits and birth.parent.group == target.group
            if birth.child is None and (below or beside):
                birth.signals.append(Sent(call.signal, caller))
        for victim in reversed(victims):
            self.send(victim, call.signal, caller)

    def _members(self, caller: Process, target: Process, known: set[int]) -> list[Process]:
        """The others of a process group that the caller may signal."""
        kernel, found = self._kernel, []
        for process in kernel.processes.live():
            if process.group != target.group or process.apid in known:
                continue
            if process.kind not in ("python", "exec"):  # a shell is no part of its jobs
                continue
            try:
                found.append(monitor.target(kernel, caller, process.apid, "proc.signal"))
            except EPERM:
                continue
        return found

    # --- to one process

    def send(
        self, process: Process, name: Signal, sender: Process, grace: float | None = None
    ) -> None:
        """Deliver one signal. Nothing to a process that has ended."""
        kernel = self._kernel
        self._sent += 1
        kernel.log("debug", "signal", f"apid {sender.apid} sends {name} to apid {process.apid}")
        if process.kind == "session":
            kernel.sessions.signal(process, name)
            return
        for birth in self._births:
            if birth.child is process:
                birth.signals.append(Sent(name, sender, grace))
                return
        child = kernel.nurse.child(process)
        if child is None or not process.alive:
            return
        if name == "STOP" and process.state in ("READY", "RUNNING", "WAITING"):
            kernel.schedulers.hold(process.apid)
        stopped = process.state == "STOPPED"
        if name == "INT" and not self._ends(process):
            self._interrupt(process, child)
        else:
            assert kernel.nurse.nursery is not None
            deliver(
                kernel.processes, process, child, name,
                grace=kernel.settings.grace if grace is None else grace,
                nursery=kernel.nurse.nursery,
            )  # fmt: skip
        if name == "KILL" and (connection := kernel.connections.get(process.apid)) is not None:
            connection.silence()  # what it has sent already would start children of the dead
        if stopped and process.state != "STOPPED":
            kernel.schedulers.release(process.apid)

    def _ends(self, process: Process) -> bool:
        """Whether INT is to end a process, and not only what it waits for."""
        kernel = self._kernel
        now, before = kernel.clock.monotonic(), process.interrupted
        process.interrupted = now
        if process.kind == "exec" or "INT" in process.catches:
            return False
        connection = kernel.connections.get(process.apid)
        waits = connection is not None and connection.cancellable
        return not waits or now - before < kernel.settings.grace

    def _interrupt(self, process: Process, child: ChildProcess) -> None:
        kernel = self._kernel
        if process.kind == "exec" or "INT" in process.catches:
            child.kill(NUMBERS["INT"])
        elif (connection := kernel.connections.get(process.apid)) is not None:
            connection.cancel_calls("INT")
        if process.state == "STOPPED":
            kernel.processes.resume(process)
            child.kill(NUMBERS["CONT"])

    async def going(self, process: Process) -> None:
        """Wait while a process is stopped: nothing is done in its name meanwhile."""
        while process.state == "STOPPED":
            await self._kernel.processes.resumed.wait()
