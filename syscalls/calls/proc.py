"""Processes: spawn, wait, signal, inspect. Numbers 1-31."""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.quota import AccountInfo
from syscalls.shapes import (
    Apid,
    ChatMessage,
    Exit,
    Grouping,
    Numbering,
    Output,
    ProcessInfo,
    Quota,
    Restart,
    Seconds,
    Shape,
    Signal,
    SpaceRef,
    Target,
)
from syscalls.table import Call, syscall

Program = Annotated[str, Meta(min_length=1, max_length=4096)]
Goal = Annotated[str, Meta(max_length=65536)]
Nice = Annotated[int, Meta(ge=-20, le=19)]


class Spawned(Shape):
    """The new process."""

    apid: int


@syscall(1, "proc.spawn", reply=Spawned)
class Spawn(Call, kw_only=True):
    """Start a process and return its APID at once.

    ``program`` is a Python module or file with ``async def main(agent)``, the bare name of
    an example agent, or an executable, which finds its descriptor as fd 3. ``caps`` (default:
    the standard set) and ``quota`` never exceed the caller's. ``space`` names a space to use
    as its own: the caller's, one shared with it for writing, or a new name; without it the
    child gets a new private one. ``group``: what a session or init starts leads a new process
    group, any other child is in its parent's, unless this says otherwise. Raises ENOENT, EPERM,
    EDQUOT, EINVAL.
    """

    program: Program
    name: Annotated[str, Meta(max_length=200)] = ""
    goal: Goal = ""
    args: list[str] = []
    caps: list[str] | None = None
    quota: Quota | None = None
    nice: Nice = 0
    restart: Restart = "temporary"
    space: SpaceRef | None = None
    cwd: str = ""
    env: dict[str, str] = {}
    group: Grouping | None = None


@syscall(2, "proc.fork", reply=Spawned)
class Fork(Call, kw_only=True):
    """Make a child with a copy-on-write view of a process's space and the same context.

    The child runs the same program from its beginning, with another ``goal`` where one is given,
    and is told what it was forked from and what that one has declared as its state. Without
    ``target``: the caller. Raises ESRCH, EPERM, EINVAL (a session), EDQUOT, EAGAIN.
    """

    target: Target | None = None
    goal: Goal = ""
    name: Annotated[str, Meta(max_length=200)] = ""


@syscall(3, "proc.exec")
class Exec(Call, kw_only=True):
    """Replace the caller's program, keeping its APID, space and mailbox.

    ``program`` is what it is to ``proc.spawn``, from the caller's directory; a declared one narrows
    rights and limits and widens none. All that the kernel knows the process by stays, messages and
    output too; calls in flight, declared state, model context, offered tools and caught signals go
    with the old program. It is killed and not answered: only a failure returns, and changes
    nothing. A message that it has received counts as received. Raises ENOENT, EPERM, EINVAL (a
    session, the program, a second one at once), EAGAIN, ECANCELED (the caller is being ended),
    ESRCH (shutdown), EIO.
    """

    program: Program
    args: list[str] = []


@syscall(4, "proc.exit")
class ExitCall(Call, kw_only=True):
    """Say how the caller ends; the kernel closes its descriptor after the reply."""

    status: Annotated[int, Meta(ge=0, le=255)] = 0
    value: Any = None
    reason: Annotated[str, Meta(max_length=2000)] = ""


@syscall(5, "proc.wait", reply=Exit)
class Wait(Call, kw_only=True):
    """Wait for a process to end and reap it.

    Without ``target``: the next of the caller's children to end. A child is reaped by the
    first wait of its parent; others may wait too, while it is known. Raises ESRCH (no such
    process or no children), ETIME.
    """

    target: Target | None = None
    timeout: Seconds | None = None


@syscall(6, "proc.signal", destructive=True)
class SignalCall(Call, kw_only=True):
    """Send a signal: TERM, KILL, INT, STOP, CONT, USR1 or USR2.

    TERM asks a process to end, and becomes KILL after the grace period. INT cancels the calls
    that it waits in; one that waits in none is asked to end. STOP suspends it, its generations
    too, and CONT resumes it. With ``tree`` its descendants get it too, with ``group`` all of its
    process group that the caller may signal. Without an object in the capability: the caller's
    descendants. Raises ESRCH, EPERM.
    """

    target: Target
    signal: Signal = "TERM"
    tree: bool = False
    group: bool = False


@syscall(7, "proc.info", reply=ProcessInfo)
class Info(Call, kw_only=True):
    """Everything about one process; without ``target`` about the caller."""

    target: Target | None = None


class Processes(Shape):
    """Processes in order of their APIDs."""

    processes: list[ProcessInfo]


@syscall(8, "proc.list", reply=Processes)
class ListCall(Call, kw_only=True):
    """List the processes: live ones and zombies; with ``all`` also those of the past."""

    all: bool = False
    session: Apid | None = None


@syscall(9, "proc.nice")
class NiceCall(Call, kw_only=True):
    """Set a process's claim on LLM time: -20 (most) to 19 (least)."""

    target: Target
    nice: Nice


@syscall(10, "proc.limit", reply=Quota)
class Limit(Call, kw_only=True):
    """Set some limits of a descendant (or lower one's own); returns those in force.

    With ``user``, a user id, those of all that this user's sessions do, in place of the settings
    and for good; this needs the capability for every process. Raises ESRCH, EPERM, EINVAL.
    """

    target: Target | None = None
    quota: Quota = Quota()
    user: Annotated[int, Meta(ge=0)] | None = None


@syscall(11, "proc.link")
class Link(Call, kw_only=True):
    """Tie the caller and another process: when one fails, the other gets TERM.

    With ``trap`` the caller gets a message of type ``exit`` from init (APID 1) instead, with
    the other's Exit, and also when it ends normally; a second call changes ``trap``. ``off``
    unties them. A tie ends with either process. Raises ESRCH (for one that has ended, unless
    the caller traps: then the message comes at once).
    """

    target: Target
    trap: bool = False
    off: bool = False


@syscall(12, "proc.monitor")
class Monitor(Call, kw_only=True):
    """Have a message sent to the caller when a process ends.

    It is from init (APID 1), of type ``down``, and holds the Exit: once for each process, at
    once for one that has ended, in a full mailbox too. ``off`` ends it. Raises ESRCH (never
    there, or forgotten).
    """

    target: Target
    off: bool = False


ImagePath = Annotated[str, Meta(max_length=4096)]


class Checkpointed(Shape):
    """The image that was written."""

    path: str
    """A bare name, or the file."""
    bytes: int = 0
    records: int = 0
    messages: int = 0
    seal: str = ""
    """64 hexadecimal digits that name this image and no other."""
    missing: list[str] = []
    """What the process has and an image cannot hold."""


@syscall(13, "proc.checkpoint", reply=Checkpointed)
class Checkpoint(Call, kw_only=True):
    """Write an image of a process as it is at one moment: space, mailbox, context, attachments.

    It is whole, or what was there before stays. ``path`` is a bare name in the data directory's
    ``images`` (default: the APID), or, with ``proc.checkpoint:*``, a file: a path with a slash.
    Raises ESRCH, EPERM, EINVAL (a session), EEXIST (the file is no image, or the image another's),
    EDQUOT (too many images), EIO.
    """

    target: Target | None = None
    path: ImagePath = ""


class Restored(Shape):
    """The new process, and what it has of the image."""

    apid: int
    records: int = 0
    messages: int = 0
    missing: list[str] = []
    """What it had and has not any more, in words."""


@syscall(14, "proc.restore", reply=Restored)
class Restore(Call, kw_only=True):
    """Start a process from an image; all of it is checked before anything is used.

    It begins its program anew, as a child of the caller, with the space (a new one, or ``space``,
    into which what is not there yet is taken), messages, context, declared state and
    attachments of the image; its rights and limits are no more than the caller's. ``apid`` "same"
    gives it its old number, where that is free (with ``proc.restore:*``). Raises ENOENT, EINVAL
    (no whole image), EPERM, EEXIST (the number), EDQUOT, EIO.
    """

    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    apid: Numbering = "new"
    name: Annotated[str, Meta(max_length=200)] = ""
    space: SpaceRef | None = None


@syscall(15, "proc.output", reply=Output, chunk=Output, capability="proc.info")
class OutputCall(Call, kw_only=True):
    """Read what a process wrote to its standard output and error.

    The kernel keeps the last 256 KiB. ``since`` is an offset; with ``follow`` the call
    streams until the process ends. Without an object in the capability: the caller and its
    descendants.
    """

    target: Target
    since: Annotated[int, Meta(ge=0)] = 0
    follow: bool = False


class Conversation(Shape):
    """What a process has said to its model and been told, oldest first."""

    messages: list[ChatMessage] = []


@syscall(16, "proc.context", reply=Conversation, capability="proc.info")
class ContextCall(Call, kw_only=True):
    """The model context of a process: what ``llm.generate(context=True)`` goes on with.

    With ``clear`` it begins anew (the caller's or a descendant's). Raises ESRCH, EPERM.
    """

    target: Target | None = None
    clear: bool = False


@syscall(17, "proc.declare", capability="proc.exit")
class Declare(Call, kw_only=True):
    """Declare the caller's state: what a fork of it, or itself when restored, is to begin with.

    The last declaration counts; 1 MiB at most. Raises EINVAL.
    """

    state: Any = None


@syscall(18, "proc.catch", capability="proc.exit")
class Catch(Call, kw_only=True):
    """Say which signals the caller handles itself: INT then cancels none of its calls.

    The list replaces the one before.
    """

    signals: list[Signal] = []


class Accounts(Shape):
    """Accounts; ``tree`` and ``user`` count the process too."""

    process: AccountInfo
    tree: AccountInfo
    user: AccountInfo
    all: list[AccountInfo] = []
    """With ``all``: of each live process that the caller may list, in order of the APIDs."""


@syscall(19, "proc.usage", reply=Accounts, capability="proc.info")
class UsageCall(Call, kw_only=True):
    """What a process, all that descends from it, and its user have used, and their limits.

    Without ``target``: the caller. The user's limits bind all of its sessions together. Raises
    ESRCH, EPERM.
    """

    target: Target | None = None
    all: bool = False
