"""The whole system in one process: virtual clock, seeded, stores in memory.

    async with simulated(seed, programs) as world:
        shell = world.attach()
        await shell.proc.spawn(program="counter")

Programs are async functions that are given a ``Channel`` and their ``Launch``. They run as
tasks, but talk to the kernel over real socketpairs in the real wire format; everything
above the launcher is the same code as on a real machine. Run it under ``run_seeded``, which
also seeds trio's scheduler, and the same seed gives the same run.
"""

import random
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from drivers.contracts import Store
from drivers.embedder import make_embedder
from drivers.indexes import MemoryIndexes
from drivers.llm import make_llm
from drivers.store.memory import MemoryStore
from kernel.boot import booted
from kernel.connection import Connection
from kernel.kernel import Kernel
from kernel.log import Log
from kernel.machine import Inline, Machine, VirtualClock
from kernel.settings import Settings
from procs.launcher import ChildProcess, ExitStatus, LauncherStatistics
from procs.process import Born
from syscalls.capability import ALL, compiled
from syscalls.errors import ENOENT
from syscalls.launch import Launch, LaunchKind, Wants
from syscalls.shapes import Quota
from userland.channel import Channel

Program = Callable[[Channel, Launch], Awaitable[Any]]
T = TypeVar("T")


class TaskChild:
    """A process that is a task."""

    kind: LaunchKind = "python"

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.scope = trio.CancelScope()
        self._ended = trio.Event()
        self._status = ExitStatus(0, "exit")

    async def wait(self) -> ExitStatus:
        """How it ended."""
        await self._ended.wait()
        return self._status

    def kill(self, signum: int) -> None:
        """TERM, INT and KILL cancel the task; the others have no meaning for a task."""
        if signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL) and not self._ended.is_set():
            self._status = ExitStatus(128 + signum, f"signal {signal.Signals(signum).name[3:]}")
            self.scope.cancel()

    def limit(self, quota: Quota) -> None:
        """A task has no limits of its own."""

    async def run(self, program: Program, channel: Channel, launch: Launch) -> None:
        """Run the program to its end."""
        try:
            with self.scope:
                await program(channel, launch)
        except Exception as error:  # noqa: BLE001 - becomes the exit status, as in a process
            self._status = ExitStatus(1, f"exception {type(error).__name__}: {error}")
        finally:
            channel.close()
            self._ended.set()


class TaskSpawner:
    """``Spawner`` whose processes are tasks of this process."""

    def __init__(self, programs: dict[str, Program]) -> None:
        self._programs = programs
        self._nursery: trio.Nursery | None = None
        self.children: list[TaskChild] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def launch(self, spec: Launch, channel: socket.socket, output_fd: int) -> ChildProcess:
        """Start a program."""
        await trio.lowlevel.checkpoint()
        program = self._programs.get(spec.program)
        if program is None:
            raise ENOENT(f"there is no program {spec.program!r}")
        child = TaskChild(100_000 + len(self.children))
        self.children.append(child)
        assert self._nursery is not None
        self._nursery.start_soon(child.run, program, Channel(channel.dup()), spec)
        return child

    async def describe(self, program: str, cwd: str) -> Wants:
        """A simulated program says nothing of itself."""
        await trio.lowlevel.checkpoint()
        return Wants()

    def owns(self, pid: int) -> bool:
        """Nothing attaches from outside."""
        return False

    def statistics(self) -> LauncherStatistics:
        """Figures."""
        return LauncherStatistics(0, 0, len(self.children), 0, 0, 0, 0, "tasks")


class World:
    """A running simulated system."""

    def __init__(self, kernel: Kernel, nursery: trio.Nursery) -> None:
        self.kernel = kernel
        self._nursery = nursery

    def attach(self, *grants: str) -> Channel:
        """A new session, with every capability unless some are named."""
        kernel = self.kernel
        process = kernel.processes.create(
            kernel.init,
            Born(
                name="shell",
                kind="session",
                caps=compiled(frozenset(grants or {ALL})),
                quota=kernel.accounts.default,
            ),
        )
        kernel.processes.started(process)
        ours, theirs = socket.socketpair()
        connection = Connection(kernel, process, ours)
        kernel.connections[process.apid] = connection
        self._nursery.start_soon(self._serve, process, connection)
        return Channel(theirs)

    async def _serve(self, process: Any, connection: Connection) -> None:
        try:
            await connection.serve()
        finally:
            with trio.CancelScope(shield=True):
                await self.kernel.ended(process, status=0, reason="detached")


@asynccontextmanager
async def simulated(
    seed: int, programs: dict[str, Program], *, store: Store | None = None, **settings: Any
) -> AsyncIterator[World]:
    """A system on a simulated machine; with the ``store`` of another it is its reboot."""
    clock = VirtualClock()
    chosen = Settings(data="/nowhere", embedder="local-hash:64", seed=seed, **settings)
    log = Log(clock, chosen.log_lines, None)
    spawner = TaskSpawner(programs)
    embedder = make_embedder(chosen.embedder, run_dir=Path(chosen.data), log=log, clock=clock)
    llm = make_llm("none", engine="auto", run_dir=Path(chosen.data), log=log, clock=clock)
    machine = Machine(
        clock=clock,
        random=random.Random(seed),
        offload=Inline(),
        store=store or MemoryStore(),
        indexes=MemoryIndexes(),
        embedder=embedder,
        llm=llm,
        spawner=spawner,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        async with booted(chosen, machine, log) as kernel, trio.open_nursery() as sessions:
            yield World(kernel, sessions)
            sessions.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


def run_seeded(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """``trio.run`` on a virtual clock, with the scheduler's own choices seeded too."""
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r = random.Random(seed)
    try:
        return trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r = before  # type: ignore[misc]
