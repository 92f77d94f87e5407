"""The wire format, against any cutting of any bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syscalls import wire
from syscalls.calls import mem, sys
from syscalls.errors import EINVAL

bodies = st.lists(st.binary(max_size=300), max_size=8)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(wire.HEADER, "little") + body


@given(bodies, st.data())
def test_frames_come_out_as_they_went_in_however_cut(
    sent: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(framed(body) for body in sent)
    framer, received, at = wire.Framer(), list[bytes](), 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        received += framer.feed(stream[at : at + step])
        at += step
    assert received == sent
    assert framer.pending == 0


@given(st.binary(min_size=1, max_size=100), st.integers(1, 103))
def test_a_truncated_frame_is_held_back(body: bytes, kept: int) -> None:
    stream = framed(body)[: min(kept, len(body) + 3)]
    framer = wire.Framer()
    assert framer.feed(stream) == []
    assert framer.pending == len(stream)


def test_an_oversized_frame_is_refused_before_it_arrives() -> None:
    framer = wire.Framer(limit=100)
    with pytest.raises(wire.FrameError, match="over the limit"):
        framer.feed((101).to_bytes(4, "little"))
    with pytest.raises(EINVAL, match="over the limit"):
        wire.frame(["x" * (wire.MAX_FRAME + 1)])


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_a_number_that_no_frame_can_carry_is_refused(number: int) -> None:
    with pytest.raises(EINVAL, match="too large"):
        wire.frame([1, 2, number])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_frame_error(body: bytes) -> None:
    try:
        request = wire.decode_request(body)
    except wire.FrameError as error:
        assert error.code == "EINVAL"
    else:
        assert isinstance(request.seq, int)
        assert isinstance(request.number, int)


@given(st.integers(1, 2**53), st.text(min_size=1, max_size=50))
def test_a_call_round_trips(seq: int, query: str) -> None:
    call = mem.Search(query=query, k=3)
    (body,) = wire.Framer().feed(wire.frame([seq, call.NUMBER, call]))
    request = wire.decode_request(body)
    assert (request.seq, request.number) == (seq, call.NUMBER)
    assert msgspec.msgpack.decode(request.arguments, type=mem.Search) == call


def test_a_reply_round_trips() -> None:
    clock = sys.Clock(now=1.5, monotonic=2.5)
    (body,) = wire.Framer().feed(wire.frame([7, wire.DONE, clock]))
    reply = wire.decode_reply(body)
    assert (reply.seq, reply.code) == (7, wire.DONE)
    assert msgspec.msgpack.decode(reply.value, type=sys.Clock) == clock
    with pytest.raises(wire.FrameError):
        wire.decode_reply(b"\x00")
