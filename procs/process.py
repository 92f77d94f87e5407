"""One process as the kernel holds it: its fields, its states, its record on disk.

                 launched            blocked in a call
          NEW ─────────> READY ────────> RUNNING <────────> WAITING
                           │   first call   │                  │
                           │                │                  │
                           └─────STOP───────┴───────STOP───────┘
                                    v
                                 STOPPED ──CONT──> READY, RUNNING or WAITING

          ZOMBIE: from every state; from here it can only be reaped

``TRANSITIONS`` is the one place that says which steps there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import msgspec
import trio

from syscalls.capability import CapSet
from syscalls.errors import EINVAL
from syscalls.shapes import Exit, Grouping, ProcessInfo, ProcKind, ProcState, Quota, Signal

TRANSITIONS: dict[ProcState, frozenset[ProcState]] = {
    "NEW": frozenset({"READY", "RUNNING", "ZOMBIE"}),
    "READY": frozenset({"RUNNING", "WAITING", "STOPPED", "ZOMBIE"}),
    "RUNNING": frozenset({"WAITING", "STOPPED", "ZOMBIE"}),
    "WAITING": frozenset({"RUNNING", "STOPPED", "ZOMBIE"}),
    "STOPPED": frozenset({"READY", "RUNNING", "WAITING", "ZOMBIE"}),
    "ZOMBIE": frozenset(),
}


class IllegalTransition(EINVAL):
    """A process cannot go from its state to that one."""


class Worn(msgspec.Struct, frozen=True):
    """An adapter that a process uses."""

    space: int
    """The space that it belongs to."""
    ref: str
    """``NAME``, whatever is live, or ``NAME@VERSION``."""
    inherited: bool = False
    """Whether a fork has it from its parent: then all that it was made from is in its view."""


class ProcessRecord(msgspec.Struct, omit_defaults=True):
    """What is kept of a process on disk, while it lives and after."""

    apid: int
    name: str
    kind: ProcKind
    parent: int
    session: int
    program: str
    goal: str
    args: list[str]
    space: int
    caps: list[str]
    nice: int
    created: float
    exit: Exit | None = None

    def info(self) -> ProcessInfo:
        """A past process as ``proc.list --all`` shows it."""
        return ProcessInfo(
            apid=self.apid,
            name=self.name,
            kind=self.kind,
            state="ZOMBIE",
            parent=self.parent,
            session=self.session,
            pid=0,
            program=self.program,
            goal=self.goal,
            space=self.space,
            caps=self.caps,
            nice=self.nice,
            created=self.created,
            calls=0,
            inflight=0,
            mailbox=0,
            children=[],
            exit=self.exit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Born:
    """What a process is given at its birth; see the fields of ``Process``."""

    name: str
    kind: ProcKind
    caps: CapSet
    quota: Quota
    program: str = ""
    args: Sequence[str] = ()
    goal: str = ""
    nice: int = 0
    space: int = 0
    apid: int = 0
    """The number that it has again (``ProcessTable.claim``); 0 for the next one."""
    group: Grouping | None = None
    """Whether it leads a new process group; None for what is usual, see ``ProcessTable.create``."""


@dataclass(slots=True, eq=False)
class Process:
    """A process. The table alone changes ``state``, ``parent``, ``children`` and ``exit``."""

    apid: int
    name: str
    kind: ProcKind
    parent: int
    session: int
    program: str
    goal: str
    args: list[str]
    caps: CapSet
    quota: Quota
    nice: int
    created: float
    space: int = 0
    """Number of its own space; set by the kernel before it is launched."""
    salt: str = ""
    """The mark of its keys and values where that is not its space: a fork has its parent's."""
    forked: int = 0
    """APID of the process that it was forked from; 0 for none."""
    cwd: str = ""
    env: dict[str, str] = field(default_factory=dict)
    declared: Any = None
    """What it has declared as its state, for a fork of it or for when it is restored."""
    adapters: dict[str, Worn] = field(default_factory=dict)
    """By base (``nano``, ``model``) the adapter of its generations."""
    pid: int = 0
    """Process id of the operating system; 0 where it has none (yet)."""
    state: ProcState = "NEW"
    exit: Exit | None = None
    children: dict[int, "Process"] = field(default_factory=dict)
    """Live ones and zombies, oldest first."""
    zombies: dict[int, "Process"] = field(default_factory=dict)
    """Those of ``children`` that have ended, in the order of their ends."""
    ended: trio.Event = field(default_factory=trio.Event)
    claims: int = 0
    """Waits of the parent for this very process."""
    group: int = 0
    """APID of the leader of its process group."""
    catches: frozenset[Signal] = frozenset()
    """The signals that it handles itself, as it says."""
    interrupted: float = -inf
    """When it last got INT, by the monotonic clock."""
    ending: bool = False
    """Whether it was asked to end and KILL will follow; see ``signals.deliver``."""

    account: Any = None
    """What it has used is charged to it; the kernel's (``kernel/accounting/accounts.py``)."""
    calls: int = 0
    """Syscalls made so far; the trap counts them."""
    supervisor: str = ""
    """What starts it again when it ends; empty where nothing does."""
    restarts: int = 0
    """How often that happened since boot."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.exit is None

    @property
    def restorable(self) -> bool:
        """Whether it runs a program that could begin anew from an image."""
        return self.kind in ("python", "exec")

    def move(self, state: ProcState) -> None:
        """Take one step of ``TRANSITIONS``. Raises IllegalTransition."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"process {self.apid} cannot go from {self.state} to {state}",
                hint="",
                apid=self.apid,
            )
        self.state = state

    def record(self) -> ProcessRecord:
        """What is kept of it on disk."""
        return ProcessRecord(
            apid=self.apid,
            name=self.name,
            kind=self.kind,
            parent=self.parent,
            session=self.session,
            program=self.program,
            goal=self.goal,
            args=self.args,
            space=self.space,
            caps=sorted(self.caps.grants),
            nice=self.nice,
            created=self.created,
            exit=self.exit,
        )
