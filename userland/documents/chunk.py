"""Parts of a document to chunks: short enough to be found and shown, cut where it hurts least.

    part   |.................................................................|
    chunk  |==================|
    chunk                  |===================|        each begins a little before the
    chunk                                   |================|      end of the one before

A chunk ends at the last of the best borders in its final third: between paragraphs, lines,
sentences, words. Parts are never joined across a heading or a page.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from userland.documents.extract import Part

SIZE = 1200
"""Characters of a chunk, at most."""
OVERLAP = 150
_BORDERS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])"),
    re.compile(r"\s+"),
)


class Chunk(msgspec.Struct):
    """One chunk and where it is."""

    text: str
    offset: int
    """Of its first character in the text of the document: the parts, a blank line between."""
    heading: str = ""
    page: int = 0


def chunks(parts: Sequence[Part], size: int = SIZE, overlap: int = OVERLAP) -> list[Chunk]:
    """The chunks of a document, in order."""
    found: list[Chunk] = []
    at = 0
    for part in parts:
        back = 0 if part.whole else min(overlap, size // 3)
        for start, stop in spans(part.text, size, back):
            text = part.text[start:stop]
            lead = len(text) - len(text.lstrip())
            if text.strip():
                found.append(Chunk(text.strip(), at + start + lead, part.heading, part.page))
        at += len(part.text) + 2
    return found


def spans(text: str, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each chunk of one text; together they cover all of it."""
    start = 0
    while len(text) - start > size:
        stop = _border(text, start + size - size // 3, start + size)
        yield start, stop
        start = max(start + 1, _word(text, stop - overlap, stop)) if overlap else stop
    yield start, len(text)


def _border(text: str, low: int, high: int) -> int:
    """Where to cut, above ``low`` and at most ``high``."""
    for border in _BORDERS:
        ends = [match.end() for match in border.finditer(text, low, high) if match.end() > low]
        if ends:
            return ends[-1]
    return high


def _word(text: str, low: int, high: int) -> int:
    """The first beginning of a word or line from ``low`` on; ``low`` where there is none."""
    found = re.compile(r"\s+").search(text, low, high)
    return found.end() if found is not None and found.end() < high else low
