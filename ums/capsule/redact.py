"""What an export leaves out: what fits a rule, what was made from it, and what quotes it.

A record is out when any of its versions fits a rule. Then those are out that name one that is
out among their sources or their evidence, and so on; and those that hold, word for word, a
stretch of what one that fits a rule says: a copy may have lost its lineage.

Out of a space of any size this keeps, for what is out only, 16 bytes a record and its text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from syscalls.capsule import Left
from syscalls.records import Filter
from ums import records as form
from ums.recall.sieve import matches
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from syscalls.calls.capsule import Redact
    from ums.records import Stored
    from ums.view import Allows, View

QUOTED = 32
"""Characters that make a quotation; of a shorter text all of it."""
ANCHOR = 12
"""Characters by which a quotation is looked for; a text that is shorter is in too much."""
PAGE = 64


class Quotes:
    """Finds stretches of some texts in others, without regard to case and blanks."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[tuple[str, int]]] = {}

    def add(self, text: str, rule: int) -> None:
        """Look for stretches of this text, that a rule leaves out."""
        plain = _plain(text)
        for start in range(0, max(1, len(plain) - QUOTED + 1), QUOTED):
            piece = plain[start : start + QUOTED]
            if len(piece) >= ANCHOR:
                self._pieces.setdefault(piece[:ANCHOR], []).append((piece, rule))

    def within(self, text: str) -> int | None:
        """The rule of which a text holds a stretch; None for none."""
        if not self._pieces:
            return None
        plain, pieces = _plain(text), self._pieces
        for at in range(len(plain) - ANCHOR + 1):
            for piece, rule in pieces.get(plain[at : at + ANCHOR], ()):
                if plain.startswith(piece, at):
                    return rule
        return None


class Redaction:
    """The records of one space that some rules leave out."""

    def __init__(self, rules: Sequence[Redact], allows: Allows | None = None) -> None:
        self._allows = allows
        self._rules = [(rule, Filter(rule.kind, rule.tags, rule.meta)) for rule in rules]
        self._out: dict[bytes, int] = {}
        self.left = [Left(_words(rule)) for rule in rules]
        """What each rule left out."""

    def __contains__(self, packed: bytes) -> bool:
        return packed in self._out

    async def prepare(self, view: View) -> None:
        """Find what is out: passes over the space, until one finds nothing more."""
        if not self._rules:
            return
        quotes = Quotes()
        for place, packed, versions in _walk(view, self._allows):
            await _breathe(place)
            rule = self._fits(versions)
            if rule is not None:
                self._out[packed] = rule
                self.left[rule].records += 1
                for stored in versions:
                    quotes.add(stored.content, rule)
        more = bool(self._out)
        while more:
            more = False
            for place, packed, versions in _walk(view, self._allows):
                await _breathe(place)
                if packed in self._out:
                    continue
                rule = self._derived(versions, quotes)
                if rule is not None:
                    self._out[packed] = rule
                    self.left[rule].derived += 1
                    more = True

    def _fits(self, versions: Sequence[Stored]) -> int | None:
        for number, (rule, fits) in enumerate(self._rules):
            for stored in versions:
                if (rule.taint is None or stored.taint == rule.taint) and matches(fits, stored):
                    return number
        return None

    def _derived(self, versions: Sequence[Stored], quotes: Quotes) -> int | None:
        for stored in versions:
            for rid in (*stored.sources, *(one.rid for one in stored.evidence)):
                rule = self._out.get(pack(rid))
                if rule is not None:
                    return rule
            rule = quotes.within(stored.content)
            if rule is not None:
                return rule
        return None


def _walk(view: View, allows: Allows | None) -> Iterator[tuple[int, bytes, list[Stored]]]:
    """Place from 1, rid and all versions of each record, oldest record first.

    Of those that may be read only: how many others fit a rule is nobody's business either.
    """
    stack = view.stack
    for place, (packed, value) in enumerate(stack.ascend(), 1):
        if allows is not None and not allows(unpack(packed), form.decode(value)):
            continue
        yield place, packed, [form.decode(value) for value in stack.versions(packed)]


async def _breathe(place: int) -> None:
    """Let others have their turn now and then."""
    if place % PAGE == 0:
        await trio.lowlevel.checkpoint()


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(rule: Redact) -> str:
    said = [f"kind {rule.kind}"] if rule.kind is not None else []
    said += [f"tag {tag}" for tag in rule.tags]
    said += [f"{key} {value!r}" for key, value in rule.meta.items()]
    said += [f"taint {rule.taint}"] if rule.taint is not None else []
    return " and ".join(said) or "everything"
