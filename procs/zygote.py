"""The zygote: the process that every agent is forked from.

It has imported the userland runtime once, has one thread, and blocks in one loop. Between
the kernel and the zygote stands its keeper, which does nothing but wait for both:

    kernel ──SEQPACKET──────────────┐
      └─ keeper ── zygote ──────────┘
                     ├─ agent 17 (own session)          all subreapers: an orphan goes to
                     │    ├─ what it started            the nearest one above it
                     │    └─ a daemon that double-forked
                     └─ agent 18

- An agent ends: its group gets SIGKILL before it is reaped, and what it leaves behind is
  adopted by the zygote, which has no children but agents, and kills the rest.
- The kernel ends: the socket closes; the zygote kills all it has, then exits. Or the keeper,
  which sees the kernel's end too, kills it after a while, if it hangs.
- The zygote ends: its agents get SIGKILL (their death signal); the keeper kills the rest.
- The keeper ends: the zygote gets SIGTERM (its death signal) and does as if the kernel had.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple, Protocol, TypeVar, cast

from procs.child import Birth, limit, limits, live
from procs.confine import Confinement
from procs.linux import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    children,
    kill_descendants,
    kill_tree,
    prctl,
    set_name,
    tasks_of,
)
from procs.parley import (
    MOST_DESCRIPTORS,
    PACKET,
    Describe,
    Described,
    Exited,
    Failed,
    Kill,
    Limit,
    Packet,
    Ping,
    Pong,
    Ready,
    Refused,
    Report,
    Spawn,
    Started,
    orders,
    unpack,
)
from syscalls.errors import EAGAIN, EINVAL, ENOENT, EPERM, EngramError
from syscalls.launch import Launch, Resolved, Wants

T = TypeVar("T")

SOCKET = 3
"""The zygote keeps its socket where a child will have its channel: one less to move."""
BOOTSTRAP = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from procs.zygote import main; main(sys.argv[2:])"
)
GOODBYE = 5.0
"""Seconds that a zygote has to end after the kernel."""
ROOM_TO_GROW = 512
"""Tasks that the user may start after us before RLIMIT_NPROC of an agent is too narrow."""


class Runtime(Protocol):
    """What the module that is loaded by name must offer; see ``syscalls/launch.py``."""

    def resolve(self, program: str, cwd: str) -> Resolved:
        """What a program's name stands for."""

    def describe(self, program: str, cwd: str) -> Wants:
        """What a declared program wants; a runtime may do without it."""

    def main(self, channel_fd: int, launch: Launch) -> int:
        """Run a Python agent."""


class ZygoteProcess(NamedTuple):
    """A zygote that was started, as its starter holds it."""

    pid: int
    """Of the keeper, a child of the caller: its end means that nothing is left."""
    socket: socket.socket

    def close(self) -> None:
        """End it and all it has, and wait; for who started it but never ran a launcher."""
        self.socket.close()
        with contextlib.suppress(ChildProcessError):  # a launcher has seen to it
            os.waitpid(self.pid, 0)


def start_zygote(runtime: str, private: str = "") -> ZygoteProcess:
    """Fork the keeper and the zygote from this process, which must still have one thread.

    Cheap (a fork shares what is imported), so call it first: before ``trio.run``, before
    anything starts a thread or opens ZMQ or LMDB. ``private`` is an existing directory that
    agents shall not reach: the kernel's data.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        _last_words(lambda: keep(theirs.detach(), runtime, private))
    theirs.close()
    return ZygoteProcess(pid, ours)


def spawn_zygote(runtime: str, private: str = "") -> ZygoteProcess:
    """The same from a fresh interpreter, for a process that has threads by now. Slower."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", BOOTSTRAP, json.dumps(sys.path), runtime, private],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), SOCKET)],
        )
    return ZygoteProcess(pid, ours)


def keep(fd: int, runtime: str, private: str) -> None:
    """Be the keeper of a zygote that serves the socket ``fd``; returns when all are gone."""
    os.setsid()  # not in the terminal's foreground group: Ctrl-C is not for us
    set_name("engram-keeper")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)
    _only_descriptor(fd)
    kernel, keeper = os.getppid(), os.getpid()
    zygote = os.fork()
    if zygote == 0:
        _last_words(lambda: _be_zygote(keeper, runtime, private))
    os.close(SOCKET)
    _outlast(zygote, kernel)
    kill_descendants()


def _outlast(zygote: int, kernel: int) -> None:
    """Reap the zygote when it has ended: by itself, or by us if it does not with the kernel."""
    ends = os.pidfd_open(zygote)
    with contextlib.suppress(ProcessLookupError):  # it was quicker
        ended = os.pidfd_open(kernel)
        if os.getppid() == kernel:
            select.select([ends, ended], [], [])
        os.close(ended)
    if not select.select([ends], [], [], GOODBYE)[0]:
        os.kill(zygote, signal.SIGKILL)
    os.close(ends)
    os.waitpid(zygote, 0)


def _no_room(error: OSError) -> EAGAIN:
    """What the operating system has too little of for another process."""
    return EAGAIN(
        f"cannot fork: {error.strerror}",
        hint="end some processes, or raise the user's limits on processes and open files",
        retry_after=1.0,
    )


def _last_words(work: Callable[[], None]) -> None:
    """Run the work of a forked process and end it, never returning into its parent's code."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - printed; the process ends with 1
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def _only_descriptor(fd: int) -> None:
    """Keep the standard streams (input from nowhere) and ``fd``, as number ``SOCKET``."""
    if fd != SOCKET:
        os.dup2(fd, SOCKET, inheritable=False)
    os.closerange(SOCKET + 1, 1 << 20)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _be_zygote(keeper: int, runtime: str, private: str) -> None:
    set_name("engram-zygote")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    channel = socket.socket(fileno=SOCKET)
    zygote = Zygote(channel)
    if os.getppid() != keeper:
        return
    try:
        module = cast("Runtime", importlib.import_module(runtime))
        confinement = Confinement(private)
    except Exception as error:  # noqa: BLE001 - whatever a module's import can raise is told
        traceback.print_exc(file=sys.__stderr__)
        zygote.tell(Failed(f"{type(error).__name__}: {error}"))
        return
    gc.collect()
    gc.freeze()  # what is shared is never looked at again, so its pages stay shared
    try:
        zygote.serve(module, confinement)
    finally:
        kill_descendants()


class Zygote:
    """The loop: orders from the kernel, deaths of children, results of execs."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._agents: set[int] = set()
        self._execs: dict[int, tuple[int, int]] = {}
        """Children that have not exec'ed yet: pid to (spawn id, read end of status pipe)."""
        self._stopping = False
        self._pid = os.getpid()
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = reader
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def serve(self, runtime: Runtime, confinement: Confinement) -> None:
        """Serve until the kernel is gone or SIGTERM comes."""
        self._runtime = runtime
        self._confinement = confinement
        self._tasks = tasks_of(os.getuid()) + ROOM_TO_GROW
        self.tell(Ready(self._pid, confinement.summary))
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._stopping:
            for _pid, (_id, reader) in self._execs.items():
                poll.register(reader, select.POLLIN)
            waiting = [reader for _id, reader in self._execs.values()]
            ready = {fd for fd, _events in poll.poll()}
            for reader in waiting:
                poll.unregister(reader)
            if self._wake in ready:
                self._drain()
            if ready.intersection(waiting):
                self._executed(ready)
            if self._channel.fileno() in ready:
                self._obey()

    def tell(self, report: Report) -> None:
        """Report to the kernel; when it is gone, stop."""
        packet = Packet(report, [])
        try:
            self._channel.sendmsg([packet.body], packet.ancillary)
        except (BrokenPipeError, ConnectionResetError):
            self._stopping = True
        finally:
            packet.close()

    def _on_term(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        self._reap()

    # --- orders

    def _obey(self) -> None:
        space = socket.CMSG_SPACE(MOST_DESCRIPTORS * 4)
        try:
            body, ancillary, _flags, _from = self._channel.recvmsg(
                PACKET, space, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            body, ancillary = b"", []
        if not body:
            self._stopping = True
            return
        body, descriptors = unpack(body, ancillary)
        try:
            order = orders.decode(body)
            if isinstance(order, Kill):
                self._signal(order)
            elif isinstance(order, Limit):
                self._limit(order)
            elif isinstance(order, Describe):
                self._describe(order)
            elif isinstance(order, Ping):
                self.tell(Pong())
            else:
                self._spawn(order, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)

    def _signal(self, order: Kill) -> None:
        """Only to a child that is not reaped: its number cannot be anybody else's."""
        if order.pid not in self._agents:
            return
        try:
            os.killpg(order.pid, order.signal)
        except ProcessLookupError:  # not yet the leader of a session
            os.kill(order.pid, order.signal)

    def _limit(self, order: Limit) -> None:
        if order.pid in self._agents:
            for kind, most in limits(order.quota, self._tasks + len(self._agents)):
                with contextlib.suppress(ProcessLookupError):  # it is a zombie by now
                    limit(order.pid, kind, most)

    def _describe(self, order: Describe) -> None:
        describe = getattr(self._runtime, "describe", None)
        try:
            if describe is None:
                raise EINVAL(f"this runtime knows no programs like {order.program}")
            _check_directory(order.cwd)
            self.tell(Described(order.id, _asked(describe, order.program, order.cwd)))
        except EngramError as error:
            self.tell(Refused(order.id, error.number, error.to_value()))

    def _spawn(self, order: Spawn, descriptors: list[int]) -> None:
        launch = order.launch
        try:
            resolved = _asked(self._runtime.resolve, launch.program, launch.cwd)
            _check_directory(launch.cwd)
            _check_strings(launch)
            launch.kind, launch.program = resolved.kind, resolved.program
            pid = self._fork(order, descriptors)
        except EngramError as error:
            self.tell(Refused(order.id, error.number, error.to_value()))
            return
        if launch.kind == "python":
            self.tell(Started(order.id, pid, "python"))

    def _fork(self, order: Spawn, descriptors: list[int]) -> int:
        launch = order.launch
        channel, output = descriptors
        reader = writer = -1
        try:
            self._confinement.refresh()
            if launch.kind == "exec":
                reader, writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise _no_room(error) from error
        birth = Birth(
            launch,
            channel,
            output,
            writer,
            self._pid,
            self._tasks + len(self._agents),
            self._confinement,
            self._runtime.main,
        )
        # A signal between the fork and the child's own dispositions must not meet ours.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _leave(birth)
        except OSError as error:
            if reader >= 0:
                os.close(reader)
            raise _no_room(error) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            if writer >= 0:
                os.close(writer)
        self._agents.add(pid)
        if reader >= 0:
            self._execs[pid] = (order.id, reader)
        return pid

    # --- what became of children

    def _executed(self, ready: set[int]) -> None:
        for pid in [pid for pid, (_id, fd) in self._execs.items() if fd in ready]:
            self._settle_exec(pid)

    def _settle_exec(self, pid: int) -> None:
        """Tell how an exec went: the status pipe is closed by it, or brings an errno."""
        number, reader = self._execs.pop(pid)
        failure = os.read(reader, 4)
        os.close(reader)
        if not failure:
            self.tell(Started(number, pid, "exec"))
            return
        self._agents.discard(pid)  # it ends by itself and was never anybody's
        errno = int.from_bytes(failure, "little")
        error = EINVAL(
            f"cannot be executed: {os.strerror(errno)}",
            hint="a script needs a first line like `#!/bin/sh`",
            errno=errno,
        )
        self.tell(Refused(number, error.number, error.to_value()))

    def _reap(self) -> None:
        """Reap all that ended; first kill the group of each, last what they left behind."""
        found = False
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                break
            found = True
            pid = ended.si_pid
            if pid in self._execs:
                self._settle_exec(pid)
            kill_tree(pid)
            os.waitpid(pid, 0)
            if pid in self._agents:
                self._agents.discard(pid)
                by_exit = ended.si_code == os.CLD_EXITED
                self.tell(Exited(pid, ended.si_status if by_exit else -ended.si_status))
        if found:
            for pid in children():
                if pid not in self._agents:
                    kill_tree(pid)


def _leave(birth: Birth) -> None:
    status = 1
    try:
        status = live(birth)
    finally:
        os._exit(status)


def _asked(ask: Callable[[str, str], T], program: str, cwd: str) -> T:
    """Ask the runtime about a program. What that fails with, whatever it is, is about this program
    and no agent else; so it is told, and ends nothing. Raises EngramError."""
    try:
        return ask(program, cwd)
    except EngramError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:500]
        raise EINVAL(f"the program {program[:200]!r} cannot be looked up: {reason}") from error


def _check_directory(cwd: str) -> None:
    if not cwd:
        return
    if not os.path.isdir(cwd):
        raise ENOENT(f"the working directory {cwd} does not exist")
    if not os.access(cwd, os.X_OK):
        raise EPERM(f"the working directory {cwd} may not be entered")


def _check_strings(launch: Launch) -> None:
    strings = [*launch.args, *launch.env, *launch.env.values(), launch.cwd, launch.name]
    if any("\0" in text for text in strings):
        raise EINVAL("arguments, environment and names cannot hold a NUL character")
    if any(not key or "=" in key for key in launch.env):
        raise EINVAL("the name of an environment variable is empty or holds an equals sign")


def main(arguments: list[str]) -> None:
    """Be a keeper in a process of its own, with its socket in place: ``RUNTIME PRIVATE``."""
    runtime, private = arguments
    _last_words(lambda: keep(SOCKET, runtime, private))
