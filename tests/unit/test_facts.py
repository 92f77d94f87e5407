"""Claims on a line of time, against an honest account of each instant."""

from math import inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from syscalls.records import Fact
from ums.facts import Claim, entity_key, is_functional, relation_key, timeline

TIMES = st.integers(-3, 6).map(float)


def claim(start: float, stop: float, what: str, known: float = 0.0) -> Claim:
    return Claim(start, stop, known, "ann", what, functional=True)


@st.composite
def claims(draw: st.DrawFn) -> list[tuple[bytes, Claim]]:
    found = []
    for number in range(draw(st.integers(0, 7))):
        start = draw(st.one_of(st.just(-inf), TIMES))
        stop = draw(st.one_of(st.just(inf), TIMES))
        known = float(draw(st.integers(0, 3)))
        found.append((bytes([number]), claim(start, stop, draw(st.sampled_from("xyz")), known)))
    return found


INSTANTS = [-1e9, *(at + half for at in range(-4, 8) for half in (0.0, 0.5)), 1e9]


@given(claims())
def test_at_each_instant_the_last_to_begin_is_in_force(given: list[tuple[bytes, Claim]]) -> None:
    line = timeline(given)
    held = dict(given)
    for at in INSTANTS:
        covering = [(c.start, c.known, rid) for rid, c in given if c.start <= at < c.stop]
        expected = {held[max(covering)[2]].object} if covering else set()
        found = {
            held[rid].object
            for rid, stretch in line.items()
            if stretch.start <= at < stretch.stop
            and not any(start <= at < stop for start, stop in stretch.gaps)
        }
        assert found == expected, at


@given(claims())
def test_what_ended_a_claim_is_another_object_that_holds_there(
    given: list[tuple[bytes, Claim]],
) -> None:
    held = dict(given)
    for rid, stretch in timeline(given).items():
        mine = held[rid]
        assert mine.start == stretch.start <= max(stretch.stop, mine.start)
        assert stretch.stop <= max(mine.stop, mine.start)
        assert bool(stretch.by) == (stretch.stop < mine.stop)
        if stretch.by:
            other = held[stretch.by]
            assert other.object != mine.object
            assert other.start <= stretch.stop < other.stop
            assert (other.start, other.known, stretch.by) > (mine.start, mine.known, rid)
        last = stretch.start
        for start, stop in stretch.gaps:
            assert last <= start < stop < stretch.stop
            last = stop


@given(claims(), st.randoms())
def test_the_order_of_arrival_does_not_matter(
    given: list[tuple[bytes, Claim]], random: Random
) -> None:
    other = list(given)
    random.shuffle(other)
    assert timeline(other) == timeline(given)


def test_a_long_slot_takes_no_square_of_time() -> None:
    many = [
        (number.to_bytes(16, "big"), claim(float(number), inf, str(number % 2)))
        for number in range(5_000)
    ]
    line = timeline(many)
    assert all(
        stretch.stop == number + 1 for number, stretch in enumerate(list(line.values())[:0:-1])
    )


def test_names_of_entities_and_relations() -> None:
    for name in (
        "Ann Lee",
        " ann  LEE ",
        '"Ann Lee"',
        "Ann Lee's",
        "ANN\nLEE",
        "Ａｎｎ Lee",
        "「Ann Lee」",
    ):
        assert entity_key(name) == "ann lee"
    assert entity_key("The Hague") == "hague"
    assert entity_key("王小明") == "王小明"
    assert entity_key("...") == "..."
    for relation in ("lives in", "Lives_In", "lives-in", "resides in", "住在"):
        assert relation_key(relation) == "lives_in"
    assert relation_key("!!") == "!!"


def test_the_caller_says_more_than_the_table() -> None:
    assert is_functional(Fact("a", "lives in", "b"))
    assert is_functional(Fact("a", "lives in", "b", functional=False)) is False
    assert is_functional(Fact("a", "mentors", "b")) is None
    assert is_functional(Fact("a", "mentors", "b", functional=True))
