"""Cuts any text into the words that the lexical index knows.

Documents and queries go through the same function, so that both sides always agree:

    "Alice's café: e-mail bob@example.com, 喜欢简洁"
      -> alic cafe e-mail e mail bob@example.com bob exampl com 喜 喜欢 欢 欢简 简 简洁 洁

1. NFKC and case folding; accents of Latin, Greek, Cyrillic, Hebrew and Arabic are dropped.
2. Words are letters and digits. Those joined by one of ``. _ @ - / +`` (identifiers,
   addresses, dates, versions) count whole and in their parts; apostrophes vanish.
3. English words are stemmed (Snowball, "Porter2", https://snowballstem.org).
4. Scripts written without spaces are cut into overlapping pairs of characters, which need no
   dictionary and find as well as words do, and into single characters, so that a query of
   one character finds something (Nie et al., "On the use of words and n-grams for Chinese
   information retrieval", 2000).
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

import Stemmer  # type: ignore[import-not-found]  # PyStemmer has no types

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST: Final = 64
"""Longer words are cut to this many characters (keys, hashes, encoded data)."""

SLICE: Final = 16384
"""Characters that are cut in one go."""

# Han with its extensions, kana, Hangul; Thai, Lao, Myanmar, Khmer.
_UNSPACED: Final = (
    "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
# Vowel signs of Indic scripts belong to the word, although \w does not think so.
_SIGNS: Final = "".join(
    chr(code) for code in range(0x900, 0xE00) if unicodedata.category(chr(code))[0] == "M"
)
_WORD: Final = rf"(?:[^\W_{_UNSPACED}]|[{_SIGNS}])+"
_PIECES: Final = re.compile(rf"([{_UNSPACED}]+)|({_WORD}(?:[._@/+-]{_WORD})*)")
_PARTS: Final = re.compile(_WORD)
_ACCENTS: Final = re.compile("[\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u064b-\u065f\u0670\u0640]")
_POSSESSIVE: Final = re.compile(r"(?<=\w)['\u2019](?:s\b)?(?=\w|\b|\s|$)")


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Folding can undo the normal form, and accents show only when taken apart.
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFKC", text)


def _slices(text: str) -> Iterator[str]:
    """A long text in pieces, cut at a space where there is one.

    A regular expression keeps the interpreter's lock until it is done; between two pieces
    other threads (the kernel's loop) get their turn.
    """
    start = 0
    while len(text) - start > SLICE:
        cut = text.rfind(" ", start + 1, start + SLICE)
        cut = cut if cut > start else start + SLICE
        yield text[start:cut]
        start = cut
    yield text[start:]


class Words:
    """A tokeniser. Not thread-safe (the stemmer keeps a cache): one for each index."""

    def __init__(self) -> None:
        self._stem = Stemmer.Stemmer("english").stemWord

    def __call__(self, text: str) -> list[str]:
        """The words of a text, in order, repeated as often as they occur. Never fails."""
        folded = _fold(text)
        if "'" in folded or "\u2019" in folded:
            folded = _POSSESSIVE.sub("", folded)
        found: list[str] = []
        for piece in _slices(folded):
            self._cut(piece, found)
        return found

    def _cut(self, text: str, found: list[str]) -> None:
        for unspaced, word in _PIECES.findall(text):
            if unspaced:
                for index, character in enumerate(unspaced):
                    found.append(character)
                    if index + 1 < len(unspaced):
                        found.append(unspaced[index : index + 2])
            elif word.isalnum():
                found.append(self._stemmed(word))
            else:
                parts = _PARTS.findall(word)
                if len(parts) > 1:
                    found.append(word[:LONGEST])
                found += [self._stemmed(part) for part in parts]

    def _stemmed(self, word: str) -> str:
        word = word[:LONGEST]  # first: the stemmer's time grows with the length
        return self._stem(word) if word.isascii() and word.isalpha() else word
