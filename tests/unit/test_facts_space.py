"""Facts in a space: superseding, both times, names, layers, against a naive account."""

from collections.abc import Iterator
from functools import partial
from math import inf
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.embedder.local import LocalEmbedder
from drivers.indexes import MemoryIndexes
from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Search, Update
from syscalls.errors import ENOENT
from syscalls.records import Fact, Note, Record
from ums.memory import Memory

EPOCH = 1_000.0


class World:
    """A memory in memory, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = EPOCH
        self.store = MemoryStore()
        self.memory = Memory(
            self.store,
            MemoryIndexes(),
            LocalEmbedder("hash:32"),
            self,
            Random(1),
            self.inline,
            lambda *_: None,
        )
        self.space = 0

    def now(self) -> float:
        return self.time

    monotonic = now

    async def inline(self, work: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work()

    async def open(self) -> "World":
        self.space = await self.memory.create_space(1)
        return self

    async def say(self, what: str, relation: str = "lives_in", **fields: Any) -> str:
        who, there = fields.pop("who", "Ann"), fields.pop("space", self.space)
        functional = fields.pop("functional", None)
        fact = Fact(who, relation, what, functional)
        note = Note("semantic", f"{who} {relation} {what}", fact=fact, **fields)
        return (await self.memory.write(there, 1, note)).rid

    def read(self, rid: str, space: int | None = None) -> Record:
        return self.memory.read(rid, None, space)

    def told(
        self, as_of: float | None = None, known_at: float | None = None, **where: Any
    ) -> list[str]:
        past = self.memory.past
        found = past.facts(
            where.get("space", self.space),
            where.get("who", "Ann"),
            where.get("relation", "lives_in"),
            moment=past.moment(as_of, known_at),
        )
        return [record.fact.object for record in found if record.fact]

    async def search(self, **fields: Any) -> list[str]:
        hits = await self.memory.search([self.space], Search(query="Ann lives_in", **fields))
        return sorted(hit.content.split()[-1] for hit in hits.hits)


async def test_a_newer_fact_supersedes_and_both_are_kept_and_linked() -> None:
    world = await World().open()
    paris = await world.say("Paris", valid_from=-5_000_000_000.0)  # 1811
    world.time += 10
    berlin = await world.say("Berlin", valid_from=100.0)
    old, new = world.read(paris), world.read(berlin)
    assert (old.valid_to, old.superseded_by, old.version) == (100.0, berlin, 2)
    assert (new.valid_to, new.supersedes, new.version) == (None, paris, 1)
    assert world.told() == ["Berlin"]
    assert world.told(as_of=-2_000_000_000.0) == ["Paris"]
    assert world.told(as_of=99.9) == ["Paris"]
    assert world.told(as_of=100.0) == ["Berlin"]
    assert world.told(as_of=-6_000_000_000.0) == []
    assert world.told(as_of=500.0, known_at=EPOCH + 5) == ["Paris"]
    assert world.told(as_of=500.0, known_at=EPOCH - 1) == []
    assert await world.search() == ["Berlin"]
    assert await world.search(include_archived=True) == ["Berlin", "Paris"]
    assert await world.search(as_of=0.0) == ["Paris"]
    assert await world.search(known_at=EPOCH + 5) == ["Paris"]
    assert await world.search(as_of=500.0, known_at=EPOCH + 5) == ["Paris"]


async def test_what_is_learned_late_about_the_past_overrules_nothing_newer() -> None:
    world = await World().open()
    rome = await world.say("Rome", valid_from=500.0)
    world.time += 10
    oslo = await world.say("Oslo", valid_from=100.0)
    assert world.told() == ["Rome"]
    assert world.told(as_of=200.0) == ["Oslo"]
    late = world.read(oslo)
    assert (late.valid_to, late.superseded_by, late.version) == (500.0, rome, 1)
    assert world.read(rome).supersedes == oslo
    assert world.told(as_of=200.0, known_at=EPOCH) == []


async def test_an_interruption_leaves_a_gap() -> None:
    world = await World().open()
    home = await world.say("Home", valid_from=0.0)
    await world.say("Away", valid_from=100.0, valid_to=200.0)
    assert [world.told(as_of=at) for at in (50.0, 150.0, 250.0)] == [["Home"], ["Away"], ["Home"]]
    assert world.read(home).gaps == [(100.0, 200.0)]
    assert world.read(home).valid_to is None
    assert world.told() == ["Home"]
    assert await world.search(as_of=150.0) == ["Away"]


async def test_the_same_object_and_a_relation_of_many_do_not_contradict() -> None:
    world = await World().open()
    first = await world.say("Paris", valid_from=0.0)
    second = await world.say(" the PARIS ", "Lives in", valid_from=10.0, who="ann")
    await world.say("tea", "likes")
    await world.say("coffee", "likes")
    assert not world.read(first).superseded_by
    assert not world.read(second).supersedes
    assert world.told(relation="likes") == ["tea", "coffee"]
    await world.say("Bern", valid_from=20.0)
    assert world.read(first).valid_to == world.read(second).valid_to == 20.0


async def test_the_caller_says_what_is_functional() -> None:
    world = await World().open()
    first = await world.say("Bob", "mentors", valid_from=1.0)
    await world.say("Cid", "mentors", valid_from=2.0)
    assert world.told(relation="mentors") == ["Bob", "Cid"]
    await world.say("Dan", "mentors", valid_from=3.0, functional=True)
    assert world.told(relation="mentors") == ["Dan"]
    assert world.read(first).valid_to == 2.0
    await world.say("Eve", "mentors", valid_from=4.0)  # it was said before
    assert world.told(relation="mentors") == ["Eve"]
    await world.say("Paris", valid_from=1.0)
    await world.say("Nice", valid_from=2.0, functional=False)  # a second home
    assert world.told() == ["Paris", "Nice"]


async def test_a_correction_and_a_deletion_give_the_older_fact_back() -> None:
    world = await World().open()
    paris = await world.say("Paris", valid_from=0.0, valid_to=900.0)
    world.time += 10
    wrong = await world.say("Berlin", valid_from=100.0)
    world.time += 10
    await world.memory.update(1, Update(rid=wrong, valid_from=300.0))
    assert world.told(as_of=200.0) == ["Paris"]
    assert world.told(as_of=200.0, known_at=EPOCH + 15) == ["Berlin"]
    world.time += 10
    fact = Fact("Ann", "lives_in", "Paris")
    await world.memory.update(1, Update(rid=wrong, fact=fact, content="Ann lives_in Paris"))
    assert world.told(as_of=400.0) == ["Paris", "Paris"]
    assert world.told(as_of=400.0, known_at=EPOCH + 25) == ["Berlin"]
    assert world.read(paris).valid_to == 900.0
    third = await world.say("Rome", valid_from=50.0)
    assert world.read(paris).valid_to == 50.0
    await world.memory.delete(1, third)
    assert (world.read(paris).valid_to, world.read(paris).superseded_by) == (900.0, "")


async def test_two_names_are_one_entity() -> None:
    world = await World().open()
    await world.say("Paris", valid_from=0.0, who="Annie")
    await world.say("Rome", valid_from=10.0, who="Ann")
    assert world.told(who="Annie") == ["Paris"]
    alias = await world.say("Annie", "also known as")
    assert world.told(who="Annie") == world.told(who="ANN") == ["Rome"]
    assert world.told(as_of=5.0) == ["Paris"]
    assert world.memory.past.names(world.space, "annie") == ["annie", "ann"]
    await world.say("Roma", "aka", who="Rome")
    await world.say("roma", valid_from=20.0)  # the same place under another name
    assert world.told() == ["Rome", "roma"]
    await world.memory.delete(1, alias)
    assert world.told(who="Annie") == ["Paris"]


async def test_many_at_once_and_undated_ones() -> None:
    world = await World().open()
    notes = [
        Note("semantic", f"n{n}", fact=Fact("Ann", "age", str(n)), valid_from=float(n))
        for n in range(50)
    ]
    written = await world.memory.write_many(world.space, 1, notes)
    records = [world.read(one.rid) for one in written]
    assert [record.valid_to for record in records] == [*map(float, range(1, 50)), None]
    assert all(record.version == 1 for record in records)
    first = await world.say("Paris")
    same = await world.say("Oslo")  # at the same time: the later one corrects
    assert world.told() == ["Oslo"]
    assert world.read(first).superseded_by == same
    world.time += 100
    await world.say("Rome")
    assert [world.told(as_of=EPOCH + at) for at in (-1, 0, 99, 100)] == [
        [],
        ["Oslo"],
        ["Oslo"],
        ["Rome"],
    ]
    past = await world.say("Mars", "located_in", valid_to=-100.0)
    assert world.told(as_of=-inf, relation="located_in") == ["Mars"]
    assert world.memory.past.read(world.space, past, world.memory.past.moment(-101.0)).rid == past
    with pytest.raises(ENOENT):
        world.memory.past.read(world.space, past, world.memory.past.moment(-100.0))


async def test_writers_at_the_same_time_meet() -> None:
    world = await World().open()
    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(partial(world.say, f"p{number}", valid_from=float(number)))
    assert world.told() == ["p39"]
    assert [world.told(as_of=at + 0.5) for at in range(40)] == [[f"p{n}"] for n in range(40)]


async def test_a_fork_goes_its_own_way() -> None:
    world = await World().open()
    paris = await world.say("Paris", valid_from=0.0)
    fork = await world.memory.fork(world.space, 1)
    world.time += 10
    rome = await world.say("Rome", valid_from=10.0, space=fork)
    assert world.told() == ["Paris"]
    assert world.told(space=fork) == ["Rome"]
    assert world.told(space=fork, as_of=5.0) == ["Paris"]
    assert world.read(paris, fork).superseded_by == rome
    assert not world.read(paris).superseded_by
    await world.memory.delete(1, rome, space=fork)
    assert world.told(space=fork) == ["Paris"]
    await world.memory.delete(1, paris, space=fork)
    assert world.told(space=fork) == []
    assert world.told() == ["Paris"]


def _steps() -> st.SearchStrategy[list[tuple[Any, ...]]]:
    time = st.one_of(st.none(), st.integers(-3, 4).map(lambda at: at * 100.0 - 50))
    what = st.sampled_from("xyz")
    say = st.tuples(st.just("say"), what, time, time)
    fix = st.tuples(st.just("fix"), st.integers(0, 6), st.one_of(st.none(), what), time)
    drop = st.tuples(st.just("drop"), st.integers(0, 6))
    fork = st.tuples(st.just("fork"))
    return st.lists(st.one_of(say, say, say, fix, drop, fork), min_size=1, max_size=8)


class Naive:
    """Every claim as it was said, at every time of knowledge."""

    def __init__(self) -> None:
        self.claims: dict[str, list[tuple[float, str, float, float, float]]] = {}
        """By rid: known from, object, start, stop, rank (when it was claimed so)."""

    def at(self, as_of: float, known: float) -> set[str]:
        best: tuple[float, float, str, str] | None = None
        for rid, versions in self.claims.items():
            believed = [one for one in versions if one[0] <= known]
            if believed:
                _, what, start, stop, rank = believed[-1]
                if start <= as_of < stop:
                    best = max(best or (-inf, -inf, "", ""), (start, rank, rid, what))
        return {best[3]} if best else set()


def _instants() -> Iterator[float]:
    yield -1e12
    for at in range(-4, 6):
        yield at * 100.0 - 50
        yield at * 100.0


@given(_steps())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_times_agree_with_a_naive_account(steps: list[tuple[Any, ...]]) -> None:
    trio.run(_both_times, steps)


async def _both_times(steps: list[tuple[Any, ...]]) -> None:
    world, naive, rids = await World().open(), Naive(), []
    for step in steps:
        world.time += 10
        now = world.time
        if step[0] == "say":
            _, what, since, until = step
            rid = await world.say(
                what, valid_from=-1e13 if since is None else since, valid_to=until
            )
            start, stop = (-1e13 if since is None else since), (inf if until is None else until)
            rids.append(rid)
            naive.claims[rid] = [(now, what, start, stop, now)]
        elif step[0] == "fork":
            world.space = await world.memory.fork(world.space, 1)
        elif rids and step[0] == "fix":
            rid = rids[step[1] % len(rids)]
            what, since = step[2], step[3]
            if what is None and since is None:
                continue
            fact = None if what is None else Fact("Ann", "lives_in", what)
            call = Update(rid=rid, fact=fact, valid_from=since)
            await world.memory.update(1, call, space=world.space)
            _, old, start, stop, rank = naive.claims[rid][-1]
            new = (what or old, start if since is None else since, stop)
            if new != (old, start, stop):
                rank = now
            naive.claims[rid].append((now, *new, rank))
        elif rids:
            rid = rids.pop(step[1] % len(rids))
            await world.memory.delete(1, rid, space=world.space)
            del naive.claims[rid]  # erased is erased: nothing tells of it any more
    for as_of in _instants():
        assert set(world.told(as_of=as_of)) == naive.at(as_of, inf), as_of
    if not any(step[0] == "drop" for step in steps):
        for known in [EPOCH + 5 + 10 * n for n in range(len(steps) + 1)]:
            for as_of in _instants():
                expected = naive.at(as_of, known)
                assert set(world.told(as_of=as_of, known_at=known)) == expected, (as_of, known)
