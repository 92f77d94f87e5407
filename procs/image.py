"""The image of a process: all that the kernel keeps of it at one moment, as one file.

    image = magic frame frame ... frame          nothing before, between or after
    magic = "ENGIMG" 0x1A 0x01                   8 bytes; the last one is the format
    frame = kind (1) size (4) payload (size) seal (32)         as in ``syscalls.capsule``

    H  Header     who it is: program, rights, limits; the first
    C  bytes      a turn of the model context, oldest first    (msgpack of a ChatMessage)
    D  bytes      what it has declared as its state            (msgpack)
    M  bytes      a message that waits for it, in order        (msgpack of a Message)
    P  Attached   the prefix that is put before its generations
    W  Wears      an adapter that it uses
    S  bytes      a piece of the capsule of its space
    E  End        the last: how many of each there were

Each seal covers all that came before it, so an image that was cut off, changed, or put together
of two is found out at the first frame that it touches; the last one names the whole. The kinds
come in this order. A reader holds one frame at a time, and uses nothing before all is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from syscalls.capsule import CapsuleError, Sealer, Unsealer
from syscalls.errors import EINVAL
from syscalls.quota import Quota
from syscalls.shapes import ChatMessage, Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from syscalls.capsule import Frame

MAGIC = b"ENGIMG\x1a\x01"
ORDER = "HCDMPWSE"
ONCE = frozenset("HDPE")
PIECE = 1 << 20
"""Bytes of the space in one frame, at most."""
CONTEXT = 16 << 20
"""Characters, and bytes of pictures, of a model context."""


class ImageError(EINVAL):
    """The bytes are not a whole, unaltered image."""

    default_hint = "nothing of it was used; take another image"


class Header(msgspec.Struct, omit_defaults=True):
    """Whose image it is."""

    machine: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    """Which system wrote it."""
    version: str
    """Of the system."""
    moment: float
    """Seconds since the epoch: as of when everything is."""
    apid: Annotated[int, Meta(ge=2, lt=1 << 48)]
    name: str
    program: Annotated[str, Meta(min_length=1, max_length=4096)]
    caps: list[str]
    quota: Quota
    args: list[str] = []
    goal: str = ""
    cwd: str = ""
    env: dict[str, str] = {}
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    created: float = 0.0
    parent: int = 0
    by: int = 0
    """APID of the process that had it written."""
    space: int = 0
    """Number of its space there; 0 for none that is in the image."""
    space_name: str = ""
    missing: list[str] = []
    """What it had and an image cannot hold, in words."""


class Attached(msgspec.Struct, omit_defaults=True):
    """A pinned prefix: what it says, or the records that it says the words of."""

    handle: str
    messages: list[ChatMessage] = []
    rids: list[tuple[str, int]] = []
    """Records, each as a space has it."""
    adapter: str = ""


class Wears(msgspec.Struct, omit_defaults=True):
    """An adapter: a reference, not its weights."""

    base: str
    space: int
    ref: str
    identity: str = ""
    digest: str = ""
    """Of the version that the reference meant then."""


class End(msgspec.Struct, omit_defaults=True):
    """The sums."""

    context: int = 0
    messages: int = 0
    last: int = 0
    """Id of the last message that was ever sent to it."""
    adapters: int = 0
    bytes: int = 0
    """Of the capsule."""
    records: int = 0
    seal: str = ""
    """The capsule's."""


_header = msgspec.msgpack.Decoder(Header)
_attached = msgspec.msgpack.Decoder(Attached)
_wears = msgspec.msgpack.Decoder(Wears)
_end = msgspec.msgpack.Decoder(End)
_turn = msgspec.msgpack.Decoder(ChatMessage)
_message = msgspec.msgpack.Decoder(Message)
_anything = msgspec.msgpack.Decoder()
_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "H": _header,
    "C": _turn,
    "D": _anything,
    "M": _message,
    "P": _attached,
    "W": _wears,
    "E": _end,
}
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Writer:
    """Makes the frames of one image, in order, and keeps the sums."""

    def __init__(self) -> None:
        self._sealer = Sealer(MAGIC)
        self.end = End()

    @property
    def seal(self) -> str:
        """64 hexadecimal digits; after the end they name this image and no other."""
        return self._sealer.seal.hex()

    def begin(self, header: Header) -> bytes:
        """The first bytes."""
        return MAGIC + self._sealer.frame("H", header)

    def turn(self, message: ChatMessage) -> bytes:
        """A turn of the model context."""
        self.end.context += 1
        return self._sealer.frame("C", _encode(message))

    def state(self, state: Any) -> bytes:
        """The declared state."""
        return self._sealer.frame("D", _encode(state))

    def message(self, message: Message) -> bytes:
        """A message of the mailbox."""
        self.end.messages += 1
        return self._sealer.frame("M", _encode(message))

    def attached(self, prefix: Attached) -> bytes:
        """The attached prefix."""
        return self._sealer.frame("P", prefix)

    def wears(self, adapter: Wears) -> bytes:
        """An adapter."""
        self.end.adapters += 1
        return self._sealer.frame("W", adapter)

    def space(self, data: bytes) -> Iterator[bytes]:
        """Bytes of the capsule."""
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self.end.bytes += len(piece)
            yield self._sealer.frame("S", piece)

    def finish(self, *, last: int, records: int, seal: str) -> bytes:
        """The last bytes; ``records`` and ``seal`` are of the capsule."""
        self.end.last, self.end.records, self.end.seal = last, records, seal
        return self._sealer.frame("E", self.end)


class Image(msgspec.Struct):
    """What an image says, but for its messages and its space: those are read when needed."""

    header: Header
    context: list[ChatMessage]
    state: Any
    prefix: Attached | None
    adapters: list[Wears]
    end: End
    seal: str


class Reader:
    """Checks the frames of an image one after another; ``finish`` says that it was whole."""

    def __init__(self) -> None:
        self._cut = Unsealer(MAGIC, ORDER.encode(), "image of a process")
        self._last = ""
        self._sums = End()
        self._size = self._highest = 0
        self._header: Header | None = None
        self._context: list[ChatMessage] = []
        self._state: Any = None
        self._prefix: Attached | None = None
        self._adapters: list[Wears] = []
        self._end: End | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes, each of them checked. Raises ImageError."""
        try:
            frames = self._cut.feed(data)
        except CapsuleError as error:
            raise ImageError(error.message) from error
        for frame in frames:
            self._take(frame)
        return frames

    def finish(self) -> Image:
        """All bytes have come. Raises ImageError when that is not the whole."""
        try:
            self._cut.finish()
        except CapsuleError as error:
            raise ImageError(error.message) from error
        assert self._header is not None and self._end is not None  # as ``_take`` has seen
        return Image(
            self._header,
            self._context,
            self._state,
            self._prefix,
            self._adapters,
            self._end,
            self._cut.seal.hex(),
        )

    def _take(self, frame: Frame) -> None:
        kind, last = frame.kind, self._last
        later = not last or ORDER.index(kind) > ORDER.index(last)
        if (not last) != (kind == "H") or not (later or (kind == last and kind not in ONCE)):
            raise ImageError(f"a frame {kind} of the image stands where it does not belong")
        self._last = kind
        if kind == "S":
            self._sums.bytes += len(frame.payload)
            return
        value = decode(frame)
        if isinstance(value, Header):
            self._header = value
        elif kind == "C":
            self._turn(value)
        elif kind == "D":
            self._state = value
        elif kind == "M":
            self._message(value)
        elif isinstance(value, Attached):
            self._prefix = value
        elif isinstance(value, Wears):
            self._adapters.append(value)
            self._sums.adapters += 1
        elif isinstance(value, End):
            self._check(value)

    def _turn(self, turn: ChatMessage) -> None:
        self._size += len(turn.content) + sum(map(len, turn.images))
        if self._size > CONTEXT:
            raise ImageError("the image has a model context that is too long")
        self._context.append(turn)
        self._sums.context += 1

    def _message(self, message: Message) -> None:
        if message.id <= self._highest:
            raise ImageError("the messages of the image are not in order")
        self._highest = message.id
        self._sums.messages += 1

    def _check(self, end: End) -> None:
        sums = self._sums
        sums.last, sums.records, sums.seal = end.last, end.records, end.seal
        if end != sums or self._highest > end.last or bool(end.bytes) != bool(end.seal):
            raise ImageError("the image does not hold what its end says")
        self._end = end


def decode(frame: Frame) -> Any:
    """What a frame holds, its types and ranges checked. Raises ImageError."""
    try:
        return _DECODERS[frame.kind].decode(frame.payload)
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, RecursionError) as error:
        raise ImageError(f"a frame {frame.kind} of the image is wrong: {error}") from error


def frames(blocks: Iterable[bytes]) -> Iterator[Frame]:
    """The frames of an image that comes in blocks; checked again. Raises ImageError."""
    reader = Reader()
    for block in blocks:
        yield from reader.feed(block)
    reader.finish()
