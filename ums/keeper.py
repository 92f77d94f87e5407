"""Changes the states of records, for whoever decides, and tells who has to know.

The mechanism of one change is ``ums.living``; what may change into what is
``ums.lifecycle``; which records it is to be is the affair of callers and of the kernel's
policy (``kernel.tidy``). Here is what all changes have in common: how long they can be
undone, which indexes follow, what else goes with a record, and the hook for those who keep
something that was made from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from drivers.contracts import Batch
from syscalls.errors import ECONFLICT, ENOENT
from ums import lifecycle, living
from ums import records as form
from ums.activation import DAY
from ums.living import Reason
from ums.rid import pack, time_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from drivers.contracts import Clock, Store
    from syscalls.records import Record
    from syscalls.shapes import RecordState
    from ums.activation import Uses
    from ums.lifecycle import Fate
    from ums.living import LivingSpace
    from ums.spaces import Spaces

    Gone = Callable[[int, Sequence[str], str], Awaitable[None]]
    """Told of a space, rids of it that are gone, and the event (forget, delete, merge ...)."""
    Changed = Callable[[int], None]

LAPSE = 256
_STAYS = frozenset({"pin", "unpin", "cool", "warm"})


class Retention(msgspec.Struct, frozen=True):
    """How long things are kept; seconds."""

    undo: float = 30 * DAY
    """How long a change can be undone, and the content of a forgotten record waits, sealed."""
    fates: float = 800 * DAY
    """How long it is known what became of a record."""
    most: int = 200_000
    """Fates that one space keeps."""


class KeeperStatistics(msgspec.Struct, frozen=True):
    """Changes of state since the start, by event."""

    events: dict[str, int]
    sealed_erased: int
    """Forgotten records whose sealed copy was erased at the end of its time."""


class Keeper:
    """The states of the records of all spaces."""

    def __init__(
        self, store: Store, spaces: Spaces, uses: Uses, clock: Clock, changed: Changed
    ) -> None:
        self._store = store
        self._spaces = spaces
        self._uses = uses
        self._clock = clock
        self._changed = changed
        self._hooks: list[Gone] = []
        self._events: dict[str, int] = {}
        self._lapsed = 0
        self._last_action = 0
        self.retention = Retention()

    def on_gone(self, hook: Gone) -> None:
        """Have ``hook(space, rids, event)`` awaited after records have gone, or come back.

        The events are forget, delete, expire, merge, archive; and restore and undo for those
        that are back. It is called once the change is on disk; what it raises is the caller's.
        """
        self._hooks.append(hook)

    async def tell(self, space: int, rids: Sequence[str], event: str) -> None:
        """Call the hooks: for the changes that do not pass through here."""
        if rids:
            for hook in self._hooks:
                await hook(space, rids, event)

    def reason(self, why: str, by: int = 0, action: int = 0) -> Reason:
        """A reason that can be taken back for as long as the retention is."""
        return Reason(why, by, action, self._clock.now() + self.retention.undo)

    def action(self) -> int:
        """The number of a new run of changes that belong together; it grows with time."""
        self._last_action = max(self._last_action + 1, int(self._clock.now() * 1000))
        return self._last_action

    # --- one record

    async def pin(self, space: int, rid: str, reason: Reason) -> Fate:
        """Freeze; an archived or merged record is restored before. A pin is a use."""
        home = self._spaces.open(space)
        if home.stored(rid)[1].state in ("archived", "merged"):
            await self._done(home, [rid], [await home.restore(rid, reason)])
        fate = await self._done(home, [rid], [await home.pin(rid, reason)])
        self._uses.note(space, [rid])
        return fate

    async def unpin(self, space: int, rid: str, reason: Reason) -> Fate:
        """Take the pin away."""
        home = self._spaces.open(space)
        return await self._done(home, [rid], [await home.unpin(rid, reason)])

    async def cool(self, space: int, rid: str, reason: Reason) -> Fate:
        """To the cold tier: words only."""
        home = self._spaces.open(space)
        return await self._done(home, [rid], [await home.cool(rid, reason)])

    async def warm(self, space: int, rid: str, reason: Reason) -> Fate:
        """Back to the warm tier."""
        home = self._spaces.open(space)
        return await self._done(home, [rid], [await home.warm(rid, reason)])

    async def archive(self, space: int, rid: str, reason: Reason) -> Fate:
        """To the archive."""
        home = self._spaces.open(space)
        return await self._done(home, [rid], [await home.archive(rid, reason)])

    async def restore(self, space: int, rid: str, reason: Reason) -> Fate:
        """Out of the archive, or out of the record that it was merged into. It is a use."""
        home = self._spaces.open(space)
        fate = await self._done(home, [rid], [await home.restore(rid, reason)])
        self._uses.note(space, [rid])
        return fate

    async def merge(self, space: int, survivor: str, rids: Sequence[str], reason: Reason) -> None:
        """Merge records into one that says the same."""
        home = self._spaces.open(space)
        await self._done(home, rids, await home.merge(survivor, rids, reason))
        self._uses.add(space, survivor, rids)

    async def forget(self, space: int, rid: str, reason: Reason) -> list[str]:
        """Erase a record and those merged into it; the rids that are gone.

        Raises ENOENT, ECONFLICT (it is pinned).
        """
        home = self._spaces.open(space)
        if not reason.action:
            reason = msgspec.structs.replace(reason, action=self.action())
        twins = self.merged_into(space, rid)
        fates = [await home.forget(one, reason) for one in (rid, *twins)]
        await self._done(home, [rid, *twins], fates)
        return [rid, *twins]

    async def undo(self, space: int, rid: str, reason: Reason) -> Fate:
        """Take the last change back; of a forget also for what was merged into the record.

        Raises ENOENT when it cannot be, ECONFLICT.
        """
        home = self._spaces.open(space)
        told = self.fates(space, rid)
        fate = await self._done(home, [rid], [await home.undo(rid, reason)])
        if fate.before == "forgotten":
            for twin in self._sources(home, rid):
                last = self.fates(space, twin)[-1:]
                if last and last[0].event == "forget" and last[0].action == told[-1].action:
                    await self.undo(space, twin, reason)
        return fate

    async def undo_action(self, space: int, action: int, reason: Reason) -> list[str]:
        """Take back what one run did, the last first; what has changed since stays as it is."""
        told = lifecycle.lately(self._store, space, since=action / 1000 - 1)
        done = []
        for rid, fate in told:
            if fate.action == action and fate.event in lifecycle.UNDOABLE:
                last = lifecycle.fates(self._store, space, pack(rid))[-1]
                if last.number == fate.number and last.until > self._clock.now():
                    await self.undo(space, rid, reason)
                    done.append(rid)
        if not done:
            raise ENOENT(f"nothing of the run {action} can be undone")
        return done

    async def deleted(self, space: int, rid: str, twins: Sequence[str]) -> None:
        """After a delete: erase those that were merged into the record, and tell."""
        home = self._spaces.open(space)
        for twin in twins:
            await home.forget(twin, Reason("the record it was merged into was deleted"))
        for one in (rid, *twins):
            self._uses.drop(space, pack(one))
        await self.tell(space, [rid, *twins], "delete")

    async def burn(self, space: int, rid: str) -> bool:
        """Erase the sealed copy of a forgotten record for good; False when there is none."""
        return await self._spaces.open(space).burn(rid)

    async def _done(self, home: LivingSpace, rids: Sequence[str], fates: Sequence[Fate]) -> Fate:
        """Have the indexes follow and tell who has to know."""
        self._changed(home.number)
        for fate in fates:
            self._events[fate.event] = self._events.get(fate.event, 0) + 1
        event = fates[0].event
        if event == "forget" or fates[0].before == "forgotten":
            for rid in rids:
                self._uses.drop(home.number, pack(rid))  # what the store says counts
        if event not in _STAYS:
            await self.tell(home.number, rids, event)
        return fates[0]

    # --- what is known

    def merged_into(self, space: int, survivor: str) -> list[str]:
        """The records that were merged into one, of those that still are, however deep."""
        home = self._spaces.open(space)
        found: list[str] = []
        waiting = [survivor]
        while waiting:
            rid = waiting.pop()
            sources = [twin for twin in self._sources(home, rid) if twin not in found]
            for twin, place in zip(sources, home.found(sources), strict=True):
                if place is None or not form.is_packed(place.value):
                    continue
                if form.survivor_of(place.value) == pack(rid):
                    found.append(twin)
                    waiting.append(twin)
        return found

    def _sources(self, home: LivingSpace, rid: str) -> list[str]:
        """A record's sources; none of one that is gone."""
        found = home.found([rid])[0]
        return [] if found is None else form.decode(found.value).sources

    def fates(self, space: int, rid: str) -> list[Fate]:
        """What happened to a record, oldest first."""
        return lifecycle.fates(self._store, space, pack(rid))

    def lately(self, space: int, limit: int) -> list[tuple[str, Fate]]:
        """What happened in a space, newest first."""
        return lifecycle.lately(self._store, space, limit=limit)

    def story(self, space: int, rid: str) -> list[tuple[float, str]]:
        """The life of a record: times, and what happened in words. Raises ENOENT.

        Its uses, the last of which are known by time, are told in their place.
        """
        home = self._spaces.open(space)
        versions = list(home.versions(rid))
        if not versions:
            raise ENOENT(f"no record {rid} in space {space}")
        told: list[tuple[float, str]] = []
        for _, stored in versions:
            if stored.state == "forgotten":
                continue  # its fate says it
            verb = "written" if stored.version == 1 else f"changed to version {stored.version}"
            who = f" by process {stored.writer}" if stored.writer else ""
            told.append((stored.updated, f"{verb}{who} with {stored.call}"))
        use = self._uses.of(space, [pack(rid)])[0]
        if use is not None and use.count:
            told.append((use.recent[0], f"used {use.count} times so far, this is the last"))
        told += [(fate.at, lifecycle.words(fate)) for fate in self.fates(space, rid)]
        last = lifecycle.undoable(self.fates(space, rid), self._clock.now())
        told.sort(key=lambda line: line[0])
        if last is not None:
            days = (last.until - self._clock.now()) / DAY
            told.append((self._clock.now(), f"the last of it can be undone for {days:.0f} days"))
        return told

    def state(self, space: int, rid: str) -> str:
        """The state of a record as readers see it; "" where it is not known."""
        found = self._spaces.open(space).found([rid])[0]
        if found is None:
            told = self.fates(space, rid)
            return told[-1].after if told else ""
        return self._state(space, pack(rid), form.decode(found.value).state)

    def _state(self, space: int, packed: bytes, state: RecordState) -> RecordState:
        return lifecycle.shown(state, self._uses.of(space, [packed])[0] is not None)

    def shown(self, record: Record) -> Record:
        """A record with the state that readers see: one that was used is activated."""
        record.state = self._state(record.space, pack(record.rid), record.state)
        return record

    def activation(self, space: int, rids: Sequence[str]) -> list[float]:
        """How present records are: see ``ums.activation``; microseconds each."""
        return self._uses.activation(space, rids)

    # --- housekeeping

    async def lapse(self) -> None:
        """Erase the sealed copies whose time is over."""
        while keys := living.lapsed(self._store, self._clock.now(), LAPSE):
            await self._store.commit(Batch(deletes=[("meta", key) for key in keys]))
            self._lapsed += len(keys)

    async def prune(self, space: int, limit: int = 1000) -> int:
        """Drop fates that are too old or too many; how many keys went."""
        before = self._clock.now() - self.retention.fates
        keys = lifecycle.stale_keys(self._store, space, before, self.retention.most, limit)
        if keys:
            await self._store.commit(Batch(deletes=list(keys)))
        return len(keys)

    def statistics(self) -> KeeperStatistics:
        """Figures for ``sys.stats``."""
        return KeeperStatistics(dict(self._events), self._lapsed)


def age(rid: str, now: float) -> float:
    """Seconds since a record was written."""
    return max(0.0, now - time_of(rid))


def protected(error: ECONFLICT) -> bool:
    """Whether a change was refused because the record is pinned."""
    return error.detail.get("state") == "frozen"
