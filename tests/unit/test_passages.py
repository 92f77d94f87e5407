"""Long texts in passages: nothing is left out, nothing is too long, the number is bounded."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ums.passages import MOST, passages, spans

pieces = st.sampled_from(
    [
        "word ",
        "A sentence ends. ",
        "\n\n",
        "字",
        "一句话。",
        "Ünïcödé",
        "🜂🏽‍🚀",
        "x" * 90,
        "{}[]();",
        "12 345",
    ]
)
texts = st.lists(pieces, max_size=400).map("".join) | st.text(max_size=600)


@settings(max_examples=100)
@given(text=texts, tokens=st.sampled_from([10, 32, 256, 512]))
def test_passages_cover_the_text_in_order(text: str, tokens: int) -> None:
    found = spans(text, tokens)
    assert passages(text, tokens) == [text[start:end] for start, end in found]
    assert 1 <= len(found) <= MOST
    assert found[0][0] == 0
    for (start, end), (later, last) in itertools.pairwise(found):
        assert start < later
        assert end < last
        if len(found) < MOST:  # the longest ones are sampled
            assert later <= end, "something was left out"
    if len(found) < MOST:
        assert found[-1][1] == len(text)


@pytest.mark.parametrize("text", ["", " ", "short", "字" * 100, "a sentence of a few words. " * 20])
def test_what_fits_is_one_passage(text: str) -> None:
    assert passages(text, 256) == [text]


def test_passages_overlap_and_end_at_sentences() -> None:
    text = "".join(f"Sentence number {n} is about this and that. " for n in range(200))
    found = passages(text, 128)
    assert 8 < len(found) < 40
    for first, second in itertools.pairwise(found):
        assert first.endswith(". ")
        assert second.split()[0] in first
        assert any(second.startswith(first[-back:]) for back in range(10, 120))


def test_ideographs_count_for_more_than_letters() -> None:
    assert len(passages("字" * 1000, 256)) == 5
    assert len(passages("abcd " * 200, 256)) == 1


@pytest.mark.parametrize("text", ["word " * 800_000, "字" * 4_000_000, "x" * 10_000_000])
def test_a_very_long_text_is_sampled_evenly(text: str) -> None:
    found = passages(text, 256)
    assert len(found) == MOST
    assert max(map(len, found)) <= 1100


def test_a_lone_surrogate_is_a_character() -> None:
    assert "".join(passages("\ud800" * 300, 1000)) == "\ud800" * 300
    assert len(passages("\ud800" * 300, 100)) > 1
