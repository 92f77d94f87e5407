"""Feeds (log, trace) and the output of processes."""

import os

import pytest
import trio

from kernel import feed
from kernel.feed import Feed
from kernel.log import Log
from kernel.machine import SystemClock
from kernel.output import KEPT, OutputRing
from kernel.trace import KEEP, Trace, readable
from syscalls import wire
from syscalls.calls import mem


def test_a_ring_keeps_the_last() -> None:
    numbers: Feed[int] = Feed(3)
    for number in range(10):
        numbers.append(number)
    assert numbers.tail(5, lambda _: True) == [7, 8, 9]
    assert numbers.tail(1, lambda n: n < 9) == [8]
    assert numbers.statistics() == feed.FeedStatistics(10, 3, 0)


async def test_a_follower_gets_what_comes_and_hears_what_it_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "BACKLOG", 4)
    numbers: Feed[int] = Feed(3)
    with numbers.follow(lambda n: n % 2 == 0) as follower:
        for number in range(20):
            numbers.append(number)
        got = []
        with trio.fail_after(5):
            async for number in follower:
                got.append(number)
                if len(got) == 4:
                    break
    assert got == [0, 2, 4, 6]
    assert follower.lost == 6
    assert numbers.statistics().followers == 0


def test_the_log_filters_stderr_but_keeps_all(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(SystemClock(), 10, "warning")
    log("debug", "here", "quiet")
    log("error", "there", "loud")
    printed = capsys.readouterr().err
    assert "loud" in printed
    assert "quiet" not in printed
    assert [line.text for line in log.tail(10, lambda _: True)] == ["quiet", "loud"]


def test_a_traced_call_is_readable_and_bounded() -> None:
    trace = Trace(10)
    call = mem.Write(segment="semantic", content="short")
    body = wire.decode_request(wire.Framer().feed(wire.frame([1, call.NUMBER, call]))[0])
    trace.record(5, call.NUMBER, body.arguments, b"\x80", True, 1.0, 2.0)
    long = mem.Write(segment="semantic", content="x" * 10_000)
    data = wire.decode_request(wire.Framer().feed(wire.frame([2, long.NUMBER, long]))[0]).arguments
    trace.record(5, long.NUMBER, data, b"\x80", True, 1.0, 2.0)
    trace.record(5, 12345, b"x" * 100_000, b"\x80", True, 1.0, 2.0)
    first, second, third = (readable(item) for item in trace.tail(3, lambda _: True))
    assert first.call == "mem.write"
    assert "content='short'" in first.arguments
    assert len(second.arguments) < KEEP
    assert second.arguments.endswith("...")
    assert third.call == "#12345"
    assert third.arguments == "<100000 bytes>"


async def test_output_keeps_offsets_when_it_drops_the_beginning() -> None:
    ring = OutputRing()
    read, write = os.pipe()
    total = KEPT + 100_000
    pieces = bytearray()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ring.pump, read)
            data = memoryview(bytes(i % 251 for i in range(total)))
            while data:
                data = data[await trio.to_thread.run_sync(os.write, write, data[:65536]) :]
            os.close(write)
        assert not ring.closed  # another program may follow
        ring.close()
        async for _, piece in ring.follow(0):
            pieces += piece
    assert ring.closed
    assert ring.end == total
    at, kept = ring.since(0)
    assert (at, len(kept)) == (total - KEPT, KEPT)
    assert kept == bytes(i % 251 for i in range(at, total))
    assert ring.since(total + 5) == (total, b"")
    assert pieces == kept
