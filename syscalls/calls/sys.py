"""The system itself. Numbers 160-191."""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.shapes import (
    DriverInfo,
    JobInfo,
    Level,
    LogLine,
    Seconds,
    SessionInfo,
    Shape,
    SpaceRef,
    Target,
    TraceLine,
)
from syscalls.table import Call, syscall


class SystemInfo(Shape, omit_defaults=False):
    """What is running."""

    version: str
    pid: int
    boot: int
    """How many times this data directory was booted."""
    started: float
    uptime: float
    data: str
    apid: int
    """The caller's APID."""
    session: int
    processes: int
    drivers: list[DriverInfo]
    served: list[str]
    """Names of the calls that this kernel serves."""


@syscall(160, "sys.info", reply=SystemInfo)
class Info(Call, kw_only=True):
    """Version, uptime, drivers, and which calls are served."""


class Stats(Shape):
    """A tree of figures by part: kernel, store, processes, spaces, drivers."""

    stats: dict[str, Any]


@syscall(161, "sys.stats", reply=Stats)
class StatsCall(Call, kw_only=True):
    """Figures of every long-lived part of the kernel."""


class TraceEnd(Shape, omit_defaults=False):
    """The lines when not streamed, and how many were lost because the reader was slow."""

    lines: list[TraceLine] = []
    lost: int = 0


@syscall(162, "sys.trace", reply=TraceEnd, chunk=TraceLine)
class Trace(Call, kw_only=True):
    """The last syscalls that were made, or with ``follow`` those to come (strace).

    Without an object in the capability: those of the caller and its descendants.
    """

    target: int | str | None = None
    call: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10000)] = 100
    follow: bool = False


class LogEnd(Shape, omit_defaults=False):
    """The lines when not streamed, and how many were lost because the reader was slow."""

    lines: list[LogLine] = []
    lost: int = 0


@syscall(163, "sys.log", reply=LogEnd, chunk=LogLine)
class Log(Call, kw_only=True):
    """The kernel's log (dmesg), or with ``follow`` the lines to come."""

    level: Level = "debug"
    limit: Annotated[int, Meta(ge=1, le=10000)] = 200
    follow: bool = False


class Clock(Shape, omit_defaults=False):
    """The kernel's clocks."""

    now: float
    """Seconds since the epoch."""
    monotonic: float
    """Seconds since boot."""


@syscall(164, "sys.clock", reply=Clock)
class ClockCall(Call, kw_only=True):
    """The time: the cheapest call there is."""


@syscall(165, "sys.alarm")
class Alarm(Call, kw_only=True):
    """Put a message of type ``alarm`` into the caller's mailbox after some seconds.

    With ``durable`` it also comes after a reboot, when its time is over by then at once; only
    for a process that is supervised, as any other is gone by then. Raises EINVAL, EAGAIN (as
    many are to come as its mailbox holds).
    """

    after: Seconds
    message: str = ""
    durable: bool = False


@syscall(166, "sys.session", reply=SessionInfo)
class Session(Call, kw_only=True):
    """Name the caller's session and choose its space; returns the session. Shells only.

    With ``keep`` it outlives its connection: its jobs go on, and ``sys.attach`` comes back to
    it. It needs a name that no other kept session has. Raises EEXIST, EINVAL, EPERM.
    """

    name: Annotated[str, Meta(max_length=200)] | None = None
    space: SpaceRef | None = None
    keep: bool | None = None


class Attached(Shape):
    """The session that was attached to."""

    session: SessionInfo
    jobs: list[JobInfo] = []
    """Also those that have ended and were not reaped."""


class Sessions(Shape):
    """Sessions in order of their ids."""

    sessions: list[SessionInfo]


@syscall(167, "sys.sessions", reply=Sessions)
class SessionsCall(Call, kw_only=True):
    """List the sessions: the attached ones, and those that are kept without a terminal."""


@syscall(168, "sys.shutdown", destructive=True)
class Shutdown(Call, kw_only=True):
    """End every process in order, flush, and stop the kernel."""


@syscall(169, "sys.attach", reply=Attached)
class Attach(Call, kw_only=True):
    """Go on with a kept session on this connection: its space, its jobs, its mailbox.

    The caller's own session ends. One that has a terminal is only ``take``n from it when asked.
    Raises ESRCH, EBUSY (attached; or the caller has jobs or other calls), EPERM (another
    user's), EINVAL (not kept).
    """

    session: Target
    take: bool = False


@syscall(170, "sys.detach")
class Detach(Call, kw_only=True):
    """Close a kept session's connection and keep the session; without ``session`` the caller's.

    With ``end`` the session ends, and what it has started gets TERM. Raises ESRCH, EPERM
    (another user's), EINVAL (not kept).
    """

    session: Target | None = None
    end: bool = False
