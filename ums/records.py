"""Records as bytes: what the store keeps under which key.

    bucket    key                                value
    records   space (4) rid (16)                 the record's current version
    versions  space (4) rid (16) version (4)     an earlier version, or what a delete left
    keys      space (4) name                     rid (16)
    idem      space (4) name                     rid (16) version (4) hash (16 or none)
    spaces    "#" space (4) | "@" name           Header | space (4)
    grants    space (4) apid (8)                 Grant
    meta      "ums/tally/" space (4)             Sums
    meta      "ums/expiry/" ms (8) space rid     empty

Numbers in keys are big-endian, so that bytes sort as numbers do. A value of ``records`` and
``versions`` is a format byte, the segment's number, then msgpack: a list by segment looks at
one byte. Fields are only ever added at the end of ``Stored``, with a default.
"""

from hashlib import blake2b
from typing import Any

import msgspec

from syscalls.errors import EINVAL, EIO
from syscalls.shapes import (
    SEGMENTS,
    Evidence,
    Fact,
    Note,
    Provenance,
    Record,
    RecordState,
    Segment,
    Taint,
    Version,
)
from ums.rid import SIZE, pack, unpack

FORMAT = 1
HEAD = 2
SPACE_SIZE = 4
MAX_NAME = 400
TALLY = b"ums/tally/"
EXPIRY = b"ums/expiry/"
UPSERT, DELETE = 0, 1
NONE = -1

TAGS: dict[Segment, int] = {segment: tag for tag, segment in enumerate(SEGMENTS)}
"""The number of each segment: in stored values, in the journal, in the indexes."""

_HEADS = tuple(bytes((FORMAT, tag)) for tag in range(len(SEGMENTS)))


class Stored(msgspec.Struct, array_like=True, gc=False):
    """One version of a record as it is stored; the rest of it is in the key and the head."""

    content: str
    """Empty when it was erased: a record's content never is."""
    version: int
    created: float
    updated: float
    writer: int
    call: str
    kind: str = ""
    key: str = ""
    meta: dict[str, Any] = {}
    tags: list[str] = []
    importance: float = 0.5
    valid_from: float | None = None
    valid_to: float | None = None
    expires: float | None = None
    sources: list[str] = []
    taint: Taint = "user"
    state: RecordState = "generated"
    idempotency: str = ""
    fact: Fact | None = None
    evidence: list[Evidence] = []
    supersedes: str = ""
    superseded_by: str = ""
    stale: str = ""

    def expired(self, now: float) -> bool:
        """Whether its time to live is over."""
        return self.expires is not None and self.expires <= now


class Change(msgspec.Struct, array_like=True, gc=False):
    """One journal entry: which record changed and what it did to the space's sums."""

    op: int
    """``UPSERT`` or ``DELETE``."""
    rid: bytes
    version: int
    tag: int
    """Segment number after the change (before it, for a delete)."""
    was: int
    """Segment number before the change; ``NONE`` for a new record."""
    size: int
    """By how many bytes the live records grew."""


class Header(msgspec.Struct, array_like=True, gc=False):
    """A space as it is stored."""

    owner: int
    name: str
    created: float


_encoder = msgspec.msgpack.Encoder()
_ordered = msgspec.msgpack.Encoder(order="deterministic")
_stored = msgspec.msgpack.Decoder(Stored)
_change = msgspec.msgpack.Decoder(Change)
_header = msgspec.msgpack.Decoder(Header)


def encode(stored: Stored, tag: int) -> bytes:
    """The value of one version. Raises EINVAL for what msgpack cannot hold."""
    try:
        return _HEADS[tag] + _encoder.encode(stored)
    except (TypeError, ValueError, OverflowError) as error:
        raise EINVAL(f"the record cannot be stored: {error}") from error


def decode(value: bytes) -> Stored:
    """The version in a value. Raises EIO when it is damaged or of a later format."""
    try:
        if value[0] != FORMAT:
            raise EIO(f"a record of format {value[0]}, this kernel knows {FORMAT}", driver="store")
        return _stored.decode(memoryview(value)[HEAD:])
    except (msgspec.DecodeError, IndexError) as error:
        raise EIO(f"a stored record is damaged: {error}", driver="store") from error


def tag_of(value: bytes) -> int:
    """The segment number of a stored value."""
    return value[1]


def encode_change(change: Change) -> bytes:
    """The payload of a journal entry."""
    return _encoder.encode(change)


def decode_change(payload: bytes) -> Change:
    """The change in a journal entry."""
    return _change.decode(payload)


def encode_header(header: Header) -> bytes:
    """The value of a space."""
    return _encoder.encode(header)


def decode_header(value: bytes) -> Header:
    """The space in a value."""
    return _header.decode(value)


def from_note(note: Note, now: float, version: int, writer: int, call: str) -> Stored:
    """The version that a note becomes."""
    return Stored(
        note.content,
        version,
        now,
        now,
        writer,
        call,
        note.kind,
        note.key,
        note.meta,
        note.tags,
        note.importance,
        note.valid_from,
        note.valid_to,
        None if note.ttl is None else now + note.ttl,
        note.sources,
        note.taint,
        "generated",
        note.idempotency,
        note.fact,
        note.evidence,
    )


def erased(stored: Stored) -> Stored:
    """What is left of a version when its record is deleted: who, when and by which call."""
    return Stored(
        "",
        stored.version,
        stored.created,
        stored.updated,
        stored.writer,
        stored.call,
        state=stored.state,
    )


def to_record(space: int, rid: str, tag: int, stored: Stored) -> Record:
    """The record as callers see it."""
    return Record(
        rid,
        space,
        SEGMENTS[tag],
        stored.content,
        stored.kind,
        stored.key,
        stored.meta,
        stored.tags,
        stored.importance,
        stored.version,
        stored.created,
        stored.updated,
        stored.valid_from,
        stored.valid_to,
        stored.expires,
        stored.sources,
        stored.writer,
        stored.call,
        stored.taint,
        stored.state,
        stored.fact,
        stored.evidence,
        stored.supersedes,
        stored.superseded_by,
        stored.stale,
    )


def to_version(stored: Stored) -> Version:
    """The version as ``mem.history`` shows it."""
    return Version(
        stored.version,
        stored.updated,
        stored.writer,
        stored.call,
        stored.content or None,
        stored.state,
    )


def provenance(space: int, stored: Stored) -> Provenance:
    """Where a hit comes from."""
    return Provenance(
        space,
        stored.writer,
        stored.call,
        stored.created,
        stored.version,
        stored.sources,
        stored.taint,
    )


def note_hash(note: Note) -> bytes:
    """16 bytes that tell the arguments of two writes apart."""
    return blake2b(_ordered.encode(note), digest_size=16).digest()


# --- keys


def space_key(space: int) -> bytes:
    """The 4 bytes that begin the keys of a space."""
    return space.to_bytes(SPACE_SIZE, "big")


def after(prefix: bytes) -> bytes:
    """The first key above all that begin with ``prefix``."""
    number = int.from_bytes(prefix, "big") + 1
    size = len(prefix)
    return b"\xff" * (size + 1) if number >> 8 * size else number.to_bytes(size, "big")


def record_key(space: int, rid: str) -> bytes:
    """Key of a record."""
    return space_key(space) + pack(rid)


def rid_in(key: bytes) -> str:
    """The rid in a key of ``records`` or ``versions``."""
    return unpack(key[SPACE_SIZE : SPACE_SIZE + SIZE])


def version_key(key: bytes, version: int) -> bytes:
    """Key of an earlier version, from the record's key."""
    return key + version.to_bytes(4, "big")


def name_key(prefix: bytes, name: str) -> bytes:
    """Key of a name: its text, or its hash where that would be over the store's limit."""
    text = name.encode()
    if len(text) > MAX_NAME:
        return prefix + b"#" + blake2b(text, digest_size=32).digest()
    return prefix + b"=" + text


def expiry_key(expires: float, key: bytes) -> bytes:
    """Key under which a record's end of life is noted; these sort by time."""
    return EXPIRY + min(int(expires * 1000), 2**63).to_bytes(8, "big") + key
