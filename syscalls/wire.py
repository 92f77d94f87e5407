"""The wire format: what travels on a descriptor between a process and the kernel.

    frame    = length (4 bytes, little-endian, of the body) body
    body     = msgpack
    request  = [seq, number, arguments]      seq >= 1, chosen by the caller
    cancel   = [0, 0, {"seq": seq}]          never answered itself
    reply    = [seq, code, value]
      code   = 0   done, value is the call's reply
             = -1  more to come: value is one chunk of a stream
             > 0   an error's number, value is an ErrorValue

Several calls may be in flight on one descriptor and are answered in any order. A cancelled
call is answered all the same: with ECANCELED, or with its reply when that was faster. A body is
at most ``MAX_FRAME`` bytes; a longer one, or one that is not a request, ends the
connection, because after it the stream cannot be trusted.
"""

from typing import Any

import msgspec

from syscalls.errors import EINVAL

MAX_FRAME = 16 * 1024 * 1024
HEADER = 4
DONE = 0
MORE = -1
CANCEL = 0

Raw = msgspec.Raw


class Request(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """``[seq, number, arguments]`` with the arguments still encoded."""

    seq: int
    number: int
    arguments: Raw


class Cancel(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of the cancel frame."""

    seq: int


class Reply(msgspec.Struct, array_like=True, gc=False):
    """``[seq, code, value]`` with the value still encoded."""

    seq: int
    code: int
    value: Raw


class FrameError(EINVAL):
    """The byte stream is broken: oversized, truncated or not msgpack of the right form."""


_encoder = msgspec.msgpack.Encoder()
_request = msgspec.msgpack.Decoder(Request)
_reply = msgspec.msgpack.Decoder(Reply)


def frame(body: Any) -> bytes:
    """``body`` as one frame, ready to send. Raises EINVAL when it is over ``MAX_FRAME``, or has a
    number in it that no frame can carry."""
    buffer = bytearray(HEADER)
    try:
        _encoder.encode_into(body, buffer, HEADER)
    except OverflowError as error:
        raise unbounded() from error
    size = len(buffer) - HEADER
    if size > MAX_FRAME:
        raise EINVAL(
            f"a frame of {size} bytes is over the limit of {MAX_FRAME}",
            hint="split the call: write less at once, read or search with a smaller limit",
            size=size,
            limit=MAX_FRAME,
        )
    buffer[:HEADER] = size.to_bytes(HEADER, "little")
    return bytes(buffer)


def unbounded() -> EINVAL:
    """What is said of a whole number that takes more than 64 bits."""
    return EINVAL(
        "a whole number in the call is too large",
        hint="from -2**63 to 2**64 - 1; a larger one as text",
    )


def decode_request(body: bytes | bytearray | memoryview) -> Request:
    """The request in one frame's body. Raises FrameError."""
    try:
        return _request.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a request: {error}") from error


def decode_reply(body: bytes | bytearray | memoryview) -> Reply:
    """The reply in one frame's body. Raises FrameError."""
    try:
        return _reply.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a reply: {error}") from error


class Framer:
    """Cuts a byte stream into frames' bodies: ``feed`` what arrives, get what is complete.

    Bytes of an incomplete frame stay inside until the rest arrives.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._buffer = bytearray()
        self._needed = HEADER
        self._limit = limit

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame held back; not 0 at end of stream means truncated."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that ``data`` completes, in order. Raises FrameError on an oversized one."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        bodies: list[bytes] = []
        at, end = 0, len(data)
        self._needed = HEADER
        while end - at >= HEADER:
            size = int.from_bytes(data[at : at + HEADER], "little")
            if size > self._limit:
                raise FrameError(
                    f"a frame of {size} bytes is over the limit of {self._limit}",
                    size=size,
                    limit=self._limit,
                )
            stop = at + HEADER + size
            if stop > end:
                self._needed = HEADER + size
                break
            bodies.append(data[at + HEADER : stop])
            at = stop
        if at < end:
            self._buffer += data[at:]
        return bodies
