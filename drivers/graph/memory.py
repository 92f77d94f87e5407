"""An entity graph in dictionaries: for simulations and small machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivers.contracts import IndexStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import Mentioned, Tie

_ENTRY = 600
"""Rough bytes of a record with its entities."""


LAST = 1e300
"""The end of time: what is open is open beyond it."""


class MemoryGraph:
    """``drivers.contracts.GraphIndex`` without files."""

    def __init__(self) -> None:
        self._position = 0
        self._notes: dict[str, Mentioned] = {}
        self._mentions: dict[str, dict[str, str]] = {}
        """By entity: the rids that mention it, with its spelling there."""

    @property
    def position(self) -> int:
        """See ``GraphIndex.position``."""
        return self._position

    def apply(self, seq: int, upserts: Sequence[Mentioned], deletes: Sequence[str]) -> None:
        """See ``GraphIndex.apply``."""
        for rid in [*deletes, *(one.rid for one in upserts)]:
            old = self._notes.pop(rid, None)
            for key in () if old is None else old.names:
                self._mentions[key].pop(rid)
                if not self._mentions[key]:
                    del self._mentions[key]
        for one in {one.rid: one for one in upserts}.values():
            if one.names:
                self._notes[one.rid] = one
                for key, name in one.names.items():
                    self._mentions.setdefault(key, {})[one.rid] = name
        self._position = seq

    def ties(self, entities: Sequence[str], as_of: float, known_at: float, limit: int) -> list[Tie]:
        """See ``GraphIndex.ties``."""
        wanted = set(entities)
        as_of, known_at = min(as_of, LAST), min(known_at, LAST)
        rids = {rid for key in wanted for rid in self._mentions.get(key, ())}
        found: list[Tie] = []
        for rid in sorted(rids, reverse=True):
            found += sorted(
                tie
                for tie in self._notes[rid].ties
                if (tie.subject in wanted or tie.object in wanted)
                and tie.since <= as_of < tie.until
                and tie.known <= known_at < tie.dropped
            )
            if len(found) >= limit:
                break
        return found[:limit]

    def mentions(self, entities: Sequence[str], limit: int) -> list[tuple[str, str]]:
        """See ``GraphIndex.mentions``."""
        found = [(rid, key) for key in set(entities) for rid in self._mentions.get(key, ())]
        found.sort(key=lambda one: one[1])
        found.sort(key=lambda one: one[0], reverse=True)
        return found[:limit]

    def named(self, rids: Sequence[str]) -> dict[str, list[str]]:
        """See ``GraphIndex.named``."""
        return {rid: sorted(self._notes[rid].names) for rid in rids if rid in self._notes}

    def names(self, entities: Sequence[str]) -> dict[str, str]:
        """See ``GraphIndex.names``."""
        return {
            key: next(iter(self._mentions[key].values()))
            for key in entities
            if key in self._mentions
        }

    def flush(self) -> None:
        """See ``GraphIndex.flush``."""

    def close(self) -> None:
        """See ``GraphIndex.close``."""
        self._notes.clear()
        self._mentions.clear()

    def statistics(self) -> IndexStatistics:
        """See ``GraphIndex.statistics``."""
        count = len(self._notes)
        return IndexStatistics("graph", self._position, count, 0, count * _ENTRY, "")
