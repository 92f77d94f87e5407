"""The trio client: many calls in flight on one connection to the kernel.

    async with Channel.open() as channel:
        written = await channel.mem.write(segment="semantic", content="Ada likes tea")

There is no reader task. Of the calls that wait, one reads for all (the leader) and hands
on to the next when its own reply has come:

    call 1   send ── wait for the socket ── read ── reply ─┐ returns
    call 2   send ── parked ─────────────── reply ─────────┼ returns
    call 3   send ── parked ───────────────────────────────┘ becomes the leader, reads, ...

A reader task of its own would cost one more pass of the scheduler for each reply. What it
would notice when nobody calls, the kernel's going away, ``closed`` notices without waking
up for anything else.
"""

import os
import select
import socket
from collections import OrderedDict, deque
from types import TracebackType
from typing import Any, Self

import msgspec
import trio
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint_if_cancelled,
    current_task,
    notify_closing,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
    wait_writable,
)

from syscalls.errors import EngramError
from syscalls.table import Call
from syscalls.wire import CANCEL, DONE, HEADER, MORE, Cancel, Framer, Reply, decode_reply, frame
from userland import replies
from userland.place import Disconnected, connect, data_directory
from userland.stubs import AsyncStubs

READ = 64 * 1024


class ChannelStatistics(msgspec.Struct, frozen=True):
    """Figures of one channel."""

    calls: int
    inflight: int
    cancelled: int
    dropped: int
    """Replies that came for calls which had been given up."""
    unsent: int
    """Bytes that the socket has not taken yet."""


class _Waiting:
    """A call in flight."""

    __slots__ = ("number", "replies", "seq", "task")

    def __init__(self, seq: int, number: int) -> None:
        self.seq = seq
        self.number = number
        self.replies: deque[Any] = deque()
        """``Reply``; a ``Whole`` where it was decoded in one pass."""
        self.task: Task | None = None
        """Set while it is parked."""


class Channel(AsyncStubs):
    """A connection to the kernel for use under trio, from any number of tasks.

    Every syscall is a method of its group (``await channel.mem.write(...)``), made from the
    table; ``call`` takes the struct itself. A cancelled call is cancelled in the kernel.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        sock.setblocking(False)
        self._sock = sock
        self._framer = Framer()
        self._seq = 0
        self._open: dict[int, _Waiting] = {}
        self._parked: OrderedDict[int, _Waiting] = OrderedDict()
        self._leader: _Waiting | None = None
        self._unsent = bytearray()
        self._flushing = trio.Lock()
        self._lost: Disconnected | None = None
        self._watches: set[int] = set()
        self._cancelled = 0
        self._dropped = 0

    @classmethod
    def open(cls, data: str | os.PathLike[str] | None = None) -> Self:
        """Connect to the kernel of a data directory. Raises NotRunning, EPERM."""
        return cls(connect(data_directory(data)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls in flight raise Disconnected."""
        if self._sock.fileno() >= 0:
            self._lose(Disconnected("this end has closed the connection"))
            for watch in self._watches:
                notify_closing(watch)
            notify_closing(self._sock)
            self._sock.close()

    def statistics(self) -> ChannelStatistics:
        """Figures of this channel."""
        return ChannelStatistics(
            self._seq, len(self._open), self._cancelled, self._dropped, len(self._unsent)
        )

    async def call(self, call: Call) -> Any:
        """Make a call and wait for its reply. Raises the call's error, Disconnected.

        Chunks of a call that streams are dropped: ``stream`` yields them.
        """
        await checkpoint_if_cancelled()
        waiting = self._start(call)
        try:
            if self._unsent:
                await self._flush()
            while True:
                if not waiting.replies:
                    await self._until(waiting)
                reply = waiting.replies.popleft()
                if type(reply) is replies.Whole:
                    return reply.value
                if reply.code != MORE:
                    return replies.value(waiting.number, reply)
        except trio.Cancelled:
            self._cancel(waiting)
            raise
        finally:
            self._open.pop(waiting.seq, None)

    def post(self, call: Call) -> None:
        """Send a call and do not wait: its reply is dropped when it comes. Raises Disconnected.

        The kernel has heard of it before any call that is made later.
        """
        self._open.pop(self._start(call).seq)

    def stream(self, call: Call) -> "Stream":
        """Make a call that streams; iterate with ``async for`` over the result."""
        return Stream(self, call)

    async def closed(self) -> None:
        """Wait until the kernel has closed its end.

        An epoll of its own watches for the hang-up and nothing else, so replies do not
        wake this task.
        """
        if self._lost is not None:
            return
        hangup = select.epoll()
        self._watches.add(hangup.fileno())
        try:
            hangup.register(self._sock.fileno(), select.EPOLLRDHUP)
            await wait_readable(hangup.fileno())
        except trio.ClosedResourceError:
            return  # this end was closed
        finally:
            self._watches.discard(hangup.fileno())
            hangup.close()

    # --- sending

    def _start(self, call: Call) -> _Waiting:
        if self._lost is not None:
            raise self._lost
        number = replies.numbered(call)
        self._seq = seq = self._seq + 1
        data = frame((seq, number, call))
        self._push(data)
        self._open[seq] = waiting = _Waiting(seq, number)
        return waiting

    def _push(self, data: bytes) -> None:
        """Send what the socket takes now and keep the rest."""
        sent = 0
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise self._lose(Disconnected()) from error
        if sent < len(data):
            self._unsent += data[sent:]

    async def _flush(self) -> None:
        """Send what is kept. One task at a time; cancelled, the rest stays for the next."""
        async with self._flushing:
            while self._unsent:
                await wait_writable(self._sock)
                try:
                    sent = self._sock.send(self._unsent)
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise self._lose(Disconnected()) from error
                del self._unsent[:sent]

    def _cancel(self, waiting: _Waiting) -> None:
        """Tell the kernel that a call is given up; a lost connection is no news here."""
        self._cancelled += 1
        self._open.pop(waiting.seq, None)
        if self._lost is None:
            try:
                self._push(frame((0, CANCEL, Cancel(waiting.seq))))
            except Disconnected:
                return

    # --- receiving

    async def _until(self, waiting: _Waiting) -> None:
        """Return when ``waiting`` has a reply; meanwhile lead, or be parked."""
        while not waiting.replies:
            if self._lost is not None:
                raise self._lost
            if self._leader is None:
                self._leader = waiting
                try:
                    while not waiting.replies:
                        try:
                            await wait_readable(self._sock)
                        except (trio.ClosedResourceError, ValueError) as error:
                            raise self._lose(Disconnected()) from error
                        self._receive(waiting)
                finally:
                    self._leader = None
                    if self._parked:
                        _, heir = self._parked.popitem(last=False)
                        _wake(heir)
            else:
                await self._park(waiting)

    async def _park(self, waiting: _Waiting) -> None:
        waiting.task = current_task()
        self._parked[waiting.seq] = waiting

        def abort(_: object) -> Abort:
            self._parked.pop(waiting.seq, None)
            waiting.task = None
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def _receive(self, leader: _Waiting) -> None:
        """Read once and give each complete reply to its call."""
        try:
            data = self._sock.recv(READ)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._lose(Disconnected()) from error
        if not data:
            raise self._lose(Disconnected())
        if self._framer.pending == 0 and int.from_bytes(data[:HEADER], "little") == (
            len(data) - HEADER
        ):
            try:
                whole = replies.whole_decoder(leader.number).decode(data[HEADER:])
            except msgspec.DecodeError:
                pass  # an error, a chunk or another call's reply: the long way tells
            else:
                if whole.code == DONE and whole.seq == leader.seq:
                    leader.replies.append(whole)
                    return
        self._route(data)

    def _route(self, data: bytes) -> None:
        try:
            for body in self._framer.feed(data):
                reply = decode_reply(body)
                waiting = self._open.get(reply.seq)
                if waiting is None:
                    if reply.seq == 0:  # the kernel's last words on this connection
                        raise replies.error(reply)
                    self._dropped += 1
                    continue
                waiting.replies.append(reply)
                if waiting.task is not None:
                    del self._parked[waiting.seq]
                    _wake(waiting)
        except EngramError as error:
            raise self._lose(Disconnected(f"the connection is broken: {error.message}")) from error

    def _lose(self, error: Disconnected) -> Disconnected:
        """Remember that the connection is gone and wake everyone to hear of it."""
        if self._lost is None:
            self._lost = error
        while self._parked:
            _, waiting = self._parked.popitem()
            _wake(waiting)
        return self._lost


class Stream:
    """The chunks of one call, by ``async for``. Afterwards ``reply`` is its final reply.

    Use ``async with`` (or ``close``) where the loop may be left early: it cancels the call.
    """

    def __init__(self, channel: Channel, call: Call) -> None:
        self._channel = channel
        self._waiting = channel._start(call)
        self.done = False
        self.reply: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        await checkpoint_if_cancelled()
        if self.done:
            raise StopAsyncIteration
        waiting, channel = self._waiting, self._channel
        try:
            if channel._unsent:
                await channel._flush()
            if not waiting.replies:
                await channel._until(waiting)
        except trio.Cancelled:
            self.close()
            raise
        reply = waiting.replies.popleft()
        if isinstance(reply, Reply) and reply.code == MORE:
            return replies.chunk(waiting.number, reply)
        self.done = True
        channel._open.pop(waiting.seq, None)
        self.reply = (
            reply.value
            if isinstance(reply, replies.Whole)
            else replies.value(waiting.number, reply)
        )
        raise StopAsyncIteration

    def close(self) -> None:
        """Cancel the call if it has not ended."""
        if not self.done:
            self.done = True
            self._channel._cancel(self._waiting)


def _wake(waiting: _Waiting) -> None:
    task, waiting.task = waiting.task, None
    if task is not None:
        reschedule(task)
