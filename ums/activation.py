"""How present a record is: by how recently and how often it was used.

The base-level activation of ACT-R (Anderson and Schooler, "Reflections of the environment in
memory", Psychological Science 1991): what was used ``t_1 .. t_n`` seconds ago has

    B = ln( sum over j of t_j ** -d )          d = 0.5

The odds that a memory is needed fall with time and rise with use in just this way. Only the
last ``KEPT`` uses are kept; for the older ones their number is enough, if they are taken as
spread evenly (Petrov, "Computationally efficient approximation of the base-level learning
equation in ACT-R", ICCM 2006):

    sum ~ sum over the last k of t_j ** -d  +  (n - k)(L ** (1-d) - t_k ** (1-d)) / ((1-d)(L - t_k))

with L the age of the record: constant time and space, whatever the number of uses. Writing
the record counts as its first use.

Uses are counted in memory and stored in batches, in the background: a search pays for a
dictionary entry. A crash loses the uses of the last seconds, and never a record.

    meta  "ums/use/" space (4) rid (16)      Use
"""

from __future__ import annotations

from collections import OrderedDict
from math import log
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.contracts import Batch
from ums import records as form
from ums.rid import pack, time_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import Clock, Store

USE = b"ums/use/"
DECAY = 0.5
KEPT = 4
"""Uses whose times are kept."""
SOONEST = 1.0
"""Seconds: what was used just now counts as this long ago."""
DAY = 86400.0


class Use(msgspec.Struct, array_like=True, gc=False):
    """The uses of one record, its writing not among them."""

    count: int = 0
    recent: list[float] = []
    """Times of the last ``KEPT``, the newest first."""


class UsesStatistics(msgspec.Struct, frozen=True):
    """Figures of uses since the start."""

    noted: int
    pending: int
    """Records whose uses are not stored yet."""
    flushes: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Use)


def use_key(space: int, packed: bytes) -> bytes:
    """Where the uses of a record are."""
    return USE + form.space_key(space) + packed


def base_level(written: float, use: Use, now: float) -> float:
    """The activation of a record written then, and used so, now; in natural logarithm.

    0 is one use a second ago; -7.2 one that was written three weeks ago and never used.
    """
    age = max(SOONEST, now - written)
    times = [max(SOONEST, now - at) for at in use.recent]
    older = use.count - len(times)
    power = 1 - DECAY
    total = age**-DECAY + sum(t**-DECAY for t in times)
    if older > 0 and times:
        last = times[-1]
        if age - last > SOONEST:
            total += older * (age**power - last**power) / (power * (age - last))
        else:
            total += older * last**-DECAY
    return log(total)


def used(use: Use | None, at: float, times: int = 1) -> Use:
    """The same with more uses, all at one time."""
    if use is None:
        return Use(times, [at] * min(times, KEPT))
    return Use(use.count + times, ([at] * min(times, KEPT) + use.recent)[:KEPT])


class Uses:
    """The uses of all records, and what becomes of them."""

    def __init__(
        self, store: Store, clock: Clock, *, kept: int = 200_000, most: int = 4096
    ) -> None:
        self._store = store
        self._clock = clock
        self._kept = kept
        self._most = most
        self._known: OrderedDict[tuple[int, bytes], Use | None] = OrderedDict()
        self._pending: dict[tuple[int, bytes], Use] = {}
        self._some = trio.Event()
        self._full = trio.Event()
        self._noted = self._flushes = 0

    def note(self, space: int, rids: Sequence[str]) -> None:
        """These records were used now. Costs no commit."""
        now = self._clock.now()
        packed = [pack(rid) for rid in rids]
        for place, use in zip(packed, self.of(space, packed), strict=True):
            self._pending[space, place] = self._keep(space, place, used(use, now))
            self._noted += 1
        self._some.set()
        if len(self._pending) >= self._most:
            self._full.set()

    def of(self, space: int, packed: Sequence[bytes]) -> list[Use | None]:
        """The uses of several records; None for never."""
        missing = [rid for rid in packed if (space, rid) not in self._known]
        if missing:
            values = self._store.get_many("meta", [use_key(space, rid) for rid in missing])
            for rid, value in zip(missing, values, strict=True):
                self._keep(space, rid, None if value is None else _decoder.decode(value))
        return [self._pending.get((space, rid), self._known.get((space, rid))) for rid in packed]

    def _keep(self, space: int, rid: bytes, use: Use | None) -> Use:
        known = self._known
        known[space, rid] = use
        known.move_to_end((space, rid))
        return use or Use()

    def activation(self, space: int, rids: Sequence[str]) -> list[float]:
        """``base_level`` of several records of a space, now; a few microseconds each."""
        now = self._clock.now()
        uses = self.of(space, [pack(rid) for rid in rids])
        levels = [
            base_level(time_of(rid), use or _NEVER, now)
            for rid, use in zip(rids, uses, strict=True)
        ]
        self._trim()
        return levels

    def add(self, space: int, rid: str, others: Sequence[str]) -> None:
        """Count the uses of other records (merged into it) as uses of this one."""
        packed = pack(rid)
        use = self.of(space, [packed])[0] or Use()
        for other in self.of(space, [pack(one) for one in others]):
            if other is not None:
                times = sorted([*use.recent, *other.recent], reverse=True)[:KEPT]
                use = Use(use.count + other.count, times)
        if use.count:
            self._pending[space, packed] = self._keep(space, packed, use)
            self._some.set()

    def drop(self, space: int, packed: bytes) -> None:
        """Forget the uses of a record that is gone (its key is deleted with it)."""
        self._pending.pop((space, packed), None)
        self._known.pop((space, packed), None)

    def _trim(self) -> None:
        while len(self._known) > self._kept:
            self._known.popitem(last=False)

    async def due(self, after: float) -> None:
        """Return when uses are to be stored: so many seconds after one, or when they are many."""
        if not self._pending:
            self._some = trio.Event()
            await self._some.wait()
        with trio.move_on_after(after):
            await self._full.wait()
        self._full = trio.Event()

    async def flush(self) -> None:
        """Store what was noted until now, in one commit. Raises EIO."""
        self._trim()
        pending = self._pending
        if not pending:
            return
        self._pending = {}
        puts = [("meta", use_key(*place), _encoder.encode(use)) for place, use in pending.items()]
        try:
            await self._store.commit(Batch(puts))  # type: ignore[arg-type]
        except BaseException:
            self._pending = pending | self._pending
            raise
        self._flushes += 1

    def statistics(self) -> UsesStatistics:
        """Figures for ``sys.stats``."""
        return UsesStatistics(self._noted, len(self._pending), self._flushes)


_NEVER = Use()
