"""Questions made from records: the same each time, about what is there, a part of each aside."""

from __future__ import annotations

import json

import pytest
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st

from syscalls.errors import EINVAL
from syscalls.records import Fact, Record
from ums.questions import digest, given, questions
from ums.rid import unpack

RID = unpack(b"\1" * 16)
OTHER = unpack(b"\2" * 16)


def fact(subject: str, relation: str, thing: str, rid: str = RID) -> Record:
    said = f"{subject} {relation.replace('_', ' ')} {thing}"
    return Record(rid, 1, "semantic", said, fact=Fact(subject, relation, thing))


def test_a_fact_is_asked_in_several_wordings_and_one_is_set_aside() -> None:
    asked = questions([fact("Ada", "lives_in", "Turin")])
    assert len({one.prompt for one in asked}) == len(asked) >= 3
    assert all(one.answer == "Turin" and "Ada" in one.prompt for one in asked)
    assert all(one.sources == [RID] for one in asked)
    assert {one.group for one in asked} == {f"{RID}/0"}
    assert 1 <= sum(one.held_out for one in asked) < len(asked)
    assert "Where does Ada live?" in {one.prompt for one in asked}


@pytest.mark.parametrize("relation", ["favorite_tool", "depends_on", "owns", "walked"])
def test_any_relation_is_asked_in_words(relation: str) -> None:
    asked = questions([fact("the parser", relation, "msgspec")])
    words = relation.replace("_", " ")
    assert len(asked) >= 3
    assert all("the parser" in one.prompt and words in one.prompt for one in asked)


@pytest.mark.parametrize(
    ("subject", "relation", "word"), [("小明", "lives_in", "居住地"), ("小明", "爱好", "爱好")]
)
def test_chinese_facts_are_asked_in_chinese(subject: str, relation: str, word: str) -> None:
    asked = questions([fact(subject, relation, "北京")])
    assert all(word in one.prompt and subject in one.prompt for one in asked)
    assert {one.answer for one in asked} == {"北京"}


def test_text_is_begun_and_its_end_is_the_answer() -> None:
    text = "The deploy key is kept in the blue folder. It is changed on the first of each month."
    asked = questions([Record(RID, 1, "episodic", text)])
    assert {one.group for one in asked} == {f"{RID}/0", f"{RID}/1"}
    for one in asked:
        before = one.prompt.removeprefix("Continue: ")
        assert f"{before} {one.answer}" in text


def test_chinese_text_too() -> None:
    text = "部署的密钥放在蓝色的文件夹里面。每个月的第一天要更换一次密钥。"
    asked = questions([Record(RID, 1, "episodic", text)])
    assert len({one.group for one in asked}) == 2
    assert all(one.prompt.removeprefix("接着说：") + one.answer in text for one in asked)


def test_a_tool_call_is_taught_as_it_worked() -> None:
    worked = {"tool": "weather", "args": {"city": "Oslo"}, "ok": True}
    failed = {"tool": "weather", "args": {"city": "?"}, "ok": False, "cure": {"city": "Bergen"}}
    hopeless = {"tool": "weather", "args": {"city": "?"}, "ok": False}
    for meta, city in ((worked, "Oslo"), (failed, "Bergen")):
        asked = questions([Record(RID, 1, "procedural", "x", kind="tool_call", meta=meta)])
        assert len(asked) >= 3
        assert {one.answer for one in asked} == {
            json.dumps({"args": {"city": city}, "tool": "weather"}, separators=(",", ":"))
        }
    assert questions([Record(RID, 1, "procedural", "x", kind="tool_call", meta=hopeless)]) == []


def test_a_program_is_taught_with_the_words_that_were_said() -> None:
    program = [{"call": "proc.list", "args": {}}]
    record = Record(RID, 1, "procedural", "x", meta={"intent": "crew?", "program": program})
    (one,) = questions([record])
    assert one.prompt == "crew?"
    assert json.loads(one.answer) == program
    assert not one.held_out


WORDS = st.text(st.sampled_from("ab c北京。.!?\n"), max_size=80)


@settings(deadline=None)
@over(st.lists(WORDS, max_size=4), st.integers(0, 5), st.sampled_from((0.0, 0.25, 0.9)))
def test_any_text(texts: list[str], seed: int, share: float) -> None:
    records = [Record(RID, 1, "episodic", text) for text in texts]
    asked = questions(records, seed, share)
    assert asked == questions(records, seed, share)
    assert digest(asked) == digest(questions(records, seed, share))
    for one in asked:
        ways = [other for other in asked if other.group == one.group]
        assert one.prompt
        assert one.answer
        assert any(not way.held_out for way in ways)
        assert not one.held_out or share


def test_the_seed_decides_what_is_set_aside() -> None:
    records = [fact("Ada", "lives_in", f"town {at}") for at in range(20)]
    aside = [
        [at for at, one in enumerate(questions(records, seed)) if one.held_out] for seed in (1, 2)
    ]
    assert aside[0] != aside[1]
    assert len(aside[0]) == len(aside[1]) == 20


def test_given_examples() -> None:
    made = given(
        [
            {"prompt": "crew?", "program": [{"call": "proc.list", "args": {}}], "sources": [RID]},
            {"prompt": "a", "completion": "b", "accept": ["c"], "group": "g", "held_out": True},
            {"intent": "who?", "program": []},
        ]
    )
    assert (made[2].prompt, made[2].answer) == ("who?", "[]")
    assert made[0].answer == '[{"args":{},"call":"proc.list"}]'
    assert made[0].sources == [RID]
    assert (made[1].accept, made[1].group, made[1].held_out) == (["c"], "g", True)


@pytest.mark.parametrize(
    "example",
    [
        {"prompt": "a"},
        {"completion": "a"},
        {"prompt": "a", "completion": "b", "program": []},
        {"prompt": "a", "intent": "a", "completion": "b"},
        {"prompt": "a", "completion": "b", "colour": "red"},
        {"prompt": "a", "completion": "b", "sources": ["no rid"]},
        {"prompt": 1, "completion": "b"},
    ],
)
def test_given_examples_that_are_refused(example: dict[str, object]) -> None:
    with pytest.raises(EINVAL, match="example 1"):
        given([{"prompt": "a", "completion": "b"}, example])
