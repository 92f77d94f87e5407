"""One supervisor: which of its children should start or stop now. No I/O, no tasks.

    one_for_one    only the child that ended is started again
    one_for_all    the others are stopped, last first, then all started, first first
    rest_for_one   the same for those after it

    permanent      started again however it ends
    transient      started again unless it ended normally
    temporary      never; nor when a sibling's end took it along

Each event (a child is up, a child has ended, time has passed) is a method that returns what
is to be done now; whoever does it reports back with another event. A child goes

    down ──Start──> starting ──up──> up ──Stop──> stopping ──ended──> down
                        └──────────── ended ────────────────────────> down

The strategies, and the limit of ``intensity`` restarts within ``period`` seconds, are those
of Erlang/OTP's ``supervisor``; one difference is ``give_up``: where nobody is above who could
do better, a supervisor abandons what fails too often and keeps the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, NamedTuple

import msgspec

from syscalls.errors import EINVAL, ENOENT
from syscalls.shapes import Restart

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
Stage = Literal["down", "starting", "up", "stopping"]


class ChildSpec(msgspec.Struct, frozen=True):
    """One child as it is to be run."""

    name: str
    restart: Restart = "permanent"
    shutdown: float = 5.0
    """Seconds between TERM and KILL; 0 kills at once."""
    patience: float = inf
    """Seconds that it may take to be up; over that it has failed."""
    delay: float = 0.0
    """Seconds between its failure and its next start."""
    what: Any = None
    """What is run; a supervisor only compares it."""


class GroupSpec(msgspec.Struct, frozen=True):
    """A supervisor and its children, in the order in which they start."""

    name: str
    strategy: Strategy = "one_for_one"
    intensity: int = 5
    """Restarts within ``period`` that are still borne."""
    period: float = 60.0
    give_up: Literal["escalate", "abandon"] = "escalate"
    """Over that: end with all children and fail; or leave the child, and those that its end
    takes along, stopped. In the second case the restarts of each child count by themselves."""
    ordered: bool = True
    """Whether children start one after the other at first; of one_for_one only."""
    children: tuple[ChildSpec, ...] = ()


class Start(NamedTuple):
    """Start a child; answer with ``up`` or ``ended``."""

    name: str


class Stop(NamedTuple):
    """End a child: TERM, ``shutdown`` seconds, KILL; answer with ``ended``."""

    name: str
    shutdown: float


class Up(NamedTuple):
    """Every child that is wanted is up, for the first time since ``start``."""


class Down(NamedTuple):
    """No child is left, and none will be started before the next ``start``."""

    failed: bool
    """Whether it gave up, and was not told to stop."""


Action = Start | Stop | Up | Down


@dataclass(slots=True, eq=False)
class Child:
    """One child as it is. Read it; the supervisor changes it."""

    spec: ChildSpec
    stage: Stage = "down"
    wanted: bool = True
    """Whether it should be up."""
    doomed: bool = False
    """Whether it must be down before anything of what comes after it starts again."""
    late: bool = False
    """Whether it is being stopped because it was not up in time."""
    failed: bool = False
    """Whether it was abandoned."""
    removed: bool = False
    """Whether it goes when it is down: it is not in the specification any more."""
    restarts: int = 0
    failures: list[float] = field(default_factory=list)
    """When it failed, within the period; oldest first."""
    due: float = inf
    """While it starts: when it is late. While it is down: when it may start."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name


@dataclass(slots=True)
class _Phase:
    """Where the supervisor as a whole is."""

    stage: Stage = "down"
    failed: bool = False
    failures: list[float] = field(default_factory=list)
    """When any child failed, within the period; oldest first."""


class Supervisor:
    """One supervisor. ``clock`` gives seconds that never go back."""

    def __init__(self, spec: GroupSpec, clock: Callable[[], float]) -> None:
        self.spec = spec
        self._clock = clock
        self._children = {child.name: Child(child) for child in spec.children}
        self._phase = _Phase()
        self.restarts = 0
        """Children started again, ever."""
        if len(self._children) < len(spec.children):
            raise EINVAL(f"two children of {spec.name} have the same name")

    @property
    def stage(self) -> Stage:
        """Where it is as a whole; "up" from the first time that all children were."""
        return self._phase.stage

    @property
    def failed(self) -> bool:
        """Whether it gave up."""
        return self._phase.failed

    @property
    def children(self) -> list[Child]:
        """In the order in which they start."""
        return list(self._children.values())

    def child(self, name: str) -> Child:
        """One of them. Raises ENOENT."""
        if name not in self._children:
            raise ENOENT(f"{self.spec.name} supervises no {name!r}")
        return self._children[name]

    def deadline(self) -> float:
        """When ``tick`` is next due, by the clock; ``inf`` for never."""
        return min((child.due for child in self._waiting()), default=inf)

    # --- events

    def start(self) -> list[Action]:
        """Start the children. Raises EINVAL when it is not down."""
        if self.stage != "down":
            raise EINVAL(f"{self.spec.name} is {self.stage} already")
        self._phase = _Phase("starting")
        for child in self._children.values():
            child.wanted, child.failed, child.due = True, False, 0.0
            child.failures.clear()
        return self.step()

    def stop(self) -> list[Action]:
        """Stop the children, last first."""
        if self.stage == "down":
            return [Down(self.failed)]
        return self._leave(failed=self.failed)

    def up(self, name: str) -> list[Action]:
        """A child has been started and says that it is ready."""
        child = self.child(name)
        if child.stage == "starting":
            child.stage, child.due = "up", inf
        return self.step()

    def ended(self, name: str, *, abnormal: bool) -> list[Action]:
        """A child has ended, or could not be started."""
        child = self.child(name)
        stage, late = child.stage, child.late
        if stage == "down":
            return []
        child.stage, child.late, child.due = "down", False, 0.0
        if child.doomed or (stage == "stopping" and not late):
            return self.step()
        restart = child.spec.restart
        if restart == "temporary" or (restart == "transient" and not abnormal and not late):
            child.wanted = False
            return self.step()
        return self._failure(child)

    def tick(self) -> list[Action]:
        """Time has passed: what is late has failed, and what was put off is started."""
        now = self._clock()
        actions: list[Action] = []
        for child in self._children.values():
            if child.stage == "starting" and not child.doomed and child.due <= now:
                child.stage, child.late, child.due = "stopping", True, inf
                actions.append(Stop(child.name, child.spec.shutdown))
        return actions + self.step()

    def start_child(self, name: str) -> list[Action]:
        """Want a child again; its failures are forgotten."""
        child = self.child(name)
        child.wanted, child.failed = True, False
        child.failures.clear()
        if child.stage == "down":
            child.due = 0.0
        return self.step()

    def stop_child(self, name: str) -> list[Action]:
        """Do not want a child any more: it is stopped, and its siblings are left alone."""
        child = self.child(name)
        child.wanted = child.failed = False
        child.doomed = child.stage != "down"
        return self.step()

    def configure(self, spec: GroupSpec) -> None:
        """Take another specification, for ``step`` to act on: what is gone is stopped, what
        changed is stopped and started anew, what is new is started; the rest goes on."""
        old, self._children = self._children, {}
        for one in spec.children:
            child = old.pop(one.name, None) or Child(one, wanted=self.stage != "stopping", due=0.0)
            if child.removed or child.spec != one:
                child.wanted = child.wanted or child.removed or child.failed
                child.doomed = child.stage != "down"
                child.removed = child.failed = False
            child.spec = one
            self._children[one.name] = child
        for name, child in old.items():  # at the end: the first to be stopped
            child.removed, child.wanted, child.doomed = True, False, child.stage != "down"
            self._children[name] = child
        self.spec = spec

    # --- inside

    def _failure(self, child: Child) -> list[Action]:
        """A child is to be started again, with those that its end takes along."""
        now = self._clock()
        abandons = self.spec.give_up == "abandon"
        failures = child.failures if abandons else self._phase.failures
        failures[:] = [at for at in failures if at > now - self.spec.period] + [now]
        taken = self._taken_along(child)
        if len(failures) > self.spec.intensity:
            if not abandons:
                return self._leave(failed=True)
            for one in (child, *taken):
                one.wanted, one.failed, one.doomed = False, True, one.stage != "down"
            return self.step()
        for one in taken:
            if one.spec.restart == "temporary":
                one.wanted = False
            one.doomed = one.stage != "down"
        child.restarts += 1
        self.restarts += 1
        child.due = now + child.spec.delay
        return self.step()

    def _taken_along(self, child: Child) -> list[Child]:
        """The siblings that a child's end takes along."""
        if self.spec.strategy == "one_for_one":
            return []
        others = self.children
        if self.spec.strategy == "rest_for_one":
            others = others[others.index(child) :]
        return [one for one in others if one is not child]

    def _leave(self, *, failed: bool) -> list[Action]:
        self._phase.stage, self._phase.failed = "stopping", failed
        for child in self._children.values():
            child.doomed = child.stage != "down"
        return self.step()

    def _independent(self) -> bool:
        """Whether children start and stop without a view to the others."""
        ordered = self.spec.ordered and self.stage != "up"
        return self.spec.strategy == "one_for_one" and not ordered and self.stage != "stopping"

    def _waiting(self) -> list[Child]:
        """Children for which time matters."""
        if self.stage in ("down", "stopping"):
            return []
        found = [c for c in self._children.values() if c.stage == "starting" and not c.doomed]
        if self._independent():
            return found + [c for c in self._children.values() if c.stage == "down" and c.wanted]
        if any(child.doomed for child in self._children.values()):
            return found
        turn = [c for c in self._children.values() if c.wanted and c.stage != "up"][:1]
        return found + [child for child in turn if child.stage == "down"]

    def step(self) -> list[Action]:
        """What can be done now; every event ends with it."""
        for child in self.children:
            if child.stage == "down":
                child.doomed = False
                if child.removed:
                    del self._children[child.name]
        if self.stage == "down":
            return []
        stops = self._stops()
        if self.stage == "stopping":
            if any(child.stage != "down" for child in self._children.values()):
                return stops
            self._phase.stage = "down"
            return [Down(self._phase.failed)]
        blocked = not self._independent() and any(c.doomed for c in self._children.values())
        actions = stops if blocked else stops + self._starts()
        wanted = [child for child in self._children.values() if child.wanted]
        if self.stage == "starting" and all(child.stage == "up" for child in wanted):
            self._phase.stage = "up"
            actions.append(Up())
        return actions

    def _stops(self) -> list[Action]:
        """Stop what must go: in a group the last first, and one after the other."""
        doomed = [child for child in self.children if child.doomed]
        if not self._independent():
            doomed = doomed[-1:]
        actions: list[Action] = []
        for child in reversed(doomed):
            if child.stage != "stopping":
                child.stage, child.due = "stopping", inf
                actions.append(Stop(child.name, child.spec.shutdown))
        return actions

    def _starts(self) -> list[Action]:
        """Start what is wanted: in a group the first first, each when those before it are up."""
        now = self._clock()
        actions: list[Action] = []
        for child in self._children.values():
            if not child.wanted or child.stage == "up":
                continue
            if child.stage == "down" and child.due <= now:
                child.stage, child.due = "starting", now + child.spec.patience
                actions.append(Start(child.name))
            if not self._independent():
                break
        return actions
