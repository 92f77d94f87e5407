"""What was so, and what was believed: records and facts as of a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syscalls.errors import ENOENT
from ums import records as form
from ums.claims import Claims
from ums.draft import Draft
from ums.facts import entity_key
from ums.moment import Moment, begins
from ums.rid import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivers.contracts import Clock, Store
    from syscalls.records import Record
    from syscalls.shapes import Segment
    from ums.view import Allows, Guard, View


class Past:
    """Answers from the past of all spaces, and the facts of the present."""

    def __init__(self, store: Store, clock: Clock, open_space: Callable[[int], View]) -> None:
        self._store = store
        self._clock = clock
        self._open = open_space

    def moment(self, as_of: float | None = None, known_at: float | None = None) -> Moment:
        """The two times of a question; without them it is about the present."""
        return Moment(self._clock.now(), as_of, known_at)

    def read(self, space: int, rid: str, moment: Moment, guard: Guard | None = None) -> Record:
        """A record as of a moment. Raises ENOENT where it was not there or not so, EPERM."""
        view = self._open(space)
        tag, current = view.stored(rid, None, guard)
        stored = view.version(rid, current, moment)
        if stored is None or not moment.holds(stored):
            raise ENOENT(
                f"record {rid} says nothing of that time",
                as_of=moment.as_of,
                known_at=moment.known_at,
            )
        if guard is not None:
            guard(rid, stored)
        return form.to_record(view.number, rid, tag, stored)

    def read_key(self, space: int, key: str, moment: Moment, guard: Guard | None = None) -> Record:
        """As ``read``, of the record of a key."""
        view = self._open(space)
        return self.read(space, view.find(key, None, guard).rid, moment, guard)

    async def newest(
        self,
        space: int,
        moment: Moment,
        limit: int,
        *,
        before: str | None = None,
        segment: Segment | None = None,
        allows: Allows | None = None,
    ) -> list[Record]:
        """Records as of a moment, the newest first, from just before the rid ``before``."""
        return await self._open(space).newest(
            limit, before=before, segment=segment, allows=allows, moment=moment
        )

    def facts(
        self,
        space: int,
        entity: str,
        relation: str | None = None,
        *,
        moment: Moment | None = None,
        allows: Allows | None = None,
    ) -> list[Record]:
        """What is claimed about an entity under any of its names, the oldest event first.

        With a moment only what is so then (or now); without one all of it, what was
        superseded or has ended too.
        """
        view, now = self._open(space), self._clock.now()
        if moment is not None:
            moment = moment.at()
        claims = Claims(Draft(self._store), view.stack.layers)
        rids = [unpack(rid) for rid in claims.about(entity, relation)]
        found: list[tuple[float, Record]] = []
        for rid, place in zip(rids, view.found(rids), strict=True):
            stored = None if place is None else form.decode(place.value)
            if place is None or stored is None or stored.expired(now):
                continue
            if moment is not None:
                stored = view.version(rid, stored, moment)
                if stored is None or not moment.holds(stored):
                    continue
            if stored.fact is not None and (allows is None or allows(rid, stored)):
                record = form.to_record(view.number, rid, form.tag_of(place.value), stored)
                found.append((begins(stored), record))
        found.sort(key=lambda one: (one[0], one[1].rid))
        return [record for _, record in found]

    def names(self, space: int, entity: str) -> list[str]:
        """The keys of all names of an entity, its own first."""
        return Claims(Draft(self._store), self._open(space).stack.layers).names(entity_key(entity))
