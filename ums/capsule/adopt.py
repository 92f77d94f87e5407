"""How a record of elsewhere becomes one of a space.

A rid holds the number of the layer that it was born in, and on another machine that number is
another's. So a record gets a rid of the space that takes it:

    origin   | time and sequence (8) | layer there (4)  | random (4) |
    here     | time and sequence (8) | this space   (4) | random (4) |

Every reference is changed by the same rule, whether what it leads to has come already or
comes later; and the twelve bytes that stay tell a record again that has been here: alive in
any of the space's layers, or deleted since. That one is left as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from syscalls.capsule import Entry, Past
from syscalls.records import Evidence
from syscalls.shapes import Taint
from ums import blobs, lifecycle
from ums import records as form
from ums.claims import Claims
from ums.derived import DerivedSpace
from ums.lifecycle import Fate
from ums.lineage import Lineage, ties
from ums.records import DELETE, NONE, TAGS, UPSERT, Change, Stored
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syscalls.capsule import Event, Revision
    from ums.draft import Draft

IMPORTED_BY = "mem.import"


class Incoming(msgspec.Struct):
    """A record that is to be taken, with its earlier versions, oldest first."""

    entry: Entry
    past: list[Past]


class Marks(msgspec.Struct, frozen=True):
    """What every record that is taken gets."""

    writer: int
    taint: Taint | None = None
    """None leaves it as it was."""


class Taken(msgspec.Struct):
    """What came of some records."""

    records: int = 0
    known: int = 0
    versions: int = 0
    facts: int = 0
    unnamed: int = 0
    """Those whose key is another record's here."""
    loose: list[str] = []
    """Rids of those of which a source is not there, or not yet."""


class AdoptingSpace(DerivedSpace):
    """A space that takes records of elsewhere."""

    async def adopt(self, incoming: Sequence[Incoming], marks: Marks) -> Taken:
        """Take records in one batch; those that are known already stay as they are."""

        def build(draft: Draft) -> Taken:
            self._writable()
            taken = Taken()
            for one in incoming:
                self._adopt(draft, one, marks, taken)
            return taken

        return await self._mutate(build)

    async def tie(self, rids: Sequence[str]) -> None:
        """Tie records to those of their sources that have come after them."""

        def build(draft: Draft) -> None:
            for rid in rids:
                found = self.stack.find(pack(rid), draft.get)
                if found is not None:
                    stored = form.decode(found.value)
                    Lineage(draft, self.stack).resume(pack(rid), stored)

        await self._mutate(build)

    def renamed(self, rid: str) -> str:
        """The rid here of one of elsewhere; "" of none."""
        if not rid:
            return ""
        packed = pack(rid)
        return unpack(packed[:8] + form.space_key(self.number) + packed[12:])

    def knows(self, rid: str, draft: Draft | None = None) -> bool:
        """Whether a record of elsewhere has been taken before, or came from here."""
        packed = pack(rid)
        get = self._store.get if draft is None else draft.get
        for layer in {self.number, *self.own}:
            mine = packed[:8] + form.space_key(layer) + packed[12:]
            for place in {self.number, *self.own}:
                key = form.space_key(place) + mine
                if get("records", key) is not None:
                    return True
                # What was deleted has left a version that says so.
                if self._store.get("versions", form.version_key(key, 1)) is not None:
                    return True
        return False

    def _adopt(self, draft: Draft, one: Incoming, marks: Marks, taken: Taken) -> None:
        entry = one.entry
        if self.knows(entry.rid, draft):
            taken.known += 1
            return
        packed = pack(self.renamed(entry.rid))
        key, tag = self._prefix + packed, TAGS[entry.segment]
        name = self._name(draft, entry.revision.key, packed)
        taken.unnamed += bool(entry.revision.key) and not name
        for past in one.past:
            stored = self._stored(past.revision, name, marks)
            place = form.version_key(key, stored.version)
            draft.put("versions", place, form.encode(stored, TAGS[past.segment]))
            blobs.refer(draft, key, stored, self._clock.now())
        stored = self._stored(entry.revision, name, marks)
        self._place(draft, key, tag, stored, entry)
        for event in entry.events:
            lifecycle.record(draft, self.number, packed, self._fated(event))
        taken.records += 1
        taken.versions += len(one.past)
        taken.facts += stored.fact is not None
        if any(self.stack.find(source, draft.get) is None for source in ties(stored)):
            taken.loose.append(unpack(packed))

    def _place(self, draft: Draft, key: bytes, tag: int, stored: Stored, entry: Entry) -> None:
        """Draft the current version, where it belongs by its state."""
        packed, state = form.packed_in(key), stored.state
        away = state in ("archived", "merged")
        if away or state == "activated":
            stored.state = "generated"
        value = form.encode(stored, tag)
        change = Change(UPSERT, packed, stored.version, tag, NONE, len(value))
        if away:
            value = form.pack_value(value, state)
            change.op, change.size = DELETE, 0
        draft.put("records", key, value)
        draft.changes.append(change)
        self._note_expiry(draft, key, stored)
        blobs.refer(draft, key, stored, self._clock.now())
        if stored.fact is not None and not away:
            claims = Claims(draft, self.stack.layers)
            claims.change(packed, None, stored)
            if entry.claimed is not None:
                claims.retell(packed, stored.fact, entry.claimed)
        Lineage(draft, self.stack).resume(packed, stored)

    def _name(self, draft: Draft, name: str, packed: bytes) -> str:
        """The key that a record gets: its own, where no record of the space has it."""
        if not name:
            return ""
        holder = self.stack.named("keys", name, draft.get)
        if holder is not None:
            found = self.stack.find(holder, draft.get)
            if found is not None and not form.decode(found.value).expired(self._clock.now()):
                return ""
        draft.put("keys", form.name_key(self._prefix, name), packed)
        return name

    def _fated(self, event: Event) -> Fate:
        """What happened to a record elsewhere; it was nobody of here."""
        other = self.renamed(event.other)
        told = Fate(event.at, event.event, event.before, event.after, event.why, other=other)
        told.until = event.until
        return told

    def _stored(self, revision: Revision, name: str, marks: Marks) -> Stored:
        """A version as it is stored here."""
        stored = Stored(**{field: getattr(revision, field) for field in _FIELDS})
        stored.writer, stored.call = marks.writer, IMPORTED_BY
        if revision.key and not name:
            stored.key = ""
            stored.meta = {**stored.meta, "key": revision.key}
        stored.taint = marks.taint or stored.taint
        stored.sources = [self.renamed(rid) for rid in revision.sources]
        stored.evidence = [
            Evidence(self.renamed(one.rid), one.start, one.stop, one.quote)
            for one in revision.evidence
        ]
        stored.supersedes = self.renamed(revision.supersedes)
        stored.superseded_by = self.renamed(revision.superseded_by)
        return stored


_FIELDS = tuple(name for name in Stored.__struct_fields__ if name != "idempotency")
