"""Lineage: evidence that must stand, cascades, and what is left of a fact; on real spaces."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Update
from syscalls.errors import EINVAL, ENOENT
from syscalls.records import Evidence, Fact, Note, Record
from tests.clock import HandClock, quiet
from ums.cascade import Cascade
from ums.derived import DerivedSpace
from ums.lineage import CASCADE, DERIVED
from ums.living import Reason
from ums.records import after
from ums.spaces import Spaces


class World:
    """A store with one space, and its cascades."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        self.number = 0
        self.reopen()

    def reopen(self) -> None:
        """As after a restart: everything in memory is new but the store."""
        self.spaces = Spaces(self.store, self.clock, Random(1))
        self.cascade = Cascade(self.store, self.spaces.open, lambda _space: None, quiet)

    @property
    def space(self) -> DerivedSpace:
        return self.spaces.open(self.number)

    async def episode(self, text: str, **fields: Any) -> str:
        self.clock.time += 1
        note = Note(**{"segment": "episodic", "content": text, **fields})
        return (await self.space.write(note, 7)).rid

    async def made(self, text: str, *sources: str, **fields: Any) -> str:
        self.clock.time += 1
        note = Note(segment="semantic", content=text, sources=list(sources), **fields)
        return (await self.space.write(note, 7)).rid

    async def fact(self, subject: str, relation: str, thing: str, *sources: str) -> str:
        """A fact whose evidence is all of each source."""
        evidence = []
        for rid in sources:
            text = self.space.read(rid).content
            evidence.append(Evidence(rid, 0, len(text), text))
        fact = Fact(subject, relation, thing)
        text = f"{subject} {relation} {thing}"
        return await self.made(text, *sources, fact=fact, evidence=evidence)

    async def settle(self) -> None:
        assert await self.cascade.settle(self.number)
        assert not self.keys(CASCADE)

    def keys(self, prefix: bytes) -> list[bytes]:
        return [key for key, _ in self.store.scan("meta", prefix, after(prefix))]

    def read(self, rid: str) -> Record:
        return self.space.read(rid)

    def gone(self, rid: str) -> bool:
        try:
            self.space.read(rid)
        except ENOENT:
            return True
        return False


@pytest.fixture
async def world() -> World:
    world = World()
    world.number = await world.spaces.create(5, "home")
    return world


# --- evidence


@pytest.mark.parametrize(
    ("start", "stop", "quote"),
    [(0, 15, "I live in Rome."), (1, 16, "I live in Oslo."), (0, 4, "I live"), (0, 99, "x")],
)
async def test_evidence_that_does_not_stand_is_refused(
    world: World, start: int, stop: int, quote: str
) -> None:
    source = await world.episode("I live in Oslo.")
    with pytest.raises(EINVAL, match="does not stand there") as caught:
        await world.made(
            "x",
            fact=Fact("the user", "lives_in", "Rome"),
            evidence=[Evidence(source, start, stop, quote)],
        )
    assert caught.value.detail["rid"] == source
    assert caught.value.detail["start"] == start
    assert len(await world.space.newest(10)) == 1


async def test_evidence_of_a_record_that_is_not_there_is_refused(world: World) -> None:
    source = await world.episode("I live in Oslo.")
    await world.space.delete(source, 7)
    with pytest.raises(EINVAL, match="not in this space"):
        await world.made("x", evidence=[Evidence(source, 0, 6, "I live")])


async def test_a_models_fact_needs_evidence_and_a_persons_does_not(world: World) -> None:
    fact = Fact("the user", "lives_in", "Oslo")
    with pytest.raises(EINVAL, match="needs evidence"):
        await world.made("x", fact=fact, taint="model")
    await world.made("x", fact=fact)


async def test_what_was_recalled_is_no_evidence(world: World) -> None:
    source = await world.episode("I live in Oslo.", taint="recalled")
    with pytest.raises(EINVAL, match="was itself recalled"):
        await world.made("x", evidence=[Evidence(source, 0, 6, "I live")])


async def test_evidence_given_by_an_update_must_stand_too(world: World) -> None:
    source = await world.episode("I live in Oslo.")
    rid = await world.fact("the user", "lives_in", "Oslo", source)
    with pytest.raises(EINVAL, match="does not stand there"):
        await world.space.update(Update(rid=rid, evidence=[Evidence(source, 0, 4, "Rome")]), 7)
    assert world.read(rid).version == 1


# --- circles


async def test_a_circle_is_refused(world: World) -> None:
    one = await world.episode("one")
    two = await world.made("two", one)
    three = await world.made("three", two)
    with pytest.raises(EINVAL, match="made from itself"):
        await world.space.update(Update(rid=one, sources=[three]), 7)
    with pytest.raises(EINVAL, match="made from itself"):
        await world.space.update(Update(rid=two, sources=[two]), 7)
    await world.space.update(Update(rid=three, sources=[one, two]), 7)


# --- cascades


@pytest.mark.parametrize("how", ["delete", "forget", "expire"])
async def test_a_chain_is_withdrawn_with_its_source(world: World, how: str) -> None:
    source = await world.episode("I live in Oslo.", ttl=100.0)
    fact = await world.fact("the user", "lives_in", "Oslo", source)
    summary = await world.made("the user is a Norwegian resident", fact)
    merged = await world.made("all about the user", summary)
    if how == "delete":
        await world.space.delete(source, 7)
    elif how == "forget":
        await world.space.forget(source, Reason(until=world.clock.now() + 1e6))
    else:
        world.clock.time += 200
        assert await world.space.expire(source)
    await world.settle()
    assert [world.gone(rid) for rid in (fact, summary, merged)] == [True] * 3
    assert world.space.history(fact)[-1].call == "mem.withdraw"
    assert all(version.content is None for version in world.space.history(summary))
    assert not world.keys(DERIVED)


async def test_before_it_is_mended_everything_derived_is_marked(world: World) -> None:
    source = await world.episode("I live in Oslo.")
    fact = await world.fact("the user", "lives_in", "Oslo", source)
    summary = await world.made("a Norwegian resident", fact)
    top = await world.made("all about the user", summary)
    await world.space.delete(source, 7)
    while await world.space.spread() >= 0:
        pass
    for rid in (fact, summary, top):
        assert world.read(rid).stale == f"its source {source} is gone"


async def test_a_fact_of_several_sources_goes_with_the_last(world: World) -> None:
    sources = [await world.episode(f"I live in Oslo, day {day}.") for day in range(3)]
    fact = await world.fact("the user", "lives_in", "Oslo", *sources)
    for left in (2, 1):
        await world.space.delete(sources.pop(), 7)
        await world.settle()
        record = world.read(fact)
        assert record.stale == ""
        assert [evidence.rid for evidence in record.evidence] == sources
        assert record.sources == sources
        assert len(sources) == left
    await world.space.delete(sources.pop(), 7)
    await world.settle()
    assert world.gone(fact)


async def test_a_corrected_source_no_longer_supports(world: World) -> None:
    source = await world.episode("I live in Oslo.")
    fact = await world.fact("the user", "lives_in", "Oslo", source)
    note = await world.made("a note on where the user lives", source)
    await world.space.update(Update(rid=source, content="I live in Bergen."), 7)
    await world.settle()
    assert world.gone(fact)
    assert world.read(note).stale == f"its source {source} was corrected"
    # Its writer has looked at it again: it is made from what the source says now.
    await world.space.update(Update(rid=note, content="a note on Bergen"), 7)
    await world.settle()
    assert world.read(note).stale == ""


async def test_evidence_moves_with_its_sentence(world: World) -> None:
    source = await world.episode("Hello. I live in Oslo. Bye.")
    quote = Evidence(source, 7, 22, "I live in Oslo.")
    fact = await world.made(
        "x", source, fact=Fact("the user", "lives_in", "Oslo"), evidence=[quote]
    )
    await world.space.update(Update(rid=source, content="Well, hello there! I live in Oslo."), 7)
    await world.settle()
    evidence = world.read(fact).evidence[0]
    text = world.read(source).content
    assert text[evidence.start : evidence.stop] == evidence.quote == "I live in Oslo."
    assert world.read(fact).stale == ""


@pytest.mark.parametrize(
    "text",
    [
        "It is not true that I live in Oslo.",
        "I live in Oslo. Just kidding!",
        'Bob said: "I live in Oslo."',
        "If I live in Oslo. ",
    ],
)
async def test_words_that_stand_in_another_sentence_are_no_evidence(
    world: World, text: str
) -> None:
    source = await world.episode("I live in Oslo.")
    fact = await world.fact("the user", "lives_in", "Oslo", source)
    await world.space.update(Update(rid=source, content=text), 7)
    await world.settle()
    assert world.gone(fact)


async def test_what_rests_on_a_superseded_fact_is_stale_until_it_is_back(world: World) -> None:
    one, two = await world.episode("I live in Oslo."), await world.episode("I live in Rome.")
    oslo = await world.fact("the user", "lives_in", "Oslo", one)
    summary = await world.made("the user lives in Norway", oslo)
    deep = await world.made("all about the user", summary)
    rome = await world.fact("the user", "lives_in", "Rome", two)
    await world.settle()
    assert world.read(oslo).superseded_by == rome
    assert world.read(summary).stale == f"its source {oslo} was superseded by {rome}"
    assert world.read(deep).stale.startswith(f"its source {summary} is stale itself")
    await world.space.delete(two, 7)
    await world.settle()
    assert world.gone(rome)
    assert world.read(oslo).superseded_by == ""
    assert world.read(summary).stale == world.read(deep).stale == ""


async def test_a_record_made_from_a_stale_one_is_stale_from_the_beginning(world: World) -> None:
    source = await world.episode("first")
    note = await world.made("made from the first", source)
    await world.space.update(Update(rid=source, content="second"), 7)
    await world.settle()
    late = await world.made("made late", note)
    assert world.read(late).stale.startswith(f"its source {note} is stale itself")
    await world.space.update(Update(rid=note, content="made from the second"), 7)
    await world.settle()
    assert world.read(late).stale == f"its source {note} was corrected"


async def test_a_pinned_record_is_only_marked(world: World) -> None:
    source = await world.episode("I live in Oslo.")
    fact = await world.fact("the user", "lives_in", "Oslo", source)
    await world.space.pin(fact, Reason())
    await world.space.delete(source, 7)
    await world.settle()
    assert world.read(fact).stale == f"its source {source} is gone"


async def test_an_archived_record_is_withdrawn_too(world: World) -> None:
    source = await world.episode("I live in Oslo.")
    fact = await world.fact("the user", "lives_in", "Oslo", source)
    kept = await world.made("two sources", source, await world.episode("other"))
    for rid in (fact, kept):
        await world.space.archive(rid, Reason())
    before = world.space.info().records
    await world.space.delete(source, 7)
    await world.settle()
    assert world.gone(fact)
    assert world.read(kept).stale == f"its source {source} is gone"
    assert world.read(kept).state == "archived"
    assert world.space.info().records == before - 1


async def test_what_can_be_made_again_is_and_keeps_nothing_of_what_is_gone(world: World) -> None:
    sources = [await world.episode(text) for text in ("the secret", "the rest")]
    summary = await world.made("the secret and the rest", *sources, kind="summary")

    def remake(old: Record, left: Sequence[Record]) -> str:
        assert old.content == "the secret and the rest"
        return " and ".join(one.content for one in left)

    world.cascade.remake = remake
    await world.space.delete(sources[0], 7)
    await world.settle()
    record = world.read(summary)
    assert (record.content, record.stale, record.sources) == ("the rest", "", sources[1:])
    told = [version.content for version in world.space.history(summary)]
    assert told == [None, "the rest"]


async def test_a_merge_outlives_what_was_merged_into_it(world: World) -> None:
    one, two = await world.episode("the same"), await world.episode("the same!")
    await world.space.merge(one, [two], Reason())
    assert world.read(one).sources == [two]
    await world.space.delete(two, 7)
    await world.settle()
    assert (world.read(one).sources, world.read(one).stale) == ([], "")


async def test_undoing_a_forget_brings_back_what_rests_on_it(world: World) -> None:
    source = await world.episode("first")
    other = await world.episode("second")
    note = await world.made("of both", source, other)
    await world.space.forget(source, Reason(until=world.clock.now() + 1e6))
    await world.settle()
    assert world.read(note).stale == f"its source {source} is gone"
    await world.space.undo(source, Reason())
    await world.settle()
    assert world.read(note).stale == ""


async def test_a_wide_cascade_takes_several_steps_and_a_restart(world: World) -> None:
    source = await world.episode("I live in Oslo.")
    made = [await world.made(f"note {number}", source) for number in range(400)]
    await world.space.delete(source, 7)
    steps = 0
    while not await world.cascade.settle(world.number, 2):
        world.reopen()  # nothing of it is only in memory
        steps += 1
    assert steps > 5
    assert all(world.gone(rid) for rid in made)


async def test_a_fork_and_its_origin_each_have_their_own_cascade(world: World) -> None:
    source = await world.episode("I live in Oslo.")
    fact = await world.fact("the user", "lives_in", "Oslo", source)
    note = await world.made("a resident", fact)
    fork = await world.spaces.branch(world.number, 6, sealed=False)
    await world.spaces.open(fork).delete(source, 7)
    assert await world.cascade.settle(fork)
    assert world.read(note).stale == ""
    for rid in (fact, note):
        with pytest.raises(ENOENT):
            world.spaces.open(fork).read(rid)
    await world.settle()
    assert world.read(fact).evidence[0].rid == source
    await world.space.delete(source, 7)
    await world.settle()
    assert world.gone(fact)
    assert world.gone(note)
