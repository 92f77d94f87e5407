"""``proc.exec``: another program in the place of a process's own.

    process 12   pid 4711  old program ── call ──┐          ┌── KILL, not heeded any more
                 pid 4730  new program           └ launched ┴── served when 4711 has ended

What the kernel knows a process by stays: number, name, goal, parent, children, session, group,
space, mailbox, rights, limits, account, links and monitors, alarms, subscriptions, what it has
attached, its output, its supervisor. What was the old program's goes with it: calls in flight,
declared state, model context, the tools that it offered, the signals that it handles. Nobody who
waits for the process sees an end.

The new one is launched first, so that all that can fail fails while the old one is still there
to be told. From ``Nurse.replace`` on there is no way back.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import trio

from kernel.declared import agreed
from kernel.nurse import launch_of
from syscalls.calls import proc
from syscalls.capability import intersect
from syscalls.errors import EINVAL
from syscalls.launch import DECLARED

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from kernel.nurse import Body
    from procs.process import Process
    from syscalls.launch import Wants


async def replace(kernel: Kernel, process: Process, call: proc.Exec) -> None:
    """Replace the program of a process.

    Returns in the step in which it is done: the program that called is being killed then, and is
    not answered. Raises what ``Spawner.launch`` does, EINVAL (it runs no program, or is being
    replaced already), ESRCH (shutdown), ECANCELED (it is being ended), EIO; then nothing has
    changed.
    """
    if process.kind not in ("python", "exec"):
        raise EINVAL(f"{process.kind} {process.apid} runs no program that could be replaced")
    with kernel.nurse.replacing(process):
        wants = None
        if call.program.endswith(DECLARED):
            wants = await kernel.machine.spawner.describe(call.program, process.cwd)
        # Another program is no fork of anybody, and has declared nothing.
        launch = msgspec.structs.replace(
            launch_of(_renewed(process, call, wants)), forked=0, state=None
        )
        body = await kernel.nurse.launch(launch)
        try:
            await _note(kernel, process, _renewed(process, call, wants), body)
        except BaseException:
            body.discard()
            raise
        _exchange(kernel, process, _renewed(process, call, wants), body)
        if process.quota != launch.quota:  # it was given another one meanwhile
            body.child.limit(process.quota)


def _renewed(process: Process, call: proc.Exec, wants: Wants | None) -> Process:
    """The process as it will be; a declared program has no more of rights and limits than it."""
    given = dataclasses.replace(process, program=call.program, args=call.args)
    if wants is None:
        return given
    both = agreed(
        proc.Spawn(
            program=call.program,
            name=process.name,
            goal=process.goal,
            caps=sorted(process.caps.grants),
            quota=process.quota,
            nice=process.nice,
        ),
        wants,
    )
    if wants.caps is not None:
        given.caps = intersect(process.caps, {*(both.caps or ()), "proc.exit"})
    given.goal, given.nice = both.goal, both.nice
    given.quota = both.quota or process.quota
    return given


async def _note(kernel: Kernel, process: Process, new: Process, body: Body) -> None:
    """Have it on disk, as long as the process goes on; else what was there before."""
    new.kind = body.child.kind
    try:
        with trio.CancelScope(shield=True):
            await kernel.save(new)
        await trio.lowlevel.checkpoint_if_cancelled()
        kernel.nurse.refuse_ending(process)
    except BaseException:
        with trio.CancelScope(shield=True):
            await kernel.save(process)
        raise


def _exchange(kernel: Kernel, process: Process, new: Process, body: Body) -> None:
    """From the old program to the new one, in one step."""
    process.program, process.args, process.goal = new.program, new.args, new.goal
    process.caps, process.nice = new.caps, new.nice
    if process.quota != new.quota:
        process.quota = new.quota
        kernel.accounts.bind(process)
    process.declared, process.catches = None, frozenset()
    kernel.conversations.drop(process.apid)
    kernel.tools.left(process.apid)
    kernel.nurse.replace(process, body)
    kernel.log("debug", "proc", f"apid {process.apid} ({process.name}) runs {new.program} now")
