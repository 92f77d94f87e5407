"""The two clients against a small server that speaks the wire format."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest
import trio

from syscalls.calls import ipc, mem, sys
from syscalls.errors import EINVAL, EPERM, ETIME, ErrorValue
from syscalls.shapes import LogLine
from syscalls.wire import CANCEL, MORE, Framer, Request, decode_request, frame
from userland.channel import Channel
from userland.client import BlockingClient
from userland.place import Disconnected

Serve = Callable[[Request, Callable[[bytes], None]], None]
PATIENCE = 20


@contextmanager
def server(serve: Serve) -> Iterator[socket.socket]:
    """A client's socket to a thread that gives each request to ``serve``."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        framer = Framer()
        with theirs:
            while data := theirs.recv(65536):
                for body in framer.feed(data):
                    try:
                        serve(decode_request(body), theirs.sendall)
                    except ConnectionAbortedError:
                        return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(PATIENCE)


def clock(request: Request, send: Callable[[bytes], None]) -> None:
    """Answers sys.clock with the request's seq as the time."""
    send(frame((request.seq, 0, sys.Clock(now=request.seq, monotonic=0))))


def log_line(number: int) -> LogLine:
    return LogLine(seq=number, at=0.0, level="info", source="test", text=str(number))


class Script:
    """Refuses writes, streams three log lines, never answers recv, notes the cancels."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []

    def __call__(self, request: Request, send: Callable[[bytes], None]) -> None:
        if request.number == CANCEL:
            self.cancelled.append(msgspec.msgpack.decode(request.arguments)["seq"])
        elif request.number == sys.ClockCall.NUMBER:
            clock(request, send)
        elif request.number == mem.Write.NUMBER:
            refusal = ErrorValue("EPERM", "no", "ask", {"space": 7})
            send(frame((request.seq, EPERM.number, refusal)))
        elif request.number == sys.Log.NUMBER:
            for number in range(3):
                send(frame((request.seq, MORE, log_line(number))))
            send(frame((request.seq, 0, sys.LogEnd(lost=5))))


# --- blocking


def test_a_blocking_call_returns_the_typed_reply() -> None:
    with server(clock) as sock, BlockingClient(sock) as client:
        assert client.call(sys.ClockCall()) == sys.Clock(now=1, monotonic=0)
        assert client.sys.clock() == sys.Clock(now=2, monotonic=0)
        assert client.statistics().calls == 2


def test_an_error_reply_is_raised_as_its_class_with_its_particulars() -> None:
    with server(Script()) as sock, BlockingClient(sock) as client:
        with pytest.raises(EPERM, match="no") as caught:
            client.mem.write(segment="semantic", content="x")
        assert caught.value.detail == {"space": 7}
        assert caught.value.hint == "ask"
        assert client.sys.clock().now == 2


def test_call_many_yields_in_order_and_yields_errors_in_place() -> None:
    calls = [sys.ClockCall(), mem.Write(segment="semantic", content="x"), sys.ClockCall()]
    with server(Script()) as sock, BlockingClient(sock) as client:
        answers = list(client.call_many(calls * 50, inflight=7))
        assert [type(answer) for answer in answers[:3]] == [sys.Clock, EPERM, sys.Clock]
        times = [answer.now for answer in answers if isinstance(answer, sys.Clock)]
        assert times == sorted(times)
        assert len(answers) == 150
        assert client.statistics().inflight == 0


def test_replies_in_any_order_reach_their_calls() -> None:
    held: list[int] = []

    def backwards(request: Request, send: Callable[[bytes], None]) -> None:
        held.append(request.seq)
        if len(held) == 4:
            for seq in reversed(held):
                send(frame((seq, 0, sys.Clock(now=seq, monotonic=0))))

    with server(backwards) as sock, BlockingClient(sock) as client:
        answers = client.call_many([sys.ClockCall()] * 4)
        assert [answer.now for answer in answers] == [1, 2, 3, 4]


def test_a_reply_in_single_bytes_is_put_together() -> None:
    def slowly(request: Request, send: Callable[[bytes], None]) -> None:
        for byte in frame((request.seq, 0, sys.Clock(now=9, monotonic=0))):
            send(bytes([byte]))

    with server(slowly) as sock, BlockingClient(sock) as client:
        assert client.sys.clock().now == 9


def test_a_stream_yields_chunks_and_keeps_the_final_reply() -> None:
    with server(Script()) as sock, BlockingClient(sock) as client:
        stream = client.stream(sys.Log(follow=True))
        assert [line.seq for line in stream] == [0, 1, 2]
        assert stream.reply.lost == 5
        assert [line.seq for line in client.sys.log_stream()] == [0, 1, 2]
        assert client.sys.log().lost == 5  # the chunks of a plain call are dropped


def test_a_stream_left_early_is_cancelled_and_its_chunks_are_dropped() -> None:
    script = Script()
    with server(script) as sock, BlockingClient(sock) as client:
        with client.stream(sys.Log(follow=True)) as stream:
            next(stream)
        assert client.sys.clock().now == 2
        assert client.statistics().inflight == 0
    assert script.cancelled == [1]


def test_a_timeout_raises_etime_and_the_late_reply_is_not_taken_for_another() -> None:
    late: list[int] = []

    def lazily(request: Request, send: Callable[[bytes], None]) -> None:
        if request.number == sys.ClockCall.NUMBER:
            late.append(request.seq)
            if len(late) == 2:
                for seq in late:
                    send(frame((seq, 0, sys.Clock(now=seq, monotonic=0))))

    with server(lazily) as sock:
        sock.settimeout(0.2)
        client = BlockingClient(sock)
        with pytest.raises(ETIME):
            client.sys.clock()
        assert client.sys.clock().now == 2


def test_the_end_of_the_connection_is_an_error_of_the_machine() -> None:
    def leave(request: Request, send: Callable[[bytes], None]) -> None:
        raise ConnectionAbortedError

    with server(leave) as sock, BlockingClient(sock) as client:
        with pytest.raises(Disconnected) as caught:
            client.sys.clock()
        assert caught.value.code == "EIO"
        assert caught.value.fault == "machine"


def test_the_last_words_of_the_kernel_are_told() -> None:
    def expel(request: Request, send: Callable[[bytes], None]) -> None:
        send(frame((0, EINVAL.number, ErrorValue("FrameError", "not a request"))))
        raise ConnectionAbortedError

    with (
        server(expel) as sock,
        BlockingClient(sock) as client,
        pytest.raises(Disconnected, match="not a request"),
    ):
        client.sys.clock()


def test_an_oversized_call_is_refused_before_it_is_sent() -> None:
    with server(clock) as sock, BlockingClient(sock) as client:
        with pytest.raises(EINVAL, match="over the limit"):
            client.ipc.send(to=1, body=b"x" * (17 << 20))
        assert client.sys.clock().now == 2


# --- trio


async def test_a_channel_serves_many_tasks_at_once() -> None:
    answers: list[float] = []
    with server(clock) as sock:
        async with Channel(sock) as channel:

            async def ask() -> None:
                for _ in range(20):
                    answers.append((await channel.sys.clock()).now)

            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    for _ in range(16):
                        nursery.start_soon(ask)
            assert sorted(answers) == list(range(1, 321))
            assert channel.statistics().inflight == 0


async def test_a_channel_raises_errors_and_streams() -> None:
    with server(Script()) as sock, trio.fail_after(PATIENCE):
        async with Channel(sock) as channel:
            with pytest.raises(EPERM):
                await channel.mem.write(segment="semantic", content="x")
            stream = channel.stream(sys.Log(follow=True))
            assert [line.seq async for line in stream] == [0, 1, 2]
            assert stream.reply.lost == 5


async def test_a_cancelled_call_is_cancelled_in_the_kernel_and_others_go_on() -> None:
    script = Script()
    with server(script) as sock, trio.fail_after(PATIENCE):
        async with Channel(sock) as channel, trio.open_nursery() as nursery:
            with trio.move_on_after(0.05):
                await channel.ipc.recv()
            nursery.start_soon(channel.call, ipc.Recv())  # waits for ever
            await trio.testing.wait_all_tasks_blocked()
            assert (await channel.sys.clock()).now == 3
            nursery.cancel_scope.cancel()
            assert channel.statistics().cancelled == 1
        assert channel.statistics().cancelled == 2
    assert script.cancelled == [1, 2]


async def test_a_call_in_a_cancelled_scope_is_not_sent() -> None:
    script = Script()
    with server(script) as sock:
        async with Channel(sock) as channel:
            with trio.CancelScope() as scope:
                scope.cancel()
                await channel.sys.clock()
            assert channel.statistics().calls == 0


async def test_when_the_leader_is_cancelled_another_reads_on() -> None:
    held: list[int] = []
    enough = trio.Event()

    def hold(request: Request, send: Callable[[bytes], None]) -> None:
        if request.number == ipc.Recv.NUMBER:
            return
        if request.number == sys.ClockCall.NUMBER:
            held.append(request.seq)
        elif request.number == CANCEL:
            for seq in held:
                send(frame((seq, 0, sys.Clock(now=seq, monotonic=0))))

    answers: list[float] = []
    with server(hold) as sock, trio.fail_after(PATIENCE):
        async with Channel(sock) as channel, trio.open_nursery() as nursery:
            leader = trio.CancelScope()

            async def lead() -> None:
                with leader:
                    await channel.ipc.recv()

            async def follow() -> None:
                answers.append((await channel.sys.clock()).now)
                if len(answers) == 3:
                    enough.set()

            nursery.start_soon(lead)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            leader.cancel()
            await enough.wait()
    assert sorted(answers) == [2, 3, 4]


async def test_the_end_of_the_connection_reaches_every_waiting_call() -> None:
    def leave(request: Request, send: Callable[[bytes], None]) -> None:
        if request.seq == 3:
            raise ConnectionAbortedError

    lost: list[Disconnected] = []
    with server(leave) as sock, trio.fail_after(PATIENCE):
        async with Channel(sock) as channel:

            async def ask() -> None:
                try:
                    await channel.sys.clock()
                except Disconnected as error:
                    lost.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.closed)
                for _ in range(3):
                    nursery.start_soon(ask)
            with pytest.raises(Disconnected):
                await channel.sys.clock()
    assert len(lost) == 3


async def test_closing_this_end_ends_the_wait_for_the_other() -> None:
    with server(clock) as sock, trio.fail_after(PATIENCE):
        channel = Channel(sock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.closed)
            await trio.testing.wait_all_tasks_blocked()
            channel.close()


async def test_large_calls_from_many_tasks_do_not_interleave() -> None:
    sizes: list[int] = []

    def measure(request: Request, send: Callable[[bytes], None]) -> None:
        sizes.append(len(msgspec.msgpack.decode(request.arguments)["body"]))
        send(frame((request.seq, 0, ipc.Sent(id=request.seq))))

    with server(measure) as sock, trio.fail_after(PATIENCE):
        async with Channel(sock) as channel, trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(channel.call, ipc.Send(to=1, body=b"x" * (500_000 + number)))
    assert sorted(sizes) == [500_000 + number for number in range(8)]
