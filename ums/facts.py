"""Facts in time: which of the claims about one thing is in force when.

A functional relation has one object at a time: who lives in Rome does not live in Oslo. Its
claims about one subject are a slot, and share one line of event time:

    claimed   Oslo   2010 ─────────────────────────────────>
              Rome                2015 ────────────────────>
              Bonn        2012 ──────────────> 2017              (written last)

    in force  Oslo   2010 ─> 2012
              Bonn           2012 ─> 2015
              Rome                   2015 ─────────────────>

At each instant the claim that began last is in force; of two that began together the one that
was learned last (a correction). So the order in which claims arrive does not matter: what is
learned late about the past does not overrule what came after it. Claims of the same object do
not contradict each other, and hold together. A claim that was interrupted by one with an end
holds again after it, and has a gap there.

Knowledge time is kept by the versions of the records: to close a claim adds a version, and the
one before says what was believed until then (Snodgrass, "Developing Time-Oriented Database
Applications in SQL", 2000, calls the two valid and transaction time).
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import pairwise
from math import inf
from typing import NamedTuple

import msgspec

from syscalls.records import Fact

_ONE_AT_A_TIME = """
    lives_in works_at studies_at job_title email phone address location timezone age gender
    nationality born_in born_on birthday died_in died_on married_to spouse name full_name nickname
    preferred_name favorite_color favourite_color located_in based_in headquarters capital ceo
    manager reports_to assigned_to current_project status state version price size weight height
    color salary deadline due_date license default_branch
"""
FUNCTIONAL = frozenset(_ONE_AT_A_TIME.split())
"""Relations that have one object at a time, unless the fact itself says otherwise."""

SAME = {
    "lives_at": "address",
    "resides_in": "lives_in",
    "residence": "lives_in",
    "home_city": "lives_in",
    "住在": "lives_in",
    "居住于": "lives_in",
    "居住在": "lives_in",
    "works_for": "works_at",
    "employed_by": "works_at",
    "employer": "works_at",
    "就职于": "works_at",
    "工作于": "works_at",
    "任职于": "works_at",
    "title": "job_title",
    "occupation": "job_title",
    "职位": "job_title",
    "职业": "job_title",
    "email_address": "email",
    "e_mail": "email",
    "mail": "email",
    "邮箱": "email",
    "电子邮件": "email",
    "phone_number": "phone",
    "telephone": "phone",
    "电话": "phone",
    "手机": "phone",
    "地址": "address",
    "年龄": "age",
    "生日": "birthday",
    "date_of_birth": "birthday",
    "birth_date": "birthday",
    "出生地": "born_in",
    "place_of_birth": "born_in",
    "birthplace": "born_in",
    "婚姻对象": "married_to",
    "配偶": "spouse",
    "状态": "status",
    "aka": "also_known_as",
    "alias": "also_known_as",
    "alias_of": "also_known_as",
    "also_called": "also_known_as",
    "same_as": "also_known_as",
    "别名": "also_known_as",
    "又名": "also_known_as",
}
"""Other spellings of a relation."""

ALIAS = "also_known_as"
"""The relation that makes two names one entity."""

_WORDS = re.compile(r"\w+")
_MARKS = "\"'`“”‘’«»‹›「」『』《》〈〉()[]{}<>.,;:!?。，；：！？、 \t\r\n_-"
_POSSESSIVE = re.compile(r"['’]s?$")


def entity_key(name: str) -> str:
    """What names of one entity have in common: no case, no marks around it, single blanks."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = " ".join(text.split())
    text = _POSSESSIVE.sub("", text.strip(_MARKS)).strip(_MARKS)
    text = text.removeprefix("the ")
    return text or " ".join(name.split()) or name


def relation_key(relation: str) -> str:
    """A relation as words joined by ``_``; other spellings of a known one become it."""
    text = unicodedata.normalize("NFKC", relation).casefold().replace("_", " ")
    key = "_".join(_WORDS.findall(text)) or relation
    return SAME.get(key, key)


def digest(key: str) -> bytes:
    """8 bytes that stand for an entity or a relation in the keys of the store."""
    return blake2b(key.encode(), digest_size=8).digest()


def is_functional(fact: Fact) -> bool | None:
    """Whether the fact's relation has one object at a time: by its own word, or the table's.

    None when neither says: it has if another fact of the slot says so.
    """
    if fact.functional is not None:
        return fact.functional
    return True if relation_key(fact.relation) in FUNCTIONAL else None


class Claim(msgspec.Struct, array_like=True, gc=False):
    """What one record claims, as it was said, and what of it is in force by now."""

    start: float
    stop: float
    """As it was claimed; infinite when it has no end."""
    known: float
    """When it was claimed so."""
    subject: str
    """Keys of entities."""
    object: str
    functional: bool | None
    expires: float | None = None
    until: float = inf
    """The end that the record has."""
    gaps: list[tuple[float, float]] = []
    superseded_by: bytes = b""
    supersedes: bytes = b""


class Stretch(NamedTuple):
    """When a claim is in force: from ``start`` to ``stop`` without the gaps."""

    start: float
    stop: float
    gaps: list[tuple[float, float]]
    by: bytes
    """The claim that ended it; empty when it runs as long as was claimed."""


class _Piece(NamedTuple):
    start: float
    stop: float
    object: str
    rid: bytes


def timeline(claims: Iterable[tuple[bytes, Claim]]) -> dict[bytes, Stretch]:
    """When each claim of a slot is in force. ``object`` is compared as it is.

    In time n log n: claims are painted from the last to begin, so that each finds what lies
    above it as a few runs.
    """
    ranked = sorted(claims, key=lambda item: (item[1].start, item[1].known, item[0]), reverse=True)
    pieces = _paint(ranked)
    runs, owners = _runs(pieces)
    starts = [run.start for run in runs]
    places = [piece.start for piece in pieces]
    result = {}
    for rid, claim in ranked:
        mine = owners.get(rid, set())
        at = bisect_right(starts, claim.start) - 1
        if at >= 0 and runs[at].stop > claim.start and runs[at].object == claim.object:
            mine = mine | {at}
        held = sorted(
            (max(runs[one].start, claim.start), min(runs[one].stop, claim.stop)) for one in mine
        )
        held = [span for span in held if span[0] < span[1]]
        stop = held[-1][1] if held else claim.start
        gaps = [(one[1], two[0]) for one, two in pairwise(held)]
        if held and held[0][0] > claim.start:
            gaps.insert(0, (claim.start, held[0][0]))
        by = b""
        if stop < claim.stop and pieces:
            by = pieces[bisect_right(places, stop) - 1].rid
        result[rid] = Stretch(claim.start, stop, gaps, by)
    return result


def _paint(ranked: Sequence[tuple[bytes, Claim]]) -> list[_Piece]:
    """Who is in force when: disjoint pieces in order. ``ranked`` begins with the highest."""
    pieces: list[_Piece] = []
    covered: list[tuple[float, float]] = []  # disjoint runs, the earliest at the end
    for rid, claim in ranked:
        if claim.start >= claim.stop:
            continue
        at, stop = claim.start, claim.stop
        while covered and covered[-1][0] <= claim.stop:
            first, last = covered.pop()
            if at < first:
                pieces.append(_Piece(at, first, claim.object, rid))
            at = max(at, last)
            stop = max(stop, last)
        if at < claim.stop:
            pieces.append(_Piece(at, claim.stop, claim.object, rid))
        covered.append((claim.start, stop))
    pieces.sort()
    return pieces


def _runs(pieces: Sequence[_Piece]) -> tuple[list[_Piece], dict[bytes, set[int]]]:
    """Adjacent pieces of one object joined, and in which runs each claim has a piece."""
    runs: list[_Piece] = []
    owners: dict[bytes, set[int]] = {}
    for piece in pieces:
        last = runs[-1] if runs else None
        if last is not None and last.stop == piece.start and last.object == piece.object:
            runs[-1] = last._replace(stop=piece.stop)
        else:
            runs.append(piece)
        owners.setdefault(piece.rid, set()).add(len(runs) - 1)
    return runs, owners
