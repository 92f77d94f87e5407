"""Shapes: the structs that calls carry and answer with.

Times are seconds since the Unix epoch (float). Sizes are bytes. Optional fields are left
out of the encoded form when they hold their default.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from syscalls.quota import Quota as Quota  # noqa: PLC0414 - it is a shape, too

Segment = Literal["working", "episodic", "semantic", "procedural"]
SEGMENTS: tuple[Segment, ...] = ("working", "episodic", "semantic", "procedural")
Taint = Literal["user", "tool", "recalled", "model"]
LifeEvent = Literal[
    "use", "cool", "warm", "pin", "unpin", "merge", "archive", "restore", "forget", "delete",
    "expire", "undo",
]  # fmt: skip
"""What can happen to a record."""
RecordState = Literal["generated", "activated", "merged", "archived", "forgotten", "frozen"]
Signal = Literal["TERM", "KILL", "INT", "STOP", "CONT", "USR1", "USR2"]
ProcState = Literal["NEW", "READY", "RUNNING", "WAITING", "STOPPED", "ZOMBIE"]
ProcKind = Literal["init", "session", "python", "exec"]
Restart = Literal["permanent", "transient", "temporary"]
Ended = Literal["normal", "exit", "exception", "signal", "killed", "linked", "lost"]
Grouping = Literal["new", "inherit"]
Numbering = Literal["new", "same"]
Steering = Literal["status", "reload", "start", "stop"]
"""What can be done with what init runs."""
Access = Literal["read", "write"]
Paging = Literal["off", "auto"]
Task = Literal["merge", "cool", "archive", "forget"]
"""What keeps a space small: see ``mem.tidy``."""
Level = Literal["debug", "info", "warning", "error"]

Apid = Annotated[int, Meta(ge=1, description="agent process id, never reused")]
Rid = Annotated[
    str, Meta(pattern="^[0-9A-HJKMNP-TV-Z]{26}$", description="record id, ordered by time")
]
Target = Annotated[int | str, Meta(description="a process: its APID or its unambiguous name")]
SpaceRef = Annotated[
    int | str, Meta(description="a space: its number or its name; default the caller's own")
]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Tags = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=64)]
Content = Annotated[str, Meta(min_length=1, max_length=4 * 1024 * 1024)]


class Shape(msgspec.Struct, omit_defaults=True):
    """Base of the structs below: what is at its default is not encoded."""


# --- processes


class Cause(Shape):
    """Why a process ended, as data."""

    kind: Ended
    """``normal``: status 0. ``exit``: another status. ``exception``: ``main`` raised.
    ``signal``: a signal that it could have handled. ``killed``: KILL. ``linked``: a process
    that it was linked to failed. ``lost``: it was running when the kernel died."""
    detail: str = ""
    """The status; the exception; the signal's name; the APID of the linked one."""


class Exit(Shape):
    """How a process ended."""

    apid: int
    status: int
    """0 for success; 128 + n when the operating system's signal n ended it."""
    reason: str
    """One line: ``returned``, ``exit``, ``signal TERM``, ``exception ValueError: ...``."""
    value: Any = None
    """What ``main`` returned or gave to ``proc.exit``, where it gave something."""
    ended: float = 0.0
    cause: Cause | None = None
    """The same as data; None for one that ended before this was kept."""


class ProcessInfo(Shape, omit_defaults=False):
    """One process as ``proc.list`` and ``proc.info`` show it."""

    apid: int
    name: str
    kind: ProcKind
    state: ProcState
    parent: int
    session: int
    """APID of the session (shell) it belongs to; 1 for what init started."""
    pid: int
    """Process id of the operating system; 0 where it has none."""
    program: str
    goal: str
    space: int
    caps: list[str]
    nice: int
    created: float
    calls: int
    """Syscalls made so far."""
    inflight: int
    mailbox: int
    """Messages waiting."""
    children: list[int]
    rss: int = 0
    """Resident bytes, measured when asked."""
    exit: Exit | None = None
    supervisor: str = ""
    """What starts it again when it ends; see ``proc.supervise``."""
    restarts: int = 0
    """How often that happened since boot."""
    group: int = 0
    """APID of its group's leader: a job is a group."""


class Output(Shape):
    """A piece of what a process wrote to its standard output or error."""

    apid: int
    at: int
    """Offset of the first byte since the process began."""
    data: bytes


# --- messages


class Message(Shape):
    """One message in a mailbox."""

    id: int
    """Sequence number in the receiver's mailbox."""
    sender: int
    """APID, filled in by the kernel: it cannot be forged."""
    name: str
    """The sender's name when it sent."""
    body: Any
    sent: float
    topic: str = ""
    """Set when it came through ``ipc.publish``."""
    type: str = ""
    """The sender's word for what it is; ``ipc.recv`` can select by it."""
    reply_to: int = 0
    """Id of the message that this answers, in the mailbox of this message's sender."""


# --- language models


Picture = Annotated[bytes, Meta(min_length=1, max_length=8 * 1024 * 1024)]


class ChatMessage(Shape, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    images: Annotated[list[Picture], Meta(max_length=8)] = []
    """Pictures (PNG, JPEG, GIF or WebP files, whole), for models that see."""


class Paged(Shape, omit_defaults=False):
    """One record that was paged into a prompt."""

    rid: str
    tokens: int
    why: str
    """In words: which signals found it, and for which words."""


class Usage(Shape, omit_defaults=False):
    """Tokens of one generation."""

    prompt: int = 0
    cached: int = 0
    """Those of ``prompt`` that did not have to be computed again."""
    completion: int = 0
    paged: list[Paged] = []
    """What the memory fault put into the prompt, best first."""


# --- system


class LogLine(Shape):
    """One line of the kernel's log."""

    seq: int
    at: float
    level: Level
    source: str
    text: str


class TraceLine(Shape):
    """One finished syscall as ``strace`` shows it."""

    seq: int
    at: float
    """When it began."""
    apid: int
    call: str
    arguments: str
    """Shortened."""
    result: str
    """Shortened reply, or the error's code and message."""
    micros: float
    ok: bool = True


class SessionInfo(Shape, omit_defaults=False):
    """One shell or client, or what a shell has left behind to come back to."""

    session: int
    """Its APID."""
    name: str
    uid: int
    pid: int
    space: int
    started: float
    attached: bool
    jobs: list[int]
    """APIDs it spawned that are still alive."""
    detached: float = 0.0
    """When its terminal left it, in seconds since the epoch; 0 while it is attached."""


class JobInfo(Shape, omit_defaults=False):
    """What a session has started, as it is found by who attaches to it."""

    process: ProcessInfo
    since: int
    """Offset in its output at which the last terminal left."""


class DriverInfo(Shape, omit_defaults=False):
    """One driver and how it is."""

    name: str
    kind: str
    state: Literal["absent", "starting", "ready", "failed", "stopped"]
    detail: dict[str, Any]
