"""The table of adapters: a model of it, the moves that there are, what is found by a source."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from drivers.store.memory import MemoryStore
from syscalls.errors import ECONFLICT, EINVAL, ENOENT
from ums.adapters import MOVES, Reference, Version, Versions, check_name, reference, step
from ums.rid import unpack

RIDS = [unpack(bytes([n]) * 16) for n in (1, 2, 3)]
NAMES = ("a", "ab", "a-b")


class Clock:
    """Stands still."""

    def now(self) -> float:
        return 1.0

    def monotonic(self) -> float:
        return 1.0


def table() -> Versions:
    return Versions(MemoryStore(), Clock())


def version(space: int = 1, name: str = "a", **more: Any) -> Version:
    return Version(space, name, 0, "nano", **more)


class Machine(RuleBasedStateMachine):
    """Random histories against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.table = Versions(self.store, Clock())
        self.states: dict[tuple[int, str, int], str] = {}
        self.made: dict[tuple[int, str, int], tuple[str, ...]] = {}
        self.last: dict[tuple[int, str], int] = {}

    def run(self, work: Any, *args: Any, **more: Any) -> Any:
        async def main() -> Any:
            return await work(*args, **more)

        return trio.run(main)

    def live(self, space: int, name: str) -> int:
        numbers = [
            n for (s, m, n), state in self.states.items() if (s, m, state) == (space, name, "live")
        ]
        assert len(numbers) <= 1
        return numbers[0] if numbers else 0

    @rule(
        space=st.sampled_from((1, 2)),
        name=st.sampled_from(NAMES),
        rids=st.sets(st.sampled_from(RIDS)),
    )
    def begin(self, space: int, name: str, rids: set[str]) -> None:
        made = self.run(self.table.begin, version(space, name, sources=sorted(rids)))
        assert made.number == self.last.get((space, name), 0) + 1
        self.last[space, name] = made.number
        self.states[space, name, made.number] = "training"
        self.made[space, name, made.number] = tuple(sorted(rids))

    def one(self, data: Any) -> tuple[int, str, int] | None:
        return data.draw(st.sampled_from(sorted(self.states))) if self.states else None

    @rule(data=st.data(), event=st.sampled_from(("accept", "refuse", "restore")))
    def turn(self, data: Any, event: str) -> None:
        key = self.one(data)
        if key is None:
            return
        found = self.table.find(key[0], Reference(key[1], key[2]))
        found.digest = f"{key[2]:064x}"
        before = self.states[key]
        work = {"accept": self.table.accept, "restore": self.table.restore}.get(event)
        args = [found] if work else [found, "worse"]
        allowed = before in MOVES[event] or (event == "restore" and before == "live")  # type: ignore[index]
        if not allowed:
            with pytest.raises(ECONFLICT):
                self.run(work or self.table.refuse, *args)
            return
        self.run(work or self.table.refuse, *args)
        if event == "refuse":
            self.states[key] = "refused"
            return
        live = self.live(key[0], key[1])
        if live:
            self.states[key[0], key[1], live] = "retired"
        self.states[key] = "live"

    @rule(rid=st.sampled_from(RIDS), again=st.booleans())
    def forget(self, rid: str, again: bool) -> None:
        wanted = {
            key
            for key, rids in self.made.items()
            if rid in rids and self.states[key] in MOVES["spoil"]
        }
        spoiled = self.run(self.table.spoil, lambda: self.table.made_from(rid), "gone", again=again)
        assert {(one.space, one.name, one.number) for one in spoiled} == wanted
        for one in spoiled:
            key = (one.space, one.name, one.number)
            assert one.again == (again and self.states[key] in ("live", "training"))
            self.states[key] = "stale"

    @rule(data=st.data())
    def drop(self, data: Any) -> None:
        key = self.one(data)
        if key is not None:
            self.run(self.table.drop, lambda: [self.table.find(key[0], Reference(*key[1:]))], "")
            self.states[key] = "dropped"

    @rule()
    def restart(self) -> None:
        self.table = Versions(self.store, Clock())

    @invariant()
    def same(self) -> None:
        shown = {(one.space, one.name, one.number): one.state for one in self.table.all()}
        assert shown == self.states
        for space, name in self.last:
            live = self.live(space, name)
            assert self.table.named(space, name).live == live
            if live:
                assert self.table.find(space, Reference(name)).number == live
            else:
                with pytest.raises(ENOENT):
                    self.table.find(space, Reference(name))

    @invariant()
    def sources(self) -> None:
        bound = {key for key, state in self.states.items() if state not in ("stale", "dropped")}
        for rid in RIDS:
            found = {(one.space, one.name, one.number) for one in self.table.made_from(rid)}
            assert found == {key for key in bound if rid in self.made[key]}
        assert set(self.table.sources()) == {rid for key in bound for rid in self.made[key]}


Machine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMachine = Machine.TestCase


def test_table_has_no_way_back() -> None:
    for event in ("accept", "refuse", "restore"):
        for state in ("stale", "dropped", "refused"):
            with pytest.raises(ECONFLICT):
                step(state, event)
    assert all("dropped" not in before for before in MOVES.values())


async def test_begin_restore_earlier() -> None:
    versions = table()
    made = []
    for _ in range(3):
        one = await versions.begin(version())
        one.digest = f"{one.number}" * 64
        made.append(await versions.accept(one))
    assert [one.state for one in versions.all(1, "a")] == ["retired", "retired", "live"]
    assert versions.earlier(1, "a").number == 2
    await versions.restore(versions.earlier(1, "a"))
    assert versions.find(1, Reference("a")).number == 2
    assert versions.earlier(1, "a").number == 1
    assert versions.earlier(1, "a", 3).number == 3
    with pytest.raises(ENOENT):
        versions.earlier(1, "a", 9)
    with pytest.raises(ENOENT):
        versions.earlier(1, "other")


async def test_a_wrong_digest_is_not_found() -> None:
    versions = table()
    one = await versions.begin(version())
    one.digest = "ab" * 32
    live = await versions.accept(one)
    assert versions.find(1, reference(live.identity)).number == 1
    with pytest.raises(ENOENT):
        versions.find(1, reference("a@1-cdcdcdcdcdcd"))
    with pytest.raises(ENOENT):
        versions.find(2, reference("a"))


async def test_a_number_is_never_used_again() -> None:
    versions = table()
    for wanted in (1, 2, 3):
        one = await versions.begin(version())
        assert one.number == wanted
        await versions.drop(lambda: versions.all(1, "a"), "")
    assert [one.number for one in versions.all()] == [1, 2, 3]


async def test_examples_go_with_the_version_unless_it_is_trained_again() -> None:
    versions = table()
    first = await versions.begin(version(sources=RIDS[:1]), b"examples")
    second = await versions.begin(version(sources=RIDS[1:2]), b"others")
    await versions.spoil(lambda: [first], "gone", again=True)
    await versions.spoil(lambda: [second], "gone")
    assert versions.given(first) == b"examples"
    assert versions.given(second) == b""
    third = await versions.begin(version(), b"left", versions.find(1, Reference("a", 1)))
    assert versions.given(first) == b""
    assert versions.given(third) == b"left"
    assert not versions.find(1, Reference("a", 1)).again


async def test_worn_by_space_and_base() -> None:
    versions = table()
    await versions.wear(1, "nano", "a")
    await versions.wear(1, "model", "b@2")
    assert versions.worn(1) == {"nano": "a", "model": "b@2"}
    assert versions.worn(2) == {}
    await versions.wear(1, "nano", None)
    assert versions.worn(1) == {"model": "b@2"}


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "..", "a@1", "x" * 65, "a\0b"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(EINVAL):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "My.words_2-x", "我的词"])
def test_names(name: str) -> None:
    check_name(name)
    assert reference(f"{name}@3") == Reference(name, 3)
    assert str(reference(f"{name}@3-abcdef")) == f"{name}@3"


@pytest.mark.parametrize("text", ["", "@3", "a@", "a@x", "a@1-"])
def test_references_that_are_refused(text: str) -> None:
    with pytest.raises(EINVAL):
        reference(text)


def test_later_fields_are_read_with_their_defaults() -> None:
    old = msgspec.msgpack.encode({"space": 1, "name": "a", "number": 1, "base": "nano"})
    assert msgspec.msgpack.decode(old, type=Version).state == "training"
