"""What a query says, beside its words: whom it names, when, and in how many sentences.

    "When did Alice paint in May 2023?"      known speakers: alice, bob
      names    alice                         looked for among speakers, not in texts
      words    "paint May 2023"              looked for word for word
      dates    May 2023                      looked for in the time of the records
      gist     "When did paint in May 2023?", "paint May 2023"      embedded, and averaged
      parts    (none: it is one sentence)    the words of each embedded; the best counts too

A speaker's name is taken out before the query is embedded: in a conversation it is on every
other line, and half of what a small embedder sees in a short question. (On the LoCoMo
development half similarity alone goes from .45 to .57 by it.)

A request for advice shares little with what was once said of likes and dislikes. Its gist is
averaged with a statement of the kind that is looked for, as a hypothetical answer (Gao et
al., "Precise Zero-Shot Dense Retrieval without Relevance Labels", 2022) without a model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ums.recall.dates import Dates, dates_in
from ums.recall.query import words_of
from ums.recall.voice import named, without

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_PARTS: Final = 6
"""Sentences of a query that are embedded by themselves."""
LONGEST: Final = 2000
"""Characters of a query that are looked at for anything but its words."""
STATEMENT: Final = "I avoid {}"
"""What somebody who wants advice may have said before. Likes are near the request itself."""
_ADVICE: Final = re.compile(
    r"\b(?:recommend\w*|suggest\w*|advice|advise|tips?|ideas?|should i|what are some|best|good"
    r"|looking for|options?)\b",
    re.IGNORECASE,
)
_SENTENCE: Final = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；\n])\s*")


class Question(NamedTuple):
    """A query as the signals see it."""

    text: str
    words: str
    names: frozenset[str]
    """Words of the names of known speakers, lower case."""
    dates: Dates
    gist: tuple[str, ...]
    parts: tuple[str, ...]
    """Empty for a query of one sentence."""


def question(text: str, known: Iterable[str], now: float) -> Question:
    """Take a query apart; ``known`` are words of the names of those who speak in the spaces."""
    head = text[:LONGEST]
    names = named(head, known)
    bare = without(head, names) if names else head
    if not any(char.isalnum() for char in bare):
        bare = head  # nothing but the name
    words = _tidy(words_of(bare))
    gist = dict.fromkeys(part for part in (bare, words) if part)
    if _ADVICE.search(bare):
        gist[STATEMENT.format(words)] = None
    parts = [part for one in _SENTENCE.split(bare) if " " in (part := _tidy(words_of(one)))]
    if len(parts) < 2:
        parts = []
    looked_for = words_of(without(text, names) or text) if names else words_of(text)
    dates = dates_in(head, now)
    return Question(
        text, looked_for, names, dates, tuple(gist) or (text,), tuple(parts[:MOST_PARTS])
    )


def _tidy(text: str) -> str:
    return " ".join(text.split())
