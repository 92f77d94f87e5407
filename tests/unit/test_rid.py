"""Record ids: order, round trips, what is in them."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syscalls.errors import EINVAL
from ums.rid import LENGTH, MAX_SPACE, RidMaker, from_text, pack, space_of, time_of, to_text, unpack

numbers = st.integers(0, 2**128 - 1)
spaces = st.integers(1, MAX_SPACE)


@given(numbers)
def test_text_and_bytes_come_back(number: int) -> None:
    text = to_text(number)
    assert len(text) == LENGTH
    assert from_text(text) == number
    assert unpack(pack(text)) == text


@given(numbers, numbers)
def test_text_bytes_and_numbers_sort_alike(one: int, two: int) -> None:
    assert (one < two) == (to_text(one) < to_text(two))
    assert (one < two) == (pack(to_text(one)) < pack(to_text(two)))


@given(spaces, st.lists(st.floats(0, 4e9), min_size=1, max_size=50), st.integers())
def test_ids_grow_whatever_the_clock_does(space: int, times: list[float], seed: int) -> None:
    maker = RidMaker(space, Random(seed))
    made = [maker.make(now) for now in times]
    assert made == sorted(set(made))
    assert {space_of(to_text(number)) for number in made} == {space}
    latest = 0.0
    for now, number in zip(times, made, strict=True):
        latest = max(latest, now)
        assert abs(time_of(to_text(number)) - latest) < 0.0011


def test_a_millisecond_holds_more_than_its_sequence() -> None:
    maker = RidMaker(7, Random(1))
    made = [maker.make(1.0) for _ in range(2**16 + 10)]
    assert made == sorted(set(made))
    assert time_of(to_text(made[-1])) == 1.001


def test_a_maker_follows_what_was_there_before() -> None:
    ahead = RidMaker(7, Random(1)).make(100.0)
    maker = RidMaker(7, Random(2))
    maker.follow(ahead)
    assert maker.make(50.0) > ahead


def test_seed_and_clock_decide_everything() -> None:
    one = [RidMaker(3, Random(5)).make(9.0) for _ in range(3)]
    two = [RidMaker(3, Random(5)).make(9.0) for _ in range(3)]
    assert one == two


@pytest.mark.parametrize(
    "text", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "U", "0" * 25 + "a", "é" * 26]
)
def test_what_is_no_rid_is_refused(text: str) -> None:
    with pytest.raises(EINVAL):
        from_text(text)


@pytest.mark.parametrize("space", [0, -1, MAX_SPACE + 1])
def test_what_is_no_space_is_refused(space: int) -> None:
    with pytest.raises(EINVAL):
        RidMaker(space, Random(1))
