"""A space whose records live: the mechanism of every change of state but the writer's own.

Each change is one batch: the record in its new state, the journal entry that has the indexes
follow, and the fate that says why. None of them adds a version, since nobody said anything
new: undone, the record and its versions are what they were, byte for byte.

    pin, unpin      the state is in the value
    archive, merge  value and versions are packed where they are; no index and no sum has them
    restore         and unpacked
    forget          the content is erased; a sealed copy waits, out of everybody's reach, until
                    it can no longer be undone

    meta  "ums/sealed/" ms (8) space (4) rid (16)    Sealed, deflated; ms is the end

Only the top layer is written. A record of a lower one is copied up in its new state.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

from drivers.contracts import Batch
from syscalls.errors import ECONFLICT, EIO, ENOENT
from ums import blobs, lifecycle
from ums import records as form
from ums.activation import use_key
from ums.lifecycle import Fate
from ums.lineage import Lineage
from ums.records import DELETE, NONE, UPSERT, Change, Stored
from ums.rid import pack
from ums.settling import reclaim
from ums.space import Space
from ums.view import Guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import Store
    from syscalls.shapes import LifeEvent
    from ums.draft import Draft
    from ums.layers import Found

SEALED = b"ums/sealed/"
FORGOTTEN_BY = "mem.forget"


class Sealed(msgspec.Struct, array_like=True):
    """A forgotten record while its forgetting can be undone."""

    value: bytes
    versions: list[tuple[int, bytes]]
    """Number and value of the earlier ones."""
    use: bytes | None


class Reason(msgspec.Struct, frozen=True):
    """Who has a state changed, and why; the same for all records of a run."""

    why: str = ""
    """In words; nothing of any content."""
    by: int = 0
    action: int = 0
    until: float = 0.0
    """Until when it can be undone."""
    guard: Guard | None = None
    """Raises EPERM for a record that who asks may not change."""


_sealed = msgspec.msgpack.Decoder(Sealed)


def sealed_key(until: float, space: int, packed: bytes) -> bytes:
    """Where the copy of a forgotten record waits; these sort by time."""
    return SEALED + int(until * 1000).to_bytes(8, "big") + form.space_key(space) + packed


class LivingSpace(Space):
    """A space with the moves of the table of ``ums.lifecycle``.

    Each raises ENOENT, ECONFLICT (the table has no such move), EPERM.
    """

    async def pin(self, rid: str, reason: Reason) -> Fate:
        """Freeze a record; one that is archived must be restored before."""
        return await self._mutate(lambda draft: self._restate(draft, rid, "pin", reason))

    async def unpin(self, rid: str, reason: Reason) -> Fate:
        """Take a pin away."""
        return await self._mutate(lambda draft: self._restate(draft, rid, "unpin", reason))

    async def cool(self, rid: str, reason: Reason) -> Fate:
        """Let go of its vector."""
        return await self._mutate(lambda draft: self._restate(draft, rid, "cool", reason))

    async def warm(self, rid: str, reason: Reason) -> Fate:
        """Have its vector again."""
        return await self._mutate(lambda draft: self._restate(draft, rid, "warm", reason))

    async def archive(self, rid: str, reason: Reason) -> Fate:
        """Compress a record with its versions and take it out of the indexes."""

        def build(draft: Draft) -> Fate:
            found, old = self._current(draft, rid, None, reason.guard)
            return self._pack(draft, found, old, "archive", reason)

        return await self._mutate(build)

    async def merge(self, survivor: str, rids: Sequence[str], reason: Reason) -> list[Fate]:
        """Archive records that say what another one says; that one names them as its sources."""

        def build(draft: Draft) -> list[Fate]:
            found, kept = self._current(draft, survivor, None, reason.guard)
            if form.is_packed(found.value) or survivor in rids:
                raise ECONFLICT(f"record {survivor} cannot be what others are merged into")
            fates = []
            for rid in rids:
                place, old = self._current(draft, rid, None, reason.guard)
                fates.append(self._pack(draft, place, old, "merge", reason, survivor))
            kept.sources = [*kept.sources, *(rid for rid in rids if rid not in kept.sources)]
            self._rewrite(draft, found, kept)
            Lineage(draft, self.stack).merge(pack(survivor), map(pack, rids))
            return fates

        return await self._mutate(build)

    async def restore(self, rid: str, reason: Reason) -> Fate:
        """Have an archived or merged record back as it was."""

        def build(draft: Draft) -> Fate:
            found, old = self._current(draft, rid, None, reason.guard)
            fate = self._told(draft, found, old, "restore", reason)
            self._unlink(draft, form.survivor_of(found.value), rid)
            self._unpack(draft, found, old)
            return fate

        return await self._mutate(build)

    async def forget(self, rid: str, reason: Reason) -> Fate:
        """Erase a record; a sealed copy waits where ``reason.until`` lies ahead."""

        def build(draft: Draft) -> Fate:
            found, old = self._current(draft, rid, None, reason.guard)
            fate = self._made(draft, found, old, "forget", reason)
            if reason.until > self._clock.now():
                key = sealed_key(reason.until, self.number, form.packed_in(found.key))
                draft.put("meta", key, self._seal(draft, found, old))
                values = self.stack.versions(form.packed_in(found.key))
                self._erase(draft, found, old, reason.by, FORGOTTEN_BY, fate)
                blobs.seal(draft, key, values)
            else:
                self._erase(draft, found, old, reason.by, FORGOTTEN_BY, fate)
            return fate

        return await self._mutate(build)

    async def undo(self, rid: str, reason: Reason) -> Fate:
        """Take the last change of a record's state back. Raises ENOENT where none can be."""

        def build(draft: Draft) -> Fate:
            packed = pack(rid)
            told = lifecycle.fates(self._store, self.number, packed)
            last = lifecycle.undoable(told, self._clock.now())
            if last is None:
                raise ENOENT(f"nothing that happened to record {rid} can be undone")
            fate = Fate(self._clock.now(), "undo", last.after, last.before, reason.why, reason.by)
            fate.action = reason.action
            if last.event == "forget":
                self._unseal(draft, packed, last, reason)
            else:
                self._revert(draft, rid, last, reason)
            lifecycle.record(draft, self.number, packed, fate)
            return fate

        return await self._mutate(build)

    # --- drafting

    def _made(
        self, draft: Draft, found: Found, old: Stored, event: LifeEvent, reason: Reason
    ) -> Fate:
        """The fate of a record, checked against the table."""
        now = self._clock.now()
        packed = form.packed_in(found.key)
        use = draft.peek("meta", use_key(self.number, packed))
        before = lifecycle.shown(old.state, use is not None)
        after = lifecycle.step(before, event)
        until = reason.until if event in lifecycle.UNDOABLE else 0.0
        return Fate(now, event, before, after, reason.why, reason.by, reason.action, "", until)

    def _told(
        self, draft: Draft, found: Found, old: Stored, event: LifeEvent, reason: Reason
    ) -> Fate:
        fate = self._made(draft, found, old, event, reason)
        lifecycle.record(draft, self.number, form.packed_in(found.key), fate)
        return fate

    def _restate(self, draft: Draft, rid: str, event: LifeEvent, reason: Reason) -> Fate:
        """Draft a change that is only in the value: pins and tiers."""
        found, old = self._current(draft, rid, None, reason.guard)
        fate = self._told(draft, found, old, event, reason)
        old.state = "frozen" if fate.after == "frozen" else "generated"
        old.cold = event == "cool" or (old.cold and event != "warm")
        self._rewrite(draft, found, old)
        return fate

    def _rewrite(self, draft: Draft, found: Found, new: Stored) -> None:
        """Draft another value of the same version."""
        packed, tag = form.packed_in(found.key), form.tag_of(found.value)
        value = form.encode(new, tag)
        draft.put("records", self._prefix + packed, value)
        grown = len(value) - len(found.value)
        draft.changes.append(Change(UPSERT, packed, new.version, tag, tag, grown))

    def _pack(
        self,
        draft: Draft,
        found: Found,
        old: Stored,
        event: LifeEvent,
        reason: Reason,
        other: str = "",
    ) -> Fate:
        """Draft the packing of a record and the versions of it that the top layer has."""
        fate = self._made(draft, found, old, event, reason)
        fate.other = other
        packed, tag = form.packed_in(found.key), form.tag_of(found.value)
        key = self._prefix + packed
        lifecycle.record(draft, self.number, packed, fate)
        survivor = pack(other) if other else b""
        draft.put("records", key, form.pack_value(found.value, fate.after, survivor))
        for place, past in self._past(draft, key, old.version):
            if not form.is_packed(past):
                draft.put("versions", place, form.pack_value(past, form.decode(past).state))
        size = -len(found.value)
        draft.changes.append(Change(DELETE, packed, old.version, tag, tag, size))
        return fate

    def _unpack(self, draft: Draft, found: Found, old: Stored) -> None:
        """Draft the unpacking of what ``_pack`` packed."""
        packed, tag = form.packed_in(found.key), form.tag_of(found.value)
        key = self._prefix + packed
        value = form.unpack_value(found.value)
        draft.put("records", key, value)
        for place, past in self._past(draft, key, old.version):
            if form.is_packed(past):
                draft.put("versions", place, form.unpack_value(past))
        draft.changes.append(Change(UPSERT, packed, old.version, tag, NONE, len(value)))

    def _past(self, draft: Draft, key: bytes, version: int) -> list[tuple[bytes, bytes]]:
        """Place and value of the earlier versions in the top layer."""
        places = [form.version_key(key, number) for number in range(1, version)]
        values = [(place, draft.peek("versions", place)) for place in places]
        return [(place, value) for place, value in values if value is not None]

    def _unlink(self, draft: Draft, survivor: bytes, rid: str) -> None:
        """Draft that a record is no longer among another's sources; there may be no other."""
        found = self.stack.find(survivor, draft.get) if survivor else None
        if found is None or form.is_packed(found.value):
            return
        kept = form.decode(found.value)
        if rid in kept.sources:
            kept.sources = [source for source in kept.sources if source != rid]
            Lineage(draft, self.stack).part(survivor, pack(rid))
            self._rewrite(draft, found, kept)

    def _revert(self, draft: Draft, rid: str, last: Fate, reason: Reason) -> None:
        """Draft the way back from anything but a forget."""
        found, old = self._current(draft, rid, None, reason.guard)
        if last.event in ("archive", "merge"):
            self._unlink(draft, form.survivor_of(found.value), rid)
            self._unpack(draft, found, old)
            return
        old.state = "frozen" if last.before == "frozen" else "generated"
        old.cold = old.cold and last.event != "cool"
        self._rewrite(draft, found, old)

    # --- sealing

    def _seal(self, draft: Draft, found: Found, old: Stored) -> bytes:
        """A record with all its versions, as it is to come back."""
        packed = form.packed_in(found.key)
        past = [(n, self._stack.version(packed, n)) for n in range(1, old.version)]
        sealed = Sealed(
            found.value,
            [(number, value) for number, value in past if value is not None],
            draft.peek("meta", use_key(self.number, packed)),
        )
        return zlib.compress(msgspec.msgpack.encode(sealed), 9)

    def _unseal(self, draft: Draft, packed: bytes, last: Fate, reason: Reason) -> None:
        """Draft a forgotten record's return, into the top layer."""
        place = sealed_key(last.until, self.number, packed)
        held = draft.get("meta", place)
        key = self._prefix + packed
        if held is None or draft.get("records", key) is not None:
            raise ENOENT("its content is erased for good")
        sealed = open_sealed(held)
        old, tag = form.decode(sealed.value), form.tag_of(sealed.value)
        if reason.guard is not None:
            reason.guard(form.rid_in(key), old)
        if old.key and self.stack.named("keys", old.key, draft.get) is not None:
            raise ECONFLICT("its key names another record by now", hint="delete that one first")
        draft.delete("meta", place)
        for number in (old.version, old.version + 1):
            draft.delete("versions", form.version_key(key, number))
        for number, value in sealed.versions:
            draft.put("versions", form.version_key(key, number), value)
        draft.put("records", key, sealed.value)
        draft.delete("whiteouts", key)
        if old.key:
            draft.put("keys", form.name_key(self._prefix, old.key), packed)
        if sealed.use is not None:
            draft.put("meta", use_key(self.number, packed), sealed.use)
        self._note_expiry(draft, key, old)
        for value in (sealed.value, *(value for _, value in sealed.versions)):
            blobs.refer(draft, key, form.decode(value), self._clock.now())
        change = Change(UPSERT, packed, old.version, tag, NONE, len(sealed.value))
        if form.is_packed(sealed.value):
            change.op, change.size = DELETE, 0
        draft.changes.append(change)
        reclaim(draft, self.stack, packed, old)

    async def burn(self, rid: str) -> bool:
        """Erase what is sealed of a forgotten record, now; False when nothing is."""
        packed = pack(rid)
        told = lifecycle.fates(self._store, self.number, packed)
        if not told or told[-1].event != "forget":
            return False
        place = sealed_key(told[-1].until, self.number, packed)
        held = self._store.get("meta", place)
        if held is None:
            return False
        sealed = open_sealed(held)
        values = [sealed.value, *(value for _, value in sealed.versions)]
        await self._store.commit(Batch(blobs.unsealed(values), [("meta", place)]))
        return True


def open_sealed(held: bytes) -> Sealed:
    """What was sealed. Raises EIO when it is damaged."""
    try:
        return _sealed.decode(zlib.decompress(held))
    except (zlib.error, msgspec.DecodeError) as error:
        raise EIO(f"a sealed record is damaged: {error}", driver="store") from error


def lapsed(store: Store, now: float, limit: int) -> list[bytes]:
    """Keys of sealed records whose forgetting can no longer be undone."""
    end = SEALED + int(now * 1000).to_bytes(8, "big") + b"\xff"
    return [key for key, _ in store.scan("meta", SEALED, end, limit=limit)]
