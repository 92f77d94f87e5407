"""The kernel's side of the zygote: start processes, hear of their ends, signal them.

``Spawner`` is what the kernel needs. ``Launcher`` is the real one; a simulation gives the
kernel another that runs agents as tasks of the same loop, on the same kind of channel.
"""

import contextlib
import errno
import math
import os
import signal
import socket
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec
import trio

from procs.linux import children, parent_of
from procs.parley import (
    PACKET,
    Describe,
    Described,
    Exited,
    Failed,
    Kill,
    Limit,
    Packet,
    Ping,
    Ready,
    Refused,
    Report,
    Spawn,
    Started,
    reports,
)
from procs.zygote import ZygoteProcess, spawn_zygote
from syscalls.errors import EAGAIN, EIO, EngramError, from_value
from syscalls.launch import Launch, LaunchKind, Wants
from syscalls.shapes import Quota

FIRST_DELAY, LONGEST_DELAY = 0.02, 5.0
"""Seconds before a zygote that died is started again; doubled until one gets ready."""
STUCK = 30.0
"""Seconds that a zygote may let pass without a word, when it is asked for one."""
GOODBYE = 10.0
"""Seconds that a zygote has to end everything at shutdown."""


class ExitStatus(NamedTuple):
    """How a process of the operating system ended."""

    status: int
    """Its exit code; 128 + n when signal n ended it."""
    reason: str
    """``exit`` or ``signal KILL``."""

    @property
    def signalled(self) -> bool:
        """Whether a signal ended it."""
        return self.reason != "exit"


class ChildProcess(Protocol):
    """A running process, as the kernel holds it."""

    @property
    def pid(self) -> int:
        """Process id of the operating system; 0 where it has none."""

    @property
    def kind(self) -> LaunchKind:
        """What its program turned out to be."""

    async def wait(self) -> ExitStatus:
        """How it ended, when it has. Any number of tasks may wait."""

    def kill(self, signum: int) -> None:
        """Send a signal to it and its process group; nothing if it has ended."""

    def limit(self, quota: Quota) -> None:
        """Put limits in force for it (not for what it has started); None leaves one alone.

        Raising one takes effect only where the kernel's user may (root).
        """


class LauncherStatistics(msgspec.Struct, frozen=True):
    """Figures of a spawner."""

    zygote: int
    """Process id; 0 while there is none."""
    alive: int
    launched: int
    refused: int
    ended: int
    restarts: int
    stuck: int
    """Of those zygotes, the ones that were ended because they did not answer."""
    confinement: str


class Spawner(Protocol):
    """Starts processes."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then end every process and return when none is left."""

    async def launch(self, spec: Launch, channel: socket.socket, output_fd: int) -> ChildProcess:
        """Start a process that holds ``channel`` and writes its output to ``output_fd``.

        Both stay the caller's, to close when this returns. When this is cancelled the
        process is ended. Raises ENOENT, EPERM, EINVAL (the program), EAGAIN (no room for a
        process, or the zygote died meanwhile), EIO (the runtime cannot be loaded).
        """

    async def describe(self, program: str, cwd: str) -> Wants:
        """What a declared program wants. Raises ENOENT, EPERM, EINVAL, EAGAIN, EIO."""

    def owns(self, pid: int) -> bool:
        """Whether a process is one that was launched, or a descendant of one.

        A session offered by such a process is an agent's, whoever its user is.
        """

    def statistics(self) -> LauncherStatistics:
        """Figures for ``/proc`` and metrics."""


def status_of(code: int) -> ExitStatus:
    """The status of an exit code, or of minus a signal's number."""
    if code >= 0:
        return ExitStatus(code, "exit")
    try:
        name = signal.Signals(-code).name.removeprefix("SIG")
    except ValueError:
        name = str(-code)
    return ExitStatus(128 - code, f"signal {name}")


class Child:
    """A process that the zygote runs."""

    def __init__(self, pid: int, kind: LaunchKind, order: Callable[[Kill | Limit], None]) -> None:
        self.pid = pid
        self.kind: LaunchKind = kind
        self._order = order
        self._ended = trio.Event()
        self._exit: ExitStatus | None = None

    async def wait(self) -> ExitStatus:
        """How it ended, when it has."""
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    def kill(self, signum: int) -> None:
        """Send a signal to it and its process group; nothing if it has ended."""
        if self._exit is None:
            self._order(Kill(self.pid, signum))

    def limit(self, quota: Quota) -> None:
        """Put limits in force for it; see ``ChildProcess.limit``."""
        if self._exit is None:
            self._order(Limit(self.pid, quota))

    def end(self, status: ExitStatus) -> None:
        """Record the end; the launcher calls it once."""
        self._exit = status
        self._ended.set()


class _Pending:
    """An order that the zygote has not answered yet."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.child: Child | None = None
        self.wants: Wants | None = None
        self.error: EngramError | None = None
        self.abandoned = False


class Launcher:
    """The real spawner: supervises one zygote, and starts another when it dies."""

    def __init__(self, zygote: ZygoteProcess, runtime: str, private: str = "") -> None:
        """``zygote`` comes from ``start_zygote``; the rest is for the ones after it."""
        self._zygote = zygote
        self._runtime = runtime
        self._private = private
        self._link: trio.socket.SocketType | None = None
        self._changed = trio.Event()
        """Set and replaced when a zygote comes or goes."""
        self._failure = ""
        self._sending = trio.Lock()
        self._orders: trio.MemorySendChannel[Kill | Limit] | None = None
        self._pending: dict[int, _Pending] = {}
        self._children: dict[int, Child] = {}
        self._zygote_pid = 0
        self._confinement = "not known yet"
        self._number = 0
        self._launched = self._refused = self._ended = self._restarts = self._stuck = 0
        self._heard = trio.Event()
        """Set by whatever the zygote says."""

    # --- for the kernel

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then end every process and return when none is left."""
        delay = FIRST_DELAY
        while True:
            self._attach()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            try:
                await self._serve()
            finally:
                was_ready = self._zygote_pid != 0
                with trio.CancelScope(shield=True):
                    await self._bury()
            delay = FIRST_DELAY if was_ready else min(delay * 2, LONGEST_DELAY)
            await trio.sleep(delay)
            self._restarts += 1
            self._zygote = spawn_zygote(self._runtime, self._private)

    async def launch(self, spec: Launch, channel: socket.socket, output_fd: int) -> Child:
        """Start a process; see ``Spawner.launch``."""
        self._launched += 1
        number = self._numbered()
        descriptors = [channel.fileno(), output_fd]
        pending = await self._answer(number, Spawn(number, spec), descriptors)
        if pending.error is not None:
            self._refused += 1
            raise pending.error
        assert pending.child is not None
        return pending.child

    async def describe(self, program: str, cwd: str) -> Wants:
        """What a declared program wants; see ``Spawner.describe``."""
        number = self._numbered()
        pending = await self._answer(number, Describe(number, program, cwd), [])
        if pending.error is not None:
            raise pending.error
        assert pending.wants is not None
        return pending.wants

    def _numbered(self) -> int:
        self._number += 1
        return self._number

    async def _answer(
        self, number: int, order: Spawn | Describe, descriptors: list[int]
    ) -> _Pending:
        """Send an order and wait for its answer."""
        link = await self._connected()
        pending = self._pending[number] = _Pending()
        packet = Packet(order, descriptors)
        sent = False
        try:
            await self._send(link, packet)
            sent = True
            await pending.answered.wait()
        except OSError as error:
            raise _lost() from error
        except trio.Cancelled:
            if pending.child is not None:  # it was started in the moment of the cancellation
                pending.child.kill(signal.SIGKILL)
            raise
        finally:
            packet.close()
            pending.abandoned = not pending.answered.is_set()
            if not sent:
                del self._pending[number]
        return pending

    def owns(self, pid: int) -> bool:
        """Whether a process descends from the zygote."""
        while pid > 1:
            if pid in (self._zygote_pid, self._zygote.pid):
                return True
            pid = parent_of(pid)
        return False

    def statistics(self) -> LauncherStatistics:
        """Figures for ``/proc`` and metrics."""
        return LauncherStatistics(
            zygote=self._zygote_pid,
            alive=len(self._children),
            launched=self._launched,
            refused=self._refused,
            ended=self._ended,
            restarts=self._restarts,
            stuck=self._stuck,
            confinement=self._confinement,
        )

    # --- one zygote

    def _attach(self) -> None:
        self._link = trio.socket.from_stdlib_socket(self._zygote.socket)
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _connected(self) -> trio.socket.SocketType:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._link is None:
            if self._failure:
                raise self._broken()
            await self._changed.wait()
        return self._link

    def _broken(self) -> EIO:
        return EIO(
            f"the runtime {self._runtime} cannot be loaded: {self._failure}", driver="zygote"
        )

    async def _send(self, link: trio.socket.SocketType, packet: Packet) -> None:
        # One packet goes as a whole or not at all, also when this is cancelled.
        async with self._sending:
            await link.sendmsg([packet.body], packet.ancillary)

    async def _serve(self) -> None:
        """Until the zygote's socket closes."""
        assert self._link is not None
        link = self._link
        self._orders, orders = trio.open_memory_channel[Kill | Limit](math.inf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, link, orders)
            nursery.start_soon(self._watch, link)
            while True:
                try:
                    body = await link.recv(PACKET)
                except ConnectionResetError:
                    continue  # it left an order unread; what it said before is still to come
                if not body:
                    break
                self._hear(reports.decode(body))
            nursery.cancel_scope.cancel()

    async def _watch(self, link: trio.socket.SocketType) -> None:
        """End a zygote that does not answer any more; all that it runs ends with it."""
        while True:
            await trio.sleep(STUCK)
            if not self._zygote_pid:
                continue  # it loads the runtime
            self._heard = trio.Event()
            with trio.move_on_after(STUCK) as patience:
                try:
                    await self._send(link, Packet(Ping(), []))
                except OSError as error:
                    if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                        raise
                    return  # it has ended
                await self._heard.wait()
            if patience.cancelled_caught and self._zygote_pid:
                self._stuck += 1
                os.kill(self._zygote_pid, signal.SIGKILL)
                return

    async def _deliver(
        self, link: trio.socket.SocketType, orders: trio.MemoryReceiveChannel[Kill | Limit]
    ) -> None:
        async for order in orders:
            try:
                await self._send(link, Packet(order, []))
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise
                return

    def _order(self, order: Kill | Limit) -> None:
        if self._orders is not None:
            self._orders.send_nowait(order)

    def _hear(self, report: Report) -> None:
        self._heard.set()
        match report:
            case Ready():
                self._zygote_pid = report.pid
                self._confinement = report.confinement
                self._failure = ""
            case Failed():
                self._failure = report.reason
            case Started():
                self._on_started(report)
            case Described():
                pending = self._pending.pop(report.id)
                pending.wants = report.wants
                pending.answered.set()
            case Refused():
                pending = self._pending.pop(report.id)
                pending.error = from_value(report.number, report.error)
                pending.answered.set()
            case Exited():
                self._end(report.pid, status_of(report.code))

    def _on_started(self, report: Started) -> None:
        child = Child(report.pid, report.kind, self._order)
        self._children[report.pid] = child
        pending = self._pending.pop(report.id)
        pending.child = child
        if pending.abandoned:
            child.kill(signal.SIGKILL)
        pending.answered.set()

    def _end(self, pid: int, status: ExitStatus) -> None:
        child = self._children.pop(pid, None)
        if child is not None:  # None: one whose exec failed between two reports
            self._ended += 1
            child.end(status)

    async def _bury(self) -> None:
        """Wait until the zygote, its keeper and all their descendants are gone; tell it."""
        assert self._link is not None
        link, self._link = self._link, None
        self._orders = None
        link.close()
        pid = self._zygote.pid
        await _wait_for(pid)
        for pending in list(self._pending.values()):
            pending.error = self._broken() if self._failure else _lost()
            pending.answered.set()
        self._pending.clear()
        for child_pid in list(self._children):
            self._end(child_pid, ExitStatus(128 + signal.SIGKILL, "signal KILL"))
        self._zygote_pid = 0
        self._announce()


def _lost() -> EAGAIN:
    return EAGAIN("the zygote died while it started the process", retry_after=0.5)


async def _wait_for(pid: int) -> None:
    """Wait for the keeper; if it takes too long, end the zygote, and then the keeper too."""
    pidfd = os.pidfd_open(pid)
    try:
        for stuck in (children(pid), [pid]):
            with trio.move_on_after(GOODBYE):
                await trio.lowlevel.wait_readable(pidfd)
                break
            for each in stuck:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        await trio.lowlevel.wait_readable(pidfd)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended: this only reaps it
    finally:
        os.close(pidfd)
