"""The bytes of a capsule, made as they are asked for.

    header | original? record versions | original? record versions | ... | adapter ... | end

Records come oldest first, so that a source is there before what was made from it, and those
written after the beginning are not among them. One at a time is in memory, and the hashes of
the originals that have been. The same space gives the same bytes: so an export goes on where
it was interrupted by being made again and sent from there, and the hash of what is there
already shows whether the space is still the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import trio

from syscalls import capsule
from syscalls.calls.capsule import CapsulePiece, Exported
from syscalls.capsule import Adapter, BlobHead, End, Entry, Event, Past, Revision, Sealer
from syscalls.errors import ECONFLICT, EIO
from syscalls.shapes import SEGMENTS
from ums import lifecycle
from ums import records as form
from ums.blobs import name_in
from ums.claims import Claims
from ums.draft import Draft
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from drivers.contracts import Store
    from syscalls.capsule import Header
    from ums.adapters import Version
    from ums.blobs import Blobs
    from ums.capsule.redact import Redaction
    from ums.records import Stored
    from ums.view import Allows, View

SEND = 1 << 20
"""Bytes of a piece on the wire."""
PAGE = 32

_FIELDS = Revision.__struct_fields__


@dataclass
class Export:
    """One export of a space, as far as ``allows`` goes."""

    store: Store
    blobs: Blobs
    view: View
    homes: Sequence[int]
    """The spaces in which the originals are, of all layers."""
    redaction: Redaction
    allows: Allows | None
    header: Header
    now: float
    adapters: Sequence[Version] = ()
    """Those that the space has in use: they are named, their weights stay."""
    end: End = field(default_factory=End)
    rids: list[str] = field(default_factory=list)
    """The first records that went out, for the audit."""

    def __post_init__(self) -> None:
        self._sealer = Sealer()
        self._sent = 0
        self._seen: set[str] = set()

    async def pieces(self, at: int = 0, digest: str = "") -> AsyncGenerator[CapsulePiece, None]:
        """The capsule from a byte on. Raises ECONFLICT when what is before is not ``digest``."""
        before, waiting, made, worked = sha256(), bytearray(), 0, 0
        await self.redaction.prepare(self.view)
        for frame in self._frames():
            skip = min(max(0, at - made), len(frame))
            made += len(frame)
            if skip:
                before.update(frame[:skip])
                if made >= at and before.hexdigest() != digest:
                    raise _changed()
            waiting += frame[skip:]
            worked += len(frame)
            if worked >= capsule.PIECE // 4:
                worked = 0
                await trio.lowlevel.checkpoint()
            while len(waiting) >= SEND:
                yield self._piece(made - len(waiting), bytes(waiting[:SEND]))
                del waiting[:SEND]
        if at > made:
            raise _changed()
        if waiting:
            yield self._piece(made - len(waiting), bytes(waiting))
        self._sent = made

    def _piece(self, at: int, data: bytes) -> CapsulePiece:
        return CapsulePiece(at=at, data=data)

    def _frames(self) -> Iterator[bytes]:
        yield capsule.MAGIC
        self.header.left = self.redaction.left
        yield self._sealer.frame("H", self.header)
        last = next(self.view.stack.descend(), (b"", b""))[0]
        for packed, value in self.view.stack.ascend():
            if packed > last:
                break
            yield from self._record(packed, value)
        for version in self.adapters:
            sources = [rid for rid in version.sources if self._kept(rid)]
            named = Adapter(version.identity, version.fingerprint, version.digest, sources)
            yield self._sealer.frame("A", named)
            self.end.adapters += 1
        yield self._sealer.frame("E", self.end)

    def reply(self) -> Exported:
        """What has gone out."""
        end = self.end
        return Exported(
            bytes=self._sent,
            records=end.records,
            versions=end.versions,
            facts=end.facts,
            blobs=end.blobs,
            left=self.header.left,
            missing=end.missing,
            seal=self._sealer.seal.hex(),
        )

    def _record(self, packed: bytes, value: bytes) -> Iterator[bytes]:
        current, rid = form.decode(value), unpack(packed)
        if current.expired(self.now) or packed in self.redaction:
            return
        versions = [one for one in self.view.stack.versions(packed) if form.decode(one).content]
        if self.allows is not None:
            versions = [one for one in versions if self.allows(rid, form.decode(one))]
            if not self.allows(rid, current):
                return
        past = [one for one in versions if form.decode(one).version != current.version]
        for stored in (current, *(form.decode(one) for one in past)):
            yield from self._original(name_in(stored))
        yield self._sealer.frame("R", self._entry(packed, value, current, len(past)))
        for one in past:
            stored = form.decode(one)
            segment = SEGMENTS[form.tag_of(one)]
            yield self._sealer.frame("V", Past(segment, self._revision(stored)))
        self.end.records += 1
        self.end.versions += len(past)
        self.end.facts += current.fact is not None
        if len(self.rids) < PAGE:
            self.rids.append(rid)

    def _entry(self, packed: bytes, value: bytes, current: Stored, past: int) -> Entry:
        space, origin = self.view.number, self.view.header.origin
        told = lifecycle.fates(self.store, space, packed)
        if not told and origin and self.view.header.sealed:
            told = lifecycle.fates(self.store, origin, packed)
        claimed = None
        if current.fact is not None:
            claims = Claims(Draft(self.store), self.view.stack.layers)
            claimed = claims.told(packed, current.fact)
        return Entry(
            unpack(packed),
            SEGMENTS[form.tag_of(value)],
            self._revision(current),
            past,
            [self._event(fate) for fate in told],
            claimed,
        )

    def _event(self, fate: lifecycle.Fate) -> Event:
        return Event(
            fate.at, fate.event, fate.before, fate.after, fate.why, self._kept(fate.other),
            fate.until,
        )  # fmt: skip

    def _revision(self, stored: Stored) -> Revision:
        revision = Revision(**{name: getattr(stored, name) for name in _FIELDS})
        if self.redaction.left:
            # Links over which nothing was derived: only where they lead is left out.
            revision.supersedes = self._kept(stored.supersedes)
            revision.superseded_by = self._kept(stored.superseded_by)
        return revision

    def _kept(self, rid: str) -> str:
        return "" if rid and pack(rid) in self.redaction else rid

    def _original(self, name: str) -> Iterator[bytes]:
        """The frames of an original, the first time that it is named."""
        if not name or name in self._seen:
            return
        self._seen.add(name)
        blob = self.blobs.find(name, self.homes)
        try:
            if blob is None:
                raise EIO(f"the original {name} is missing", driver="store")
            for _ in self.blobs.pieces(name, blob):
                pass  # it goes out whole and unaltered, or not at all
        except EIO:
            self.end.missing.append(name)
            return
        yield self._sealer.frame("B", BlobHead(name, blob.size))
        for piece in self.blobs.pieces(name, blob):
            yield self._sealer.frame("P", piece)
        self.end.blobs += 1


def _changed() -> ECONFLICT:
    return ECONFLICT(
        "the space is not as it was when the export began",
        hint="begin again, or export a snapshot: that stays as it is",
    )
