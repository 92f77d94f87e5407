"""One space: what changes in it, and what that does to its sums.

Every change is one batch. A plain write reads nothing, because its rid is new. Any other
change is a draft: it reads, decides, and is committed on condition that what it read still
stands. Where that fails it is drafted anew, now behind a lock, so that many tasks at one
record take turns instead of starving each other.

Changes go to the top layer. While another layer is put on top (a snapshot), they wait: the
store applies batches in the order of the calls, so what was begun before is below, and what
comes after is above.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import TypeVar

import trio

from drivers.contracts import Batch, Clock, Mismatch, Store
from syscalls.calls.mem import Update, Written
from syscalls.errors import EAGAIN, ECONFLICT, EDQUOT, EINVAL, ENOENT, EPERM
from syscalls.records import Note
from syscalls.shapes import LifeEvent, RecordState, Segment
from ums import blobs, lifecycle, prefixes
from ums import records as form
from ums.activation import use_key
from ums.draft import Draft
from ums.erasure import blank, cover, purge
from ums.layers import Found, Layer
from ums.lifecycle import Fate
from ums.lineage import relate
from ums.meter import Meter, NoMeter
from ums.records import DELETE, NONE, TAGS, UPSERT, Change, Header, Stored
from ums.rid import SIZE, RidMaker, pack, to_text, unpack
from ums.settling import claim, settle
from ums.tally import gain
from ums.view import Guard, View

T = TypeVar("T")
TRIES = 64
EXPIRED_BY = "mem.expire"


class Space(View):
    """An open space. Opening costs a few reads for each layer, whatever its size."""

    def __init__(
        self,
        number: int,
        header: Header,
        store: Store,
        clock: Clock,
        random: Random,
        layers: Sequence[Layer],
        sees: Callable[[int, bytes], bool],
    ) -> None:
        super().__init__(number, header, store, clock, layers)
        self._sees = sees
        self._turn = trio.Lock()
        self._shape = trio.Lock()
        self._still: trio.Event | None = None
        self.hear: Callable[[Stored, str], None] = lambda _new, _before: None
        """Told of what is being written, and what the record said before: marks echoes."""
        self.lapsed: Callable[[], None] = lambda: None
        """Told when a pinned prefix has lost a record that it rests on, or one has changed."""
        self.meter: Meter = NoMeter()
        self._rids = RidMaker(self._top.number, random)
        self._rids.follow(self._stack.newest_rid())

    @property
    def top(self) -> Layer:
        """The layer that is written."""
        return self._top

    @property
    def own(self) -> list[int]:
        """Its own layers, top first; what is attached is not among them."""
        return list(self._own)

    @asynccontextmanager
    async def reshaping(self) -> AsyncIterator[None]:
        """Keep everybody from changing the stack, and writers from beginning, meanwhile."""
        async with self._shape:
            self._still = trio.Event()
            try:
                yield
            finally:
                self._still.set()
                self._still = None

    def reshape(self, header: Header, layers: Sequence[Layer]) -> None:
        """Stand on other layers from now on, as the store does already."""
        self._set(header, layers)
        self._rids.move(self._top.number)

    async def _quiet(self) -> None:
        """Wait until the stack stands still; then nothing changes it before the next await."""
        while self._still is not None:
            await self._still.wait()

    def _writable(self) -> None:
        if self.header.sealed:
            raise EPERM(
                f"space {self.number} is a snapshot", hint="write to the space it was made from"
            )

    # --- writing

    async def write(
        self, note: Note, writer: int, call: str = "mem.write", *, limit: int | None = None
    ) -> Written:
        """Write one record; with a key that is there, a new version of it.

        ``limit`` is the most records the space may hold. Raises EDQUOT, ECONFLICT (the same
        idempotency with other arguments), EINVAL, EIO.
        """
        drafted = note.key or note.idempotency or note.ttl is not None or note.fact is not None
        if drafted or note.sources or note.evidence or blobs.NAMED in note.meta:
            return (await self.write_many((note,), writer, call, limit=limit))[0]
        await self._quiet()
        self._writable()
        if limit is not None:
            self._admit(1, limit)
        stored = form.from_note(note, self._clock.now(), 1, writer, call)
        self.hear(stored, "")
        number, key, value, change = self._fresh(stored, TAGS[note.segment])
        if limit is not None:
            self.meter.admit(self.number, 1, len(value))
        batch = Batch(
            [("records", key, value)], [], [], [(self._top.number, form.encode_change(change))]
        )
        await self._commit(batch, (change,))
        return Written(to_text(number), 1)

    async def write_many(
        self,
        notes: Sequence[Note],
        writer: int,
        call: str = "mem.write_many",
        *,
        limit: int | None = None,
    ) -> list[Written]:
        """Write several records in one transaction; the errors are those of ``write``."""

        def build(draft: Draft) -> list[Written]:
            self._writable()
            now = self._clock.now()
            written = [self._put(draft, note, now, writer, call) for note in notes]
            if limit is not None:
                count = sum(change.was == NONE for change in draft.changes)
                self._admit(count, limit)
                self.meter.admit(self.number, count, sum(each.size for each in draft.changes))
            return written

        return await self._mutate(build)

    async def update(
        self, call: Update, writer: int, name: str = "mem.update", *, guard: Guard | None = None
    ) -> Written:
        """Add a version. Raises ENOENT, ECONFLICT (``expect`` is not the last version), EPERM."""
        given = {
            field: value
            for field in (
                "content",
                "kind",
                "meta",
                "tags",
                "importance",
                "taint",
                "valid_from",
                "valid_to",
                "sources",
                "fact",
                "evidence",
            )
            if (value := getattr(call, field)) is not None
        }
        if not given and call.ttl is None:
            raise EINVAL("the update changes nothing", hint="give at least one field")

        def build(draft: Draft) -> Written:
            self._writable()
            found, old = self._current(draft, call.rid, call.expect, guard)
            now = self._clock.now()
            new = Stored(*(given.get(field, getattr(old, field)) for field in _FIELDS))
            new.updated, new.writer, new.call = now, writer, name
            new.idempotency = ""
            new.state, new.cold = _written_to(old), False
            if call.ttl is not None:
                new.expires = now + call.ttl
            if call.content is not None:
                self.hear(new, old.content)
            if guard is not None:
                guard(call.rid, new)
            self._revise(draft, found, new, form.tag_of(found.value))
            self.meter.admit(self.number, 0, draft.changes[-1].size)
            return Written(call.rid, new.version)

        return await self._mutate(build, guard)

    async def move(
        self, rids: Sequence[str], segment: Segment, writer: int, call: str
    ) -> list[str]:
        """Put records into another segment, each as a new version, in one batch; those moved.

        What is pinned, archived, gone or there already stays as it is. Raises EPERM, EIO.
        """

        def build(draft: Draft) -> list[str]:
            self._writable()
            now, tag, moved = self._clock.now(), TAGS[segment], []
            for rid in rids:
                found = self.stack.find(pack(rid), draft.get)
                if found is None or form.is_packed(found.value):
                    continue
                new = form.decode(found.value)
                if new.state == "frozen" or new.expired(now) or form.tag_of(found.value) == tag:
                    continue
                new.updated, new.writer, new.call, new.idempotency = now, writer, call, ""
                self._revise(draft, found, new, tag)
                moved.append(rid)
            return moved

        return await self._mutate(build)

    async def delete(
        self,
        rid: str,
        writer: int,
        name: str = "mem.delete",
        *,
        expect: int | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Erase a record and all its versions; the history keeps who and when.

        What other spaces that stand on the same layers still see is only covered here, and
        erased when the last of them deletes it too. Raises ENOENT, ECONFLICT, EPERM.
        """

        def build(draft: Draft) -> None:
            found, old = self._current(draft, rid, expect, guard)
            self._erase(draft, found, old, writer, name)

        await self._mutate(build)

    async def expire(self, rid: str) -> bool:
        """Erase a record whose time is over; False when there is nothing to erase."""

        def build(draft: Draft) -> bool:
            found = self.stack.find(pack(rid), draft.get)
            if found is None:
                return False
            old = form.decode(found.value)
            if not old.expired(self._clock.now()):
                return False
            self._erase(draft, found, old, 0, EXPIRED_BY)
            return True

        return await self._mutate(build)

    async def checkpoint(self) -> None:
        """Store the top layer's sums, so that the next opening has less to fold."""
        await self._top.checkpoint()

    @property
    def unsaved(self) -> int:
        """How many sequence numbers the sums are ahead of their checkpoint."""
        return self._top.tally.unsaved

    def _admit(self, count: int, limit: int) -> None:
        """Refuse what would be over the limit; what is attached does not count."""
        used = self._top.tally.live
        used += sum(self._layers[layer].tally.live for layer in self._own[1:])
        if used + count > limit:
            raise EDQUOT(
                f"the space holds {used} of {limit} records",
                quota="records",
                limit=limit,
                used=used,
                whose=f"space {self.number}",
            )

    def _fresh(self, stored: Stored, tag: int) -> tuple[int, bytes, bytes, Change]:
        """The number, key, value and journal entry of a new record."""
        number = self._rids.make(stored.created)
        packed = number.to_bytes(SIZE, "big")
        value = form.encode(stored, tag)
        change = Change(UPSERT, packed, stored.version, tag, NONE, len(value))
        return number, self._prefix + packed, value, change

    def _put(self, draft: Draft, note: Note, now: float, writer: int, call: str) -> Written:
        """Draft the writing of one note."""
        stack = self.stack
        if note.idempotency:
            known = stack.named("idem", note.idempotency, draft.get)
            if known is not None:
                return _replayed(known, note)
        tag = TAGS[note.segment]
        holder = stack.named("keys", note.key, draft.get) if note.key else None
        stored = form.from_note(note, now, 1, writer, call)
        found = None if holder is None else stack.find(holder, draft.get)
        old = None if found is None else form.decode(found.value)
        self.hear(stored, old.content if old is not None else "")
        if found is not None and old is not None and not old.expired(now):
            packed = found.key[form.SPACE_SIZE :]
            stored.version, stored.created = old.version, old.created
            stored.state = _written_to(old)
            self._revise(draft, found, stored, tag)
        else:
            if found is not None and old is not None:
                self._erase(draft, found, old, 0, EXPIRED_BY)
            _, key, value, change = self._fresh(stored, tag)
            packed = key[form.SPACE_SIZE :]
            draft.put("records", key, value)
            draft.changes.append(change)
            self._note_expiry(draft, key, stored)
            blobs.refer(draft, key, stored, now)
            claim(draft, stack, packed, None, stored)
        if note.key:
            draft.put("keys", form.name_key(self._prefix, note.key), packed)
        if note.idempotency:
            place = form.name_key(self._prefix, note.idempotency)
            known = packed + stored.version.to_bytes(4, "big") + form.note_hash(note)
            draft.put("idem", place, known)
        return Written(unpack(packed), stored.version)

    def _current(
        self, draft: Draft, rid: str, expect: int | None, guard: Guard | None
    ) -> tuple[Found, Stored]:
        """Place and decoded form of a live record, checked against ``guard`` and ``expect``."""
        found = self.stack.find(pack(rid), draft.get)
        old = None if found is None else form.decode(found.value)
        if found is None or old is None or old.expired(self._clock.now()):
            if guard is not None:
                guard(rid, form.NOTHING)
            raise ENOENT(f"no record {rid} in space {self.number}")
        if guard is not None:
            guard(rid, old)
        if expect is not None and expect != old.version:
            raise ECONFLICT(
                f"record {rid} is at version {old.version}, not {expect}",
                version=old.version,
                expect=expect,
            )
        return found, old

    def _revise(self, draft: Draft, found: Found, new: Stored, tag: int) -> None:
        """Draft ``new`` as the version after the found one; what it claims follows."""
        self._succeed(draft, found, new, tag)
        packed = found.key[form.SPACE_SIZE :]
        claim(draft, self.stack, packed, form.decode(found.value), new)

    def _succeed(self, draft: Draft, found: Found, new: Stored, tag: int) -> None:
        """Draft ``new`` as the version after the found one, which stays as history.

        In the top layer that moves aside; in a lower one it is where it is.
        """
        packed = found.key[form.SPACE_SIZE :]
        key = self._prefix + packed
        if found.depth == 0:
            draft.put("versions", form.version_key(key, new.version), found.value)
        new.version += 1
        if new.named and new.content != form.decode(found.value).content:
            new.named = []  # they were stretches of another text
        changed = form.encode(new, tag)
        draft.put("records", key, changed)
        was, grown = form.tag_of(found.value), len(changed) - len(found.value)
        if form.is_packed(found.value):
            was, grown = NONE, len(changed)
            fate = self._fate(form.decode(found.value), "restore", new.writer)
            lifecycle.record(draft, self.number, packed, fate)
        draft.changes.append(Change(UPSERT, packed, new.version, tag, was, grown))
        self._note_expiry(draft, key, new)
        blobs.refer(draft, key, new, new.updated)

    def _note_expiry(self, draft: Draft, key: bytes, stored: Stored) -> None:
        if stored.expires is not None:
            draft.put("meta", form.expiry_key(stored.expires, key), b"")

    def _erase(
        self,
        draft: Draft,
        found: Found,
        old: Stored,
        writer: int,
        call: str,
        fate: Fate | None = None,
    ) -> None:
        """Draft a delete: each version blanked, then a last one that says who and when.

        Versions are numbered without gaps, and the expectation on the record covers them.
        """
        packed, value = found.key[form.SPACE_SIZE :], found.value
        key, tag = self._prefix + packed, form.tag_of(value)
        for version in range(1, old.version + 1):
            place = form.version_key(key, version)
            here = found.depth == 0 and version == old.version
            past = value if here else draft.peek("versions", place)
            if past is not None:
                blank(draft, place, past)
        last = form.erased(old)
        last.version, last.updated = old.version + 1, self._clock.now()
        last.writer, last.call, last.state = writer, call, "forgotten"
        draft.put("versions", form.version_key(key, last.version), form.encode(last, tag))
        if found.depth == 0:
            draft.delete("records", key)
        if old.key:
            draft.delete("keys", form.name_key(self._prefix, old.key))
        if self._prefix != form.born(packed):
            cover(draft, self._stack, self._prefix, packed)
            for layer in self._own[1:]:
                purge(draft, self._store, layer, packed, self._sees)
        change = Change(DELETE, packed, last.version, tag, tag, -len(value))
        if form.is_packed(value):
            change.was, change.size = NONE, 0
        draft.changes.append(change)
        draft.delete("meta", use_key(self.number, packed))
        claim(draft, self.stack, packed, old, None)
        if fate is None:
            fate = self._fate(old, "expire" if call == EXPIRED_BY else "delete", writer)
        lifecycle.record(draft, self.number, packed, fate)

    def _fate(self, old: Stored, event: LifeEvent, by: int) -> Fate:
        """What becomes of a record. Raises ECONFLICT where the table has no such move."""
        after = lifecycle.step(old.state, event)
        return Fate(self._clock.now(), event, old.state, after, "", by)

    async def _mutate(self, build: Callable[[Draft], T], guard: Guard | None = None) -> T:
        """Build a draft and commit it, again while others get in between."""
        await self._quiet()
        draft = Draft(self._store)
        result = build(draft)
        self._follow(draft, guard)
        if await self._try(draft):
            return result
        async with self._turn:
            for _ in range(TRIES):
                await self._quiet()
                draft = Draft(self._store)
                result = build(draft)
                self._follow(draft, guard)
                if await self._try(draft):
                    return result
        raise EAGAIN(f"space {self.number} changes too fast", retry_after=0.05)

    def _follow(self, draft: Draft, guard: Guard | None) -> None:
        """Draft what follows for other facts, and for what was made from the records."""
        settle(draft, self.stack, self._clock.now(), guard, self._succeed)
        prefixes.follow(draft, self._store, self.number)
        relate(draft, self.stack, self.number, guard)

    async def _try(self, draft: Draft) -> bool:
        batch = draft.batch(self._top.number)
        if not (batch.puts or batch.deletes):
            return True
        try:
            await self._commit(batch, draft.changes)
        except Mismatch:
            return False
        if draft.lapsed:
            self.lapsed()
        return True

    async def _commit(self, batch: Batch, changes: Sequence[Change]) -> None:
        tally = self._top.tally  # the one it was begun in, whatever is on top afterwards
        place = tally.begin(changes)
        records, size = gain(changes)
        self.meter.grew(self.number, records, size)
        try:
            seqs = await self._store.commit(batch)
        except BaseException:
            tally.drop(place)
            self.meter.grew(self.number, -records, -size)
            raise
        tally.done(place, seqs[-1] if seqs else 0)


_FIELDS = Stored.__struct_fields__


def _written_to(old: Stored) -> RecordState:
    """The state of a record that is written again: a pin stays, what was away is back."""
    return old.state if old.state == "frozen" else "generated"


def _replayed(known: bytes, note: Note) -> Written:
    """What the first write with this idempotency returned. Raises ECONFLICT."""
    digest = known[SIZE + 4 :]
    if digest and digest != form.note_hash(note):
        raise ECONFLICT(
            f"the idempotency {note.idempotency!r} was used with other arguments",
            hint="use a new idempotency for a new record",
        )
    return Written(unpack(known[:SIZE]), int.from_bytes(known[SIZE : SIZE + 4], "big"))
