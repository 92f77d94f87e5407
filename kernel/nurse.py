"""The nurse starts processes, watches over them, and records how they end.

spawn: rights and limits -> APID -> descriptor and pipe -> zygote forks -> watch
watch: connection served, output read, until the process has ended -> ended()
                 └── another body has taken its place (``kernel/exec.py``): the same with that
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio

from kernel import monitor
from kernel.accounting import quotas
from kernel.connection import Connection
from kernel.declared import agreed
from kernel.output import OutputRing
from procs.process import Born
from syscalls.capability import CapSet, intersect, narrow
from syscalls.errors import ECANCELED, EDQUOT, EINVAL, ESRCH
from syscalls.launch import DECLARED, Launch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kernel.kernel import Kernel
    from kernel.signals import Birth
    from procs.launcher import ChildProcess, ExitStatus
    from procs.process import Process
    from syscalls.calls import proc
    from syscalls.shapes import Quota, Signal

AGENT_CAPS = frozenset(
    {
        "mem.*", "ipc.*", "ipc.send:*", "ipc.publish:*", "llm.*", "kv.*", "tool.*",
        "lora.attach", "lora.detach", "lora.list",
        "proc.spawn", "proc.fork", "proc.exec", "proc.exit", "proc.wait", "proc.signal",
        "proc.info", "proc.list", "proc.nice", "proc.limit", "proc.link", "proc.monitor",
        "proc.checkpoint", "sys.info", "sys.clock", "sys.alarm", "sys.trace", "sys.ls", "sys.cat",
    }
)  # fmt: skip
"""What an agent may do when its parent does not say: everything on what is its own."""

KEPT_OUTPUTS = 256
"""Ended processes whose output can still be read."""
DRAIN = 1.0
"""Seconds that output may still come after the process has ended."""


class Declared(msgspec.Struct):
    """What ``proc.exit`` said before the end."""

    status: int
    value: Any
    reason: str


class Incarnation(NamedTuple):
    """What a process has from the one that it takes the place of."""

    born: Callable[[Process], None]
    """Called with the process when it has its number and nothing else."""
    space: int = 0
    """Number of its space; 0 for the one that the call asks for."""
    make: Callable[[Process], Awaitable[int]] | None = None
    """Makes its space, where it is not to be a new one."""
    name: str = ""
    """By which its account is found again, when one takes its place."""
    apid: int = 0
    """Its number, where it is not to be a new one."""


class Body(NamedTuple):
    """A process of the operating system that runs a program, from its start to its being served."""

    child: ChildProcess
    channel: socket.socket
    """The kernel's end of its descriptor."""
    output: int
    """The read end of the pipe that it writes to."""

    def discard(self) -> None:
        """End it: nobody will serve it."""
        self.child.kill(signal.SIGKILL)
        self.channel.close()
        os.close(self.output)


class Watched(msgspec.Struct):
    """What the nurse keeps of one process."""

    output: OutputRing
    child: Any
    """The process of the operating system that signals go to."""
    ended: trio.Event
    declared: Declared | None = None
    tasks: trio.Nursery | None = None
    """What goes on while it lives."""
    bound: trio.Event | None = None
    """Set and replaced when its time may have changed; None while nobody looks at that."""
    over: str = ""
    """Why the kernel has ended it, where it has."""
    running: bool = False
    """Whether the process of the operating system that is served has not ended."""
    replacing: bool = False
    """Whether a ``proc.exec`` of it is under way."""
    following: tuple[Body, Connection] | None = None
    """What is served when that has ended: then the process has not."""


class Nurse:
    """Starts and watches the processes of the operating system that agents are."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._watched: dict[int, Watched] = {}
        self._ended: deque[int] = deque()
        self.nursery: trio.Nursery | None = None
        """Of the tasks that watch; ladders too."""
        self._stopping = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks that watch; ``stop`` comes before the cancellation."""
        async with trio.open_nursery() as self.nursery:
            task_status.started()
            await trio.sleep_forever()

    async def stop(self) -> None:
        """Start nothing any more and end every process: TERM, the grace period, KILL."""
        self._stopping = True
        kernel = self._kernel
        watched = [
            self._watched[p.apid] for p in kernel.processes.live() if p.apid in self._watched
        ]
        for process in kernel.processes.live():
            if process.apid in self._watched:
                await self.signal(process, "TERM", kernel.init)
        for item in watched:
            await item.ended.wait()

    async def spawn(
        self, parent: Process, call: proc.Spawn, incarnation: Incarnation | None = None
    ) -> int:
        """Start a process for ``parent``. Raises ENOENT, EPERM, EDQUOT, EINVAL."""
        with self._kernel.signals.birth(parent, call) as birth:
            return await self._spawn(parent, call, incarnation, birth)

    async def _spawn(
        self, parent: Process, call: proc.Spawn, incarnation: Incarnation | None, birth: Birth
    ) -> int:
        kernel = self._kernel
        if self._stopping:
            raise ESRCH("the system is shutting down")
        if incarnation is None and call.program.endswith(DECLARED):
            call = agreed(call, await kernel.machine.spawner.describe(call.program, call.cwd))
        caps = self._caps(parent, call.caps)
        quota = self._quota(parent, call.quota)
        monitor.allow_nice(parent, call.nice)
        kept = incarnation.space if incarnation is not None else 0
        space = kept or await self._space(parent, call)
        kernel.accounts.of(parent).check("children")
        process = kernel.processes.create(
            parent,
            Born(
                name=call.name or _name_of(call.program),
                kind="python",
                program=call.program,
                args=call.args,
                goal=call.goal,
                caps=caps,
                quota=quota,
                nice=call.nice,
                apid=incarnation.apid if incarnation is not None else 0,
                group=call.group,
            ),
        )
        birth.child = process
        if incarnation is not None:
            incarnation.born(process)
        account = kernel.accounts.open(process, name=incarnation.name if incarnation else "")
        try:
            if incarnation is not None and incarnation.make is not None:
                process.space = await incarnation.make(process)
            else:
                process.space = space or await kernel.memory.create_space(process.apid)
            if kept:
                kernel.holdings.own(kept, account)
            elif space:
                await monitor.lend(kernel, parent, process)
            await self._start(process, call)
        except BaseException:
            with trio.CancelScope(shield=True):
                kernel.accounts.close(process)
                await kernel.memory.sharing.withdraw(process.apid)
                await kernel.machine.store.commit(kernel.processes.discard(process))
            raise
        return process.apid

    async def _start(self, process: Process, call: proc.Spawn) -> None:
        kernel = self._kernel
        process.cwd, process.env = call.cwd, call.env
        body = await self.launch(launch_of(process))
        try:
            await kernel.save(process)
        except BaseException:
            body.discard()
            raise
        watched = Watched(OutputRing(), body.child, trio.Event())
        self._watched[process.apid] = watched
        if process.apid in self._ended:  # it had the number before
            self._ended.remove(process.apid)
        connection = self._connected(process, body)
        kernel.processes.started(process)
        assert self.nursery is not None
        self.nursery.start_soon(self._watch, process, watched, body, connection)

    async def launch(self, launch: Launch) -> Body:
        """Start a process of the operating system; raises what ``Spawner.launch`` does.

        Nobody serves it yet: who called this has it served, or discards it.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        try:
            child = await self._kernel.machine.spawner.launch(launch, theirs, out_write)
        except BaseException:
            ours.close()
            os.close(out_read)
            raise
        finally:
            theirs.close()
            os.close(out_write)
        return Body(child, ours, out_read)

    def _connected(self, process: Process, body: Body) -> Connection:
        """From now on a process is this body."""
        process.pid, process.kind = body.child.pid, body.child.kind
        connection = self._kernel.connections[process.apid] = Connection(
            self._kernel, process, body.channel
        )
        return connection

    async def _watch(
        self, process: Process, watched: Watched, body: Body, connection: Connection
    ) -> None:
        with trio.CancelScope(shield=True):  # its end is brought about by signals, never by leaving
            async with trio.open_nursery() as nursery:
                watched.tasks = nursery
                self._time(process, watched)
                ended = await self._serve(watched, body, connection)
                while watched.following is not None:
                    (body, connection), watched.following = watched.following, None
                    ended = await self._serve(watched, body, connection)
                watched.tasks = None
                nursery.cancel_scope.cancel()
            watched.output.close()
            declared = watched.declared
            status, reason, value = ended.status, ended.reason, None
            if declared is not None:
                value = declared.value
                if not ended.signalled:
                    status, reason = declared.status, declared.reason or ended.reason
            reason = f"{reason} ({watched.over})" if watched.over else reason
            await self._kernel.ended(process, status=status, reason=reason, value=value)
            watched.child = None
            watched.ended.set()
            self._ended.append(process.apid)
            while len(self._ended) > KEPT_OUTPUTS:
                del self._watched[self._ended.popleft()]

    async def _serve(self, watched: Watched, body: Body, connection: Connection) -> ExitStatus:
        """Serve a body, and read what it writes, until it has ended; how it did."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.serve)
            nursery.start_soon(watched.output.pump, body.output)
            watched.running = True
            ended = await body.child.wait()
            watched.running = False
            nursery.cancel_scope.deadline = trio.current_time() + DRAIN
        return ended

    def _time(self, process: Process, watched: Watched) -> None:
        """Look at a process's time, where it has one."""
        timed = self._kernel.accounts.of(process).deadline < inf or "life" in process.quota.soft
        if watched.bound is not None:
            watched.bound.set()
        elif watched.tasks is not None and timed:
            watched.bound = trio.Event()
            watched.tasks.start_soon(self._outlive, process, watched)

    async def _outlive(self, process: Process, watched: Watched) -> None:
        """End a process when its time is over, as TERM does; warn at its soft limit before."""
        kernel, account = self._kernel, self._kernel.accounts.of(process)
        warned = False
        while True:
            soft = process.quota.soft.get("life", inf)
            warns = inf if warned else account.began + soft
            watched.bound = trio.Event()
            with trio.move_on_after(min(warns, account.deadline) - kernel.clock.now()):
                await watched.bound.wait()
                continue
            if kernel.clock.now() >= account.deadline:
                break
            if kernel.clock.now() >= warns:
                warned = True
                kernel.accounts.passed_life(account)
        lived = account.deadline - account.began
        watched.over = f"quota life: {lived:.3g} s are over"
        kernel.log("warning", "quota", f"process {process.apid} is ended: {watched.over}")
        await self.signal(process, "TERM", kernel.init)

    async def settled(self, apid: int) -> None:
        """Wait until all that follows from the end of a process is done; at once before it."""
        watched = self._watched.get(apid)
        alive = any(process.apid == apid for process in self._kernel.processes.live())
        if watched is not None and not alive:
            await watched.ended.wait()

    # --- another program in its place

    @contextmanager
    def replacing(self, process: Process) -> Iterator[None]:
        """While the program of a process is being replaced. Raises EINVAL (it is already), ESRCH
        (the system is shutting down), ECANCELED (it is being ended)."""
        if self._stopping:
            raise ESRCH("the system is shutting down")
        watched = self._watched[process.apid]
        if watched.replacing:
            raise EINVAL(f"the program of process {process.apid} is being replaced already")
        self.refuse_ending(process)
        watched.replacing = True
        try:
            yield
        finally:
            watched.replacing = False

    def refuse_ending(self, process: Process) -> None:
        """Raises ECANCELED where a process has ended, was asked to, or has said that it does."""
        watched = self._watched[process.apid]
        if process.ending or watched.declared is not None or not watched.running:
            raise ECANCELED(f"process {process.apid} is being ended")

    def replace(self, process: Process, body: Body) -> None:
        """Have a process be another body: the one that it is gets KILL, and is not heeded any more.

        The new one is served when the old one has ended; signals go to it from now on.
        """
        watched = self._watched[process.apid]
        self._kernel.connections[process.apid].silence()
        watched.child.kill(signal.SIGKILL)
        watched.child = body.child
        watched.following = body, self._connected(process, body)
        if process.state == "STOPPED":
            body.child.kill(signal.SIGSTOP)
        self._time(process, watched)

    # --- while it lives

    def declare(self, process: Process, call: proc.ExitCall) -> None:
        """Remember what ``proc.exit`` said."""
        self._watched[process.apid].declared = Declared(call.status, call.value, call.reason)

    def output(self, apid: int) -> OutputRing:
        """What a process wrote, also some time after its end. Raises ESRCH."""
        watched = self._watched.get(apid)
        if watched is None:
            raise ESRCH(f"no output of a process {apid} is kept")
        return watched.output

    def written(self, apid: int) -> int:
        """Bytes that a process has written so far; 0 where they are not kept."""
        watched = self._watched.get(apid)
        return 0 if watched is None else watched.output.end

    def child(self, process: Process) -> ChildProcess | None:
        """The process of the operating system; None before it runs and after."""
        watched = self._watched.get(process.apid)
        return None if watched is None else watched.child

    async def signal(
        self, process: Process, name: Signal, sender: Process, *, grace: float | None = None
    ) -> None:
        """Deliver a signal; TERM begins the ladder that ends in KILL after ``grace`` seconds
        (default: the setting)."""
        self._kernel.signals.send(process, name, sender, grace)

    async def limit(self, caller: Process, process: Process, quota: Quota) -> Quota:
        """Put limits in force; those of the operating system too, where it runs already."""
        if process is caller:
            quotas.refuse_more(process.quota, quota)
        elif not caller.caps.on("proc.limit"):
            quotas.refuse_more(caller.quota, quota)
        watched = self._watched.get(process.apid)
        if watched is not None and watched.child is not None:
            watched.child.limit(quota)
        process.quota = quotas.merged(process.quota, quota)
        self._kernel.accounts.bind(process)
        if quota.life is not None or "life" in quota.soft:  # what descends from it has to end, too
            for each in self._kernel.processes.live():
                if each.apid in self._watched:
                    self._time(each, self._watched[each.apid])
        return process.quota

    def statistics(self) -> dict[str, int]:
        """Figures for ``/proc``."""
        return {"watched": len(self._watched)}

    # --- rights and limits of a new process

    def _caps(self, parent: Process, wanted: list[str] | None) -> CapSet:
        if wanted is None:
            return intersect(parent.caps, AGENT_CAPS)
        # Without it the way a process ends could not be told.
        return narrow(parent.caps, {*wanted, "proc.exit"})

    def _quota(self, parent: Process, wanted: Quota | None) -> Quota:
        kernel = self._kernel
        children = len(kernel.processes.children(parent.apid))
        limit = kernel.accounts.limit(parent, "children")
        if children >= limit:
            raise EDQUOT(
                f"process {parent.apid} has {children} live children, its quota",
                quota="children",
                limit=limit,
                used=children,
                whose=f"process {parent.apid}",
            )
        base = kernel.accounts.default if parent.kind in ("init", "session") else parent.quota
        if wanted is None:
            return base
        if parent.kind not in ("init", "session"):
            quotas.refuse_more(parent.quota, wanted)
        return quotas.merged(base, wanted)

    async def _space(self, parent: Process, call: proc.Spawn) -> int:
        if call.space is None:
            return 0
        if not parent.caps.may("mem.write"):
            raise EINVAL("a parent without mem.write has no space to give")
        return await monitor.adopt_space(self._kernel, parent, call.space)


def launch_of(process: Process) -> Launch:
    """What a process is started with."""
    return Launch(
        apid=process.apid,
        program=process.program,
        name=process.name,
        args=process.args,
        goal=process.goal,
        space=process.space,
        cwd=process.cwd,
        env=process.env,
        quota=process.quota,
        forked=process.forked,
        state=process.declared,
    )


def _name_of(program: str) -> str:
    """``userland.agents.scribe`` and ``/home/me/scribe.py`` are both called ``scribe``."""
    last = os.path.basename(program)
    stem, extension = os.path.splitext(last)
    return stem if extension in (".py", ".js", ".md", ".sh") else last.rpartition(".")[2]
