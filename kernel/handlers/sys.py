"""``sys.*``: the system itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kernel import monitor
from kernel.log import RANK
from kernel.trace import Traced, readable
from kernel.trap import HANDLERS, Emit, handles
from syscalls.calls import sys
from syscalls.errors import EINVAL
from syscalls.table import TABLE, Empty

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.shapes import LogLine, SessionInfo, TraceLine

VERSION = "0.1.0"


@handles(sys.ClockCall)
def clock(kernel: Kernel, _caller: Process, _call: sys.ClockCall) -> sys.Clock:
    """The kernel's clocks."""
    monotonic = kernel.clock.monotonic()
    return sys.Clock(now=kernel.clock.now(), monotonic=monotonic - kernel.began)


@handles(sys.Info)
def info(kernel: Kernel, caller: Process, _call: sys.Info) -> sys.SystemInfo:
    """What is running."""
    return sys.SystemInfo(
        version=VERSION,
        pid=os.getpid(),
        boot=kernel.boot,
        started=kernel.started,
        uptime=kernel.clock.monotonic() - kernel.began,
        data=kernel.settings.data,
        apid=caller.apid,
        session=caller.session,
        processes=len(kernel.processes.live()),
        drivers=kernel.drivers(),
        served=HANDLERS.served(),
    )


@handles(sys.StatsCall)
def stats(kernel: Kernel, _caller: Process, _call: sys.StatsCall) -> sys.Stats:
    """Every part's statistics()."""
    return sys.Stats(stats=kernel.statistics())


@handles(sys.Log, waits=True)
async def log(kernel: Kernel, _caller: Process, call: sys.Log, emit: Emit) -> sys.LogEnd:
    """The tail of the log, or what comes."""
    least = RANK[call.level]

    def wanted(line: LogLine) -> bool:
        return RANK[line.level] >= least

    lines = kernel.log.tail(call.limit, wanted)
    if not call.follow:
        return sys.LogEnd(lines=lines)
    with kernel.log.follow(wanted) as follower:
        for line in lines:
            await emit(line)
        async for line in follower:
            await emit(line)
    return sys.LogEnd(lost=follower.lost)


@handles(sys.Trace, waits=True)
async def trace(kernel: Kernel, caller: Process, call: sys.Trace, emit: Emit) -> sys.TraceEnd:
    """The tail of the trace, or what comes."""
    wanted = _wanted(kernel, caller, call)
    traced = kernel.trace.tail(call.limit, wanted)
    if not call.follow:
        return sys.TraceEnd(lines=[readable(item) for item in traced])
    with kernel.trace.follow(wanted) as follower:
        async for item in follower:
            line: TraceLine = readable(item)
            await emit(line)
    return sys.TraceEnd(lost=follower.lost)


def _wanted(kernel: Kernel, caller: Process, call: sys.Trace) -> Callable[[Traced], bool]:
    number = 0
    if call.call is not None:
        entry = TABLE.by_name.get(call.call)
        if entry is None:
            raise EINVAL(f"there is no syscall {call.call!r}")
        number = entry.number
    if call.target is not None:
        traced = monitor.target(kernel, caller, call.target, "sys.trace").apid
        return lambda item: item.apid == traced and (not number or item.number == number)
    if caller.caps.on("sys.trace"):
        return lambda item: not number or item.number == number
    return lambda item: (
        monitor.is_own(kernel, caller, item.apid) and (not number or item.number == number)
    )


@handles(sys.Alarm)
async def alarm(kernel: Kernel, caller: Process, call: sys.Alarm) -> Empty:
    """Send the caller a message later; lost at a reboot, unless it is durable."""
    await kernel.alarms.set(caller, call.after, call.message, durable=call.durable)
    return Empty()


@handles(sys.Session)
async def session(kernel: Kernel, caller: Process, call: sys.Session) -> SessionInfo:
    """Name the session, choose its space, and say whether it outlives its connection."""
    if caller.kind != "session":
        raise EINVAL("only a session can be named; an agent belongs to one")
    if call.name is not None:
        if call.keep or kernel.sessions.is_kept(caller):
            kernel.sessions.free(caller, call.name)
        kernel.processes.rename(caller, call.name)
    if call.keep is not None:
        kernel.sessions.keep(caller, on=call.keep)
    if call.space is not None:
        space = await monitor.adopt_space(kernel, caller, call.space)
        monitor.borrow(kernel, caller, space)
        caller.space = space
    await kernel.own_space(caller)
    return kernel.sessions.info(caller)


@handles(sys.SessionsCall)
def sessions(kernel: Kernel, _caller: Process, _call: sys.SessionsCall) -> sys.Sessions:
    """The sessions."""
    return sys.Sessions(sessions=kernel.sessions.list())


@handles(sys.Attach)
def attach(kernel: Kernel, caller: Process, call: sys.Attach) -> sys.Attached:
    """Give the caller's connection to a kept session."""
    if caller.kind != "session":
        raise EINVAL("only a session attaches to another")
    return kernel.sessions.attach(caller, call)


@handles(sys.Detach)
def detach(kernel: Kernel, caller: Process, call: sys.Detach) -> Empty:
    """Have a kept session go on without its terminal, or end it."""
    kernel.sessions.detach(caller, call)
    return Empty()


@handles(sys.Shutdown)
def shutdown(kernel: Kernel, caller: Process, _call: sys.Shutdown) -> Empty:
    """Begin the ordered stop; the reply is sent before the connection ends."""
    kernel.log("info", "kernel", f"shutdown asked for by apid {caller.apid} ({caller.name})")
    kernel.shutdown.set()
    return Empty()
