"""What a change does to other facts: the older one is closed, both are linked, in one batch."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ums import records as form
from ums.claims import Claims, Outcome
from ums.rid import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from ums.draft import Draft
    from ums.layers import Found, Stack
    from ums.records import Stored
    from ums.view import Guard

    Succeed = Callable[[Draft, Found, Stored, int], None]

SETTLED_BY = "mem.supersede"
"""The call that is noted in a version which only a newer fact has made."""


def claim(draft: Draft, stack: Stack, rid: bytes, old: Stored | None, new: Stored | None) -> None:
    """Note what a record claimed before its change (None: nothing) and claims after it."""
    draft.turn(rid, old, new)
    if (old is not None and old.fact is not None) or (new is not None and new.fact is not None):
        Claims(draft, stack.layers).change(rid, old, new)


def reclaim(draft: Draft, stack: Stack, rid: bytes, stored: Stored) -> None:
    """Note that a record that was gone is back, with what it claims; nothing in the archive."""
    if stored.state in ("archived", "merged"):
        draft.turn(rid, None, stored)
    else:
        claim(draft, stack, rid, None, stored)
    draft.returned.add(rid)


def settle(draft: Draft, stack: Stack, now: float, guard: Guard | None, succeed: Succeed) -> None:
    """Draft what follows from the claims that were noted.

    A record that this draft writes anyway is put right in place; any other gets a version more,
    by ``succeed``. Raises what ``guard`` does where one of those may not be changed.
    """
    if not draft.touched:
        return
    fresh = {change.rid: change for change in draft.changes}
    last = draft.changes[-1]
    # One change, one moment: what is superseded is known to be so when its successor is known.
    newest = stack.find(last.rid, draft.get)
    if newest is not None:
        now = form.decode(newest.value).updated
    seal = last.rid + last.version.to_bytes(4, "big") + last.op.to_bytes(1, "big")
    for outcome in Claims(draft, stack.layers).settle(now, seal):
        found = stack.find(outcome.rid, draft.get)
        if found is None:
            continue
        new = _settled(form.decode(found.value), outcome)
        draft.turn(outcome.rid, form.decode(found.value), new)
        tag, change = form.tag_of(found.value), fresh.get(outcome.rid)
        if change is None:
            if guard is not None:
                guard(unpack(outcome.rid), new)
            new.updated, new.call = now, SETTLED_BY
            succeed(draft, found, new, tag)
        else:
            changed = form.encode(new, tag)
            change.size += len(changed) - len(found.value)
            draft.put("records", found.key, changed)


def _settled(stored: Stored, outcome: Outcome) -> Stored:
    """A fact as it reads once its slot is settled."""
    stretch = outcome.stretch
    if stretch.stop <= stretch.start and stored.valid_from is None:
        stored.valid_from = stretch.start
    stored.valid_to = None if stretch.stop == inf else stretch.stop
    stored.gaps = stretch.gaps
    stored.superseded_by = unpack(stretch.by) if stretch.by else ""
    stored.supersedes = unpack(outcome.supersedes) if outcome.supersedes else ""
    return stored
