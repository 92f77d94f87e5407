"""``proc.*``: processes."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from kernel import monitor
from kernel.exec import replace
from kernel.fork import fork
from kernel.trap import Emit, handles
from syscalls.calls import proc
from syscalls.errors import EINVAL, EPERM
from syscalls.shapes import Exit, Output, ProcessInfo, Quota
from syscalls.table import Empty

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process

STATE = 1 << 20
"""Bytes of a declared state."""


@handles(proc.Spawn, waits=True)
async def spawn(kernel: Kernel, caller: Process, call: proc.Spawn) -> proc.Spawned:
    """Start a process; one that is to be started again, by init."""
    if call.restart != "temporary":
        return proc.Spawned(apid=await kernel.supervision.adopt(caller, call))
    return proc.Spawned(apid=await kernel.nurse.spawn(caller, call))


@handles(proc.ExitCall)
def exit_call(kernel: Kernel, caller: Process, call: proc.ExitCall) -> Empty:
    """Remember how the caller ends; its end itself is seen by who waits for it."""
    if caller.kind not in ("python", "exec"):
        raise EINVAL("a session ends by closing its connection")
    kernel.nurse.declare(caller, call)
    kernel.connections[caller.apid].close_after_reply()
    return Empty()


@handles(proc.Fork, waits=True)
async def fork_call(kernel: Kernel, caller: Process, call: proc.Fork) -> proc.Spawned:
    """Fork a process."""
    parent = monitor.target(kernel, caller, call.target, "proc.fork")
    return proc.Spawned(apid=await fork(kernel, parent, call.name, call.goal))


@handles(proc.Exec, waits=True)
async def exec_call(kernel: Kernel, caller: Process, call: proc.Exec) -> Empty:
    """Replace the caller's program; the reply reaches nobody."""
    await replace(kernel, caller, call)
    return Empty()


@handles(proc.Checkpoint, waits=True)
async def checkpoint(kernel: Kernel, caller: Process, call: proc.Checkpoint) -> proc.Checkpointed:
    """An image of a process."""
    process = monitor.target(kernel, caller, call.target, "proc.checkpoint")
    return await kernel.images.checkpoint(caller, process, call.path)


@handles(proc.Restore, waits=True)
async def restore(kernel: Kernel, caller: Process, call: proc.Restore) -> proc.Restored:
    """A process from an image."""
    return await kernel.images.restore(caller, call)


@handles(proc.ContextCall)
def context(kernel: Kernel, caller: Process, call: proc.ContextCall) -> proc.Conversation:
    """The model context of a process."""
    process = monitor.target(kernel, caller, call.target, "proc.info")
    messages = kernel.conversations.of(process.apid)
    if call.clear:
        kernel.conversations.drop(process.apid)
    return proc.Conversation(messages=messages)


@handles(proc.Declare)
def declare(kernel: Kernel, caller: Process, call: proc.Declare) -> Empty:
    """Remember a process's state."""
    size = len(msgspec.msgpack.encode(call.state))
    if size > STATE:
        raise EINVAL(f"a declared state of {size} bytes is too much", limit=STATE)
    caller.declared = call.state
    return Empty()


@handles(proc.Wait, waits=True)
async def wait(kernel: Kernel, caller: Process, call: proc.Wait) -> Exit:
    """Wait for an end."""
    if call.target is None:
        return await kernel.processes.wait_any(caller.apid, call.timeout)
    if isinstance(call.target, int):
        past = kernel.processes.past_exit(call.target)
        if past is not None and caller.caps.on("proc.wait"):
            return past
    process = kernel.processes.find(call.target)
    if not caller.caps.own("proc.wait"):
        monitor.target(kernel, caller, process.apid, "proc.wait")
    return await kernel.processes.wait(caller.apid, process.apid, call.timeout)


@handles(proc.SignalCall)
def signal(kernel: Kernel, caller: Process, call: proc.SignalCall) -> Empty:
    """Send a signal, and with ``tree`` or ``group`` to more than one, descendants first."""
    process = monitor.target(kernel, caller, call.target, "proc.signal")
    if process.kind == "init":
        raise EPERM("init takes no signals", hint="`engram halt` stops the system")
    kernel.signals.send_all(caller, call, process)
    return Empty()


@handles(proc.Catch)
def catch(_kernel: Kernel, caller: Process, call: proc.Catch) -> Empty:
    """Remember which signals the caller handles itself."""
    caller.catches = frozenset(call.signals)
    return Empty()


@handles(proc.Info)
def info(kernel: Kernel, caller: Process, call: proc.Info) -> ProcessInfo:
    """One process."""
    return kernel.process_info(monitor.target(kernel, caller, call.target, "proc.info"), rss=True)


@handles(proc.ListCall)
def list_call(kernel: Kernel, caller: Process, call: proc.ListCall) -> proc.Processes:
    """Those of the caller's session; all with ``proc.list:*``."""
    everything = caller.caps.on("proc.list")
    found = kernel.processes.past() if call.all and everything else []
    for process in kernel.processes.all():
        if not everything and process.session != caller.session:
            continue
        found.append(kernel.process_info(process, rss=everything))
    if call.session is not None:
        found = [item for item in found if item.session == call.session]
    return proc.Processes(processes=sorted(found, key=lambda item: item.apid))


@handles(proc.NiceCall)
def nice(kernel: Kernel, caller: Process, call: proc.NiceCall) -> Empty:
    """Set the claim on LLM time; a claim above the caller's own needs a grant."""
    process = monitor.target(kernel, caller, call.target, "proc.nice")
    monitor.allow_nice(caller, call.nice)
    process.nice = call.nice
    return Empty()


@handles(proc.Limit)
async def limit(kernel: Kernel, caller: Process, call: proc.Limit) -> Quota:
    """Change limits; nobody raises its own."""
    if call.user is not None:
        if call.target is not None:
            raise EINVAL("give a process or a user")
        if not caller.caps.on("proc.limit"):
            raise EPERM("the limits of users are not an agent's affair", capability="proc.limit:*")
        return kernel.accounts.bind_user(call.user, call.quota)
    process = monitor.target(kernel, caller, call.target, "proc.limit")
    return await kernel.nurse.limit(caller, process, call.quota)


@handles(proc.OutputCall, waits=True)
async def output(kernel: Kernel, caller: Process, call: proc.OutputCall, emit: Emit) -> Output:
    """What a process wrote."""
    if isinstance(call.target, int) and caller.caps.on("proc.info"):
        apid = call.target
    else:
        apid = monitor.target(kernel, caller, call.target, "proc.info").apid
    ring = kernel.nurse.output(apid)
    if not call.follow:
        at, data = ring.since(call.since)
        return Output(apid=apid, at=at, data=data)
    async with aclosing(ring.follow(call.since)) as pieces:
        async for at, data in pieces:
            await emit(Output(apid=apid, at=at, data=data))
    return Output(apid=apid, at=ring.end, data=b"")


@handles(proc.UsageCall)
def usage(kernel: Kernel, caller: Process, call: proc.UsageCall) -> proc.Accounts:
    """What was used, by whom."""
    process = monitor.target(kernel, caller, call.target, "proc.info")
    everything = caller.caps.on("proc.list")
    others = [
        other
        for other in kernel.processes.live()
        if call.all and (everything or other.session == caller.session)
    ]
    return kernel.accounts.usage(process, others)
