"""Links and monitors, and what init runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel import monitor
from kernel.trap import handles
from syscalls.calls import proc, supervise
from syscalls.errors import EAGAIN, ESRCH
from syscalls.table import Empty

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.shapes import Exit


@handles(proc.Link)
async def link(kernel: Kernel, caller: Process, call: proc.Link) -> Empty:
    """Tie or untie; who has ended already is told of at once."""
    apid, ended = _meant(kernel, caller, call.target, "proc.link")
    if call.off:
        kernel.ties.links.unlink(caller.apid, apid)
    elif ended is None:
        kernel.ties.links.link(caller.apid, apid, trap=call.trap)
    elif call.trap:
        await kernel.ties.tell([caller.apid], "exit", ended)
    else:
        raise ESRCH(f"process {apid} has ended: {ended.reason}", apid=apid, status=ended.status)
    return Empty()


@handles(proc.Monitor)
async def monitor_call(kernel: Kernel, caller: Process, call: proc.Monitor) -> Empty:
    """Watch or do not; who has ended already is told of at once."""
    apid, ended = _meant(kernel, caller, call.target, "proc.monitor")
    if call.off:
        kernel.ties.links.demonitor(caller.apid, apid)
    elif ended is None:
        kernel.ties.links.monitor(caller.apid, apid)
    else:
        await kernel.ties.tell([caller.apid], "down", ended)
    return Empty()


def _meant(
    kernel: Kernel, caller: Process, ref: int | str, capability: str
) -> tuple[int, Exit | None]:
    """The process that is meant, and how it ended where it has. Raises ESRCH, EPERM, EAGAIN."""
    past = kernel.processes.past_record(ref) if isinstance(ref, int) else None
    if past is not None and (past.parent == caller.apid or caller.caps.on(capability)):
        return past.apid, past.exit
    process = monitor.target(kernel, caller, ref, capability)
    if process.state == "NEW":
        raise EAGAIN(f"process {process.apid} is being started", retry_after=0.05)
    return process.apid, process.exit


@handles(supervise.ReadyCall)
def ready(kernel: Kernel, caller: Process, _call: supervise.ReadyCall) -> Empty:
    """The caller is up."""
    if caller.supervisor:
        kernel.supervision.said_ready(caller)
    return Empty()


@handles(supervise.Supervise, waits=True)
async def supervised(
    kernel: Kernel, _caller: Process, call: supervise.Supervise
) -> supervise.Supervised:
    """Look at what init runs, or change it."""
    return await kernel.supervision.change(call.action, call.name)
