"""What the kernel and a driver host say to each other. Pure data.

    kernel                                   host
      |                 <── Progress           while it loads
      |                 <── Hello              loaded: what it is, how many calls it takes
      |  Call ──>                              at most ``Hello.window`` unanswered at once
      |                 <── Chunk              at most as many as it has credit for
      |  Credit ──>                            room for more chunks
      |  Cancel ──>                            the answer still comes, once
      |  Suspend ──>                           a call stands still, or goes on
      |                 <── Done | Failed      exactly one for each call
      |  Ping ──>       <── Pong               also while it loads or computes
      |  Stop ──>                              finish and exit

Each message is one msgpack array ``[tag, field, ...]``. Arguments and values stay encoded
(``Raw``): only the two ends of a call know their types. Because calls and chunks are both
bounded by credit, so is what can wait in a socket, whatever its high-water mark.
"""

from typing import Any

import msgspec
from msgspec import Raw

from syscalls.errors import ErrorValue


class Frame(msgspec.Struct, array_like=True, tag=str.lower):
    """Base of the messages."""


class Hello(Frame):
    """The engine has loaded."""

    info: Raw
    """A struct of the engine's kind, such as ``EmbedderInfo``."""
    window: int
    """Calls that it takes before it has answered one."""


class Progress(Frame):
    """How far the loading is."""

    text: str


class Call(Frame):
    """Do ``method``; ``seq`` is the sender's and unique for the life of the host."""

    seq: int
    method: str
    arguments: Raw
    credit: int = 0
    """Chunks that may be sent before a ``Credit``."""


class Chunk(Frame):
    """A part of the answer."""

    seq: int
    value: Raw


class Done(Frame):
    """The answer, or its end."""

    seq: int
    value: Raw


class Failed(Frame):
    """The call failed; with ``seq`` 0 the engine could not be loaded."""

    seq: int
    number: int
    error: ErrorValue


class Cancel(Frame):
    """Nobody waits for this call any more."""

    seq: int


class Credit(Frame):
    """``more`` chunks of this call may be sent."""

    seq: int
    more: int


class Suspend(Frame):
    """Work on this call stands still (``on``), or goes on, where the engine can do that."""

    seq: int
    on: bool


class Ping(Frame):
    """Are you there?"""

    beat: int


class Pong(Frame):
    """I am; ``beat`` is the ping's."""

    beat: int


class Stop(Frame):
    """Finish what must not be lost, and exit."""


Message = (
    Hello | Progress | Call | Chunk | Done | Failed | Cancel | Credit | Suspend | Ping | Pong | Stop
)


class EngineSpec(msgspec.Struct, frozen=True):
    """Which engine a host loads, and on what."""

    kind: str
    """``embedder`` or ``llm``."""
    engine: str
    model: str = ""
    """A folder or a hub name, where the engine wants one."""
    options: dict[str, Any] = {}


class Address(msgspec.Struct, frozen=True):
    """Where a host finds its kernel, and how each knows the other.

    The token is the host's routing id: the kernel's ROUTER hears nobody else. Over tcp the
    CURVE keys, made anew for each life of a host, encrypt and authenticate both ends.
    """

    url: str
    token: bytes
    server_key: str = ""
    public_key: str = ""
    secret_key: str = ""


class Birth(msgspec.Struct, frozen=True):
    """The one line that a host reads from its standard input when it starts."""

    address: Address
    spec: EngineSpec
    parent: int
    """Process id of the kernel: a host whose parent is another has been orphaned."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as it travels."""
    return _encoder.encode(message)


def decode(data: bytes) -> Message:
    """The message in ``data``. Raises msgspec.DecodeError."""
    return _decoder.decode(data)


def pack(value: Any) -> Raw:
    """A value as the still encoded part of a message."""
    return Raw(_encoder.encode(value))
