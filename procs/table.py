"""The process table: who there is, who is whose child, who has ended and how.

All of it is in memory and changes between two checkpoints; nothing here waits but ``wait``.
A record of each process goes to the store beside a spawn and at its end, as a ``Batch``
that the kernel commits when it suits; so the past is known after a reboot (``history.py``).
"""

from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.contracts import Batch, Clock, Store
from procs.history import REMEMBERED, History
from procs.numbers import INIT, Numbers
from procs.process import Born, Process, ProcessRecord
from syscalls.errors import ECONFLICT, EEXIST, EINVAL, ESRCH, ETIME
from syscalls.shapes import Exit, ProcessInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

ZOMBIES = 1000
"""Ended children that a parent may leave unreaped before the oldest are dropped."""


class TableStatistics(msgspec.Struct, frozen=True):
    """Figures of the process table."""

    alive: int
    zombies: int
    created: int
    ended: int
    waiting: int
    """Waits in progress."""
    past: int
    """Processes of the past that are remembered."""


class _Waiter:
    """A wait for any child."""

    def __init__(self) -> None:
        self.woken = trio.Event()
        self.child: Process | None = None


class ProcessTable:
    """Every process by its APID."""

    def __init__(
        self, store: Store, clock: Clock, *, zombies: int = ZOMBIES, remembered: int = REMEMBERED
    ) -> None:
        self._clock = clock
        self._zombie_limit = zombies
        self._history = History(store, remembered)
        self._numbers = Numbers(store)
        self._processes: dict[int, Process] = {}
        self._named: dict[str, dict[int, Process]] = {}
        self._waiters: dict[int, deque[_Waiter]] = {}
        self._created = self._ended = self._waits = 0
        self._watchers: list[Callable[[Process], None]] = []
        self.resumed = trio.Event()
        """Set and replaced when a stopped process goes on."""

    async def open(self) -> list[Exit]:
        """Read the past, reserve numbers; before anything else.

        Processes that were alive when the last kernel stopped become past ones that ended
        with "kernel died"; their exits are returned.
        """
        await self._numbers.open()
        return await self._history.open(self._clock.now())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep numbers in stock, until cancelled."""
        await self._numbers.run(task_status=task_status)

    # --- births

    def create(self, parent: Process | None, born: Born) -> Process:
        """A new process in state NEW; without a parent it is init, APID 1.

        It leads a new process group, unless its parent is an agent: then it is in that one's.

        Raises ESRCH (the parent has ended), EAGAIN (see ``Numbers.take``), EEXIST (it was to have
        a number that another has).
        """
        if parent is not None and (parent.exit or parent.apid not in self._processes):
            raise ESRCH(f"process {parent.apid} has ended and cannot have children")
        if parent is None and INIT in self._processes:
            raise EINVAL("there is an init already")
        if born.apid in self._processes:
            raise EEXIST(f"there is a process {born.apid}", apid=born.apid)
        apid = INIT if parent is None else born.apid or self._numbers.take()
        own_session = parent is None or born.kind == "session"
        process = Process(
            apid=apid,
            name=born.name,
            kind=born.kind,
            parent=0 if parent is None else parent.apid,
            session=apid if own_session else parent.session if parent else apid,
            program=born.program,
            goal=born.goal,
            args=list(born.args),
            caps=born.caps,
            quota=born.quota,
            nice=born.nice,
            created=self._clock.now(),
            space=born.space,
            group=apid if parent is None else _group(parent, apid, born),
        )
        self._processes[apid] = process
        self._named.setdefault(born.name, {})[apid] = process
        if parent is not None:
            parent.children[apid] = process
        self._created += 1
        return process

    async def claim(self, apid: int, *, known: bool) -> None:
        """Have a process be given a number again. Raises EEXIST where it is another's.

        ``known``: the number was that of a process of this system; else it must be a new one.
        """
        there = self._processes.get(apid)
        if there is not None and (there.alive or there.claims):
            raise EEXIST(
                f"process {apid} is {'alive' if there.alive else 'being waited for'}",
                hint="a number belongs to one process at a time: restore it under a new one",
                apid=apid,
            )
        if not await self._numbers.claim(apid) and not known:
            raise EEXIST(
                f"the number {apid} was another process's here",
                hint="restore it under a new one",
                apid=apid,
            )
        if there is not None:
            self.forget(there)

    def started(self, process: Process) -> None:
        """It runs: from NEW to READY. Raises IllegalTransition."""
        process.move("READY")

    def rename(self, process: Process, name: str) -> None:
        """Give it another name (a session's)."""
        self._unname(process)
        process.name = name
        self._named.setdefault(name, {})[process.apid] = process

    def discard(self, process: Process) -> Batch:
        """Take back a process that could not be started; who waits for it gets its exit.

        Returns the batch that removes its record, for when that was committed already.
        """
        process.move("ZOMBIE")
        process.exit = Exit(process.apid, 127, "not started", ended=self._clock.now())
        process.ended.set()
        self._remove(process)
        return self._history.erase(process.apid)

    # --- look-up

    def get(self, apid: int) -> Process:
        """A process or zombie by its number. Raises ESRCH."""
        process = self._processes.get(apid)
        if process is None:
            raise ESRCH(f"there is no process {apid}", apid=apid)
        return process

    def find(self, target: int | str) -> Process:
        """A process by number or name; a live one before zombies of the same name.

        Raises ESRCH; ECONFLICT when several fit, with ``detail["candidates"]``.
        """
        if isinstance(target, int):
            return self.get(target)
        named = self._named.get(target)
        if not named:
            if target.isdecimal():
                return self.get(int(target))
            raise ESRCH(f"there is no process named {target!r}", name=target)
        live = [process for process in named.values() if process.alive]
        fitting = live or list(named.values())
        if len(fitting) > 1:
            candidates = [process.apid for process in fitting]
            raise ECONFLICT(
                f"{len(fitting)} processes are named {target!r}: "
                + ", ".join(str(apid) for apid in candidates[:10]),
                hint="give the number instead",
                candidates=candidates,
            )
        return fitting[0]

    def named(self, name: str) -> bool:
        """Whether a live process has this name."""
        return any(process.alive for process in self._named.get(name, {}).values())

    def all(self) -> list[Process]:
        """Live ones and zombies, oldest first."""
        return list(self._processes.values())

    def live(self) -> list[Process]:
        """Those that have not ended, oldest first."""
        return [process for process in self._processes.values() if process.alive]

    def children(self, apid: int) -> list[Process]:
        """The live children of a process, oldest first. Raises ESRCH."""
        return [child for child in self.get(apid).children.values() if child.alive]

    def descendants(self, apid: int) -> list[Process]:
        """Children, their children and so on: each after its parent. Raises ESRCH."""
        found = self.children(apid)
        for process in found:  # the list grows while it is walked
            found += self.children(process.apid)
        return found

    def is_descendant(self, apid: int, ancestor: int) -> bool:
        """Whether ``ancestor`` is above ``apid`` (not the same)."""
        process = self._processes.get(apid)
        while process is not None and process.parent:
            if process.parent == ancestor:
                return True
            process = self._processes.get(process.parent)
        return False

    def past(self) -> list[ProcessInfo]:
        """Processes that have ended and are not in the table any more, oldest first."""
        found = self._history.past()
        return [record.info() for record in found if record.apid not in self._processes]

    def past_exit(self, apid: int) -> Exit | None:
        """How a process that is not in the table any more ended; None if that is unknown."""
        return None if apid in self._processes else self._history.exit_of(apid)

    def past_record(self, apid: int) -> ProcessRecord | None:
        """A process that is not in the table any more; None if it is not remembered."""
        return None if apid in self._processes else self._history.record_of(apid)

    def reserve(self) -> int:
        """A number that is no process's and never will be. Raises EAGAIN."""
        return self._numbers.take()

    # --- states while it lives

    def running(self, process: Process) -> None:
        """It computes. Nothing while it is stopped."""
        if process.state in ("READY", "WAITING"):
            process.move("RUNNING")

    def waiting(self, process: Process) -> None:
        """It blocks in a call. Nothing while it is stopped."""
        if process.state in ("READY", "RUNNING"):
            process.move("WAITING")

    def stop(self, process: Process) -> None:
        """It was suspended. Nothing if it is already, has not started, or has ended."""
        if process.state in ("READY", "RUNNING", "WAITING"):
            process.move("STOPPED")

    def resume(self, process: Process) -> None:
        """It goes on after a stop. Nothing otherwise."""
        if process.state == "STOPPED":
            process.move("RUNNING" if process.calls else "READY")
            self.resumed.set()
            self.resumed = trio.Event()

    # --- ends

    def watch(self, callback: Callable[[Process], None]) -> None:
        """Have ``callback`` called with each process that ends, from ``exit``, in order.

        Its exit is set, its children have moved to init, and it may have been reaped.
        """
        self._watchers.append(callback)

    def exit(self, process: Process, exit_: Exit) -> list[Process]:
        """Record the end: children go to init, waiters wake. Returns the adopted children.

        Raises IllegalTransition when it has ended already.
        """
        process.move("ZOMBIE")
        process.exit = exit_
        self._ended += 1
        adopted = self._adopt(process)
        for waiter in self._waiters.pop(process.apid, ()):
            waiter.woken.set()  # it waited for children; it has none any more
        parent = self._processes.get(process.parent)
        process.ended.set()
        if parent is not None:
            self._bequeath(parent, process)
        for callback in self._watchers:
            callback(process)
        return adopted

    def record(self, process: Process, ended: Exit | None = None) -> Batch:
        """What puts the process on disk: alive, or past when it has ended (or will, as said)."""
        return self._history.record(process, ended)

    # --- waiting for ends

    async def wait(self, caller: int, target: int, timeout: float | None = None) -> Exit:
        """How ``target`` ended, when it has; the parent's first wait reaps it.

        Raises ESRCH, ETIME (after ``timeout`` seconds; 0 only looks), EINVAL (itself).
        """
        if caller == target:
            raise EINVAL(f"process {target} cannot wait for its own end")
        process = self.get(target)
        await trio.lowlevel.checkpoint_if_cancelled()
        is_parent = process.parent == caller
        process.claims += is_parent
        try:
            if not process.ended.is_set():
                with self._deadline(timeout, f"process {target} has not ended"):
                    await process.ended.wait()
            if process.parent == caller:
                self._remove(process)
        finally:
            process.claims -= is_parent
            self._settle(process)
        assert process.exit is not None
        return process.exit

    async def wait_any(self, caller: int, timeout: float | None = None) -> Exit:
        """How the next of the caller's children ended; reaps it.

        Raises ESRCH (it has no children), ETIME.
        """
        parent = self.get(caller)
        await trio.lowlevel.checkpoint_if_cancelled()
        for process in parent.zombies.values():
            if not process.claims:
                self._remove(process)
                assert process.exit is not None
                return process.exit
        if not parent.children:
            raise ESRCH(f"process {caller} has no children to wait for")
        waiter = _Waiter()
        queue = self._waiters.setdefault(caller, deque())
        queue.append(waiter)
        try:
            with self._deadline(timeout, f"no child of process {caller} has ended"):
                await waiter.woken.wait()
        except (trio.Cancelled, ETIME):
            # A child may have been handed over after the cancellation, before this line.
            if waiter.child is not None:
                waiter.child.claims -= 1
                self._settle(waiter.child)
            raise
        finally:
            if waiter in queue:
                queue.remove(waiter)
            if not queue and self._waiters.get(caller) is queue:
                del self._waiters[caller]
        if waiter.child is None:
            raise ESRCH(f"process {caller} has no more children to wait for")
        self._remove(waiter.child)
        assert waiter.child.exit is not None
        return waiter.child.exit

    def forget(self, process: Process) -> None:
        """Reap an ended process whose parent will not ask for it, unless somebody waits."""
        if not process.alive and not process.claims:
            self._remove(process)

    def statistics(self) -> TableStatistics:
        """Figures for ``/proc`` and metrics."""
        zombies = sum(1 for process in self._processes.values() if not process.alive)
        return TableStatistics(
            alive=len(self._processes) - zombies,
            zombies=zombies,
            created=self._created,
            ended=self._ended,
            waiting=self._waits,
            past=len(self._history),
        )

    # --- inside

    def _adopt(self, process: Process) -> list[Process]:
        """Give a dead parent's children to init, which reaps those that have ended at once."""
        init = self._processes.get(INIT)
        adopted = []
        for child in list(process.children.values()):
            if init is None or init is process:
                child.parent = 0
                continue
            child.parent = INIT
            if child.alive:
                init.children[child.apid] = child
                adopted.append(child)
            else:
                self._remove(child)
        process.children.clear()
        process.zombies.clear()
        return adopted

    def _bequeath(self, parent: Process, process: Process) -> None:
        """Hand an ended child to who waits for it, or keep it as a zombie."""
        parent.zombies[process.apid] = process
        self._settle(process)
        while len(parent.zombies) > self._zombie_limit:
            self._remove(next(iter(parent.zombies.values())))

    def _settle(self, process: Process) -> None:
        """Give an ended child that no wait claims to the longest waiting ``wait_any``.

        Init reaps at once: what is adopted has nobody left who would ask.
        """
        parent = self._processes.get(process.parent)
        if parent is None or process.claims or process.apid not in parent.zombies:
            return
        queue = self._waiters.get(parent.apid)
        if queue:
            waiter = queue.popleft()
            waiter.child = process
            process.claims += 1  # reaped by the waiter, when it wakes
            waiter.woken.set()
        elif parent.apid == INIT:
            self._remove(process)

    def _remove(self, process: Process) -> None:
        """Reap: the number is not known any more."""
        if self._processes.pop(process.apid, None) is None:
            return
        self._unname(process)
        parent = self._processes.get(process.parent)
        if parent is None:
            return
        parent.children.pop(process.apid, None)
        parent.zombies.pop(process.apid, None)
        if not parent.children:
            for waiter in self._waiters.pop(parent.apid, ()):
                waiter.woken.set()

    def _unname(self, process: Process) -> None:
        named = self._named[process.name]
        del named[process.apid]
        if not named:
            del self._named[process.name]

    @contextmanager
    def _deadline(self, timeout: float | None, what: str) -> "Iterator[None]":
        self._waits += 1
        try:
            with trio.move_on_after(float("inf") if timeout is None else timeout) as scope:
                yield
                return
        finally:
            self._waits -= 1
        assert scope.cancelled_caught
        raise ETIME(f"{what} within {timeout:g} s")


def _group(parent: Process, apid: int, born: Born) -> int:
    """The process group of a new process."""
    usual = "inherit" if parent.kind in ("python", "exec") else "new"
    return parent.group if (born.group or usual) == "inherit" else apid
