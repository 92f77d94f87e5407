"""The capsule: a space, or a part of it, as one checksummed file.

    capsule = magic frame frame ... frame          nothing before, between or after
    magic   = "ENGRAM" 0x1A 0x01                   8 bytes; the last one is the format
    frame   = kind (1) size (4) payload (size) seal (32)
    seal    = SHA-256(seal before, kind, size, payload); before the first frame: of the magic

Numbers are little-endian. The frames, and the struct that each payload is (msgpack, a map by
field name; ``P`` is plain bytes):

    H  Header       the first: whose it is, what was left out
    B  BlobHead     an original is about to come, before the first record that names it
    P  bytes        a piece of it, in order
    R  Entry        the current version of a record, oldest record first
    V  Past         an earlier version of the record before it, oldest first
    A  Adapter      a reference to an adapter that was trained on records
    E  End          the last: how many of each there were

Each seal covers all that came before it, so what was cut off, changed, moved, repeated or
added is found at the first frame that it touches. The last seal names the whole: who has it
from elsewhere can tell a capsule from any other, a forged one too.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from syscalls.errors import EINVAL
from syscalls.records import Evidence, Fact
from syscalls.shapes import Content, LifeEvent, RecordState, Rid, Segment, Taint

MAGIC = b"ENGRAM\x1a\x01"
SEAL = 32
HEAD = 5
MAX_PAYLOAD = 64 << 20
"""Bytes; a record with its text is at most a frame of the wire, in memory a few of them."""
PIECE = 256 * 1024
"""Bytes of an original in one frame."""
KINDS = b"HBPRVAE"

BlobHash = Annotated[
    str, Meta(pattern="^sha256:[0-9a-f]{64}$", description="what names an original: its hash")
]


class CapsuleError(EINVAL):
    """The bytes are not a whole, unaltered capsule."""

    default_hint = "nothing of it was taken; have it sent again"


class Left(msgspec.Struct, omit_defaults=True):
    """What one rule left out."""

    rule: str
    """The rule, in words."""
    records: int = 0
    """Records that it fits."""
    derived: int = 0
    """Records that were made from one of those, however indirectly, or quote one."""


class Header(msgspec.Struct, omit_defaults=True):
    """The manifest."""

    machine: str
    """32 hexadecimal digits: which system wrote it."""
    space: int
    name: str = ""
    left: list[Left] = []


class Revision(msgspec.Struct, omit_defaults=True):
    """One version of a record."""

    version: Annotated[int, Meta(ge=1, le=1_000_000)]
    content: Content
    created: float
    updated: float
    writer: int = 0
    call: str = ""
    kind: Annotated[str, Meta(max_length=100)] = ""
    key: Annotated[str, Meta(max_length=400)] = ""
    meta: dict[str, Any] = {}
    tags: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=64)] = []
    importance: Annotated[float, Meta(ge=0, le=1)] = 0.5
    valid_from: float | None = None
    valid_to: float | None = None
    expires: float | None = None
    sources: list[Rid] = []
    taint: Taint = "user"
    state: RecordState = "generated"
    fact: Fact | None = None
    evidence: list[Evidence] = []
    supersedes: str = ""
    superseded_by: str = ""
    stale: str = ""
    cold: bool = False
    gaps: list[tuple[float, float]] = []
    echoes: list[tuple[int, int]] = []
    named: list[tuple[int, int]] = []


class Event(msgspec.Struct, omit_defaults=True):
    """One change of a record's state; see ``docs/syscalls.md`` for the states."""

    at: float
    event: LifeEvent
    before: RecordState
    after: RecordState
    why: str = ""
    other: str = ""
    """Rid of the survivor of a merge."""
    until: float = 0.0


class Entry(msgspec.Struct, omit_defaults=True):
    """A record: its current version, and what became of it."""

    rid: Rid
    segment: Segment
    revision: Revision
    past: Annotated[int, Meta(ge=0)] = 0
    """How many earlier versions follow."""
    events: list[Event] = []
    claimed: tuple[float, float, float] | None = None
    """Of a fact: start, stop (infinite for none) and time of what was claimed; what of it is
    in force is in the revision."""


class Past(msgspec.Struct, omit_defaults=True):
    """An earlier version; of one that was erased nothing is there to come."""

    segment: Segment
    revision: Revision


class BlobHead(msgspec.Struct, omit_defaults=True):
    """An original."""

    hash: BlobHash
    size: Annotated[int, Meta(ge=0)]


class Adapter(msgspec.Struct, omit_defaults=True):
    """A reference to an adapter: not its weights."""

    name: str
    base: str = ""
    """Fingerprint of the model that it is for."""
    hash: str = ""
    sources: list[Rid] = []
    """Records that it was trained on."""


class End(msgspec.Struct, omit_defaults=True):
    """The sums."""

    records: int = 0
    versions: int = 0
    """Earlier ones."""
    facts: int = 0
    blobs: int = 0
    adapters: int = 0
    missing: list[str] = []
    """Originals that a record names and that were not there, or altered."""


class Frame(NamedTuple):
    """One frame whose seal held."""

    kind: str
    payload: bytes


STRUCTS: dict[str, type[msgspec.Struct]] = {
    "H": Header,
    "B": BlobHead,
    "R": Entry,
    "V": Past,
    "A": Adapter,
    "E": End,
}
_decoders = {kind: msgspec.msgpack.Decoder(struct) for kind, struct in STRUCTS.items()}
_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Sealer:
    """Makes the frames of one capsule, in order; the magic comes before the first."""

    def __init__(self, magic: bytes = MAGIC) -> None:
        self.seal = sha256(magic).digest()

    def frame(self, kind: str, value: msgspec.Struct | bytes) -> bytes:
        """The next frame. Raises EINVAL for a value that msgpack cannot hold."""
        try:
            payload = value if isinstance(value, bytes) else _encoder.encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise EINVAL(f"a record cannot be put into a capsule: {error}") from error
        head = kind.encode() + len(payload).to_bytes(4, "little")
        self.seal = sha256(b"".join((self.seal, head, payload))).digest()
        return b"".join((head, payload, self.seal))


class Unsealer:
    """Cuts the bytes of a capsule into frames and checks each; holds one frame at most.

    Other formats are made in the same way: they have another magic, and kinds, and a name.
    """

    def __init__(self, magic: bytes = MAGIC, kinds: bytes = KINDS, name: str = "capsule") -> None:
        self.seal = sha256(magic).digest()
        self.ended = False
        self._magic, self._kinds, self._name = magic, kinds, name
        self._buffer = bytearray()
        self._at = 0
        self._begun = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises CapsuleError."""
        buffer = self._buffer
        buffer += data
        at, found = 0, []
        if not self._begun:
            magic, name = self._magic, self._name
            if not magic.startswith(bytes(buffer[: len(magic)])):
                raise CapsuleError(f"this is no {name}, or one of another format")
            if len(buffer) < len(magic):
                return []
            at, self._begun = len(magic), True
        while len(buffer) - at >= HEAD:
            if self.ended:
                break
            size = int.from_bytes(buffer[at + 1 : at + HEAD], "little")
            if buffer[at] not in self._kinds or size > MAX_PAYLOAD:
                raise CapsuleError(f"the {self._name} is altered at byte {self._at + at}")
            stop = at + HEAD + size + SEAL
            if stop > len(buffer):
                break
            body = bytes(buffer[at : stop - SEAL])
            seal = sha256(self.seal + body).digest()
            if seal != buffer[stop - SEAL : stop]:
                raise CapsuleError(f"the {self._name} is altered at or after byte {self._at + at}")
            self.seal = seal
            found.append(Frame(chr(body[0]), body[HEAD:]))
            self.ended = body[:1] == b"E"
            at = stop
        del buffer[:at]
        self._at += at
        if self.ended and buffer:
            raise CapsuleError(f"the {self._name} goes on after its end at byte {self._at}")
        return found

    def finish(self) -> None:
        """All bytes have come. Raises CapsuleError when that is not the whole."""
        if not self.ended:
            raise CapsuleError(f"the {self._name} is cut off after byte {self._at}")


def decode(frame: Frame) -> Any:
    """The struct of a frame, its types and ranges checked. Raises CapsuleError."""
    try:
        return _decoders[frame.kind].decode(frame.payload)
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError) as error:
        raise CapsuleError(f"a frame {frame.kind} of the capsule is wrong: {error}") from error
