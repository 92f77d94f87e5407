"""Working memory: what is on a space's desk, and how it is put away.

    working ──page out──> episodic        one record, one rid, one batch: never in neither
       ^                     │
       └── mem.write(key)    └── found by search, paged in by the memory fault

A record that is paged out changes its segment, as a new version: its rid, its history and
what refers to it stay. What is pinned is never paged out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from syscalls.errors import ENOENT
from syscalls.records import Record
from ums.records import TAGS
from ums.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drivers.contracts import Store
    from ums.records import Stored
    from ums.space import Space

DESKS = 256
"""Spaces whose desk is remembered; another one is looked through again."""
PAGE_OUT = "mem.context"


def estimate(text: str) -> int:
    """About how many tokens a text is: a character each outside ASCII, else four to one."""
    wide = 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))
    return wide + (len(text) - wide + 3) // 4


class WorkingStatistics(msgspec.Struct, frozen=True):
    """Figures of working memory since the start."""

    desks: int
    """Spaces whose working memory is known now."""
    paged_out: int
    """Records that went from working memory to episodic memory."""


class Laid(msgspec.Struct):
    """What lies on a desk, in the order in which it was written."""

    pinned: list[Record]
    """Pinned records of any segment."""
    working: list[Record]
    """The rest of working memory."""


class Desk(Roster):
    """The rids of one space's working memory and of its pinned records."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.working: set[str] = set()
        self.pinned: set[str] = set()

    def clear(self) -> None:
        """Nothing is known."""
        self.working.clear()
        self.pinned.clear()

    def wants(self, tag: int) -> bool:
        """Any segment: whatever is pinned is wanted."""
        return True

    def keep(self, rid: str, tag: int, stored: Stored) -> None:
        """A record is like this now."""
        self.drop(rid)
        if stored.state == "frozen":
            self.pinned.add(rid)
        elif tag == TAGS["working"]:
            self.working.add(rid)

    def drop(self, rid: str) -> None:
        """A record is gone."""
        self.working.discard(rid)
        self.pinned.discard(rid)


class Working:
    """The working memory of all spaces."""

    def __init__(
        self, store: Store, space: Callable[[int], Space], changed: Callable[[int], None]
    ) -> None:
        self._store = store
        self._space = space
        self._changed = changed
        self._desks: OrderedDict[int, Desk] = OrderedDict()
        self._paged_out = 0

    async def laid(self, space: int) -> Laid:
        """What lies on the desk of a space, oldest first. Raises ENOENT."""
        home = self._space(space)
        desk = self._desks.get(space)
        if desk is None:
            desk = self._desks[space] = Desk(self._store)
            while len(self._desks) > DESKS:
                self._desks.popitem(last=False)
        self._desks.move_to_end(space)
        await desk.follow(home)
        return Laid(_read(home, desk.pinned), _read(home, desk.working))

    async def page_out(self, space: int, rids: Sequence[str], by: int) -> list[str]:
        """Move records from working to episodic memory in one batch; those that it moved.

        Raises ENOENT, EPERM (a snapshot), EIO: then nothing was moved.
        """
        moved = await self._space(space).move(rids, "episodic", by, PAGE_OUT)
        self._paged_out += len(moved)
        if moved:
            self._changed(space)
        return moved

    def statistics(self) -> WorkingStatistics:
        """Figures for ``sys.stats``."""
        return WorkingStatistics(len(self._desks), self._paged_out)


def _read(home: Space, rids: set[str]) -> list[Record]:
    """The records, oldest first; what has expired meanwhile is left out."""
    records = []
    for rid in sorted(rids):
        try:
            records.append(home.read(rid))
        except ENOENT:
            continue
    return records
