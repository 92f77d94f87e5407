"""``proc.fork``: a process that begins where another one is.

    parent   space 7 ── layers ──┐      context      prefix, adapters      declared state
    child    space 9 ── new top ─┘      the same     the same              the same

The child runs the same program from its beginning: what it has of its parent is what the kernel
keeps, not the parent's variables; those that matter are declared (``proc.declare``). Its space
is a view of the parent's as it is at one moment, at constant cost. Its keys and values have the
parent's mark, so what the parent's context cost is not paid again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel import monitor
from kernel.generation import salt_of
from kernel.nurse import Incarnation
from syscalls.calls import proc
from syscalls.errors import EINVAL, ESRCH

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process


async def fork(kernel: Kernel, parent: Process, name: str, goal: str) -> int:
    """Fork a process; the child's APID. Raises EINVAL (no agent), ESRCH, EDQUOT, EAGAIN."""
    if parent.kind not in ("python", "exec"):
        raise EINVAL(f"{parent.kind} {parent.apid} runs no program that could be forked")
    if not parent.alive:
        raise ESRCH(f"process {parent.apid} has ended")

    begun: list[int] = []

    def born(child: Process) -> None:
        begun.append(child.apid)
        child.salt = salt_of(parent)
        child.forked = parent.apid
        child.declared = parent.declared
        kernel.adapters.fork(parent, child)
        kernel.conversations.fork(parent.apid, child.apid)
        kernel.pins.attached.fork(parent.apid, child.apid)
        kernel.memory.echoes.fork(parent.apid, child.apid)

    async def make(child: Process) -> int:
        space = await place(child)
        kernel.memory.handed.fork(parent.apid, child.apid, parent.space, space)
        return space

    async def place(child: Process) -> int:
        if not parent.space:
            return await kernel.memory.create_space(child.apid)
        if kernel.memory.sharing.lent(parent.apid, parent.space):
            # What it has by a share can be taken back; a copy of its own could not.
            child.space = parent.space
            await monitor.lend(kernel, parent, child)
            return parent.space
        return await kernel.memory.fork(parent.space, child.apid)

    call = proc.Spawn(
        program=parent.program,
        name=name or parent.name,
        goal=goal or parent.goal,
        args=parent.args,
        caps=sorted(parent.caps.grants),
        quota=parent.quota,
        nice=parent.nice,
        cwd=parent.cwd,
        env=parent.env,
    )
    try:
        return await kernel.nurse.spawn(parent, call, Incarnation(born, make=make))
    except BaseException:
        for apid in begun:
            kernel.conversations.drop(apid)
            kernel.pins.attached.drop(apid)
            kernel.memory.echoes.drop(apid)
            kernel.memory.handed.drop(apid)
        raise
