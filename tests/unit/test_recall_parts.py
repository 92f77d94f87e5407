"""What is read out of queries and records: dates, names, speakers, sessions, questions."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ums.recall.dates import Dates, dates_in, moment_in
from ums.recall.question import MOST_PARTS, question
from ums.recall.voice import Voice, asks, named, voice_of, without
from ums.records import TAGS, Stored

NOW = datetime(2024, 3, 15, 12, tzinfo=UTC).timestamp()


def at(*day: int) -> float:
    return datetime(*day, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


def stored(content: str, **fields: object) -> Stored:
    base = {"content": content, "version": 1, "created": NOW, "updated": NOW}
    return Stored(**{**base, "writer": 1, "call": "mem.write", **fields})  # type: ignore[arg-type]


def voice(content: str, segment: str = "episodic", **fields: object) -> Voice:
    return voice_of(stored(content, **fields), TAGS[segment])  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "moment", "fit"),
    [
        ("on 8 May, 2023", (2023, 5, 8), 1.0),
        ("on 8 May, 2023", (2023, 5, 15), 1.0),
        ("on 8 May, 2023", (2023, 5, 7), 0.5),
        ("on 8 May, 2023", (2023, 6, 20), 0.0),
        ("May 8th, 2023", (2023, 5, 9), 1.0),
        ("2023-05-08", (2023, 5, 8), 1.0),
        ("2023年5月8日", (2023, 5, 8), 1.0),
        ("the 3rd of June 2022", (2022, 6, 4), 1.0),
        ("in May 2023", (2023, 5, 31), 1.0),
        ("in May 2023", (2023, 6, 1), 0.0),
        ("in May 2023", (2022, 5, 1), 0.0),
        ("in May", (1999, 5, 1), 1.0),
        ("5月的事", (2001, 5, 3), 1.0),
        ("in 2022", (2022, 12, 31), 1.0),
        ("in 2022", (2023, 1, 1), 0.0),
        ("in 1943", (1943, 6, 1), 1.0),
        ("what did I do yesterday", (2024, 3, 14), 1.0),
        ("last week", (2024, 3, 5), 1.0),
        ("last year", (2023, 6, 1), 1.0),
        ("去年", (2023, 6, 1), 1.0),
        ("3 months ago", (2023, 12, 14), 1.0),
        ("two weeks ago", (2024, 3, 1), 1.0),
        ("two weeks ago", (2024, 3, 14), 0.0),
    ],
)
def test_dates(text: str, moment: tuple[int, int, int], fit: float) -> None:
    assert dates_in(text, NOW).fit(at(*moment)) == fit


@pytest.mark.parametrize(
    "text",
    [
        "may I march on?",
        "version 3.2023.1",
        "call 20231",
        "2023-13-41",
        "31 people in 300 rooms",
        "on 31 February 2023",
        "at 10:2023",
        "",
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert not dates_in(text, NOW)


@given(st.text(), st.floats(-1e14, 1e14))
def test_any_text_and_any_time(text: str, moment: float) -> None:
    assert 0 <= dates_in(text, NOW).fit(moment) <= 1
    assert dates_in(text, NOW) == dates_in(text, NOW)


def test_a_stamp_is_one_moment() -> None:
    assert moment_in("1:56 pm on 8 May, 2023") == at(2023, 5, 8)
    assert moment_in("May to June 2023") is None
    assert moment_in("nothing") is None


def test_a_line_of_a_chat_says_who_and_when() -> None:
    line = voice("[1:56 pm on 8 May, 2023] Caroline: Hey Mel!")
    assert line == ("caroline", "1:56 pm on 8 May, 2023", at(2023, 5, 8))
    assert voice("Caroline: Hey Mel!") == ("caroline", "", NOW)
    assert voice("小林：下午好") == ("", "", NOW)
    assert voice("小林： 下午好").speaker == "小林"
    assert not voice("Caroline: Hey Mel!", "semantic").spoken
    for plain in ("hey: you", "see https://example.com", "At 10:30 we met", "[x] done", ""):
        assert not voice(plain).spoken, plain


def test_what_the_writer_says_counts_more_than_the_line() -> None:
    told = voice(
        "[8 May 2023] Caroline: Hey",
        meta={"author": "Bob", "session_id": 3, "date": "2020-01-02"},
    )
    assert told == ("bob", "3", at(2020, 1, 2))
    assert voice("x", valid_from=5.0, meta={"time": 7}).when == 5.0
    assert voice("x", meta={"timestamp": 7}).when == 7.0
    assert not voice("x", meta={"speaker": None, "session": ""}).spoken
    assert voice("x", "semantic", meta={"speaker": "Ann"}).spoken


@pytest.mark.parametrize(
    ("content", "question"),
    [
        ("How are you?", True),
        ("How are you? [shares a photo]", True),
        ("你好吗？", True),
        ("Fine. Why?  ", True),
        ("I asked why? Nobody knew.", False),
        ("", False),
    ],
)
def test_questions(content: str, *, question: bool) -> None:
    assert asks(content) is question


def test_names_are_found_and_taken_out() -> None:
    known = ["caroline", "will", "小林", "mel"]
    assert named("What did Caroline's sister say?", known) == {"caroline"}
    assert named("will it rain", known) == frozenset()
    assert named("did Will come", known) == {"will"}
    assert named("请问小林喜欢什么", known) == {"小林"}
    assert named("melody", known) == frozenset()
    assert without("What did Caroline's sister say to caroline?", ["caroline"]) == (
        "What did sister say to ?"
    )


def test_a_query_taken_apart() -> None:
    asked = question("When did Alice paint in May 2023?", ["alice", "bob"], NOW)
    assert asked.names == {"alice"}
    assert asked.words.split() == ["paint", "May", "2023?"]
    assert asked.dates == Dates((dates_in("May 2023").spans[0],))
    assert asked.gist == ("When did paint in May 2023?", "paint May 2023?")
    assert asked.parts == ()
    alone = question("Alice", ["alice"], NOW)
    assert (alone.words, alone.gist) == ("Alice", ("Alice",))


def test_advice_and_several_sentences() -> None:
    asked = question("I go to Rome. Can you recommend a good hotel there?", [], NOW)
    assert asked.parts == ("go Rome.", "good hotel ?")
    assert len(asked.gist) == 3
    assert asked.gist[2].startswith("I avoid ")
    assert len(question("One two. " * 50, [], NOW).parts) == MOST_PARTS


@given(st.text(min_size=1, max_size=200), st.lists(st.sampled_from(["alice", "bob", "李"])))
def test_any_query_can_be_asked(text: str, known: list[str]) -> None:
    asked = question(text, known, NOW)
    assert asked.gist
    assert asked.text == text
