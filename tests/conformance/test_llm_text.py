"""Incremental text: what comes in pieces is what would have come at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as some

from drivers.llm.text import HOLD, REPLACEMENT, Detokenizer, Stopper

if TYPE_CHECKING:
    from collections.abc import Sequence


def decode(tokens: Sequence[int]) -> str:
    """A tokenizer whose tokens are single bytes: the hardest case."""
    return bytes(tokens).decode("utf-8", "replace")


@given(some.text(max_size=40))
def test_pieces_join_to_the_text(text: str) -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.push(byte) for byte in text.encode(errors="replace")]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == text.encode(errors="replace").decode()
    for piece in pieces:
        assert REPLACEMENT not in piece or REPLACEMENT in text


def test_an_unfinished_character_is_said_at_the_end() -> None:
    detokenizer = Detokenizer(decode)
    assert "".join(detokenizer.push(byte) for byte in "好".encode()[:2]) == ""
    assert detokenizer.flush() == REPLACEMENT


def test_broken_bytes_are_not_held_for_ever() -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.push(0x80) for _ in range(4 * HOLD)]
    assert len("".join(pieces)) >= 3 * HOLD


@given(
    some.lists(some.text("ab<|>", max_size=4), max_size=12),
    some.lists(some.text("ab<|>", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_string_never_comes_through(pieces: list[str], stops: list[str]) -> None:
    stopper = Stopper(stops)
    got = ""
    for piece in pieces:
        got += stopper.push(piece)
        if stopper.stopped:
            break
    whole = "".join(pieces)
    found = [at for stop in stops if (at := whole.find(stop)) >= 0]
    assert stopper.stopped == bool(found)
    if stopper.stopped:
        assert not any(stop in got for stop in stops)
        assert whole.startswith(got)
    else:
        assert got + stopper.flush() == whole
