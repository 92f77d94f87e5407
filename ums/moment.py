"""Answers from the past, in both times.

    as_of      event time: what was so then, by what is known (``known_at``, or now)
    known_at   knowledge time: what was believed then

A record says when it was true: from ``valid_from``, or from when it was written, until
``valid_to``. One that has an end before it was written and no beginning was true always
until then. A plain note without dates is true as it stands for as long as it stood so: each
of its versions until the next one.

Times are seconds since 1970 and may be negative.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ums.records import Stored

    Versions = Callable[[], Iterable[Stored]]


def begins(stored: Stored) -> float:
    """Since when it is true; ``-inf`` for always."""
    if stored.valid_from is not None:
        return stored.valid_from
    if stored.valid_to is not None and stored.valid_to <= stored.created:
        return -inf
    return stored.created


def ends(stored: Stored) -> float:
    """Until when it is true; ``inf`` for open."""
    return inf if stored.valid_to is None else stored.valid_to


def valid_at(stored: Stored, moment: float) -> bool:
    """Whether it was true at a moment of event time."""
    return begins(stored) <= moment < ends(stored) and not any(
        start <= moment < stop for start, stop in stored.gaps
    )


def dated(stored: Stored) -> bool:
    """Whether it says itself when it was true."""
    return stored.valid_from is not None or stored.valid_to is not None or bool(stored.gaps)


class Moment(msgspec.Struct, frozen=True):
    """The two times that a question is asked about."""

    now: float
    as_of: float | None = None
    known_at: float | None = None

    @property
    def plain(self) -> bool:
        """Whether it is about the present."""
        return self.as_of is None and self.known_at is None

    @property
    def event(self) -> float:
        """The moment of event time: what was so when it was believed, or now."""
        if self.as_of is not None:
            return self.as_of
        return self.now if self.known_at is None else self.known_at

    def at(self) -> Moment:
        """The same question, asked about one moment of event time."""
        return Moment(self.now, self.event, self.known_at)

    def version(self, current: Stored, versions: Versions) -> Stored | None:
        """The version of a record to answer with; None when there was none yet.

        ``versions`` gives all of them, oldest first, and is asked only where it matters.
        """
        limit = inf if self.known_at is None else self.known_at
        if self.as_of is not None and not dated(current):
            limit = min(limit, self.as_of)
        if current.updated <= limit:
            return current
        if current.created > limit:
            return None
        known = inf if self.known_at is None else self.known_at
        past = [one for one in versions() if one.updated <= known]
        if not past:
            return None
        if self.as_of is None or dated(past[-1]):
            return past[-1]
        return next((one for one in reversed(past) if one.updated <= self.as_of), None)

    def holds(self, stored: Stored) -> bool:
        """Whether a version is an answer.

        Without ``as_of`` everything is, but for a fact that another one has replaced by then.
        """
        if self.as_of is not None:
            return valid_at(stored, self.as_of)
        if not stored.superseded_by:
            return True
        return ends(stored) > self.event
