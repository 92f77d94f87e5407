"""How texts are cut into words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.lexical.words import LONGEST, Words

CASES = {
    "The users were running": ["the", "user", "were", "run"],
    "Alice's dogs don't": ["alic", "dog", "dont"],
    "Alice\u2019s": ["alic"],
    "café naïve ÜBER": ["cafe", "naiv", "uber"],
    "e-mail": ["e-mail", "e", "mail"],
    "bob@example.com.": ["bob@example.com", "bob", "exampl", "com"],
    "foo_bar __init__": ["foo_bar", "foo", "bar", "init"],
    "3.14 1,000 v2": ["3.14", "3", "14", "1", "000", "v2"],
    "2023-05-07": ["2023-05-07", "2023", "05", "07"],
    "ｆｕｌｌ ﬁne Ⅳ": ["full", "fine", "iv"],
    "喜欢猫": ["喜", "喜欢", "欢", "欢猫", "猫"],
    "猫": ["猫"],
    "用Python写": ["用", "python", "写"],
    "ガｶﾞ": ["ガ", "ガガ", "ガ"],
    "한국": ["한", "한국", "국"],
    "привет Ёлка": ["привет", "елка"],
    "हिन्दी भाषा": ["हिन्दी", "भाषा"],
    "🙂 !? ...": [],
    "": [],
}


@pytest.mark.parametrize(("text", "words"), CASES.items())
def test_cases(text: str, words: list[str]) -> None:
    assert Words()(text) == words


@given(st.text())
def test_any_text_gives_plain_words(text: str) -> None:
    """Words have no space, quote or capital, so that they can be joined and quoted."""
    for word in Words()(text):
        assert 0 < len(word) <= LONGEST
        assert not set(word) & set(" \t\n\"'\0*:^()")
        assert word.split() == [word]


@given(st.text())
def test_it_is_a_function_of_the_text(text: str) -> None:
    once = Words()
    once("something before")
    assert once(text) == Words()(text)


@given(st.text())
def test_normal_forms_and_cases_agree(text: str) -> None:
    words = Words()
    assert words(unicodedata.normalize("NFKC", text)) == words(text)


@given(st.text(st.characters(max_codepoint=0x24F)))
def test_capitals_do_not_matter_in_latin(text: str) -> None:
    words = Words()
    assert words(text.casefold()) == words(text)


@given(st.lists(st.text(min_size=1, max_size=8), max_size=6))
def test_words_do_not_depend_on_their_neighbours(parts: list[str]) -> None:
    """A query of one line of a document finds that document by each of its words."""
    words = Words()
    whole = set(words("\n".join(parts)))
    for part in parts:
        assert set(words(part)) <= whole


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1))
def test_every_character_of_han_is_a_word(text: str) -> None:
    assert set(text) <= set(Words()(text))


def test_a_long_text_is_cut_as_a_short_one_is() -> None:
    sentence = "the bicycles of 喜欢简洁 bob@example.com were found "
    once = Words()(sentence)
    assert Words()(sentence * 1000) == once * 1000
    assert all(len(word) <= LONGEST for word in Words()("z" * 100_000))
