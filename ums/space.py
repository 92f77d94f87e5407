"""One space: its records, their versions and its sums.

Every change is one batch. A plain write reads nothing, because its rid is new. Any other
change is a draft: it reads, decides, and is committed on condition that what it read still
stands. Where that fails it is drafted anew, now behind a lock, so that many tasks at one
record take turns instead of starving each other.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TypeVar

import trio

from drivers.contracts import Batch, Clock, Mismatch, Store
from syscalls.calls.mem import Update, Written
from syscalls.errors import EAGAIN, ECONFLICT, EDQUOT, EINVAL, ENOENT
from syscalls.shapes import SEGMENTS, Note, Record, Segment, SpaceInfo, Version
from ums import records as form
from ums.draft import Draft
from ums.records import DELETE, NONE, TAGS, UPSERT, Change, Header, Stored
from ums.rid import SIZE, RidMaker, pack, to_text, unpack
from ums.tally import Place, Sums, Tally, decode_sums, encode_sums

T = TypeVar("T")

TRIES = 64
PAGE = 256
FOLD = 1000
EXPIRED_BY = "mem.expire"


class Space:
    """An open space. Opening costs a few reads, whatever its size."""

    def __init__(
        self, number: int, header: Header, store: Store, clock: Clock, random: Random
    ) -> None:
        self.number = number
        self.header = header
        self._store = store
        self._clock = clock
        self._prefix = form.space_key(number)
        self._end = form.after(self._prefix)
        self._turn = trio.Lock()
        self._rids = RidMaker(number, random)
        for bucket in ("records", "versions"):
            for key, _ in store.scan(bucket, self._prefix, self._end, limit=1, reverse=True):
                self._rids.follow(int.from_bytes(key[form.SPACE_SIZE :][:SIZE], "big"))
        self._tally = self._open_tally()

    def _open_tally(self) -> Tally:
        value = self._store.get("meta", form.TALLY + self._prefix)
        sums = Sums() if value is None else decode_sums(value)
        saved = sums.seq
        while entries := self._store.journal(self.number, sums.seq, FOLD):
            for seq, payload in entries:
                sums.fold(form.decode_change(payload))
                sums.seq = seq
        return Tally(sums, saved)

    # --- writing

    async def write(
        self, note: Note, writer: int, call: str = "mem.write", *, limit: int | None = None
    ) -> Written:
        """Write one record; with a key that is there, a new version of it.

        ``limit`` is the most records the space may hold. Raises EDQUOT, ECONFLICT (the same
        idempotency with other arguments), EINVAL, EIO.
        """
        if note.key or note.idempotency or note.ttl is not None:
            return (await self.write_many((note,), writer, call, limit=limit))[0]
        if limit is not None:
            self._admit(1, limit)
        stored = form.from_note(note, self._clock.now(), 1, writer, call)
        number, key, value, change = self._fresh(stored, TAGS[note.segment])
        batch = Batch(
            [("records", key, value)], [], [], [(self.number, form.encode_change(change))]
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
            now = self._clock.now()
            written = [self._put(draft, note, now, writer, call) for note in notes]
            if limit is not None:
                self._admit(sum(change.was == NONE for change in draft.changes), limit)
            return written

        return await self._mutate(build)

    async def update(self, call: Update, writer: int, name: str = "mem.update") -> Written:
        """Add a version. Raises ENOENT, ECONFLICT (``expect`` is not the last version)."""
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
            )
            if (value := getattr(call, field)) is not None
        }
        if not given and call.ttl is None:
            raise EINVAL("the update changes nothing", hint="give at least one field")

        def build(draft: Draft) -> Written:
            key, value, old = self._current(draft, call.rid, call.expect)
            now = self._clock.now()
            new = Stored(*(given.get(field, getattr(old, field)) for field in _FIELDS))
            new.updated, new.writer, new.call = now, writer, name
            new.idempotency = ""
            if call.ttl is not None:
                new.expires = now + call.ttl
            self._revise(draft, key, value, new, form.tag_of(value))
            return Written(call.rid, new.version)

        return await self._mutate(build)

    async def delete(
        self, rid: str, writer: int, name: str = "mem.delete", *, expect: int | None = None
    ) -> None:
        """Erase a record and all its versions; the history keeps who and when.

        Raises ENOENT, ECONFLICT.
        """

        def build(draft: Draft) -> None:
            key, value, old = self._current(draft, rid, expect)
            self._erase(draft, key, value, old, writer, name)

        await self._mutate(build)

    async def expire(self, rid: str) -> bool:
        """Erase a record whose time is over; False when there is nothing to erase."""

        def build(draft: Draft) -> bool:
            key = self._prefix + pack(rid)
            value = draft.get("records", key)
            if value is None:
                return False
            old = form.decode(value)
            if not old.expired(self._clock.now()):
                return False
            self._erase(draft, key, value, old, 0, EXPIRED_BY)
            return True

        return await self._mutate(build)

    async def checkpoint(self) -> None:
        """Store the sums, so that the next opening has less to fold."""
        sums = self._tally.checkpoint()
        seq = sums.seq
        if seq > self._tally.saved:
            key = form.TALLY + self._prefix
            await self._store.commit(Batch([("meta", key, encode_sums(sums))]))
            self._tally.saved = seq

    @property
    def unsaved(self) -> int:
        """How many sequence numbers the sums are ahead of their checkpoint."""
        return self._tally.unsaved

    def _admit(self, count: int, limit: int) -> None:
        used = self._tally.live
        if used + count > limit:
            raise EDQUOT(
                f"the space holds {used} of {limit} records",
                quota="records",
                limit=limit,
                used=used,
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
        idem = form.name_key(self._prefix, note.idempotency) if note.idempotency else b""
        if idem and (known := draft.get("idem", idem)) is not None:
            return _replayed(known, note)
        tag = TAGS[note.segment]
        name = form.name_key(self._prefix, note.key) if note.key else b""
        holder = draft.get("keys", name) if name else None
        stored = form.from_note(note, now, 1, writer, call)
        key = b"" if holder is None else self._prefix + holder
        value = draft.get("records", key) if key else None
        old = None if value is None else form.decode(value)
        if value is not None and old is not None and not old.expired(now):
            stored.version, stored.created = old.version, old.created
            self._revise(draft, key, value, stored, tag)
        else:
            if value is not None and old is not None:
                self._erase(draft, key, value, old, 0, EXPIRED_BY)
            _, key, value, change = self._fresh(stored, tag)
            draft.put("records", key, value)
            draft.changes.append(change)
            self._note_expiry(draft, key, stored)
        packed = key[form.SPACE_SIZE :]
        if name:
            draft.put("keys", name, packed)
        if idem:
            digest = form.note_hash(note)
            draft.put("idem", idem, packed + stored.version.to_bytes(4, "big") + digest)
        return Written(unpack(packed), stored.version)

    def _current(self, draft: Draft, rid: str, expect: int | None) -> tuple[bytes, bytes, Stored]:
        """Key, value and decoded form of a live record, checked against ``expect``."""
        key = self._prefix + pack(rid)
        value = draft.get("records", key)
        old = None if value is None else form.decode(value)
        if value is None or old is None or old.expired(self._clock.now()):
            raise ENOENT(f"no record {rid} in space {self.number}")
        if expect is not None and expect != old.version:
            raise ECONFLICT(
                f"record {rid} is at version {old.version}, not {expect}",
                version=old.version,
                expect=expect,
            )
        return key, value, old

    def _revise(self, draft: Draft, key: bytes, value: bytes, new: Stored, tag: int) -> None:
        """Draft ``new`` as the version after that in ``value``, which moves to the history."""
        version = new.version
        new.version += 1
        changed = form.encode(new, tag)
        draft.put("versions", form.version_key(key, version), value)
        draft.put("records", key, changed)
        draft.changes.append(
            Change(
                UPSERT,
                key[form.SPACE_SIZE :],
                new.version,
                tag,
                form.tag_of(value),
                len(changed) - len(value),
            )
        )
        self._note_expiry(draft, key, new)

    def _note_expiry(self, draft: Draft, key: bytes, stored: Stored) -> None:
        if stored.expires is not None:
            draft.put("meta", form.expiry_key(stored.expires, key), b"")

    def _erase(
        self, draft: Draft, key: bytes, value: bytes, old: Stored, writer: int, call: str
    ) -> None:
        """Draft a delete: each version blanked, then a last one that says who and when.

        Versions are numbered without gaps, and the expectation on the record covers them.
        """
        tag = form.tag_of(value)
        for version in range(1, old.version + 1):
            place = form.version_key(key, version)
            past = value if version == old.version else draft.peek("versions", place)
            if past is not None:
                stored = form.decode(past)
                self._blank_idempotency(draft, stored)
                draft.put("versions", place, form.encode(form.erased(stored), form.tag_of(past)))
        last = form.erased(old)
        last.version, last.updated = old.version + 1, self._clock.now()
        last.writer, last.call, last.state = writer, call, "forgotten"
        draft.put("versions", form.version_key(key, last.version), form.encode(last, tag))
        draft.delete("records", key)
        if old.key:
            draft.delete("keys", form.name_key(self._prefix, old.key))
        draft.changes.append(
            Change(DELETE, key[form.SPACE_SIZE :], last.version, tag, tag, -len(value))
        )

    def _blank_idempotency(self, draft: Draft, stored: Stored) -> None:
        """Drop the hash of the arguments: it could confirm a guess at what was erased."""
        if stored.idempotency:
            place = form.name_key(self._prefix, stored.idempotency)
            if (known := draft.peek("idem", place)) is not None:
                draft.put("idem", place, known[: SIZE + 4])

    async def _mutate(self, build: Callable[[Draft], T]) -> T:
        """Build a draft and commit it, again while others get in between."""
        draft = Draft(self._store)
        result = build(draft)
        if await self._try(draft):
            return result
        async with self._turn:
            for _ in range(TRIES):
                draft = Draft(self._store)
                result = build(draft)
                if await self._try(draft):
                    return result
        raise EAGAIN(f"space {self.number} changes too fast", retry_after=0.05)

    async def _try(self, draft: Draft) -> bool:
        batch = draft.batch(self.number)
        if not (batch.puts or batch.deletes):
            return True
        try:
            await self._commit(batch, draft.changes)
        except Mismatch:
            return False
        return True

    async def _commit(self, batch: Batch, changes: Sequence[Change]) -> None:
        place: Place = self._tally.begin(changes)
        try:
            seqs = await self._store.commit(batch)
        except BaseException:
            self._tally.drop(place)
            raise
        self._tally.done(place, seqs[-1])

    # --- reading

    def read(self, rid: str, version: int | None = None) -> Record:
        """A record, or an older version of it. Raises ENOENT."""
        key = self._prefix + pack(rid)
        value = self._store.get("records", key)
        current = None if value is None else form.decode(value)
        if value is None or current is None or current.expired(self._clock.now()):
            raise ENOENT(f"no record {rid} in space {self.number}")
        if version is None or version == current.version:
            return form.to_record(self.number, rid, form.tag_of(value), current)
        past = self._store.get("versions", form.version_key(key, version))
        if past is None:
            raise ENOENT(f"record {rid} has no version {version}", version=current.version)
        return form.to_record(self.number, rid, form.tag_of(past), form.decode(past))

    def find(self, key: str, version: int | None = None) -> Record:
        """The record of a key. Raises ENOENT."""
        packed = self._store.get("keys", form.name_key(self._prefix, key))
        if packed is None:
            raise ENOENT(f"no record with the key {key!r} in space {self.number}")
        return self.read(unpack(packed), version)

    async def newest(
        self, limit: int, *, before: str | None = None, segment: Segment | None = None
    ) -> list[Record]:
        """Live records, newest first, from just before the rid ``before``."""
        found: list[Record] = []
        now = self._clock.now()
        stop = self._end if before is None else self._prefix + pack(before)
        wanted = None if segment is None else TAGS[segment]
        while len(found) < limit:
            page = self._store.scan("records", self._prefix, stop, limit=PAGE, reverse=True)
            for key, value in page:
                tag = form.tag_of(value)
                if wanted is not None and tag != wanted:
                    continue
                stored = form.decode(value)
                if not stored.expired(now):
                    found.append(form.to_record(self.number, form.rid_in(key), tag, stored))
                    if len(found) == limit:
                        break
            if len(page) < PAGE:
                break
            stop = page[-1][0]
            await trio.lowlevel.checkpoint()
        return found

    def history(self, rid: str) -> list[Version]:
        """All versions, oldest first, those of a deleted record too. Raises ENOENT."""
        versions = [form.to_version(stored) for _, stored in self.versions(rid)]
        if not versions:
            raise ENOENT(f"no record {rid} in space {self.number}")
        return versions

    def versions(self, rid: str) -> Iterator[tuple[int, Stored]]:
        """Segment number and stored form of each version, oldest first.

        Of an expired record that is not erased yet only what an erased one would show.
        """
        key = self._prefix + pack(rid)
        value = self._store.get("records", key)
        current = None if value is None else form.decode(value)
        gone = current is not None and current.expired(self._clock.now())
        for _, past in self._store.scan("versions", key, form.after(key)):
            stored = form.decode(past)
            yield form.tag_of(past), form.erased(stored) if gone else stored
        if value is not None and current is not None:
            yield form.tag_of(value), form.erased(current) if gone else current

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Stored values of several records, from one moment; keys as in ``records``."""
        return self._store.get_many("records", keys)

    def info(self) -> SpaceInfo:
        """The space and its sums; grants and indexes are filled in by who knows them."""
        sums = self._tally.now()
        return SpaceInfo(
            self.number,
            self.header.name,
            self.header.owner,
            self.header.created,
            sums.records,
            dict(zip(SEGMENTS, sums.segments, strict=True)),
            sums.bytes,
            self._store.last(self.number),
            {},
            [],
        )


_FIELDS = Stored.__struct_fields__


def _replayed(known: bytes, note: Note) -> Written:
    """What the first write with this idempotency returned. Raises ECONFLICT."""
    digest = known[SIZE + 4 :]
    if digest and digest != form.note_hash(note):
        raise ECONFLICT(
            f"the idempotency {note.idempotency!r} was used with other arguments",
            hint="use a new idempotency for a new record",
        )
    return Written(unpack(known[:SIZE]), int.from_bytes(known[SIZE : SIZE + 4], "big"))
