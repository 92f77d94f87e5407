"""What the records themselves say for or against a candidate, beside meaning and words.

    context   its neighbours in the conversation have the words: an answer seldom repeats what
              was asked for, the question before it does
    session   another record of its session is a good one
    nearby    what was written around the same time is good, of records that stand alone: what
              is noted together belongs together (the contiguity of human memory; Howard and
              Kahana, "A Distributed Representation of Temporal Context", 2002)
    voice     the query names its speaker; one that has no speaker is about whom it names
    time      it is of a time that the query names
    form      it is itself a question: it asks rather than tells

The first three need the candidates as a set. Each is 0 for a record to which it does not apply:
the conversation of a record is what it says of itself (``ums.recall.voice``), and a record
that says nothing stands alone. ``Signal`` is where further signals are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ums import records as form
from ums.recall.voice import Voice, asks, voice_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ums.reach import Place, Reach
    from ums.recall.fuse import Candidate
    from ums.recall.question import Question
    from ums.records import Stored
    from ums.settings import Weights


NEARBY = 5
"""Candidates on each side that say something of one; among few nothing is said."""


class Signal(Protocol):
    """A signal from elsewhere: the graph of entities, the use of records.

    ``name`` is one of ``Parts`` and of ``Weights``, whose weight what it returns is multiplied
    by. A record that it does not name gets 0.
    """

    name: str

    async def find(self, question: Question, reach: Reach, n: int) -> Mapping[str, float]:
        """Records that it knows to be of use, at most ``n``, 0 to 1: they become candidates."""

    def score(self, question: Question, seen: Sequence[Seen]) -> Mapping[str, float]:
        """What it says of these candidates, about -1 to 1, by rid."""


@dataclass(slots=True, eq=False)
class Seen:
    """A candidate of which the record has been read."""

    candidate: Candidate
    place: Place
    stored: Stored
    voice: Voice
    before: Seen | None = None
    """What was said just before it, where that is known."""
    after: Seen | None = None

    @property
    def rid(self) -> str:
        """The record's id."""
        return self.candidate.rid


def seen(candidate: Candidate, place: Place, stored: Stored) -> Seen:
    """A candidate with its record."""
    return Seen(candidate, place, stored, voice_of(stored, form.tag_of(place.value)))


def follows(first: Voice, second: Voice) -> bool:
    """Whether two records that were written one after the other are of one conversation."""
    return first.spoken and second.spoken and first.session == second.session


def judge(records: Sequence[Seen], question: Question, weights: Weights) -> None:
    """Note on each candidate what the signals of its record add."""
    if weights.context or weights.context_dense:
        _context(records, weights)
    if weights.session:
        _session(records, weights.session)
    if weights.nearby:
        _nearby(records, weights.nearby)
    for one in records:
        more = one.candidate.more
        if question.names and weights.voice:
            more["voice"] = weights.voice * _voice(one, question.names)
        if question.dates and weights.time:
            more["time"] = weights.time * question.dates.fit(one.voice.when)
        if one.voice.spoken and weights.form and asks(one.stored.content):
            more["form"] = -weights.form


def _context(records: Sequence[Seen], weights: Weights) -> None:
    """The mean of both sides; two steps away counts half for words."""
    for one in records:
        total = 0.0
        for near in (one.before, one.after):
            if near is not None:
                far = near.before if near is one.before else near.after
                total += weights.context * near.candidate.words / 2
                total += weights.context_dense * near.candidate.dense / 2
                if far is not None:
                    total += weights.context * far.candidate.words / 4
                    total += weights.context_dense * far.candidate.dense / 2
        if total:
            one.candidate.more["context"] = total


def _session(records: Sequence[Seen], weight: float) -> None:
    """The best of the session, as far as it is above the mean of all."""
    best: dict[tuple[int, str], float] = {}
    for one in records:
        if one.voice.session:
            key = one.place.space, one.voice.session
            best[key] = max(best.get(key, 0.0), one.candidate.base)
    if len(best) < 2:
        return
    for one in records:
        if one.voice.session:
            value = best[one.place.space, one.voice.session]
            one.candidate.more["session"] = weight * value


def _nearby(records: Sequence[Seen], weight: float) -> None:
    """The mean of the candidates written last before and first after it."""
    alone: dict[int, list[Candidate]] = {}
    for one in records:
        if not one.voice.spoken:
            alone.setdefault(one.place.layer, []).append(one.candidate)
    for line in alone.values():
        if len(line) < 2 * NEARBY:
            continue
        line.sort(key=lambda candidate: candidate.rid)
        bases = [candidate.base for candidate in line]
        for place, candidate in enumerate(line):
            near = bases[max(0, place - NEARBY) : place] + bases[place + 1 : place + 1 + NEARBY]
            candidate.more["nearby"] = weight * sum(near) / len(near)


def _voice(one: Seen, names: frozenset[str]) -> float:
    if one.voice.speaker:
        return float(any(name in one.voice.speaker for name in names))
    content = one.stored.content[:2000].casefold()
    return float(any(name in content for name in names))
