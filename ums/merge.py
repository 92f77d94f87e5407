"""When two records say the same: strictly, since a merge that is wrong loses a truth.

Candidates are exact after normalisation, or near in meaning and words. Nearness proves
nothing: "the door code is 4711" and "the door code is 4712" are as near as can be. So a
near pair must also agree in everything that makes a difference:

    numbers, names and other capitals, negations      equal
    content words                                     equal, or one of eight and more
    their order                                       equal ("Ann paid Bob", "Bob paid Ann")
    opposites (like, hate; before, after)             none among what differs
    segment, kind, tags, meta, fact, validity         equal
    keys, times to live, links between facts          none: what has one is left alone
    two events that were told on different days       are two events

The survivor is the one that most rests on, and its writer the most to be trusted.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from ums.activation import DAY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ums.records import Stored

NEAR = 0.93
"""Least cosine of two near duplicates."""
LONG = 8
"""Content words from which on one of them may differ."""
LONGEST = 4000
"""Characters above which only exact duplicates are looked for."""
SAME_EVENT = DAY
"""Seconds between two tellings of one event, at most."""

_ALIKE = ("kind", "valid_from", "valid_to", "fact", "tags", "meta")
_TRUST = {"user": 3, "tool": 2, "model": 1, "recalled": 0}
_WORD = re.compile(r"\w+(?:['’]\w+)*", re.UNICODE)
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot|hardly|barely|unless|except)\b"
    r"|n['’]t\b|[不没无未非别]",
    re.IGNORECASE,
)
_NUMERALS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    hundred thousand million half twice once first second third both all some any every most few
    many several each only
"""
_IN_WORDS = frozenset(_NUMERALS.split())
_FUNCTION = frozenset(
    re.findall(r"\w+", "a an the and of is are am be it that as so very really just")
)
_OPPOSITES = (
    ({"like", "likes", "love", "loves", "enjoy", "enjoys", "prefer", "prefers"},
     {"hate", "hates", "dislike", "dislikes", "avoid", "avoids"}),
    ({"before", "earlier"}, {"after", "later"}),
    ({"more", "most", "higher", "above", "over", "increase", "increased"},
     {"less", "least", "lower", "below", "under", "decrease", "decreased"}),
    ({"on", "enable", "enabled", "allow", "allowed", "open", "start", "started", "accept"},
     {"off", "disable", "disabled", "deny", "denied", "closed", "stop", "stopped", "reject"}),
    ({"true", "right", "always", "with", "to", "up", "in", "can", "left"},
     {"false", "wrong", "never", "without", "from", "down", "out", "cannot"}),
)  # fmt: skip


class Group(msgspec.Struct, frozen=True):
    """Records that say the same."""

    survivor: str
    rids: list[str]
    why: str


def normal(text: str) -> str:
    """A text without what makes no difference: case, width, punctuation at words' ends, blanks.

    Signs that change what is said (%, $, -, ., inside numbers) stay.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = (word.strip(".,;:!?\"'()[]…。，！？；：、“”‘’「」") for word in folded.split())
    return " ".join(word for word in words if word)


def same(one: str, other: str) -> bool:
    """Whether two texts that are near agree in everything that makes a difference."""
    if "?" in one + other and one.rstrip()[-1:] != other.rstrip()[-1:]:
        return False
    if Counter(_NUMBER.findall(one)) != Counter(_NUMBER.findall(other)):
        return False
    if len(_NEGATION.findall(one)) != len(_NEGATION.findall(other)):
        return False
    first, second = _content(one), _content(other)
    mine, yours = set(first), set(second)
    extra, missing = mine - yours, yours - mine
    room = 1 if min(len(mine), len(yours)) >= LONG else 0
    if len(extra) > room or len(missing) > room or _differ(extra, missing):
        return False
    if any(_counts(word, one) or _counts(word, other) for word in extra | missing):
        return False
    if _opposed(_words(one), _words(other)):
        return False
    common = mine & yours
    return [w for w in first if w in common] == [w for w in second if w in common]


def _words(text: str) -> list[str]:
    return [word.replace("’", "'") for word in _WORD.findall(text.casefold())]


def _content(text: str) -> list[str]:
    return [word for word in _words(text) if word not in _FUNCTION]


def _differ(extra: set[str], missing: set[str]) -> bool:
    """Whether a number in words is among what differs."""
    return bool((extra | missing) & _IN_WORDS)


def _counts(word: str, text: str) -> bool:
    """Whether a word that differs is written with a capital inside: a name."""
    return any(
        found[0].casefold() == word and not found[0].islower() and found[0] != word
        for found in _WORD.finditer(text)
    )


def _opposed(one: Iterable[str], other: Iterable[str]) -> bool:
    mine, yours = set(one), set(other)
    extra, missing = mine - yours, yours - mine
    return any(
        (extra & up and missing & down) or (extra & down and missing & up)
        for up, down in _OPPOSITES
    )


def mergeable(one: Stored, other: Stored) -> bool:
    """Whether two records may be one, if they say the same."""
    if one.key or other.key or one.state == "frozen" == other.state:
        return False
    if any(getattr(one, name) != getattr(other, name) for name in _ALIKE):
        return False
    if one.expires or other.expires or one.supersedes or other.supersedes:
        return False
    return not (one.superseded_by or other.superseded_by or one.stale or other.stale)


def one_event(one: Stored, other: Stored) -> bool:
    """Whether two tellings are near enough in time to be of one event."""
    return abs(one.created - other.created) <= SAME_EVENT


def survivor(records: Sequence[tuple[str, Stored]]) -> str:
    """Which of several is kept: pinned, then trusted, then rested upon, then the oldest."""

    def rank(item: tuple[str, Stored]) -> tuple[bool, int, int, float, str]:
        rid, stored = item
        return (
            stored.state != "frozen",
            -_TRUST[stored.taint],
            -len(stored.evidence) - len(stored.sources),
            -stored.importance,
            rid,
        )

    return min(records, key=rank)[0]


def exact(records: Iterable[tuple[str, int, Stored]]) -> list[Group]:
    """Groups of those that are equal after normalisation; rid, segment number, record."""
    heaps: dict[tuple[int, str], list[tuple[str, Stored]]] = {}
    for rid, tag, stored in records:
        heaps.setdefault((tag, normal(stored.content)), []).append((rid, stored))
    groups: list[Group] = []
    for (tag, text), heap in heaps.items():
        if len(heap) > 1 and text:
            groups += _groups(heap, timed=tag == 1)
    return groups


def _groups(heap: list[tuple[str, Stored]], *, timed: bool) -> list[Group]:
    """What of a heap of equal texts may be merged."""
    left = sorted(heap, key=lambda item: item[1].created)
    groups = []
    while left:
        first = left[0][1]
        fits = [
            item
            for item in left
            if item[1] is first
            or (mergeable(first, item[1]) and (not timed or one_event(first, item[1])))
        ]
        taken = {rid for rid, _ in fits}
        left = [item for item in left if item[0] not in taken]
        if len(fits) > 1:
            kept = survivor(fits)
            others = [rid for rid, stored in fits if rid != kept and stored.state != "frozen"]
            groups.append(Group(kept, others, "it says the same, word for word"))
    return groups
