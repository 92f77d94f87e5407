"""A capsule is checked as a whole, and then taken.

    upload (resumable) ──> check: every seal, every struct, every original, the sums
                                │ wrong: nothing was taken
                                └─ right: page by page, each one batch; what is known stays

The check reads what lies in the store, and so does the taking: nothing can change in between.
A page is atomic, and a record that has come is known the next time: an import that was
interrupted is finished by asking for it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from math import isnan
from typing import TYPE_CHECKING

import trio

from syscalls.calls.capsule import Imported
from syscalls.capsule import (
    Adapter,
    BlobHead,
    CapsuleError,
    End,
    Entry,
    Header,
    Past,
    Unsealer,
    decode,
)
from syscalls.errors import EDQUOT, EINVAL
from ums.blobs import Blob
from ums.capsule.adopt import Incoming, Taken
from ums.rid import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syscalls.capsule import Frame
    from ums.blobs import Blobs
    from ums.capsule.adopt import AdoptingSpace, Marks

PAGE = 64
"""Records of one batch, at most."""
LAST = 1e13
"""Seconds from the epoch, either way, that a time may be."""
PAGE_BYTES = 1 << 20
"""Bytes of frames of one batch, about."""


class Checked:
    """What the frames of a capsule must be, one after another."""

    def __init__(self) -> None:
        self.seal = ""
        self._sums = End()
        self._last = ""
        self._blob: BlobHead | None = None
        self._bytes = 0
        self._hash = sha256()
        self._owed = 0
        self._version = 0
        self._final = 0

    def take(self, frame: Frame) -> object:
        """The struct of the next frame. Raises CapsuleError where it cannot stand here."""
        value = frame.payload if frame.kind == "P" else decode(frame)
        first, self._last = not self._last, frame.kind
        if first != isinstance(value, Header):
            raise CapsuleError("the capsule does not begin with its one header")
        if isinstance(value, bytes):
            self._piece(value)
            return value
        if self._blob is not None:
            raise CapsuleError(f"the original {self._blob.hash} is not complete")
        if isinstance(value, Entry | Past):
            _sane(value)
        if isinstance(value, Past):
            self._past(value)
            return value
        if self._owed:
            raise CapsuleError("versions of a record are missing")
        if isinstance(value, BlobHead):
            self._blob, self._bytes, self._hash = value, 0, sha256()
            self._sums.blobs += 1
            self._whole()
        elif isinstance(value, Entry):
            self._owed, self._version = value.past, 0
            self._final = value.revision.version
            self._sums.records += 1
            self._sums.facts += value.revision.fact is not None
        elif isinstance(value, Adapter):
            self._sums.adapters += 1
        elif isinstance(value, End):
            self._sums.missing = value.missing
            if value != self._sums:
                raise CapsuleError("the capsule does not hold what its end says")
        return value

    def _past(self, value: Past) -> None:
        version = value.revision.version
        if not self._owed or not self._version < version < self._final:
            raise CapsuleError("a version stands where it does not belong")
        self._owed -= 1
        self._version = version
        self._sums.versions += 1

    def _piece(self, piece: bytes) -> None:
        if self._blob is None:
            raise CapsuleError("a piece of no original")
        self._bytes += len(piece)
        self._hash.update(piece)
        if self._bytes > self._blob.size:
            raise CapsuleError(f"the original {self._blob.hash} is too long")
        self._whole()

    def _whole(self) -> None:
        """The original is over when all its bytes have come."""
        if self._blob is not None and self._bytes == self._blob.size:
            if f"sha256:{self._hash.hexdigest()}" != self._blob.hash:
                raise CapsuleError(f"the original {self._blob.hash} is altered")
            self._blob = None


@dataclass
class Intake:
    """One import: an uploaded capsule and the space that takes it."""

    space: AdoptingSpace
    blobs: Blobs
    name: str
    """The upload's."""
    blob: Blob
    marks: Marks
    found: Checked = field(default_factory=Checked)

    async def check(self, seal: str = "", limit: int | None = None) -> None:
        """Read all of it; nothing is changed. Raises CapsuleError, EDQUOT, EIO."""
        fresh = size = 0
        for count, frame in enumerate(self._frames(seal), 1):
            value = self.found.take(frame)
            if count % PAGE == 0:
                await trio.lowlevel.checkpoint()
            if isinstance(value, Entry) and not self.space.knows(value.rid):
                fresh += 1
                size += len(frame.payload)
            if frame.kind == "P":
                size += len(frame.payload)
        if limit is not None:
            self.space.meter.admit(self.space.number, fresh, size)
        if limit is not None and self.space.info().records + fresh > limit:
            raise EDQUOT(
                f"the capsule has {fresh} records that are new; the space may hold {limit}",
                quota="records",
                limit=limit,
                used=self.space.info().records,
            )

    async def take(self) -> Imported:
        """Take it; to be called after ``check``."""
        sums, loose = Taken(), list[str]()
        page, size, blobs, seal = list[Incoming](), 0, 0, ""
        head, at = BlobHead("", 0), 0
        for frame in self._frames():
            if frame.kind == "P":
                at = await self._keep(head, at, frame.payload)
                continue
            value = decode(frame)
            if isinstance(value, BlobHead):
                head, at = value, 0
                blobs += 1
                if not head.size:
                    await self.blobs.upload(self.space.number, head.hash, 0, 0, b"")
            elif isinstance(value, Past):
                page[-1].past.append(value)
                size += len(frame.payload)
            elif isinstance(value, Entry):
                if len(page) >= PAGE or size >= PAGE_BYTES:
                    _add(sums, loose, await self.space.adopt(page, self.marks))
                    page, size = [], 0
                page.append(Incoming(value, []))
                size += len(frame.payload)
        if page:
            _add(sums, loose, await self.space.adopt(page, self.marks))
        for start in range(0, len(loose), PAGE):
            await self.space.tie(loose[start : start + PAGE])
        seal = self.found.seal
        return Imported(
            sums.records, sums.known, sums.versions, sums.facts, blobs, sums.unnamed, seal
        )

    async def _keep(self, head: BlobHead, at: int, piece: bytes) -> int:
        """Put a piece of an original where it belongs; where the next one begins."""
        there, _ = await self.blobs.upload(self.space.number, head.hash, head.size, at, b"")
        if at == there < head.size:
            await self.blobs.upload(self.space.number, head.hash, head.size, at, piece)
        return at + len(piece)

    def _pieces(self) -> Iterator[bytes]:
        return self.blobs.pieces(self.name, self.blob)

    def _frames(self, seal: str = "") -> Iterator[Frame]:
        cut = Unsealer()
        for piece in self._pieces():
            yield from cut.feed(piece)
        cut.finish()
        self.found.seal = cut.seal.hex()
        if seal and seal != self.found.seal:
            raise CapsuleError(
                "this is another capsule: its seal is not the one that was asked for",
                seal=self.found.seal,
            )


class Pouring(Intake):
    """An import of a capsule that is not uploaded: of bytes that can be read again."""

    def __init__(
        self,
        space: AdoptingSpace,
        blobs: Blobs,
        marks: Marks,
        source: Callable[[], Iterator[bytes]],
    ) -> None:
        super().__init__(space, blobs, "", Blob(0, 0, 0.0), marks)
        self._source = source

    def _pieces(self) -> Iterator[bytes]:
        return self._source()


def _sane(value: Entry | Past) -> None:
    """Refuse what types cannot: rids that are none, times that are not numbers."""
    one = value.revision
    rids = [*one.sources, *(each.rid for each in one.evidence)]
    rids += [rid for rid in (one.supersedes, one.superseded_by) if rid]
    times = [one.created, one.updated, one.valid_from, one.valid_to, one.expires]
    spans = list(one.gaps)
    if isinstance(value, Entry):
        rids += [value.rid, *(event.other for event in value.events if event.other)]
        times += [when for event in value.events for when in (event.at, event.until)]
        spans += [(value.claimed[0], value.claimed[1])] if value.claimed else []
        times += [value.claimed[2]] if value.claimed else []
    try:
        for rid in rids:
            pack(rid)
    except EINVAL as error:
        raise CapsuleError(f"a record refers to what is no record: {error.message}") from error
    if any(when is not None and abs(when) > LAST for when in times) or any(
        isnan(start) or isnan(stop) for start, stop in spans
    ):
        raise CapsuleError("a record has a time that is none")
    if any(when is not None and isnan(when) for when in times):
        raise CapsuleError("a record has a time that is none")


def _add(sums: Taken, loose: list[str], taken: Taken) -> None:
    sums.records += taken.records
    sums.known += taken.known
    sums.versions += taken.versions
    sums.facts += taken.facts
    sums.unnamed += taken.unnamed
    loose += taken.loose
