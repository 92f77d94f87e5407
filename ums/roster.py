"""What some part must know of a space's records at once, kept by following the journal.

    first        every record, newest first ──────────────> ``keep``
    afterwards   the journal of the layer that is written ─> ``keep``, ``drop``

Nothing of it is stored: it is made anew at the first use after a start, and when the space
stands on other layers. ``keep`` may be told of a record again, at any time, also unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ums import records as form
from ums.rid import unpack

if TYPE_CHECKING:
    from drivers.contracts import Store
    from ums.records import Stored
    from ums.view import View

PAGE = 256


class Roster:
    """Base of what is known of the records of one space."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layers: tuple[int, ...] = ()
        self._seq = 0
        self._turn = trio.Lock()

    # --- for who derives from it

    def clear(self) -> None:
        """Forget everything: all is told again."""
        raise NotImplementedError

    def wants(self, tag: int) -> bool:
        """Whether records of a segment (its number) are of interest; others are not decoded."""
        raise NotImplementedError

    def keep(self, rid: str, tag: int, stored: Stored) -> None:
        """A record is like this now."""
        raise NotImplementedError

    def drop(self, rid: str) -> None:
        """A record is gone, or its segment is of no interest; it may never have been known."""
        raise NotImplementedError

    # --- following

    async def follow(self, view: View) -> None:
        """Learn what has changed in the space since the last time."""
        async with self._turn:
            layers = view.stack.layers
            if layers != self._layers:
                await self._everything(view, layers)
            while entries := self._store.journal(layers[0], self._seq, PAGE):
                for seq, payload in entries:
                    self._told(view, form.decode_change(payload).rid)
                    self._seq = seq
                await trio.lowlevel.checkpoint()

    async def _everything(self, view: View, layers: tuple[int, ...]) -> None:
        self._layers = ()  # until it is done: a cancellation in between starts it again
        self.clear()
        seq = self._store.last(layers[0])  # what comes while we look is told again
        for count, (rid, value) in enumerate(view.stack.descend(), 1):
            self._take(rid, value)
            if count % PAGE == 0:
                await trio.lowlevel.checkpoint()
        self._layers, self._seq = layers, seq

    def _told(self, view: View, rid: bytes) -> None:
        found = view.stack.find(rid)
        if found is None:
            self.drop(unpack(rid))
        else:
            self._take(rid, found.value)

    def _take(self, rid: bytes, value: bytes) -> None:
        tag = form.tag_of(value)
        if form.is_packed(value) or not self.wants(tag):
            self.drop(unpack(rid))
        else:
            self.keep(unpack(rid), tag, form.decode(value))
