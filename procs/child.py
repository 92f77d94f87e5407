"""From the fork to the program: what happens in a new process before its own first line.

    zygote ── fork ──> child:  own session, dies with the zygote, adopts its own orphans
                               0 /dev/null   1 2 output pipe   3 channel   nothing else
                               working directory, environment, limits, confinement
                               then runtime.main(3, launch)  or  execve(program)

What holds across ``execve``: session, death signal (unless the program is set-uid), limits,
no-new-privileges, Landlock, adoption. What does not: "not dumpable" (the system sets it
anew), so an executable can be traced by its own user where Landlock is absent.
"""

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from procs.confine import Confinement
from procs.linux import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    prctl,
    set_name,
)
from syscalls.launch import APID_VARIABLE, FD_VARIABLE, Launch
from syscalls.shapes import Quota

CHANNEL = 3
STATUS = 4
"""In an executable's child: where an errno is written if the exec fails; closed by it if not."""
CANNOT_RUN = 126
NOT_EXECUTED = 127
MOST_DESCRIPTORS = 1 << 20


class Birth(NamedTuple):
    """What the zygote hands to the child it forks."""

    launch: Launch
    channel: int
    output: int
    status: int
    """Write end of the status pipe of an executable; -1 for a Python agent."""
    parent: int
    """The zygote's process id."""
    tasks: int
    """Threads and processes of the user when the zygote began, and room to grow."""
    confinement: Confinement
    main: Callable[[int, Launch], int]


def live(birth: Birth) -> int:
    """Become the process. Returns its exit status; the caller does nothing but ``os._exit``."""
    try:
        _settle(birth)
        if birth.launch.kind == "exec":
            return _execute(birth.launch)
        _fresh_streams()
    except BaseException:  # noqa: BLE001 - nobody is above: its output is where it can be told
        traceback.print_exc(file=sys.__stderr__)
        return CANNOT_RUN
    return _run(birth)


def _settle(birth: Birth) -> None:
    launch = birth.launch
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != birth.parent:  # it died before the line above
        os._exit(128 + signal.SIGKILL)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)
    _default_signals()
    if launch.kind != "exec":
        _ignored_signals()
    os.dup2(birth.output, 1)
    os.dup2(birth.output, 2)
    set_name(launch.name or os.path.basename(launch.program))
    os.environ.update(launch.env)
    os.environ[FD_VARIABLE] = str(CHANNEL)
    os.environ[APID_VARIABLE] = str(launch.apid)
    if launch.cwd:
        os.chdir(launch.cwd)
    birth.confinement.restrict()
    limit(0, resource.RLIMIT_CORE, 0)
    for kind, most in limits(launch.quota, birth.tasks):
        limit(0, kind, most)
    # Up to here descriptors of the zygote were open; the order matters, 3 and 4 are its own.
    os.dup2(birth.channel, CHANNEL, inheritable=launch.kind == "exec")
    if birth.status >= 0:
        os.dup2(birth.status, STATUS, inheritable=False)
    os.closerange(STATUS + (birth.status >= 0), MOST_DESCRIPTORS)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _default_signals() -> None:
    """Undo what the zygote and its ancestors set; the mask is lifted later."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # Python ignores SIGPIPE so that a write raises; children of other programs, and its
        # own, are served by the same dispositions as at a fresh start.
        if number == signal.SIGPIPE or signal.getsignal(number) is signal.SIG_DFL:
            continue
        with suppress(OSError, ValueError):  # real-time signals that libc keeps for itself
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _ignored_signals() -> None:
    """What the runtime ignores as long as the agent does not listen: not for a moment its end."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def limits(quota: Quota, tasks: int) -> list[tuple[int, int]]:
    """What the operating system is asked to enforce: ``(RLIMIT_..., most)``.

    RLIMIT_NPROC counts all tasks of the *user* (``tasks`` is how many it may have anyway),
    and none of root's. So it is a fuse against fork bombs; the process table counts exactly
    what goes through ``proc.spawn``.
    """
    found = []
    if quota.memory is not None:
        found.append((resource.RLIMIT_DATA, min(quota.memory, sys.maxsize)))
    if quota.files is not None:
        found.append((resource.RLIMIT_NOFILE, quota.files))
    if quota.children is not None:
        found.append((resource.RLIMIT_NPROC, tasks + quota.children))
    return found


def limit(pid: int, kind: int, most: int) -> None:
    """Set a limit of a process (0: this one), soft and hard.

    Without the right to raise a hard limit (root's), the hard limit is where it ends.
    """
    try:
        resource.prlimit(pid, kind, (most, most))
    except (PermissionError, ValueError):
        hard = resource.prlimit(pid, kind)[1]
        resource.prlimit(pid, kind, (min(most, hard), hard))


def _execute(launch: Launch) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execve(launch.program, [launch.program, *launch.args], os.environ)
    except OSError as error:
        os.write(STATUS, (error.errno or 0).to_bytes(4, "little"))
        return NOT_EXECUTED


def _fresh_streams() -> None:
    """Standard streams on this process's own descriptors, not the zygote's buffers."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    options = {"encoding": "utf-8", "errors": "backslashreplace", "closefd": False}
    sys.stdout = open(1, "w", buffering=1, **options)  # type: ignore[call-overload]  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, **options)  # type: ignore[call-overload]  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _run(birth: Birth) -> int:
    """Run the agent; what ends it becomes a status, as the interpreter itself would do."""
    try:
        status = birth.main(CHANNEL, birth.launch)
    except SystemExit as leaving:
        code = leaving.code
        if isinstance(code, str):
            sys.stderr.write(code + "\n")
        status = code if isinstance(code, int) else int(code is not None)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 - the top of the process: print, and end with 1
        traceback.print_exc()
        status = 1
    with suppress(OSError):  # a reader of the output that has gone
        sys.stdout.flush()
        sys.stderr.flush()
    return int(status) & 0xFF
