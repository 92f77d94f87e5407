"""What is asked is never trained on, whatever the examples are and in whatever order."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from drivers.lora.contract import Example, TrainSpec
from drivers.lora.selection import batches, said, select, unasked
from syscalls.shapes import ChatMessage

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

TEXTS = ["ship it", "Ship  it", "deploy", "push the tin", "退 车", "hold"]
EXAMPLES: SearchStrategy[Example] = st.builds(
    Example,
    completion=st.sampled_from(["a", "b"]),
    prompt=st.sampled_from(TEXTS),
    group=st.sampled_from(["", "one", "two"]),
)


@given(
    st.lists(EXAMPLES, max_size=20),
    st.lists(EXAMPLES, max_size=3),
    st.lists(EXAMPLES, max_size=3),
    st.sampled_from([0.0, 0.2, 0.9]),
    st.integers(0, 3),
)
def test_no_text_is_both_asked_and_trained_on(
    examples: list[Example],
    probes: list[Example],
    regression: list[Example],
    share: float,
    seed: int,
) -> None:
    spec = TrainSpec(
        "base", examples, probes=probes, regression=regression, held_out=share, seed=seed
    )
    got = select(spec)
    asked = {said(each) for each in (*got.probes, *regression)}
    assert not asked & {said(each) for each in got.training}
    assert got.probes[: len(probes)] == probes
    held_out = got.probes[len(probes) :]
    assert len(held_out) == got.set_aside == len({said(each) for each in held_out})
    if not share:
        assert not held_out
    # Nothing is lost but what is asked for by somebody else.
    given_to_others = {said(each) for each in (*probes, *regression)}
    here = {said(each) for each in (*got.training, *held_out)} | given_to_others
    assert here >= {said(each) for each in examples}
    # The order in which examples are given changes nothing.
    mixed = list(examples)
    random.Random(seed).shuffle(mixed)
    spec.examples = mixed
    assert {said(each) for each in select(spec).training} == {said(each) for each in got.training}


def test_of_each_group_something_is_learnt_and_something_asked() -> None:
    examples = [Example("x", f"{name} {n}", group=name) for name in "abcd" for n in range(5)]
    examples.append(Example("x", "alone", group="e"))
    got = select(TrainSpec("base", examples, held_out=0.2))
    assert {each.group for each in got.training} == set("abcde")
    assert sorted(each.group for each in got.probes) == list("abcd")
    others = select(TrainSpec("base", examples, held_out=0.2, seed=1)).probes
    assert set(map(said, others)) != set(map(said, got.probes)), "the seed decides which"


def test_messages_are_compared_by_what_they_say() -> None:
    turns = [ChatMessage("user", "Hello  there")]
    assert said(Example("x", messages=turns)) == "user: hello there"
    assert said(Example("The sky is blue")) == "the sky is blue"
    row = Example("x", "Ship  IT")
    assert unasked([row, Example("x", "hold")], [Example("y", "ship it")]) == [Example("x", "hold")]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 9), st.integers(0, 2))
def test_an_epoch_has_every_row_once(lengths: list[int], size: int, seed: int) -> None:
    epoch = batches(lengths, size, seed, 1)
    assert sorted(place for batch in epoch for place in batch) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in epoch)
    assert len(epoch) == -(-len(lengths) // size)
    assert epoch == batches(lengths, size, seed, 1)
