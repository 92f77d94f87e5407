"""What init runs, as it is shown and as it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kernel.supervision.identities import Identities, Identity
from syscalls.calls import proc
from syscalls.calls.supervise import Service
from syscalls.shapes import Exit

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs import inittab
    from procs.image import Image
    from procs.process import Process
    from procs.supervisor import Child, Supervisor
    from procs.tree import Tree
    from syscalls.calls.supervise import State


class Past(msgspec.Struct):
    """What became of a child's processes since boot."""

    starts: int = 0
    last: Exit | None = None
    problem: str = ""
    """Why the last start failed."""
    stopped: bool = False
    """Whether it was told to stop."""
    image: Any = None
    """The ``Image`` that its process begins with, while that is started; None for none."""


def supervisor(tree: Tree, node: Supervisor) -> Service:
    """A supervisor's row."""
    name = node.spec.name
    above = tree.above(name)
    child = tree.child(name) if above else None
    state: State = node.stage
    return Service(
        name=name,
        supervisor=above,
        kind="supervisor",
        state="failed" if child is not None and child.failed else state,
        restart="permanent" if child is None else child.spec.restart,
        restarts=0 if child is None else child.restarts,
        strategy=node.spec.strategy,
    )


def process(tree: Tree, child: Child, past: Past, program: str) -> Service:
    """A process's row."""
    state: State = "failed" if child.failed else child.stage
    if state == "down" and not child.wanted and past.last is not None and not past.stopped:
        state = "done"
    return Service(
        name=child.name,
        supervisor=tree.above(child.name),
        kind="process",
        state=state,
        restart=child.spec.restart,
        restarts=max(past.starts - 1, 0),
        program=program,
        last=past.last,
        problem=past.problem,
    )


async def recall(
    kernel: Kernel, service: inittab.Service, identity: Identity, past: Past
) -> Identity:
    """Look what a child of the file begins with, where it is to be restored; its identity then.

    One that was done leaves nothing to go on with: not now, nor after a reboot. Raises EIO.
    """
    past.image = None
    if not service.restore:
        return identity
    if past.last is not None and past.last.status == 0:
        identity = msgspec.structs.replace(identity, afresh=kernel.clock.now())
        store = kernel.machine.store
        await store.commit(Identities(store).keep(identity))
    space = kernel.memory.known(service.space or service.name)
    if space is not None:
        newest = kernel.images.keepsakes.newest
        past.image = await newest(service.name, service.program, space, identity.afresh)
    return identity


def remind(kernel: Kernel, process: Process, image: Image) -> None:
    """Give a new process what its image alone has: its space and its messages are on disk."""
    process.declared = image.state
    kernel.conversations.put(process.apid, image.context)
    was = image.header.apid
    kernel.log("info", "init", f"{process.name} ({process.apid}) has the state of {was} again")


def call(service: inittab.Service) -> proc.Spawn:
    """How a child of the file is started; its space is its own name's, unless it says."""
    return proc.Spawn(
        program=service.program,
        name=service.name,
        goal=service.goal,
        args=service.args,
        caps=service.caps,
        quota=service.quota,
        nice=service.nice,
        restart=service.restart,
        space=service.space or service.name,
        cwd=service.cwd,
        env=service.env,
    )
