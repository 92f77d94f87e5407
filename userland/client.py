"""The blocking client: a session of its own with the kernel, for programs without a loop.

    with BlockingClient.open() as client:
        written = client.mem.write(segment="semantic", content="Ada likes tea")
        hits = client.call(Search(query="what does Ada drink?")).hits

A call is one ``sendall`` and, where the reply is small, one ``recv``. Replies to calls that
were given up are recognised by their seq and dropped. Not for several threads at once: give
each thread its own client.
"""

import os
import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import msgspec

from syscalls.errors import ETIME, EngramError
from syscalls.table import Call
from syscalls.wire import (
    CANCEL,
    DONE,
    HEADER,
    MAX_FRAME,
    MORE,
    Cancel,
    Framer,
    Reply,
    decode_reply,
    frame,
    unbounded,
)
from userland import replies
from userland.place import Disconnected, connect, data_directory
from userland.stubs import BlockingStubs

READ = 16 * 1024
KEEP = 1024 * 1024

_encode_into = msgspec.msgpack.Encoder().encode_into
_length = struct.Struct("<I")
_pack_length = _length.pack_into
_unpack_length = _length.unpack_from


class ClientStatistics(msgspec.Struct, frozen=True):
    """Figures of one connection."""

    calls: int
    inflight: int
    dropped: int
    """Replies that came for calls which had been given up."""


class BlockingClient(BlockingStubs):
    """A connection to the kernel over a blocking socket.

    Every syscall is a method of its group (``client.mem.write(...)``), made from the table;
    ``call`` takes the struct itself.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._seq = 0
        self._framer = Framer()
        self._buffer = bytearray(HEADER)
        self._open: dict[int, deque[Reply]] = {}
        self._dropped = 0

    @classmethod
    def open(
        cls, data: str | os.PathLike[str] | None = None, *, timeout: float | None = None
    ) -> Self:
        """Connect to the kernel of a data directory (see ``place.data_directory``).

        ``timeout`` is the most seconds to wait for any answer; without it a call waits as
        long as it takes. Raises NotRunning, EPERM.
        """
        sock = connect(data_directory(data))
        sock.settimeout(timeout)
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, which ends the session. Its jobs go on."""
        self._sock.close()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def statistics(self) -> ClientStatistics:
        """Figures of this connection."""
        return ClientStatistics(self._seq, len(self._open), self._dropped)

    def call(self, call: Call) -> Any:
        """Make a call and wait for its reply. Raises the call's error, Disconnected, ETIME.

        When it is interrupted (``KeyboardInterrupt``) the call is cancelled. Chunks of a
        call that streams are dropped: ``stream`` yields them.
        """
        number = replies.numbered(call)
        seq = self._send(call, number)
        try:
            if self._open or self._framer.pending:
                self._open[seq] = deque()
            else:
                data = self._receive()
                if len(data) >= HEADER and _unpack_length(data)[0] == len(data) - HEADER:
                    try:
                        whole = replies.whole_decoder(number).decode(data[HEADER:])
                    except msgspec.DecodeError:
                        pass  # an error, a chunk or another call's reply: the long way tells
                    else:
                        if whole.code == DONE and whole.seq == seq:
                            return whole.value
                self._open[seq] = deque()
                self._route(data)
            reply = self._final(seq)
            del self._open[seq]
        except BaseException:
            self._abandon(seq)
            raise
        return replies.value(number, reply)

    def call_many(self, calls: Iterable[Call], *, inflight: int = 64) -> Iterator[Any]:
        """Make calls with up to ``inflight`` unanswered at once; yields replies in order.

        An error is yielded in the place of its reply, not raised, so that one call that
        fails does not hide what became of the others.
        """
        waiting: deque[tuple[int, int]] = deque()
        source = iter(calls)
        try:
            while True:
                frames = bytearray()
                for call in source:
                    number = replies.numbered(call)
                    self._seq += 1
                    frames += frame((self._seq, number, call))
                    self._open[self._seq] = deque()
                    waiting.append((self._seq, number))
                    if len(waiting) >= inflight:
                        break
                if frames:
                    self._sendall(frames)
                if not waiting:
                    return
                seq, number = waiting[0]
                try:
                    answer = replies.value(number, self._final(seq))
                except Disconnected:
                    raise
                except EngramError as error:
                    answer = error
                waiting.popleft()
                del self._open[seq]
                yield answer
        finally:
            for seq, _ in waiting:
                self._abandon(seq)

    def stream(self, call: Call) -> "Stream":
        """Make a call that streams; iterate over the result for its chunks."""
        number = replies.numbered(call)
        seq = self._send(call, number)
        self._open[seq] = deque()
        return Stream(self, seq, number)

    def post(self, call: Call) -> None:
        """Send a call and do not wait: its reply is dropped when it comes.

        May be used from a signal handler while the main program waits in ``Stream.poll``.
        """
        self._seq += 1
        self._sendall(frame((self._seq, replies.numbered(call), call)))

    def _send(self, call: Call, number: int) -> int:
        self._seq = seq = self._seq + 1
        buffer = self._buffer
        try:
            _encode_into((seq, number, call), buffer, HEADER)
        except OverflowError as error:
            raise unbounded() from error
        size = len(buffer) - HEADER
        if size > KEEP:
            self._buffer = bytearray(HEADER)
            if size > MAX_FRAME:
                frame((seq, number, call))  # raises EINVAL with the particulars
        _pack_length(buffer, 0, size)
        self._sendall(buffer)
        return seq

    def _sendall(self, data: bytes | bytearray) -> None:
        try:
            self._sock.sendall(data)
        except TimeoutError as error:
            raise ETIME("the kernel does not take the call in time") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Disconnected from error

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(READ)
        except TimeoutError as error:
            raise ETIME("the kernel does not answer in time") from error
        except ConnectionResetError as error:
            raise Disconnected from error
        if not data:
            raise Disconnected
        return data

    def _route(self, data: bytes) -> None:
        """Put each complete reply where its call waits for it."""
        for body in self._framer.feed(data):
            reply = decode_reply(body)
            queue = self._open.get(reply.seq)
            if queue is not None:
                queue.append(reply)
            elif reply.seq:
                self._dropped += 1
            else:  # the kernel's last words on this connection
                problem = replies.error(reply)
                raise Disconnected(f"the connection is broken: {problem.message}") from problem

    def _next(self, seq: int) -> Reply:
        """The next reply, final or not, to an open call."""
        queue = self._open[seq]
        while not queue:
            self._route(self._receive())
        return queue.popleft()

    def _final(self, seq: int) -> Reply:
        """The final reply to an open call."""
        while True:
            reply = self._next(seq)
            if reply.code != MORE:
                return reply

    def _abandon(self, seq: int) -> None:
        """Forget a call and ask the kernel to stop it; a lost connection is no news here."""
        self._open.pop(seq, None)
        try:
            self._sendall(frame((0, CANCEL, Cancel(seq))))
        except (Disconnected, ETIME, OSError):
            return


class Stream(Iterator[Any]):
    """The chunks of one call. After the last, ``reply`` is its final reply.

    Leaving the ``with`` block early, or ``close``, cancels the call.
    """

    def __init__(self, client: BlockingClient, seq: int, number: int) -> None:
        self._client = client
        self._seq = seq
        self._number = number
        self.done = False
        self.reply: Any = None

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __next__(self) -> Any:
        if self.done:
            raise StopIteration
        value = self._take(self._client._next(self._seq))
        if self.done:
            raise StopIteration
        return value

    def poll(self) -> Any:
        """Wait for whatever comes next on the connection: a chunk, or None.

        None means that the call ended (``done``) or that what came was for another call,
        so that a caller who posted something meanwhile gets to look around.
        """
        queue = self._client._open.get(self._seq)
        if self.done or queue is None:
            return None
        if not queue:
            self._client._route(self._client._receive())
        return self._take(queue.popleft()) if queue else None

    def close(self) -> None:
        """Cancel the call if it has not ended."""
        if not self.done:
            self.done = True
            self._client._abandon(self._seq)

    def _take(self, reply: Reply) -> Any:
        if reply.code == MORE:
            return replies.chunk(self._number, reply)
        self.done = True
        self._client._open.pop(self._seq, None)
        self.reply = replies.value(self._number, reply)
        return None
