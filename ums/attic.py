"""Searching what is archived: it is in no index, so it is read, one record after another.

Only who asks for it (``include_archived``) waits for it, about a second for 20,000
archived records; others are served in between. They come after what is alive, by the part of
the query's words that they have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from syscalls.records import Hit
from syscalls.shapes import SEGMENTS
from ums import records as form
from ums.recall.query import words_of
from ums.recall.sieve import Sieve
from ums.records import TAGS
from ums.rid import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syscalls.calls.mem import Search
    from ums.reach import Reach

PAGE = 128
LEAST = 0.5
"""Part of the query's words that a hit has at least."""


async def rummage(reach: Reach, call: Search, now: float, above: Sequence[Hit]) -> list[Hit]:
    """The archived records that have most of the query's words, best first.

    As many as the call wants beyond those ``above``, with lesser scores.
    """
    room, best = call.k - len(above), min((hit.score for hit in above), default=0.0)
    from drivers.lexical.words import Words

    cut: Callable[[str], list[str]] = Words()
    wanted = frozenset(cut(words_of(call.query)))
    tags = None if call.segments is None else {TAGS[segment] for segment in call.segments}
    sieve = Sieve(call, now)
    found: list[tuple[float, str, Hit]] = []
    for view, allows in reach.views:
        for count, (packed, value) in enumerate(view.stack.descend(), 1):
            if count % PAGE == 0:
                await trio.lowlevel.checkpoint()
            tag = form.tag_of(value)
            if not form.is_packed(value) or (tags is not None and tag not in tags):
                continue
            stored, rid = form.decode(value), unpack(packed)
            if not sieve.passes(stored) or (allows is not None and not allows(rid, stored)):
                continue
            said = cut(f"{stored.content} {stored.key} {stored.kind} {' '.join(stored.tags)}")
            share = len(wanted.intersection(said)) / max(1, len(wanted))
            if share >= LEAST:
                hit = Hit(
                    rid,
                    stored.content,
                    best + share - 1.0,
                    SEGMENTS[tag],
                    form.provenance(view.number, stored),
                    stored.kind,
                    stored.key,
                    stored.tags,
                    stored.meta,
                )
                hit.stale = stored.stale
                found.append((share, rid, hit))
    found.sort(key=lambda one: (-one[0], one[1]))
    return [hit for _, _, hit in found[:room]]
