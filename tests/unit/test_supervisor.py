"""Supervisors: OTP's strategies by example, and their rules under any sequence of events."""

from math import inf
from typing import Any, get_args

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from procs.supervisor import ChildSpec, Down, GroupSpec, Start, Stop, Strategy, Supervisor, Up
from procs.tree import Tree
from syscalls.errors import EINVAL, ENOENT
from syscalls.shapes import Restart


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def group(strategy: Any = "one_for_one", *names: str, **fields: Any) -> GroupSpec:
    children = tuple(ChildSpec(name) for name in names or "abc")
    return GroupSpec("g", strategy, children=children, **fields)


def held(name: str, *names: str) -> GroupSpec:
    return GroupSpec(name, children=tuple(ChildSpec(one) for one in names))


def running(spec: GroupSpec, clock: Clock | None = None) -> Supervisor:
    """A supervisor all of whose children are up."""
    made = Supervisor(spec, clock or Clock())
    actions = made.start()
    while Up() not in actions:
        (start,) = actions
        assert isinstance(start, Start)
        actions = made.up(start.name)
    return made


def test_children_start_in_order_each_when_the_one_before_is_up() -> None:
    made = Supervisor(group(), Clock())
    assert made.start() == [Start("a")]
    assert made.up("a") == [Start("b")]
    assert made.up("b") == [Start("c")]
    assert made.up("c") == [Up()]
    assert made.stop() == [Stop("c", 5.0)]
    assert made.ended("c", abnormal=True) == [Stop("b", 5.0)]
    assert made.ended("b", abnormal=False) == [Stop("a", 5.0)]
    assert made.ended("a", abnormal=False) == [Down(failed=False)]
    assert made.start() == [Start("a")]
    assert Supervisor(GroupSpec("empty"), Clock()).start() == [Up()]


def test_one_for_one_starts_only_what_ended() -> None:
    made = running(group())
    assert made.ended("b", abnormal=True) == [Start("b")]
    assert made.ended("a", abnormal=True) == [Start("a")]
    assert made.up("a") == made.up("b") == []


def test_one_for_all_stops_the_others_last_first_and_starts_all() -> None:
    made = running(group("one_for_all"))
    assert made.ended("b", abnormal=True) == [Stop("c", 5.0)]
    assert made.ended("c", abnormal=False) == [Stop("a", 5.0)]
    assert made.ended("a", abnormal=False) == [Start("a")]
    assert made.up("a") == [Start("b")]


def test_rest_for_one_leaves_those_before() -> None:
    made = running(group("rest_for_one"))
    assert made.ended("b", abnormal=True) == [Stop("c", 5.0)]
    assert made.ended("c", abnormal=False) == [Start("b")]
    assert made.ended("a", abnormal=True) == [Stop("b", 5.0)]  # b is still starting
    assert made.ended("b", abnormal=False) == [Start("a")]


@pytest.mark.parametrize(
    ("restart", "abnormal", "again"),
    [
        ("permanent", False, True),
        ("permanent", True, True),
        ("transient", False, False),
        ("transient", True, True),
        ("temporary", True, False),
        ("temporary", False, False),
    ],
)
def test_who_is_started_again(restart: Any, abnormal: bool, again: bool) -> None:
    made = running(GroupSpec("g", children=(ChildSpec("a", restart),)))
    assert made.ended("a", abnormal=abnormal) == ([Start("a")] if again else [])
    assert made.start_child("a") == ([] if again else [Start("a")])


def test_a_temporary_child_that_is_taken_along_stays_away() -> None:
    children = (ChildSpec("a"), ChildSpec("b", "temporary"), ChildSpec("c"))
    made = running(GroupSpec("g", "one_for_all", children=children))
    assert made.ended("a", abnormal=True) == [Stop("c", 5.0)]
    assert made.ended("c", abnormal=False) == [Stop("b", 5.0)]
    assert made.ended("b", abnormal=False) == [Start("a")]
    assert made.up("a") == [Start("c")]


def test_too_many_restarts_within_the_period_end_it_all_and_others_do_not() -> None:
    clock = Clock()
    made = running(group(intensity=2, period=10.0), clock)
    for _ in range(3):
        assert made.ended("a", abnormal=True) == [Start("a")]
        made.up("a")
        clock.now += 6.0
    assert made.ended("b", abnormal=True) == [Start("b")]
    assert made.ended("c", abnormal=True) == [Stop("b", 5.0)]
    made.ended("b", abnormal=False)
    assert made.ended("a", abnormal=False) == [Down(failed=True)]
    assert made.failed


def test_where_nobody_is_above_only_the_child_is_given_up() -> None:
    made = running(group(intensity=1, give_up="abandon"))
    for name in "ab":  # each has its own count
        assert made.ended(name, abnormal=True) == [Start(name)]
        made.up(name)
    assert made.ended("a", abnormal=True) == []
    assert made.child("a").failed and not made.child("b").failed
    assert made.start_child("a") == [Start("a")]
    assert not made.child("a").failed


def test_a_late_child_is_stopped_and_has_failed() -> None:
    clock = Clock()
    children = (ChildSpec("a", patience=3.0, delay=2.0, shutdown=0.0), ChildSpec("b"))
    made = Supervisor(GroupSpec("g", children=children), clock)
    assert made.start() == [Start("a")]
    assert made.deadline() == 103.0
    clock.now = 103.0
    assert made.tick() == [Stop("a", 0.0)]
    assert made.deadline() == inf
    assert made.ended("a", abnormal=False) == []
    assert made.deadline() == 105.0
    clock.now = 105.0
    assert made.tick() == [Start("a")]
    assert made.child("a").restarts == 1
    assert made.up("a") == [Start("b")]


def test_one_child_can_be_stopped_and_started() -> None:
    made = running(group("one_for_all"))
    assert made.stop_child("b") == [Stop("b", 5.0)]
    assert made.start_child("b") == []
    assert made.ended("b", abnormal=True) == [Start("b")]
    with pytest.raises(ENOENT):
        made.stop_child("z")


def test_another_specification_stops_what_is_gone_and_starts_what_is_new() -> None:
    made = running(group())
    children = (ChildSpec("a"), ChildSpec("c", shutdown=1.0), ChildSpec("d"))
    made.configure(GroupSpec("g", children=children))
    assert set(made.step()) == {
        Stop("b", 5.0), Stop("c", 1.0), Start("d"),
    }  # fmt: skip
    assert made.ended("b", abnormal=False) == []
    assert made.ended("c", abnormal=False) == [Start("c")]
    assert [child.name for child in made.children] == ["a", "c", "d"]


def test_a_supervisor_that_gives_up_is_started_again_by_the_one_above() -> None:
    inner = GroupSpec("inner", intensity=0, children=(ChildSpec("x"), ChildSpec("y")))
    outer = GroupSpec("top", give_up="abandon", intensity=1, children=(ChildSpec("inner"),))
    tree = Tree([outer, inner], Clock())
    deeds = tree.start()
    for _ in range(2):
        assert deeds == [Start("x")]
        assert tree.ready("x") == [Start("y")]
        assert tree.ready("y") == []
        assert tree.up
        assert tree.ended("x", abnormal=True) == [Stop("y", 5.0)]
        deeds = tree.ended("y", abnormal=False)
    assert deeds == []
    assert tree.child("inner").failed
    assert not tree.down
    assert tree.start_child("inner") == [Start("x")]


@pytest.mark.parametrize(
    "groups",
    [
        [held("t", "a", "b"), held("b", "a")],
        [held("t"), held("u")],
        [held("t"), held("u", "v"), held("v", "u")],
        [held("t", "t")],
    ],
)
def test_what_is_no_tree_is_refused(groups: list[GroupSpec]) -> None:
    with pytest.raises(EINVAL):
        Tree(groups, Clock())


def test_what_moves_while_it_is_there_is_refused_and_nothing_has_changed() -> None:
    before = [GroupSpec("t", children=(ChildSpec("g"), ChildSpec("a"))), GroupSpec("g")]
    tree = Tree(before, Clock())
    assert tree.start() == [Start("a")]
    moved = GroupSpec("g", children=(ChildSpec("a"),))
    with pytest.raises(EINVAL, match="place"):
        tree.reconfigure([GroupSpec("t", children=(ChildSpec("g"),)), moved])
    assert tree.above("a") == "t"
    assert tree.reconfigure([GroupSpec("t")]) == [Stop("a", 5.0)]
    assert tree.ended("a", abnormal=False) == []
    assert tree.names() == []
    assert tree.reconfigure([GroupSpec("t", children=(ChildSpec("g"),)), moved]) == [Start("a")]


# --- any sequence of events


STRATEGIES: st.SearchStrategy[Any] = st.sampled_from(get_args(Strategy))
RESTARTS: st.SearchStrategy[Any] = st.sampled_from(["permanent", *get_args(Restart)])


@st.composite
def forests(draw: st.DrawFn) -> list[GroupSpec]:
    """A root with processes and two supervisors, one of them inside the other."""

    def leaf(name: str) -> ChildSpec:
        return ChildSpec(
            name,
            draw(RESTARTS),
            patience=draw(st.sampled_from([3.0, inf])),
            delay=draw(st.sampled_from([0.0, 0.0, 2.0])),
        )

    def made(name: str, *inner: ChildSpec) -> GroupSpec:
        leaves = [leaf(f"{name}{n}") for n in range(draw(st.integers(0, 3)))]
        children = draw(st.permutations([*leaves, *inner]))
        give_up = "abandon" if name == "r" else draw(st.sampled_from(["escalate", "abandon"]))
        return GroupSpec(
            name,
            draw(STRATEGIES),
            draw(st.integers(0, 3)),
            10.0,
            give_up,  # type: ignore[arg-type]
            draw(st.booleans()),
            tuple(children),
        )

    root = made("r", ChildSpec("p", draw(RESTARTS), inf, what="supervisor"))
    return [root, made("p", ChildSpec("q", draw(RESTARTS), inf, what="supervisor")), made("q")]


class Forest(RuleBasedStateMachine):
    """A tree, and a world that does what it asks for, late and in any order."""

    @initialize(groups=forests())
    def plant(self, groups: list[GroupSpec]) -> None:
        self.clock = Clock()
        self.tree = Tree(groups, self.clock)
        self.starting: dict[str, None] = {}
        self.alive: dict[str, None] = {}
        self.stopping: dict[str, None] = {}
        self.banned: set[str] = set()
        """Temporary ones that have ended, until they, or all of their group, are wanted again."""
        self.perform(self.tree.start())

    def perform(self, deeds: list[Start | Stop]) -> None:
        for deed in deeds:
            name = deed.name
            if isinstance(deed, Start):
                assert name not in self.starting and name not in self.alive, "two at a time"
                assert name not in self.banned or self.above(name).stage != "up"
                self.ordered(name)
                self.starting[name] = None
            else:
                assert name in self.starting or name in self.alive
                assert name not in self.stopping, "told twice"
                self.last_first(name)
                self.stopping[name] = None

    def above(self, name: str) -> Supervisor:
        over = self.tree.above(name)
        return next(node for node in self.tree.supervisors() if node.spec.name == over)

    def ordered(self, name: str) -> None:
        """In a group nobody starts before those before it are up, nor while others must end."""
        node = self.above(name)
        if node.spec.strategy == "one_for_one" and (node.stage == "up" or not node.spec.ordered):
            return
        for child in node.children:
            if child.name == name:
                break
            assert child.stage == "up" or not child.wanted
        assert not any(child.doomed for child in node.children if child.name != name)

    def last_first(self, name: str) -> None:
        """In a group nobody is told to end while one after it that must end has not."""
        node = self.above(name)
        if node.spec.strategy == "one_for_one" and node.stage != "stopping":
            return
        names = [child.name for child in node.children]
        after = node.children[names.index(name) + 1 :]
        if node.child(name).doomed:
            assert all(child.stage == "down" for child in after if child.doomed)

    def gone(self, name: str, *, abnormal: bool) -> None:
        told = name in self.stopping
        for where in (self.starting, self.alive, self.stopping):
            where.pop(name, None)
        child = self.tree.child(name)
        if child.spec.restart == "temporary" and not told and not child.doomed:
            self.banned.add(name)
        self.perform(self.tree.ended(name, abnormal=abnormal))

    @precondition(lambda self: self.starting.keys() - self.stopping.keys())
    @rule(data=st.data())
    def one_is_up(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.starting.keys() - self.stopping.keys())))
        del self.starting[name]
        self.alive[name] = None
        self.perform(self.tree.ready(name))

    @precondition(lambda self: self.starting or self.alive)
    @rule(data=st.data(), abnormal=st.booleans())
    def one_ends(self, data: st.DataObject, abnormal: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.starting | self.alive)))
        self.gone(name, abnormal=abnormal)

    @precondition(lambda self: self.stopping)
    @rule()
    def one_that_was_told_ends(self) -> None:
        self.gone(next(iter(self.stopping)), abnormal=True)

    @rule(seconds=st.sampled_from([0.5, 2.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.perform(self.tree.tick())
        assert self.tree.deadline() > self.clock.now, "it would spin"

    @precondition(lambda self: self.tree.names())
    @rule(data=st.data(), wanted=st.booleans())
    def somebody_steers(self, data: st.DataObject, wanted: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.tree.names())))
        if wanted:
            self.banned.clear()  # a supervisor's children are wanted with it
            self.perform(self.tree.start_child(name))
        else:
            self.perform(self.tree.stop_child(name))

    @rule(groups=forests())
    def it_is_read_again(self, groups: list[GroupSpec]) -> None:
        self.banned.clear()
        self.perform(self.tree.reconfigure(groups))

    @rule()
    def all_stops_and_starts(self) -> None:
        if self.tree.down:
            self.banned.clear()
            self.perform(self.tree.start())
        else:
            self.perform(self.tree.stop())

    @invariant()
    def what_it_believes_is_so(self) -> None:
        if not hasattr(self, "tree"):
            return
        for name in self.tree.processes():
            stage = self.tree.child(name).stage
            assert (stage == "down") == (name not in self.starting | self.alive)
            assert (stage == "stopping") == (name in self.stopping)
            assert stage != "up" or name in self.alive
        assert not self.tree.down or not self.starting | self.alive
        for node in self.tree.supervisors():
            if node.stage != "up":
                self.banned -= {child.name for child in node.children}
            assert len(node._phase.failures) <= max(node.spec.intensity, 3) + 1

    def teardown(self) -> None:
        """Where nothing fails any more it comes to rest: all that is wanted is up."""
        if not hasattr(self, "tree"):
            return
        for _ in range(200):
            if self.stopping:
                self.one_that_was_told_ends()
            elif self.starting:
                name = next(iter(self.starting))
                del self.starting[name]
                self.alive[name] = None
                self.perform(self.tree.ready(name))
            elif (due := self.tree.deadline()) < inf:
                self.clock.now = due
                self.perform(self.tree.tick())
            else:
                break
        else:
            raise AssertionError("it does not come to rest")
        for node in self.tree.supervisors():
            for child in node.children:
                up = child.wanted and node.stage == "up"
                assert child.stage == ("up" if up else "down")


TestForest = Forest.TestCase
TestForest.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
