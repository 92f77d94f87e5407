"""Signals beyond meaning and words: conversations, speakers, time; with the whole of memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from drivers.embedder.local import LocalEmbedder
from drivers.indexes import MemoryIndexes
from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Search
from syscalls.records import Hit, Note, Parts
from tests.clock import HandClock
from ums.memory import Memory
from ums.recall.question import Question
from ums.recall.search import Recall
from ums.recall.signals import Seen
from ums.recall.voice import KNOWN_NAMES, SAMPLE, Speakers
from ums.settings import MemorySettings, weighted

MAY = 1_683_504_000.0
"""8 May 2023."""


async def inline(work: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return work()


class World:
    """A memory with one space."""

    def __init__(self, weights: str = "") -> None:
        self.store = MemoryStore()
        settings = MemorySettings(weights=weighted(weights))
        self.memory = Memory(
            self.store,
            MemoryIndexes(),
            LocalEmbedder("hash:64"),
            HandClock(1_700_000_000.0),
            Random(1),
            inline,
            lambda *_: None,
            settings,
        )
        self.space = 0

    async def write(self, *contents: str, space: int | None = None, **fields: Any) -> list[str]:
        if not self.space:
            self.space = await self.memory.create_space(1)
        notes = [Note(**{"segment": "episodic", "content": text, **fields}) for text in contents]
        written = await self.memory.write_many(space or self.space, 1, notes)
        return [one.rid for one in written]

    async def search(self, query: str, **fields: Any) -> list[Hit]:
        call = Search(query=query, **{"explain": True, **fields})
        with trio.fail_after(60):
            return (await self.memory.search([self.space], call)).hits

    async def parts(self, query: str, rid: str, **fields: Any) -> Parts:
        hits = await self.search(query, **{"k": 100, **fields})
        found = next(hit.parts for hit in hits if hit.rid == rid)
        assert found is not None
        return found


async def talk(world: World, session: str = "1") -> list[str]:
    """Bob asks Ann about pottery; both chat of other things before and after."""
    lines = [
        ("bob", "Good morning, how was the train?"),
        ("ann", "Late as ever."),
        ("bob", "Which pottery class did you take in the end?"),
        ("ann", "The one on Tuesdays, with a friend."),
        ("bob", "Sounds nice."),
    ]
    rids = []
    for speaker, text in lines:
        meta = {"speaker": speaker, "session": session}
        rids += await world.write(text, meta=meta, valid_from=MAY)
    return rids


async def test_an_answer_is_found_by_the_question_before_it() -> None:
    world = World("dense=0")  # hashed vectors are noise here
    filler = [f"Ann: unrelated remark {n} on weather" for n in range(40)]
    await world.write(*filler)
    rids = await talk(world)
    parts = await world.parts("pottery class", rids[3])
    assert parts.lexical == 0
    assert parts.context > 0
    hits = [hit.rid for hit in await world.search("pottery class", k=3)]
    assert rids[3] in hits


async def test_the_neighbours_end_where_the_session_ends() -> None:
    world = World()
    first = await talk(world, "1")
    (last,) = await world.write("Now to pottery.", meta={"session": "1"})
    (other,) = await world.write("Something else.", meta={"session": "2"})
    assert (await world.parts("pottery", other)).context == 0
    assert (await world.parts("pottery", first[-1])).context > 0
    assert (await world.parts("pottery", last)).context != 0


async def test_records_that_stand_alone_have_no_context() -> None:
    world = World()
    rids = await world.write("pottery class", "the one on Tuesdays", segment="semantic")
    assert (await world.parts("pottery class", rids[1])).context == 0


@pytest.mark.parametrize("query", ["What did Ann say of the train?", "ann train", "Ann's train"])
async def test_whom_a_query_names_is_looked_for_among_speakers(query: str) -> None:
    world = World()
    rids = await talk(world)
    ann, bob = await world.parts(query, rids[1]), await world.parts(query, rids[0])
    assert ann.voice > 0
    assert bob.voice == 0
    (about,) = await world.write("Ann is allergic to nuts", segment="semantic")
    assert (await world.parts(query, about)).voice > 0


async def test_a_name_that_nobody_bears_is_a_word() -> None:
    world = World()
    (rid,) = await world.write("Zoe plays chess", segment="semantic")
    parts = await world.parts("Zoe", rid)
    assert parts.voice == 0
    assert parts.lexical > 0


async def test_the_time_that_a_query_names() -> None:
    world = World()
    rids = await talk(world)
    (late,) = await world.write("Ann: at the fair", valid_from=MAY + 90 * 86400)
    query = "what about the fair in May 2023"
    assert (await world.parts(query, rids[0])).time > 0
    assert (await world.parts(query, late)).time == 0
    assert (await world.parts("what about the fair", rids[0])).time == 0


async def test_a_question_tells_little_and_a_session_lends_weight() -> None:
    world = World()
    first = await talk(world, "1")
    (other,) = await world.write("Ann: goodbye", meta={"session": "2"})
    asked = await world.parts("pottery class", first[2])
    assert asked.form < 0
    inside = await world.parts("pottery class", first[4])
    assert inside.session > (await world.parts("pottery class", other)).session


async def test_what_was_written_together() -> None:
    world = World()
    rids = await world.write(*[f"thing {n}" for n in range(30)], segment="semantic")
    near = [f"the harbour note {n}" for n in range(6)]
    harbour = await world.write(*near, segment="semantic")
    between = await world.write("it was cold", segment="semantic")
    await world.write(*near, segment="semantic")
    far = (await world.parts("harbour note", rids[3])).nearby
    assert (await world.parts("harbour note", between[0])).nearby > far
    assert (await world.parts("harbour note", harbour[5])).nearby > far


@pytest.mark.parametrize(
    "signal", ["dense", "lexical", "context", "session", "nearby", "voice", "time", "form"]
)
async def test_each_signal_can_be_turned_off(signal: str) -> None:
    query = "When did Ann take the pottery class in May 2023?"
    seen = {}
    for weights in ("", f"{signal}=0"):
        world = World(weights)
        await talk(world, "1")
        await talk(world, "2")
        await world.write(*[f"note {n} of the pottery" for n in range(12)], segment="semantic")
        hits = await world.search(query, k=50)
        for hit in hits:
            assert hit.parts is not None
            figures = [getattr(hit.parts, name) for name in Parts.__struct_fields__]
            assert hit.score == pytest.approx(sum(figures))
        seen[weights] = {getattr(hit.parts, signal) for hit in hits}
    assert seen[""] != {0.0}
    assert seen[f"{signal}=0"] == {0.0}


async def test_neighbours_keep_to_the_segments_and_filters_of_the_search() -> None:
    world = World()
    rids = await talk(world)
    meta = {"speaker": "ann", "session": "1"}
    (fact,) = await world.write("Ann likes clay", segment="semantic", meta=meta)
    await world.write("Bob: pottery again", meta=meta)
    hits = await world.search("pottery class", k=50, segments=["episodic"])
    assert fact not in [hit.rid for hit in hits]
    assert rids[3] in [hit.rid for hit in hits]
    hits = await world.search("pottery class", k=50, segments=["semantic"])
    assert [hit.rid for hit in hits] == [fact]
    await world.memory.delete(1, rids[3])
    assert rids[3] not in [hit.rid for hit in await world.search("pottery class", k=50)]


class Fame:
    """A signal from elsewhere: some records that it knows, whatever they say."""

    name = "graph"

    def __init__(self, *rids: str) -> None:
        self.rids = rids
        self.asked: list[Question] = []

    async def find(self, question: Question, reach: Any, n: int) -> Mapping[str, float]:
        await trio.lowlevel.checkpoint()
        self.asked.append(question)
        return dict.fromkeys(self.rids, 1.0)

    def score(self, question: Question, seen: Sequence[Seen]) -> Mapping[str, float]:
        return {one.rid: 9.0 for one in seen if one.rid in self.rids}


async def test_a_further_signal_proposes_and_scores() -> None:
    world = World()
    memory = world.memory
    notes = [f"note {n} about clouds" for n in range(400)]
    (quiet, *_) = await world.write("nothing in common", *notes, segment="semantic")
    unknown = "0" * 26
    fame = Fame(quiet, unknown)
    memory._recall = Recall(  # as Memory makes it, with one signal more
        world.store,
        memory._indexer,
        memory.embedder,
        memory.clock,
        memory.settings,
        signals=[fame],
    )
    hits = await world.search("clouds", k=3)
    assert hits[0].rid == quiet
    assert hits[0].parts is not None
    assert hits[0].parts.graph == 9.0
    assert fame.asked[0].words == "clouds"
    hits = await world.search("clouds", k=3, segments=["episodic"])
    assert hits == []


async def test_speakers_are_learnt_as_they_come() -> None:
    world = World()
    await talk(world)
    speakers = Speakers(world.store)
    assert set(speakers.of(world.space)) == {"bob", "ann"}
    await world.write("Carol Ray: hello", "Later: none")
    assert set(speakers.of(world.space)) == {"bob", "ann", "carol", "ray", "later"}
    await world.write(*[f"Dave: line {n}" for n in range(SAMPLE + 5)])
    assert "dave" in set(speakers.of(world.space))
    many = [Note("episodic", "x", meta={"speaker": f"name{n}"}) for n in range(KNOWN_NAMES + 50)]
    for start in range(0, len(many), 500):
        await world.memory.write_many(world.space, 1, many[start : start + 500])
        speakers.of(world.space)
    assert len(list(speakers.of(world.space))) <= KNOWN_NAMES
    assert list(speakers.of(99)) == []


def test_the_chinese_set_is_whole() -> None:
    import json

    path = Path(__file__).parents[1] / "data" / "recall_zh.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    notes = {line["note"]: line["text"] for line in lines if "note" in line}
    asked = [line for line in lines if "question" in line]
    assert len(notes) >= 150
    assert len(set(notes.values())) == len(notes)
    assert len(asked) >= 60
    assert all(set(line["evidence"]) <= notes.keys() for line in asked)
