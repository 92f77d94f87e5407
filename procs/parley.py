"""What the kernel and the zygote say to each other, on a SEQPACKET socket pair.

One packet is one message, so that nothing has to be cut and descriptors travel with the
message they belong to. A packet holds at most what the socket buffer does; a longer message
travels as an anonymous file whose descriptor comes last.
"""

import array
import os
import socket

import msgspec

from syscalls.errors import ErrorValue
from syscalls.launch import Launch, LaunchKind, Wants
from syscalls.shapes import Quota

PACKET = 64 * 1024
IN_FILE = b"\xc1"
"""A byte that no msgpack value begins with: the message is in the last descriptor."""
MOST_DESCRIPTORS = 3


class Spawn(msgspec.Struct, tag="spawn"):
    """Start a process; its channel and its output pipe come with the packet."""

    id: int
    launch: Launch


class Describe(msgspec.Struct, tag="describe"):
    """Say what a declared program wants."""

    id: int
    program: str
    cwd: str


class Kill(msgspec.Struct, tag="kill"):
    """Send a signal to the process group of a process that the zygote started."""

    pid: int
    signal: int


class Limit(msgspec.Struct, tag="limit"):
    """Put other limits on a process; those that are None stay."""

    pid: int
    quota: Quota


class Ping(msgspec.Struct, tag="ping"):
    """Say that you are there."""


class Pong(msgspec.Struct, tag="pong"):
    """The zygote is there."""


class Ready(msgspec.Struct, tag="ready"):
    """The runtime is loaded."""

    pid: int
    confinement: str


class Failed(msgspec.Struct, tag="failed"):
    """The runtime could not be loaded; the zygote ends."""

    reason: str


class Started(msgspec.Struct, tag="started"):
    """A process runs."""

    id: int
    pid: int
    kind: LaunchKind


class Described(msgspec.Struct, tag="described"):
    """What a declared program wants."""

    id: int
    wants: Wants


class Refused(msgspec.Struct, tag="refused"):
    """A process could not be started, or a program not be described."""

    id: int
    number: int
    error: ErrorValue


class Exited(msgspec.Struct, tag="exited"):
    """A process ended and is reaped, and so are those it left behind."""

    pid: int
    code: int
    """Its exit code, or minus the number of the signal that ended it."""


Order = Spawn | Describe | Kill | Limit | Ping
Report = Ready | Failed | Started | Described | Refused | Exited | Pong

_encode = msgspec.msgpack.Encoder().encode
orders = msgspec.msgpack.Decoder(Order)
reports = msgspec.msgpack.Decoder(Report)

Ancillary = list[tuple[int, int, bytes]]


class Packet:
    """A message ready for ``sendmsg``; ``close`` when it is sent (or will not be)."""

    def __init__(self, message: Order | Report, descriptors: list[int]) -> None:
        self.body = _encode(message)
        self._file = -1
        if len(self.body) > PACKET:
            self._file = os.memfd_create("engram-message")
            with os.fdopen(os.dup(self._file), "wb") as file:
                file.write(self.body)
            self.body = IN_FILE
            descriptors = [*descriptors, self._file]
        rights = array.array("i", descriptors).tobytes()
        self.ancillary: Ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        )

    def close(self) -> None:
        """Close the file of a long message."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def unpack(body: bytes, ancillary: Ancillary) -> tuple[bytes, list[int]]:
    """The encoded message and its descriptors, which are now the caller's to close."""
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    received = list(descriptors)
    if body != IN_FILE:
        return body, received
    # The writer's offset is shared with us, so read from the start.
    with os.fdopen(received.pop(), "rb") as file:
        file.seek(0)
        return file.read(), received
