"""Cuts a long text into passages that an embedder can take in.

An embedder reads so many tokens and ignores the rest. A record whose content is longer gets
a vector for each passage, and the nearest counts. Passages overlap, so that a sentence at a
cut is whole in one of them, and end where a paragraph, a line, a sentence or a word ends.

    text      |-----------------------------------------------|
    passages  |-------------|
                         |--------------|
                                     |------------------|
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

MOST: Final = 64
"""Passages of one text. Those of a text that is longer yet are spread evenly over it: their
words find it still, its meaning only where a passage lies."""
OVERLAP: Final = 1 / 8
SHORTEST: Final = 3 / 4
"""Part of the room that a passage takes at least, so as to end well."""
SPECIAL: Final = 2
"""Tokens that the embedder itself adds."""
ENDS: Final = ("\n\n", "\n", "。", ". ", "! ", "? ", "！", "？", "; ", ", ", "，", " ")
"""Where a passage is best ended, best first."""
LETTER, DIGIT, OTHER = 0.25, 0.6, 1.0
"""Tokens that a character costs: about four letters make one, a sign or an ideograph is one."""


def passages(text: str, tokens: int) -> list[str]:
    """The passages of a text, in order; the text itself when it is short enough.

    ``tokens`` is the most that the embedder reads; they are estimated from the characters.
    """
    return [text[start:end] for start, end in spans(text, tokens)]


def spans(text: str, tokens: int) -> list[tuple[int, int]]:
    """Where each of the passages begins and ends, in characters."""
    room = max(8, tokens - SPECIAL)
    if len(text) <= room:
        return [(0, len(text))]
    costs = _costs(text)
    total = float(costs[-1])
    if total <= room:
        return [(0, len(text))]
    if total > room * (1 + (MOST - 1) * (SHORTEST - OVERLAP)):
        starts = [_at(costs, (total - room) * number / (MOST - 1)) for number in range(MOST)]
        return [(start, _end(text, costs, start, room)) for start in starts]
    found: list[tuple[int, int]] = []
    start = end = 0
    while end < len(text) and len(found) < MOST:
        end = _end(text, costs, start, room)
        found.append((start, end))
        start = _start(text, costs, start, end, room)
    return found


def _costs(text: str) -> NDArray[float64]:
    """Estimated tokens up to and with each character."""
    import numpy

    table = numpy.full(129, OTHER, numpy.float32)
    for code in range(128):
        if chr(code).isalpha() or chr(code).isspace():
            table[code] = LETTER
        elif chr(code).isdigit():
            table[code] = DIGIT
    codes = numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    # In doubles: single ones cannot count to millions by quarters.
    costs: NDArray[float64] = table[numpy.minimum(codes, 128)].cumsum(dtype=numpy.float64)
    return costs


def _at(costs: NDArray[float64], cost: float) -> int:
    """The first character that begins at this cost or after it."""
    return int(costs.searchsorted(cost, "left"))


def _end(text: str, costs: NDArray[float64], start: int, room: int) -> int:
    """Where a passage from ``start`` ends: at most ``room`` on, at the end of something."""
    before = float(costs[start - 1]) if start else 0.0
    last = int(costs.searchsorted(before + room, "right"))
    if last >= len(text):
        return len(text)
    least = start + int((last - start) * SHORTEST)
    for mark in ENDS:
        found = text.rfind(mark, least, last)
        if found >= 0:
            return found + len(mark)
    return max(last, start + 1)


def _start(text: str, costs: NDArray[float64], start: int, end: int, room: int) -> int:
    """Where the passage after one from ``start`` to ``end`` begins: a little before its end."""
    back = max(start + 1, _at(costs, float(costs[end - 1]) - room * OVERLAP))
    space = text.find(" ", back, end)
    return space + 1 if 0 <= space < end - 1 else min(back, end)
