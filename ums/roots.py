"""What a thing made from records stands on, and whether that is still there.

A version of an adapter holds what its sources said, and what those were made from in turn. Its
weights cannot be taken apart, so it stands and falls with each of them. Whether it stands is a
question about the present state: no message that was lost can make the answer wrong.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ums import records as form
from ums.lineage import digest, ties
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syscalls.records import Record
    from ums.adapters import Version
    from ums.view import View

WIDE = 50_000
"""Records that are followed upwards; what rests on more is not asked further."""


def roots(view: View, rids: Iterable[str]) -> list[str]:
    """The records ``rids`` and all that they were made from in turn, of those that are there."""
    found: dict[bytes, None] = {}
    waiting = [pack(rid) for rid in rids]
    while waiting and len(found) < WIDE:
        packed = waiting.pop()
        if packed in found or not view.sees(packed):
            continue
        found[packed] = None
        waiting += ties(view.stored(unpack(packed))[1])
    return [unpack(packed) for packed in found]


def marks(records: Sequence[Record]) -> list[bytes]:
    """What tells later whether the records still say the same."""
    return [digest(record.content) for record in records]


def standing(view: View, version: Version, now: float) -> tuple[str, float]:
    """The first record that a version was made from and that is gone, empty for none; and until
    when that can only change by a change of the space: the end of the first one's time to live.
    """
    until = inf
    for rid, place in zip(version.roots, view.found(version.roots), strict=True):
        stored = None if place is None else form.decode(place.value)
        if stored is None or stored.expired(now):
            return rid, now
        if stored.expires is not None:
            until = min(until, stored.expires)
    return "", until


def sound(view: View, rid: str) -> bool:
    """Whether a record is there and says nothing that rests on what is gone."""
    if not view.sees(pack(rid)):
        return False
    stored = view.stored(rid)[1]
    return not stored.stale and all(view.sees(source) for source in ties(stored))


def doubt(view: View, version: Version) -> str:
    """Why a version may be out of date; empty where its sources say what they said."""
    for rid, mark in zip(version.sources, version.marks, strict=False):
        packed = pack(rid)
        if not view.sees(packed):
            return f"its source {rid} is gone"
        stored = view.stored(rid)[1]
        if digest(stored.content) != mark:
            return f"its source {rid} says something else now"
        if stored.superseded_by:
            return f"its source {rid} was superseded by {stored.superseded_by}"
        if stored.stale:
            return f"its source {rid} is stale"
    return ""
