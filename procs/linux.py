"""What is asked of Linux that the standard library has no word for: prctl and process trees.

Everything here is meant for a single-threaded process (the zygote, its keeper, a child that
was just forked): small, blocking, without imports that start anything.
"""

import contextlib
import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    """The result of a libc call that answers -1 on failure. Raises OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, value: int) -> None:
    """One setting of the calling process. Raises OSError."""
    word = ctypes.c_ulong
    checked(libc.prctl(option, word(value), word(0), word(0), word(0)))


def set_name(name: str) -> None:
    """What ``ps`` shows as the command; the kernel keeps 15 bytes."""
    checked(libc.prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0))


def parent_of(pid: int) -> int:
    """The parent of any process; 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The command's name may hold anything but ends at the last parenthesis.
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def children(parent: int = 0) -> list[int]:
    """The children of a process, adopted ones and zombies included; 0 is the calling process."""
    me = parent or os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as listed:
            return [int(pid) for pid in listed.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        return [pid for pid in pids if parent_of(pid) == me]


def kill_tree(pid: int) -> None:
    """SIGKILL for a child that is not yet reaped, and for the process group it leads.

    Until it is reaped its number belongs to nobody else, so that this cannot hit a stranger.
    """
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def kill_descendants() -> None:
    """End every descendant of the calling process, which must be a child subreaper.

    A process that dies hands its own children to the subreaper, so that killing one's
    children until there are none reaches those that had left their group or session too.
    """
    while True:
        for pid in children():
            kill_tree(pid)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def tasks_of(uid: int) -> int:
    """Threads and processes that a user runs now (what RLIMIT_NPROC is compared with)."""
    count = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if os.stat(f"/proc/{entry}").st_uid in (uid, 0):
                # Processes that may not be dumped belong to root in /proc: counting too many
                # only makes the limit wider.
                count += len(os.listdir(f"/proc/{entry}/task"))
    return count
