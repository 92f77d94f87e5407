"""One ZMQ socket with an outbox and an inbox, and one function that moves both.

Some facts about ZMQ's file descriptor, which is what a poller can wait for:

- It becomes readable when the socket's *events may have changed*, whichever they are. So
  it is waited on for reading, also by one who wants to send.
- It reports an edge, and nearly every ZMQ call may consume that edge. So after any call
  ``EVENTS`` must be asked again; only when it says that there is nothing to do, and no
  ZMQ call came after that, may one wait.

``Port.turn`` obeys both, never waits, and may be called at any time: by a sender who put
something in the outbox, by a reader who made room in the inbox, and by whoever waits on
the descriptor. Nobody else touches the socket. It knows nothing of trio or threads, so the
kernel's ``Link`` and the host's loop share it.
"""

import os
import secrets
import tempfile
from collections import deque
from pathlib import Path

import msgspec
import zmq

from drivers.protocol import Address, Message, decode, encode

PATH_LIMIT = 107
"""Longest path of a unix socket in bytes (``sun_path`` is 108 with its final zero)."""


class BrokenLink(ConnectionError):
    """The other end is gone, or spoke nonsense: this link carries nothing any more."""


class PortStatistics(msgspec.Struct, frozen=True):
    """Figures of one socket."""

    sent: int
    received: int
    bytes_sent: int
    bytes_received: int
    stalls: int
    """Times that the high-water mark held a message back in the outbox."""
    strangers: int
    """Messages dropped because their sender did not have the token."""
    outbox: int
    inbox: int


class Port:
    """A DEALER (``peer`` None) or a ROUTER that speaks with the one ``peer``."""

    def __init__(
        self, socket: zmq.Socket[bytes], peer: bytes | None = None, *, limit: int = 256
    ) -> None:
        self.socket = socket
        self.fd: int = socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self.limit = limit
        """Messages in the inbox at which no more are taken from the socket."""
        self.outbox: deque[bytes] = deque()
        self.inbox: deque[Message] = deque()
        self.stuck = False
        """The socket said writable, but for a stranger: no edge will tell when our peer is,
        so the turn must be repeated after a short sleep."""
        self._peer = peer
        self._met = peer is None
        """A ROUTER can send to a peer, or find it gone, only after having heard from it."""
        self._sent = self._received = self._bytes_sent = self._bytes_received = 0
        self._stalls = self._strangers = 0

    def post(self, message: Message) -> None:
        """Put a message in the outbox; ``turn`` sends it."""
        self.outbox.append(encode(message))

    def turn(self) -> None:
        """Send and receive whatever can be, without waiting. Raises BrokenLink."""
        self.stuck = False
        if self.outbox and self._met:
            # A ROUTER without its peer is merely never writable: only the try says "gone".
            self._send()
        while True:
            events: int = self.socket.getsockopt(zmq.EVENTS)  # type: ignore[assignment]
            if events & zmq.POLLOUT and self.outbox and self._met and not self.stuck:
                self.stuck = not self._send()
            elif events & zmq.POLLIN and len(self.inbox) < self.limit:
                self._receive()
            else:
                return

    def _send(self) -> bool:
        """Send until the outbox is empty or the socket is full; False if nothing went."""
        sent = self._sent
        while self.outbox:
            body = self.outbox[0]
            frames = [body] if self._peer is None else [self._peer, body]
            try:
                self.socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                self._stalls += 1
                break
            except zmq.ZMQError as error:
                raise BrokenLink(f"cannot send to the peer: {error}") from error
            self.outbox.popleft()
            self._sent += 1
            self._bytes_sent += len(body)
        return self._sent > sent

    def _receive(self) -> None:
        while len(self.inbox) < self.limit:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if self._peer is not None and frames[0] != self._peer:
                self._strangers += 1
                continue
            self._met = True
            body = frames[-1]
            try:
                message = decode(body)
            except msgspec.DecodeError as error:
                raise BrokenLink(f"the peer sent what is no message: {error}") from error
            self.inbox.append(message)
            self._received += 1
            self._bytes_received += len(body)

    def close(self) -> None:
        """Close the socket; what has not left it is lost."""
        self.socket.close(linger=0)

    def statistics(self) -> PortStatistics:
        """Figures since it was made."""
        return PortStatistics(
            self._sent,
            self._received,
            self._bytes_sent,
            self._bytes_received,
            self._stalls,
            self._strangers,
            len(self.outbox),
            len(self.inbox),
        )


def _set_up(socket: zmq.Socket[bytes], hwm: int) -> None:
    socket.linger = 0
    socket.sndhwm = hwm
    socket.rcvhwm = hwm


def socket_path(folder: Path, name: str) -> Path:
    """A path for a unix socket: in ``folder``, or in a new short one when that is too long.

    The folder has mode 0700. Raises OSError.
    """
    path = folder / name
    if len(os.fsencode(path)) <= PATH_LIMIT:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path
    return Path(tempfile.mkdtemp(prefix="engram-")) / name


def listen(
    context: zmq.Context[zmq.Socket[bytes]], url: str, *, hwm: int = 1000
) -> tuple[Port, Address]:
    """The kernel's end, and the address to give to one host.

    ``url`` is ``ipc://PATH`` or ``tcp://HOST:*``; over tcp the link has CURVE keys.
    """
    token = b"\x01" + secrets.token_bytes(16)  # ids that begin with 0 are ZMQ's own
    socket = context.socket(zmq.ROUTER)
    try:
        _set_up(socket, hwm)
        socket.router_mandatory = True
        keys = {}
        if not url.startswith("ipc://"):
            server_key, server_secret = (key.decode() for key in zmq.curve_keypair())
            public_key, secret_key = (key.decode() for key in zmq.curve_keypair())
            socket.curve_server = True
            socket.curve_secretkey = server_secret.encode()
            keys = {"server_key": server_key, "public_key": public_key, "secret_key": secret_key}
        socket.bind(url)
    except BaseException:
        socket.close(linger=0)
        raise
    bound = bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
    return Port(socket, token), Address(bound, token, **keys)


def connect(context: zmq.Context[zmq.Socket[bytes]], address: Address, *, hwm: int = 1000) -> Port:
    """The host's end."""
    socket = context.socket(zmq.DEALER)
    try:
        _set_up(socket, hwm)
        socket.routing_id = address.token
        if address.server_key:
            socket.curve_serverkey = address.server_key.encode()
            socket.curve_publickey = address.public_key.encode()
            socket.curve_secretkey = address.secret_key.encode()
        socket.connect(address.url)
    except BaseException:
        socket.close(linger=0)
        raise
    return Port(socket)
