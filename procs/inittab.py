"""The file that init runs: a tree of supervisors, and schedules. docs/supervision.md has it all.

strategy = "one_for_one"            of the root; intensity and period too

[[child]]                           a process
name = "scribe"
program = "scribe"

[[child]]                           a supervisor: it has a strategy, or children
name = "desk"
strategy = "rest_for_one"
  [[child.child]]
  name = "librarian"
  program = "/srv/agents/librarian.py"

[[schedule]]
name = "tidy-up"
cron = "0 4 * * *"
to = "librarian"
body = "tidy up"
"""

import re
import tomllib
from collections.abc import Iterator
from math import inf
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from procs.cron import Cron
from procs.supervisor import ChildSpec, GroupSpec, Strategy
from procs.tree import Tree
from syscalls.errors import EINVAL
from syscalls.shapes import Quota, Restart

ROOT = "init"

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\s/][^/\n]*$")]
Text = Annotated[str, Meta(max_length=65536)]
Period = Annotated[float, Meta(ge=0, le=1e9)]


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file: a process, or a supervisor with its children."""

    name: Name
    program: Annotated[str, Meta(max_length=4096)] = ""
    args: list[str] = []
    goal: Text = ""
    caps: list[str] | None = None
    """Default: the standard set."""
    quota: Quota | None = None
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    space: int | str = ""
    """Default: the space of the process's own name."""
    cwd: str = ""
    env: dict[str, str] = {}
    restart: Restart = "permanent"
    restore: bool = False
    """Whether it begins with the declared state and the context of its newest image."""
    shutdown: Period = 5.0
    """Seconds between TERM and KILL; 0 kills at once."""
    ready: Literal["spawned", "called", "ready"] | Period = "spawned"
    """When it is up: as soon as it runs, at its first call, when it says ``proc.ready``, or
    when it has run for so many seconds."""
    patience: Period = 30.0
    """Seconds until it must be up."""
    delay: Period = 0.0
    """Seconds between a failure and the next start."""
    strategy: Strategy | None = None
    intensity: Annotated[int, Meta(ge=0, le=100000)] = 5
    period: Period = 60.0
    child: "list[Service]" = []

    @property
    def supervises(self) -> bool:
        """Whether it is a supervisor."""
        return self.strategy is not None or bool(self.child)

    def spec(self) -> ChildSpec:
        """What its supervisor has to know."""
        if self.supervises:
            return ChildSpec(self.name, self.restart, inf, what="supervisor")
        return ChildSpec(
            name=self.name,
            restart=self.restart,
            shutdown=self.shutdown,
            patience=self.patience + (self.ready if isinstance(self.ready, float) else 0.0),
            delay=self.delay,
            what=self,
        )


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One schedule: starts a program, or sends a message."""

    name: Name
    cron: str
    zone: str = "UTC"
    missed: Literal["skip", "once"] = "skip"
    """What becomes of times at which the system was down: nothing, or one run at boot."""
    program: Annotated[str, Meta(max_length=4096)] = ""
    args: list[str] = []
    goal: Text = ""
    caps: list[str] | None = None
    space: int | str | None = None
    cwd: str = ""
    to: str = ""
    """A process, by its name."""
    body: Any = None
    type: Annotated[str, Meta(max_length=100)] = "schedule"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    strategy: Strategy = "one_for_one"
    intensity: Annotated[int, Meta(ge=0, le=100000)] = 5
    period: Period = 60.0
    child: list[Service] = []
    schedule: list[Schedule] = []


class Inittab(msgspec.Struct, frozen=True):
    """The file, checked."""

    groups: tuple[GroupSpec, ...]
    """The root first, each before those below it."""
    services: dict[str, Service]
    """The processes by name."""
    schedules: tuple[Schedule, ...]


def parse(text: str, where: str = "init.toml") -> Inittab:
    """Read a file's text. Raises EINVAL, which says where in ``where`` what is wrong."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EINVAL(f"{where} is not TOML: {error}", file=where) from error
    try:
        file = msgspec.convert(raw, _File, strict=True)
    except msgspec.ValidationError as error:
        raise EINVAL(f"{where}: {_located(str(error), raw)}", file=where) from error
    try:
        return _checked(file)
    except EINVAL as error:
        raise EINVAL(f"{where}: {error.message}", hint=error.hint, file=where) from error


def _checked(file: _File) -> Inittab:
    """What the types cannot say. Raises EINVAL."""
    root = Service(
        name=ROOT,
        strategy=file.strategy,
        intensity=file.intensity,
        period=file.period,
        child=file.child,
    )
    groups, services = [], {}
    for service in _all(root):
        if not service.supervises:
            if not service.program:
                raise EINVAL(
                    f"the child {service.name} is neither a process nor a supervisor",
                    hint="give it a program, or a strategy",
                )
            services[service.name] = service
            continue
        if service.program:
            raise EINVAL(f"the child {service.name} has a program and is a supervisor")
        groups.append(_group(service))
    Tree(groups, float)  # raises EINVAL where they are none
    for schedule in file.schedule:
        if bool(schedule.program) == bool(schedule.to):
            raise EINVAL(
                f"the schedule {schedule.name} has to have a program, or a name to send to (to)"
            )
        try:
            Cron(schedule.cron, schedule.zone)
        except EINVAL as error:
            raise EINVAL(
                f"the schedule {schedule.name}: {error.message}", hint=error.hint
            ) from error
    if len({schedule.name for schedule in file.schedule}) < len(file.schedule):
        raise EINVAL("two schedules have the same name")
    return Inittab(tuple(groups), services, tuple(file.schedule))


def _group(service: Service) -> GroupSpec:
    return GroupSpec(
        name=service.name,
        strategy=service.strategy or "one_for_one",
        intensity=service.intensity,
        period=service.period,
        # Above the root nobody could do better, and the others are not to blame.
        give_up="abandon" if service.name == ROOT else "escalate",
        children=tuple(child.spec() for child in service.child),
    )


def _all(service: Service) -> Iterator[Service]:
    yield service
    for child in service.child:
        yield from _all(child)


_STEP = re.compile(r"\.(\w+)\[(\d+)\]")


def _located(error: str, raw: Any) -> str:
    """An error of msgspec with the names of the tables on its path: ``$.child[0]`` is no help
    to who counts from one and knows the child by its name."""
    message, _, path = error.partition(" - at ")
    names, at = [], raw
    for step in _STEP.finditer(path):
        key, number = step[1], int(step[2])
        at = at.get(key, [])[number] if isinstance(at, dict) else None
        called = at.get("name") if isinstance(at, dict) else None
        names.append(f"{key} {number + 1}" + (f" ({called})" if isinstance(called, str) else ""))
    field = _STEP.sub("", path.strip("`")).removeprefix("$").strip(".")
    place = ", ".join([*names, field] if field else names)
    return f"{place}: {message}" if place else message
