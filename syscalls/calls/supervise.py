"""Supervision: what init runs. Numbers 24-27 of the processes."""

from typing import Annotated, Literal

from msgspec import Meta

from syscalls.shapes import Exit, Restart, Shape, Steering
from syscalls.table import Call, syscall

State = Literal["down", "starting", "up", "stopping", "failed", "done"]


@syscall(24, "proc.ready", capability="proc.exit")
class ReadyCall(Call, kw_only=True):
    """Say that the caller is up: what its supervisor starts after it may start now.

    Nothing for a process that nobody supervises, or that is up already.
    """


class Service(Shape, omit_defaults=False):
    """One process or supervisor of init's."""

    name: str
    supervisor: str
    """What it hangs on; empty for the root."""
    kind: Literal["supervisor", "process"]
    state: State
    """``failed``: it failed too often and is left alone. ``done``: it has ended and is not to
    be started again."""
    restart: Restart
    restarts: int
    """How often it was started again since boot."""
    apid: int = 0
    """Of the process that it is now; 0 for none."""
    program: str = ""
    strategy: str = ""
    """How a supervisor goes on when a child fails."""
    last: Exit | None = None
    """How it ended when it last did, since boot."""
    problem: str = ""
    """Why it could not be started."""


class Planned(Shape, omit_defaults=False):
    """One schedule."""

    name: str
    cron: str
    zone: str
    next: float
    last: float = 0.0
    """When it last ran; 0 for never."""


class Supervised(Shape, omit_defaults=False):
    """What init runs, each supervisor before what hangs on it."""

    file: str
    """Where it was read from; empty for nowhere."""
    problem: str = ""
    """What is wrong with the file; then what was read before goes on."""
    services: list[Service] = []
    schedules: list[Planned] = []


@syscall(25, "proc.supervise", reply=Supervised, destructive=True)
class Supervise(Call, kw_only=True):
    """Look at what init runs, or change it; returns how it is then.

    ``reload`` reads the file anew: what is gone from it is stopped and its mailbox deleted,
    what changed is started anew, the rest goes on. ``start`` and ``stop`` act on one process
    or supervisor; what is stopped stays so until it is started, or until the next boot.
    Raises ENOENT, EINVAL (the file: then nothing has changed).
    """

    action: Steering = "status"
    name: Annotated[str, Meta(max_length=300)] = ""
