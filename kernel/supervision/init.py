"""Init at work: the tree of its file, and what was spawned to be started again.

    init.toml ──> Tree "init"       stopped, started and reloaded by ``proc.supervise``
    proc.spawn(restart=...) ──> Tree "spawned"    each child for itself; kept on disk

    an end, a word, the time ──> Tree ──> Start, Stop ──> tasks that spawn and signal

The trees decide (``procs/tree.py``); this does it, and tells them what came of it. A child
keeps its name, its space and its mailbox whatever process it is at the moment.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from kernel import monitor
from kernel.nurse import Incarnation
from kernel.supervision import services
from kernel.supervision.identities import Identities, Identity
from kernel.supervision.plans import Plans
from kernel.supervision.services import Past
from procs.inittab import ROOT, Inittab, parse
from procs.supervisor import ChildSpec, GroupSpec, Start, Stop
from procs.tree import Tree
from syscalls.calls.supervise import Supervised
from syscalls.errors import EAGAIN, EINVAL, ENOENT, ESRCH, EngramError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kernel.kernel import Kernel
    from procs.process import Process
    from procs.supervisor import Child
    from procs.tree import Deed, TreeStatistics
    from syscalls.calls import proc
    from syscalls.shapes import Exit, Level, Signal

SPAWNED = "spawned"
INTENSITY, PERIOD = 5, 60.0
"""Restarts that one spawned process is allowed, within so many seconds."""
GRACE, PATIENCE = 5.0, 30.0
"""Seconds that a spawned process has to end, and that its start may take."""


class Life:
    """One process of a child, from the order to start it to its end."""

    def __init__(self, tree: Tree, name: str) -> None:
        self.tree, self.name = tree, name
        self.scope = trio.CancelScope()
        """Of the start; cancelled when it is to be stopped before it runs."""
        self.process: Process | None = None
        self.running = False
        self.said = False
        """Whether it has said that it is up."""
        self.stop: Stop | None = None
        """The order to stop it, where there is one."""


class Init:
    """What runs the trees."""

    def __init__(self, kernel: Kernel, file: Path | None) -> None:
        """``file`` is where the tree is read from; None for nowhere."""
        self._kernel = kernel
        self._file = file
        self._problem = ""
        self._table = Inittab((GroupSpec(ROOT, give_up="abandon"),), {}, ())
        self._identities = Identities(kernel.machine.store)
        self._kept: dict[str, Identity] = {}
        self._lives: dict[str, Life] = {}
        self._pasts: dict[str, Past] = {}
        self._processes: dict[int, Life] = {}
        """The children that live processes are, by APID."""
        self._spawners: dict[str, Process] = {}
        """Who spawned a child, while both live; else it is init's."""
        self._gone: set[str] = set()
        """Names that are not in the file any more; forgotten when they are down."""
        self._main = Tree(self._table.groups, kernel.clock.monotonic)
        self._spawned = Tree([self._group()], kernel.clock.monotonic)
        self.plans = Plans(kernel, self.box)
        self._nursery: trio.Nursery | None = None
        self._ready, self._changed = trio.Event(), trio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Start what is to run and keep it running, until cancelled; ``stop`` comes before."""
        kernel = self._kernel
        self._kept = {identity.name: identity for identity in self._identities.all()}
        try:
            self._table = await self._read()
        except EngramError as error:
            self._problem = error.message
            kernel.log("error", "init", f"{error.message}: nothing of it is started")
        if self._stopping:
            return
        kernel.processes.watch(self._ended)
        self._main = Tree(self._table.groups, kernel.clock.monotonic)
        self._spawned = Tree([self._group()], kernel.clock.monotonic)
        self.plans.change(self._table.schedules)
        try:
            async with trio.open_nursery() as self._nursery:
                for tree in self._trees:
                    self._do(tree, tree.start())
                self._nursery.start_soon(self.plans.run)
                self._ready.set()
                await self._watch_time()
        finally:
            self._nursery = None
            self._announce()

    async def _watch_time(self) -> None:
        while True:
            left = min(tree.deadline() for tree in self._trees) - self._kernel.clock.monotonic()
            changed = self._changed
            with trio.move_on_after(max(left, 0.0)):
                await changed.wait()
            for tree in self._trees:
                self._do(tree, tree.tick())

    async def stop(self) -> None:
        """Stop everything in reverse order, and start nothing any more."""
        self._stopping = True
        for tree in reversed(self._trees):
            self._do(tree, tree.stop())
        # Where ``run`` was cancelled nobody is left to carry it out: the nurse ends the rest.
        while self._nursery is not None and not all(tree.down for tree in self._trees):
            await self._changed.wait()

    # --- for the calls

    async def adopt(self, caller: Process, call: proc.Spawn) -> int:
        """Start a process that is started again as its ``restart`` says; returns its APID.

        It is on disk then, and is back after a reboot, unless it has ended for good. Raises
        what ``Nurse.spawn`` does, and EINVAL for a space that the caller has by a share only.
        """
        await self._ready.wait()
        kernel = self._kernel
        if self._stopping:
            raise ESRCH("the system is shutting down")
        self._refuse_borrowed(caller, call)
        box = kernel.processes.reserve()
        name = f"{call.name or os.path.basename(call.program)}#{box}"
        life = Life(self._spawned, name)
        try:
            incarnation = Incarnation(partial(self._born, life, box), name=name)
            apid = await kernel.nurse.spawn(caller, call, incarnation)
        except BaseException:
            self._unborn(life)
            kernel.accounts.forget(name)
            raise
        process = kernel.processes.get(apid)
        again = msgspec.structs.replace(
            call,
            name=process.name,
            caps=sorted(process.caps.grants),
            quota=process.quota,
            space=process.space,
        )
        identity = Identity(name, box, again)
        life.running = True
        self._kept[name], self._lives[name] = identity, life
        self._spawners[name], self._pasts[name] = caller, Past(starts=1)
        # It runs already: that the tree wants to start it is no news.
        deeds = self._spawned.reconfigure([self._group()])
        self._do(self._spawned, [deed for deed in deeds if deed != Start(name)])
        self._do(self._spawned, self._spawned.ready(name))
        try:
            await kernel.machine.store.commit(self._identities.keep(identity))
        except BaseException:
            self._do(self._spawned, self._spawned.stop_child(name))
            raise
        return apid

    async def change(self, action: str, ref: str) -> Supervised:
        """What ``proc.supervise`` asks for; how things are then. Raises ENOENT, EINVAL."""
        await self._ready.wait()
        if action == "reload":
            await self._reload()
        elif action != "status":
            tree, name = self._find(ref)
            past = self._pasts.setdefault(name, Past())
            past.stopped = action == "stop"
            self._do(tree, tree.stop_child(name) if past.stopped else tree.start_child(name))
            if tree is self._spawned and name in self._kept:  # what was spawned is not in a file
                put = self._identities.forget if past.stopped else self._identities.keep
                await self._kernel.machine.store.commit(put(self._kept[name]))
                await self._settle()
        return self.status()

    def status(self) -> Supervised:
        """What runs, what does not and why."""
        rows = []
        for tree in self._trees:
            for node in tree.supervisors():
                rows.append(services.supervisor(tree, node))
                for child in node.children:
                    if not tree.is_supervisor(child.name):
                        past = self._pasts.get(child.name) or Past()
                        row = services.process(tree, child, past, self._program(child.name))
                        life = self._lives.get(child.name)
                        row.apid = life.process.apid if life and life.process else 0
                        rows.append(row)
        return Supervised(
            file="" if self._file is None else str(self._file),
            problem=self._problem,
            services=rows,
            schedules=self.plans.planned(),
        )

    def box(self, name: str) -> int | None:
        """The mailbox of a supervised process by its name, while it does not run too."""
        if name in self._kept and self._kept[name].call is None:
            return self._kept[name].box
        called = [one.box for one in self._kept.values() if one.call and one.call.name == name]
        return called[0] if len(called) == 1 else None

    def said_ready(self, process: Process) -> None:
        """A process says that it is up."""
        self._up(process, "ready")

    def called(self, process: Process) -> None:
        """A process has made its first call."""
        self._up(process, "called")

    def statistics(self) -> dict[str, TreeStatistics]:
        """Figures for ``/proc``."""
        return {tree.root: tree.statistics() for tree in self._trees}

    # --- what the trees ask for

    @property
    def _trees(self) -> tuple[Tree, Tree]:
        return self._main, self._spawned

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _do(self, tree: Tree, deeds: Sequence[Deed]) -> None:
        """Have done what a tree asks for. An order to stop never overtakes that to start."""
        for deed in deeds if self._nursery is not None else ():
            assert self._nursery is not None
            if isinstance(deed, Start):
                life = self._lives[deed.name] = Life(tree, deed.name)
                self._nursery.start_soon(self._start, life)
            elif (life := self._lives[deed.name]).running:
                life.stop = deed
                self._nursery.start_soon(self._stop, life)
            else:
                life.stop = deed
                life.scope.cancel()
        self._announce()

    async def _start(self, life: Life) -> None:
        tree, name = life.tree, life.name
        past = self._pasts.setdefault(name, Past())
        past.problem = ""
        try:
            with life.scope:
                await self._spawn(life, past)
        except (EngramError, OSError) as error:
            past.problem = str(error)
            self._kernel.log("warning", "init", f"{name} could not be started: {error}")
            self._over(life, abnormal=True)
            return
        if life.process is None:  # stopped before it began
            self._over(life, abnormal=False)
            return
        life.running, past.image = True, None
        past.starts += 1
        if life.stop is not None:
            await self._stop(life)
            return
        when = self._ready_when(life)
        if isinstance(when, float):
            await trio.sleep(when)
        elif (when == "ready" and not life.said) or (when == "called" and not life.process.calls):
            return  # it says so, or its first call does
        if self._lives.get(name) is life:
            self._do(tree, tree.ready(name))

    async def _spawn(self, life: Life, past: Past) -> None:
        """Start a child's next process. Raises what ``Nurse.spawn`` does."""
        kernel, name = self._kernel, life.name
        identity = await self._identity(name)
        parent, space = kernel.init, 0
        if identity.call is None:
            service = self._table.services[name]
            call = services.call(service)
            self._kept[name] = await services.recall(kernel, service, identity, past)
        else:
            call = identity.call
            space = kernel.memory.resolve(call.space or 0)
            spawner = self._spawners.get(name)
            parent = spawner if spawner is not None and spawner.alive else parent
        born = partial(self._born, life, identity.box)
        while True:
            try:
                await kernel.nurse.spawn(parent, call, Incarnation(born, space, name=name))
                return
            except EAGAIN as error:  # until the tree has no more patience
                self._unborn(life)
                past.problem = str(error)
                await trio.sleep(error.retry_after)
            except BaseException:
                self._unborn(life)
                raise

    def _born(self, life: Life, box: int, process: Process) -> None:
        """A process is there, and about to be started: it is this child now."""
        life.process = process
        past = self._pasts.get(life.name)
        spawned = life.tree is self._spawned
        process.supervisor = SPAWNED if spawned else life.tree.above(life.name)
        process.restarts = past.starts if past is not None else 0
        self._processes[process.apid] = life
        self._kernel.mailboxes.keep(process.apid, box)
        if past is not None and past.image is not None:
            services.remind(self._kernel, process, past.image)

    def _unborn(self, life: Life) -> None:
        """It could not be started after all."""
        if life.process is not None:
            self._processes.pop(life.process.apid, None)
            self._kernel.mailboxes.release(life.process.apid)
            self._kernel.conversations.drop(life.process.apid)
            life.process = None

    async def _stop(self, life: Life) -> None:
        assert life.process is not None and life.stop is not None
        grace, kernel = life.stop.shutdown, self._kernel
        signal: Signal = "TERM" if grace > 0 else "KILL"
        await kernel.nurse.signal(life.process, signal, kernel.init, grace=grace)

    def _ended(self, process: Process) -> None:
        """Some process has ended; called by the table, in the step in which it does."""
        life = self._processes.pop(process.apid, None)
        if life is None:
            return
        name, tree = life.name, life.tree
        assert process.exit is not None and process.exit.cause is not None
        kind = process.exit.cause.kind
        itself = kind in ("normal", "exit", "exception")
        box = self._kernel.mailboxes.number(process.apid)
        self._kernel.mailboxes.release(process.apid, interrupted=not itself)
        if process.restarts:
            self._kernel.processes.forget(process)  # who spawned the first knows nothing of it
        self._pasts[name].last = process.exit
        child = tree.child(name)
        self._over(life, abnormal=kind != "normal")
        self._note(name, child, process.exit)
        if self._nursery is not None:
            self._nursery.start_soon(self._kernel.mailboxes.sweep, box)

    def _over(self, life: Life, *, abnormal: bool) -> None:
        """A process of a child has ended, or could not be started."""
        del self._lives[life.name]
        self._do(life.tree, life.tree.ended(life.name, abnormal=abnormal))
        if self._nursery is not None and not self._stopping:
            self._nursery.start_soon(self._settle)

    def _note(self, name: str, child: Child, ended: Exit) -> None:
        again = child.wanted and not self._stopping
        then = "is started again" if again else "stays down"
        level: Level = "info" if not again else "warning"
        if child.failed:
            level, then = "error", "failed too often and is given up"
        self._kernel.log(level, "init", f"{name} ({ended.apid}) ended, {ended.reason}: it {then}")

    def _up(self, process: Process, by: str) -> None:
        life = self._processes.get(process.apid)
        if life is None:
            return
        life.said = life.said or by == "ready"
        # Before it is noted as running, who starts it sees to this.
        if life.running and self._ready_when(life) == by:
            self._do(life.tree, life.tree.ready(life.name))

    def _ready_when(self, life: Life) -> str | float:
        service = self._table.services.get(life.name)
        return "spawned" if service is None or life.tree is self._spawned else service.ready

    # --- the file, and what is on disk

    async def _read(self) -> Inittab:
        """The file. Raises ENOENT, EINVAL."""
        if self._file is None:
            return Inittab((GroupSpec(ROOT, give_up="abandon"),), {}, ())
        try:
            text = await self._kernel.machine.offload(partial(self._file.read_text, "utf-8"))
        except OSError as error:
            raise ENOENT(f"cannot read {self._file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise EINVAL(f"{self._file} is not UTF-8") from error
        return parse(text, str(self._file))

    async def _reload(self) -> None:
        table = await self._read()
        before = self._table
        self._table = table  # the tree asks for starts by it
        try:
            deeds = self._main.reconfigure(table.groups)
        except EINVAL:
            self._table = before
            raise
        self._problem = ""
        self._gone = (self._gone | before.services.keys()) - table.services.keys()
        self._do(self._main, deeds)
        self.plans.change(table.schedules)
        self._kernel.log("info", "init", f"read {self._file} again")
        await self._settle()

    async def _identity(self, name: str) -> Identity:
        """A child's identity, on disk from its first start on."""
        identity = self._kept.get(name)
        if identity is None:
            kernel = self._kernel
            identity = Identity(name, kernel.processes.reserve())
            await kernel.machine.store.commit(self._identities.keep(identity))
            self._kept[name] = identity
        return identity

    async def _settle(self) -> None:
        """Forget what is down and will not be started again: its mailbox, what was spawned."""
        over = [name for name in self._gone if name not in self._lives]
        for name in self._spawned.processes():
            child = self._spawned.child(name)
            if child.stage == "down" and not child.wanted and not child.failed:
                over.append(name)
        identities = [self._kept.pop(name) for name in over if name in self._kept]
        self._gone.difference_update(over)
        if any(identity.call is not None for identity in identities):
            self._do(self._spawned, self._spawned.reconfigure([self._group()]))
        for identity in identities:
            self._pasts.pop(identity.name, None)
            self._spawners.pop(identity.name, None)
            batch = self._identities.forget(identity)
            batch.deletes.append(self._kernel.accounts.forget(identity.name))
            await self._kernel.machine.store.commit(batch)
            await self._kernel.mailboxes.drop(identity.box)

    def _group(self) -> GroupSpec:
        """What was spawned to be started again: each for itself."""
        children = [
            ChildSpec(one.name, one.call.restart, GRACE, PATIENCE)
            for one in self._kept.values()
            if one.call is not None
        ]
        return GroupSpec(
            name=SPAWNED,
            intensity=INTENSITY,
            period=PERIOD,
            give_up="abandon",
            ordered=False,
            children=tuple(children),
        )

    def _refuse_borrowed(self, caller: Process, call: proc.Spawn) -> None:
        """A share can be revoked; who is started again by init has its space for good."""
        kernel = self._kernel
        number = None if call.space is None else kernel.memory.known(call.space)
        if number is None or kernel.memory.view(number).header.owner == caller.apid:
            return
        if not monitor.disposes(kernel, caller, number, "mem.write"):
            raise EINVAL(
                f"a process that is started again cannot work in space {number}: its giver has "
                "it by a share only",
                hint="restart=temporary, or a space of the giver's own",
            )

    # --- as it is shown

    def _find(self, ref: str) -> tuple[Tree, str]:
        """What is meant by a name in a tree, a process's name or an APID. Raises ENOENT."""
        for tree in self._trees:
            if ref == tree.root or ref in tree.names():
                return tree, ref
        meant = [
            life
            for apid, life in self._processes.items()
            if life.process is not None and ref in (str(apid), life.process.name)
        ]
        if len(meant) != 1:
            raise ENOENT(f"init runs nothing that is named {ref!r}", hint="`engram init status`")
        return meant[0].tree, meant[0].name

    def _program(self, name: str) -> str:
        kept = self._kept.get(name)
        if kept is not None and kept.call is not None:
            return kept.call.program
        return self._table.services[name].program if name in self._table.services else ""
