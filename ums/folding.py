"""Deep stacks are folded: several frozen layers of a space become one.

    top 40      top 40
    37          41 = 37 over 35 over 33      a new layer: what of the three still shows,
    35    ──>                                and the history that it has
    33
    7           7

Nothing is changed in place, because snapshots stand on the layers that are folded, and go on
doing so. The new layer is filled a page at a time, then its indexes are brought up to date,
and only then the space is put on it, in one batch; whoever reads meanwhile has the old stack,
and the end of the process leaves that one. A fold that was not finished is begun anew.

Which layers: the run, of the length that is needed, that holds the fewest records. So the
large one at the bottom is left alone, and a record is copied about as often as in a
log-structured merge tree (O'Neil et al., Acta Informatica 1996) with runs of that length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.contracts import Batch
from ums import records as form
from ums.blobs import refer, release
from ums.claims import FACT, NAMES, SLOT
from ums.draft import Draft
from ums.erasure import blank, purge
from ums.layers import Stack
from ums.lineage import DERIVED, SOURCE
from ums.records import NONE, SPACE_SIZE, UPSERT, Change
from ums.rid import SIZE
from ums.tally import Sums, encode_sums

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from drivers.contracts import Bucket, Clock, Store
    from ums.space import Space
    from ums.spaces import Spaces

DEEP = 12
"""Layers of its own that a space has before some are folded."""
LENGTH = 9
"""How many are folded at once."""
PAGE = 256
FOLDED: tuple[tuple[Bucket, bytes], ...] = (
    ("keys", b""),
    ("idem", b""),
    ("whiteouts", b""),
    ("meta", FACT),
    ("meta", NAMES),
    ("meta", SLOT),
    ("meta", DERIVED),
    ("meta", SOURCE),
)
"""What besides records is kept by layer, after these prefixes; the topmost value counts."""


class FoldingStatistics(msgspec.Struct, frozen=True):
    """Figures of folding since the start."""

    folded: int
    """Runs of layers that became one."""
    copied: int
    """Records that were copied."""


class Folding:
    """Folds the stacks of spaces. ``indexed`` tells whether a layer's indexes have all of it."""

    def __init__(
        self,
        store: Store,
        spaces: Spaces,
        clock: Clock,
        indexed: Callable[[int], Awaitable[bool]],
        deep: int = DEEP,
        length: int = LENGTH,
    ) -> None:
        self._store = store
        self._spaces = spaces
        self._clock = clock
        self._indexed = indexed
        self._deep = deep
        self._length = length
        self._waiting: dict[int, tuple[int, list[int]]] = {}
        """By space: a layer that is filled, and those that it stands for."""
        self._turn = trio.Lock()
        self._swept = False
        self._folded = 0
        self._copied = 0

    async def step(self) -> bool:
        """Fill what is to be folded, and put spaces on what is ready; whether any was.

        Raises EIO; what was begun is then erased, and begun anew, by the next step.
        """
        async with self._turn:
            try:
                return await self._step()
            except BaseException:
                self._swept = False
                raise

    async def _step(self) -> bool:
        if not self._swept:
            filled = {layer for layer, _ in self._waiting.values()}
            for layer in set(self._spaces.spares()) - filled:
                await self._discard(layer)
            self._swept = True
        for space in self._spaces.deep(self._deep):
            if space.number not in self._waiting:
                run = self._run(space)
                layer = await self._spaces.spare(space.number)
                await self._fill(layer, run)
                self._waiting[space.number] = layer, run
        done = False
        for number, (layer, run) in list(self._waiting.items()):
            if await self._indexed(layer):
                await self._switch(self._spaces.open(number), layer, run)
                del self._waiting[number]
                done = True
        return done

    def _run(self, space: Space) -> list[int]:
        """The frozen layers next to each other that cost the least to copy."""
        frozen = space.own[1:]
        size = min(self._length, len(frozen))
        runs = [frozen[at : at + size] for at in range(len(frozen) - size + 1)]
        return min(runs, key=lambda run: sum(map(self._weight, run)))

    def _weight(self, layer: int) -> int:
        sums = self._spaces.layer(layer).tally.now()
        return abs(sums.bytes) + sum(map(abs, sums.segments))

    async def _fill(self, layer: int, run: Sequence[int]) -> None:
        """Copy what shows of the run, and its history, into a layer that nobody reads."""
        prefix = form.space_key(layer)
        prefixes = [form.space_key(number) for number in run]
        for bucket, lead in FOLDED:
            for source in reversed(prefixes):  # the topmost last: it counts
                await self._copy(bucket, lead + source, lead + prefix)
        batch = Batch()
        for rid in self._rids(prefixes):
            draft = Draft(self._store)
            self._record(draft, prefix, run, rid)
            one = draft.batch(layer)
            batch.puts += one.puts
            batch.deletes += one.deletes
            batch.journal += one.journal
            self._copied += 1
            if len(batch.puts) >= PAGE:
                await self._store.commit(batch)
                batch = Batch()
        await self._store.commit(batch)
        sums = Sums(self._store.last(layer))
        for number in run:
            found = self._spaces.layer(number).tally.now()
            sums.bytes += found.bytes
            sums.segments = [a + b for a, b in zip(sums.segments, found.segments, strict=True)]
        await self._store.commit(Batch([("meta", form.TALLY + prefix, encode_sums(sums))]))

    async def _copy(self, bucket: Bucket, source: bytes, target: bytes) -> None:
        start, stop = source, form.after(source)
        while page := self._store.scan(bucket, start, stop, limit=PAGE):
            puts = [(bucket, target + key[len(source) :], value) for key, value in page]
            await self._store.commit(Batch(puts))
            start = page[-1][0] + b"\0"

    def _rids(self, prefixes: Sequence[bytes]) -> Iterator[bytes]:
        """Every rid that some layer of the run knows, each once."""
        last = bytes(SIZE)  # no rid is as low
        while True:
            nearest = [
                key[SPACE_SIZE:][:SIZE]
                for prefix in prefixes
                for bucket in _RID_BUCKETS
                for key, _ in self._store.scan(
                    bucket, form.after(prefix + last), form.after(prefix), limit=1
                )
            ]
            if not nearest:
                return
            last = min(nearest)
            yield last

    def _record(self, draft: Draft, prefix: bytes, run: Sequence[int], rid: bytes) -> None:
        """Draft one record as the run shows it: what it was before becomes a version."""
        stack = Stack(self._store, run)
        found = stack.find(rid)
        key = prefix + rid
        values = stack.versions(rid)
        if found is not None:
            values.remove(found.value)
            stored = form.decode(found.value)
            draft.put("records", key, found.value)
            refer(draft, key, stored, self._clock.now())
            tag = form.tag_of(found.value)
            if not form.is_packed(found.value):
                draft.changes.append(
                    Change(UPSERT, rid, stored.version, tag, NONE, len(found.value))
                )
            if stored.expires is not None:
                draft.put("meta", form.expiry_key(stored.expires, key), b"")
        for value in values:
            stored = form.decode(value)
            place = form.version_key(key, stored.version)
            if found is None:
                blank(draft, place, value)
            else:
                draft.put("versions", place, value)
                refer(draft, key, stored, self._clock.now())

    async def _switch(self, space: Space, layer: int, run: Sequence[int]) -> None:
        """Put a space on the new layer, without what was deleted since it was filled."""
        above = space.own[: space.own.index(run[0])]
        for number in above:
            source = form.space_key(number)
            for key, _ in self._store.scan("whiteouts", source, form.after(source)):
                draft = Draft(self._store)
                purge(draft, self._store, layer, key[SPACE_SIZE:], lambda _layer, _rid: False)
                batch = draft.batch(layer)
                if batch.puts or batch.deletes:
                    await self._store.commit(batch)
        await self._spaces.refold(space.number, layer, run)
        self._folded += 1

    async def _discard(self, layer: int) -> None:
        """Erase what a fold that was not finished has left."""
        prefix = form.space_key(layer)
        for bucket in _RID_BUCKETS:
            await self._erase(bucket, prefix)
        for bucket, lead in FOLDED:
            await self._erase(bucket, lead + prefix)
        await self._spaces.discarded(layer)

    async def _erase(self, bucket: Bucket, prefix: bytes) -> None:
        while page := self._store.scan(bucket, prefix, form.after(prefix), limit=PAGE):
            draft = Draft(self._store)
            for key, value in page:
                if bucket in _RID_BUCKETS:
                    release(draft, key, form.decode(value))
                draft.delete(bucket, key)
            await self._store.commit(draft.batch(0))

    def statistics(self) -> FoldingStatistics:
        """Figures for ``sys.stats``."""
        return FoldingStatistics(self._folded, self._copied)


_RID_BUCKETS: tuple[Bucket, ...] = ("records", "versions")
