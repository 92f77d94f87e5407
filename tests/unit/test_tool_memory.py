"""Tool memory without a kernel: kinds of errors, likeness, verdicts, advice."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ums.tools import (
    Episode,
    Experience,
    Trace,
    difference,
    digest,
    error_kind,
    is_transient,
    normal,
    similarity,
)

BOOK = {"user": "ada_1", "flight": "HAT136", "payment": {"id": "card_77", "amount": 250}}


class Past:
    """An experience that is made call by call."""

    def __init__(self, refused_after: int = 2) -> None:
        self.experience = Experience(refused_after)
        self.episode = Episode()

    def call(self, tool: str, args: dict[str, Any], error: str = "", result: str = "") -> Trace:
        trace = self.episode.begin(tool, "s", args)
        known = self.experience.get(trace.digest)
        if known is not None:
            trace = known
        trace.happened(not error, error, 1.0, 0.1)
        for each in self.episode.end(trace, result):
            each.cure, each.cured_by = trace.args, trace.digest
            self.experience.learn(each.digest, each)
        self.experience.learn(trace.digest, trace)
        return trace

    def judge(self, tool: str, args: dict[str, Any], schema: str = "s") -> Any:
        return self.experience.judge(self.episode.begin(tool, schema, args))


def test_an_error_is_known_by_what_does_not_change() -> None:
    one = error_kind("Error: payment of card_7334 failed, total is 305, but paid 255")
    assert one == error_kind("error: payment of card_9 failed, total is 11, but paid 2")
    assert one != error_kind("Error: payment method not found")
    assert error_kind("cannot open 'a b.txt'\ntraceback") == error_kind('cannot open "c"')
    assert error_kind("") == "error"


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        ("ETIME: no answer", True),
        ("Request timed out", True),
        ("503 Service Unavailable", True),
        ("rate limit exceeded", True),
        ("the job is still in progress", True),
        ("payment method not found", False),
        ("EINVAL: unknown city", False),
        ("timetable not found", False),
    ],
)
def test_errors_that_may_pass_are_told_by_their_words(error: str, passes: bool) -> None:
    assert is_transient(error) == passes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
arguments = st.dictionaries(st.text(max_size=3), json_values, max_size=4)


@given(arguments, arguments)
def test_likeness_and_digests_agree(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert similarity(one, one) == 1.0
    assert similarity(one, other) == similarity(other, one)
    assert 0.0 <= similarity(one, other) <= 1.0
    shuffled = dict(reversed(one.items()))
    assert digest("t", "s", one) == digest("t", "s", shuffled) == digest("t", "s", normal(one))
    assert digest("t", "s", one) != digest("t", "z", one)


def test_the_same_call_is_refused_after_two_failures_of_a_kind_in_a_row() -> None:
    past = Past()
    past.call("book", BOOK, "Error: no seats on HAT136")
    assert not past.judge("book", BOOK).refused
    assert past.judge("book", BOOK).fails
    past.call("book", BOOK, "Error: no seats on HAT136")
    verdict = past.judge("book", BOOK)
    assert "failed 2 times in a row: Error: no seats" in verdict.refused
    assert not past.judge("book", {**BOOK, "flight": "HAT1"}).refused
    assert not past.judge("book", BOOK, schema="other").refused
    assert past.judge("book", BOOK, schema="other").advice == ""
    past.call("book", BOOK)
    assert not past.judge("book", BOOK).refused
    past.call("book", BOOK, "Error: no seats on HAT136")
    assert not past.judge("book", BOOK).refused


def test_errors_that_pass_or_change_are_not_held_against_a_call() -> None:
    past = Past()
    for _ in range(5):
        past.call("fetch", {"url": "x"}, "ETIME: no answer within 60 s")
    assert not past.judge("fetch", {"url": "x"}).refused
    past.call("fetch", {"url": "y"}, "not found")
    past.call("fetch", {"url": "y"}, "gone")
    assert not past.judge("fetch", {"url": "y"}).refused


def test_what_then_worked_is_told_with_the_next_call_like_it() -> None:
    past = Past()
    past.call("book", BOOK, "Error: card_77 has expired")
    mended = {**BOOK, "payment": {"id": "card_88", "amount": 250}}
    past.call("book", mended)
    verdict = past.judge("book", {**BOOK, "user": "bob_2"})
    assert "card_77 has expired" in verdict.advice
    assert 'What then worked: payment.id = "card_88" instead of "card_77"' in verdict.advice
    assert past.judge("other", BOOK).advice == ""
    assert "failed 1 of 1 times" in past.judge("book", BOOK).advice


def test_an_unrelated_success_is_no_cure() -> None:
    past = Past()
    past.call("find", {"name": "zebra"}, "not found")
    past.call("find", {"name": "Ulm"})
    assert "Nothing is known" in past.judge("find", {"name": "zebra"}).advice


def test_an_identifier_that_nobody_has_shown_is_a_sign() -> None:
    past = Past()
    for number in range(6):
        past.episode = Episode()
        past.call("pay", {"method": f"card_{number}0"}, "method not found")
        past.episode = Episode()
        past.call("look", {"who": "ada"}, result=f"card_{number}1 and card_{number}2")
        past.call("pay", {"method": f"card_{number}1"})
    past.episode = Episode()
    guessed = past.judge("pay", {"method": "card_999"})
    assert guessed.fails
    assert guessed.risk > guessed.base
    past.call("look", {"who": "eve"}, result="card_999")
    assert past.judge("pay", {"method": "card_999"}).risk < guessed.risk


def test_what_is_unlearnt_leaves_nothing() -> None:
    past = Past()
    before = past.judge("book", BOOK)
    trace = past.call("book", BOOK, "Error: no seats")
    past.episode = Episode()
    past.experience.unlearn(trace.digest)
    past.experience.unlearn("never known")
    assert past.judge("book", BOOK) == before
    assert len(past.experience) == 0


def test_differences_are_told_in_words() -> None:
    assert difference({"a": 1, "b": 2}, {"a": 1, "c": 3}) == "without b; with c = 3"
    assert difference({"a": [1, 2]}, {"a": [1, 3]}) == "a[] = [1,3] instead of [1,2]"
    assert difference({"a": 1}, {"a": 1.0}) == "the same arguments, later"
