"""Records as bytes: what the store keeps under which key.

    bucket    key                                value
    records   layer (4) rid (16)                 the record's current version
    versions  layer (4) rid (16) version (4)     an earlier version, or what a delete left
    whiteouts layer (4) rid (16)                 empty: gone, whatever the layers below say
    keys      layer (4) name                     rid (16)
    idem      layer (4) name                     rid (16) version (4) hash (16 or none)
    spaces    "#" space (4) | "@" name           Header | space (4)
    spaces    "%" layer (4)                      space (4) that made it, where the numbers differ
    spaces    "&" layer (4) space (4)            empty: another space stands on the layer
    grants    space (4) apid (8) grant (8)       Grant
    meta      "ums/tally/" layer (4)             Sums
    meta      "ums/expiry/" ms (8) layer rid     empty
    meta      "ums/audit/" space (4) line (8)    AuditLine
    meta      "ums/spare/" layer (4)             empty: it is being filled, see ``ums.folding``
    meta      "ums/derived/" ..., "ums/source/" ..., "ums/cascade/" ...: see ums.lineage

Numbers in keys are big-endian, so that bytes sort as numbers do. A value of ``records`` and
``versions`` is a format byte, the segment's number, then msgpack: a list by segment looks at
one byte. Fields are only ever added at the end of ``Stored``, with a default.

What is archived keeps its key; its value is wrapped, and out of it comes every byte of what it
was before:

    PACKED | segment | state | of a merged one its survivor's rid (16) | deflated value
"""

import zlib
from hashlib import blake2b
from typing import Any

import msgspec

from syscalls.errors import EINVAL, EIO
from syscalls.records import Evidence, Fact, Note, Provenance, Record, Version
from syscalls.shapes import SEGMENTS, RecordState, Segment, Taint
from ums.rid import SIZE, pack, unpack

FORMAT = 1
PACKED = 2
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

_STATES: tuple[RecordState, ...] = (
    "generated",
    "activated",
    "merged",
    "archived",
    "forgotten",
    "frozen",
)
"""The states by the number they have in a packed value."""

_PRIMER = (
    b" would because people really thought about their there which could should think going "
    b"today yesterday tomorrow week month year Monday Tuesday Wednesday Thursday Friday Saturday "
    b"Sunday January February March April May June July August September October November "
    b"December I'm that's don't have been with this from they what when where your for you was "
    b"were and the https://www. .com speaker session date title source user assistant "
    b"mem.update mem.write_many mem.write recalled model tool user generated"
)
"""What short texts are compressed against. Part of the format: another one is another format."""


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
    cold: bool = False
    """Found by its words only: its vector is not kept in memory."""
    gaps: list[tuple[float, float]] = []
    """When it was not true, within its validity."""
    echoes: list[tuple[int, int]] = []
    """Stretches of the content that its writer had been handed from memory before."""
    named: list[tuple[int, int]] = []
    """Stretches of the content that a model took for names of entities."""

    def expired(self, now: float) -> bool:
        """Whether its time to live is over."""
        return self.expires is not None and self.expires <= now


NOTHING = Stored("", 0, 0.0, 0.0, 0, "")
"""Stands for a record that is not there."""


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


class Attachment(msgspec.Struct, array_like=True, gc=False):
    """Layers of another space that lie under a space's own, read-only."""

    space: int
    layers: list[int]
    grant: int = 0
    """The share that it rests on; 0 for a right of the space's own."""
    until: float | None = None
    """When that share ends."""


class Header(msgspec.Struct, array_like=True, gc=False):
    """A space as it is stored."""

    owner: int
    name: str
    created: float
    layers: list[int] = []
    """Its layers, the one that is written first; empty for the one of its own number."""
    attached: list[Attachment] = []
    origin: int = 0
    """The space that it was made from."""
    sealed: bool = False
    """A snapshot: nothing is written to it any more."""


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
        if value[0] == PACKED:
            stored = decode(unpack_value(value))
            stored.state = _STATES[value[2]]
            return stored
        if value[0] != FORMAT:
            raise EIO(f"a record of format {value[0]}, this kernel knows {FORMAT}", driver="store")
        return _stored.decode(memoryview(value)[HEAD:])
    except (msgspec.DecodeError, IndexError) as error:
        raise EIO(f"a stored record is damaged: {error}", driver="store") from error


def pack_value(value: bytes, state: RecordState, survivor: bytes = b"") -> bytes:
    """A value compressed, its record in another state; ``unpack_value`` gives it back.

    ``survivor`` is the rid, packed, that a merged one was merged into.
    """
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=_PRIMER)
    squeezed = squeeze.compress(value) + squeeze.flush()
    return bytes((PACKED, value[1], _STATES.index(state))) + survivor + squeezed


def unpack_value(value: bytes) -> bytes:
    """What was packed, byte for byte; a value that is not packed as it is. Raises EIO."""
    if value[0] != PACKED:
        return value
    try:
        stretch = zlib.decompressobj(-15, zdict=_PRIMER)
        whole = stretch.decompress(memoryview(value)[3 + len(survivor_of(value)) :])
    except zlib.error as error:
        raise EIO(f"an archived record is damaged: {error}", driver="store") from error
    if not stretch.eof:
        raise EIO("an archived record is cut short", driver="store")
    return whole


def is_packed(value: bytes) -> bool:
    """Whether a value is archived or merged: in no index and in no sums."""
    return value[0] == PACKED


def survivor_of(value: bytes) -> bytes:
    """The rid, packed, of the record that a packed value's was merged into; empty for none."""
    return value[3 : 3 + SIZE] if value[2] == _STATES.index("merged") else b""


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
        stored.gaps,
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


def born(packed: bytes) -> bytes:
    """The 4 bytes of the layer that a rid, packed, was made in."""
    return packed[8:12]


def packed_in(key: bytes) -> bytes:
    """The rid, packed, in a key of ``records`` or ``versions``."""
    return key[SPACE_SIZE : SPACE_SIZE + SIZE]


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
