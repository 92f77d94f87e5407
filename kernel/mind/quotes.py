"""What an intent only quotes: a net under every model, in code.

    remember that Bob said "kill counter"        counter stands in a quotation: not an order
    kill "counter"                               the quotation is the name itself: an order

A destructive call is left out of a program when each mention of its object stands inside a
quotation that says more than the name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from syscalls.table import TABLE

if TYPE_CHECKING:
    from syscalls.calls import llm

PAIRS = ("“”", "‘’", "「」", "『』", "«»", "《》", '""', "``")
_QUOTED = "|".join(f"{pair[0]}([^{pair}]*){pair[1]}" for pair in PAIRS)
# An apostrophe opens before a word that no letter touches, and closes after one.
_QUOTATION = re.compile(
    _QUOTED + r"|(?<![^\W_])'(?=\S)([^']*(?:(?<=[^\W_])'(?=[^\W_])[^']*)*)'(?![^\W_])"
)
OBJECTS = ("target", "query", "rid", "adapter", "handle")


def quotations(text: str) -> list[tuple[int, int]]:
    """Where the quotations are: from after the opening mark to before the closing one."""
    return [match.span(match.lastindex or 0) for match in _QUOTATION.finditer(text)]


def only_quoted(planned: llm.Planned, text: str) -> bool:
    """Whether a destructive call is named by quoted text alone."""
    entry = TABLE.by_name.get(planned.call)
    if entry is None or not entry.destructive:
        return False
    named = [str(planned.args[name]) for name in OBJECTS if planned.args.get(name)]
    spans = quotations(text)
    return bool(spans) and any(_inside(name, text, spans) for name in named)


def _inside(name: str, text: str, spans: list[tuple[int, int]]) -> bool:
    word = re.escape(name)
    if name[:1].isascii() and name[:1].isalnum():
        word = rf"(?<![A-Za-z0-9]){word}"
    if name[-1:].isascii() and name[-1:].isalnum():
        word = rf"{word}(?![A-Za-z0-9])"
    mentions = [match.span() for match in re.finditer(word, text, re.IGNORECASE)]
    return bool(mentions) and all(
        any(
            start <= at and stop >= end and text[start:stop].strip(" .,!?。，！？") != text[at:end]
            for start, stop in spans
        )
        for at, end in mentions
    )
