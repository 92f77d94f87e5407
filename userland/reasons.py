"""Why a search found a record, in words: one phrase for each signal that had a part in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from userland.screen import short

if TYPE_CHECKING:
    from syscalls.calls.mem import Hits
    from syscalls.records import Hit, Parts
    from userland.context import Context

_WORD = re.compile(r"[^\W_]{2,}")
LEAST = 0.05
"""A part below this, either way, is not worth a word."""
_FOR = {
    "dense": "near in meaning",
    "lexical": "words in common",
    "graph": "tied to what the query names",
    "time": "of a time that the query names",
    "activation": "used recently or often",
    "context": "the lines around it are about it",
    "session": "another record of its session is a good one",
    "nearby": "what was written around the same time is about it",
    "voice": "said by, or about, whom the query names",
    "form": "it tells and does not ask",
}
_AGAINST = {
    "dense": "not near in meaning",
    "context": "the lines around it are about something else",
    "session": "its session is about something else",
    "nearby": "what was written around the same time is about something else",
    "form": "it is itself a question",
    "activation": "long not used",
}


def reasons(hit: Hit, query: str) -> list[str]:
    """What spoke for the hit, the strongest first, then what spoke against it."""
    parts: Parts | None = hit.parts
    if parts is None:
        return []
    said = []
    for name, value in msgspec.structs.asdict(parts).items():
        if abs(value) < LEAST:
            continue
        phrase = _FOR.get(name, name) if value > 0 else _AGAINST.get(name, f"not {name}")
        if name == "lexical" and (shared := in_common(hit.content, query)):
            phrase += f" ({', '.join(shared)})"
        said.append((value, f"{phrase} {value:+.2f}"))
    said.sort(key=lambda one: -one[0])
    return [phrase for _, phrase in said]


def in_common(content: str, query: str) -> list[str]:
    """The words of a query that a text has as they are, at most five; others by their stem."""
    there = {word.casefold() for word in _WORD.findall(content)}
    wanted = dict.fromkeys(word.casefold() for word in _WORD.findall(query))
    return [word for word in wanted if word in there][:5]


def origin(hit: Hit) -> str:
    """Where the hit comes from, and whether it should be relied on."""
    source = hit.provenance
    told = f"written by {source.call} of process {source.writer}, version {source.version}"
    if source.taint != "user":
        told += f", from a {source.taint}"
    if source.sources:
        told += f"; made from {', '.join(source.sources)}"
    if hit.stale:
        told += f"; stale: {hit.stale}"
    return told


def show_reasons(context: Context, found: Hits, query: str) -> None:
    """Each hit with what spoke for and against it, and where it comes from."""
    if context.json:
        context.value(found)
        return
    for number, hit in enumerate(found.hits, 1):
        context.screen.line(f"{number}. {short(hit.content)}")
        said = "; ".join(reasons(hit, query)) or "no signal had a part in it"
        context.screen.line(f"   {hit.rid}, score {hit.score:.2f}: {said}")
        context.screen.line(f"   {origin(hit)}")
    if not found.hits:
        context.screen.line("nothing is found")
    if found.degraded:
        context.screen.problem(f"without {', '.join(found.degraded)}: see `engram info`")
