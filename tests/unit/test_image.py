"""The format of images: what is not whole and unaltered is refused, whatever was done to it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procs.image import Attached, Header, ImageError, Reader, Wears, Writer, frames
from syscalls.quota import Quota
from syscalls.shapes import ChatMessage, Message


def image(turns: int = 2, messages: int = 3, space: bytes = b"capsule" * 50) -> bytes:
    writer = Writer()
    header = Header("0" * 32, "0.1.0", 1.5, 7, "ada", "keeper.py", ["mem.*"], Quota(children=3))
    data = writer.begin(header)
    for number in range(turns):
        data += writer.turn(ChatMessage("user", f"turn {number}"))
    data += writer.state({"step": [1, 2.5, b"x"]})
    for number in range(messages):
        data += writer.message(Message(number + 1, 3, "bo", {"n": number}, 1.0))
    data += writer.attached(Attached("facts", [], [("0" * 26, 4)]))
    data += writer.wears(Wears("model", 4, "tone", "tone@1", "d"))
    data += b"".join(writer.space(space))
    return data + writer.finish(last=messages, records=1, seal="s" if space else "")


WHOLE = image()


def read(data: bytes, size: int = 64) -> Reader:
    reader = Reader()
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    return reader


@given(st.integers(1, 500), st.integers(0, 3), st.integers(0, 3), st.binary(max_size=90))
def test_what_was_written_is_read(size: int, turns: int, messages: int, space: bytes) -> None:
    data = image(turns, messages, space)
    found = read(data, size).finish()
    assert (found.header.apid, found.header.quota) == (7, Quota(children=3))
    assert [one.content for one in found.context] == [f"turn {n}" for n in range(turns)]
    assert found.state == {"step": [1, 2.5, b"x"]}
    assert (found.end.messages, found.end.last, found.end.bytes) == (messages, messages, len(space))
    kept = b"".join(frame.payload for frame in frames([data]) if frame.kind == "S")
    assert kept == space


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_image_is_refused(length: int) -> None:
    with pytest.raises(ImageError):
        read(WHOLE[:length]).finish()


@settings(max_examples=400)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_found(place: int, bit: int) -> None:
    data = bytearray(WHOLE)
    data[place] ^= 1 << bit
    with pytest.raises(ImageError):
        read(bytes(data)).finish()


@given(st.binary(min_size=1, max_size=200), st.integers(0, len(WHOLE)))
def test_what_was_put_in_is_found(data: bytes, place: int) -> None:
    with pytest.raises(ImageError):
        read(WHOLE[:place] + data + WHOLE[place:]).finish()


def test_two_images_are_none() -> None:
    other = image(1, 1, b"")
    for data in (WHOLE + WHOLE, WHOLE + other, other + WHOLE, WHOLE[:300] + other[300:]):
        with pytest.raises(ImageError):
            read(data).finish()


def test_frames_in_another_order_are_refused() -> None:
    header = Header("0" * 32, "0.1.0", 1.5, 7, "ada", "keeper.py", [], Quota())
    message, turn = Message(1, 3, "bo", None, 1.0), ChatMessage("user", "hello")
    writer = Writer()
    data = writer.begin(header) + writer.message(message) + writer.turn(turn)
    with pytest.raises(ImageError, match="does not belong"):
        read(data)
    writer = Writer()
    with pytest.raises(ImageError, match="does not belong"):
        read(writer.begin(header) + writer.state(1) + writer.state(2))
    writer = Writer()
    with pytest.raises(ImageError, match="in order"):
        read(writer.begin(header) + writer.message(message) + writer.message(message))
    writer = Writer()
    with pytest.raises(ImageError, match="what its end says"):
        read(
            writer.begin(header)
            + writer.message(message)
            + writer.finish(last=0, records=0, seal="")
        )


def test_a_wrong_header_is_refused() -> None:
    writer = Writer()
    header = Header("nobody", "0.1.0", 1.5, 7, "ada", "keeper.py", [], Quota())
    with pytest.raises(ImageError, match="is wrong"):
        read(writer.begin(header))
