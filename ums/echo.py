"""What memory hears again: text that it handed out itself and that comes back as if it were new.

A process that was given a record and stores what it says has learned nothing, and what it
stores is no evidence. So what was handed to a process is remembered for as long as it lives,
sentence by sentence as hashes, and a sentence that it writes is an echo when one of those
stands in it, whatever its marks, its case, and what is put before or after it.

It is bounded: of one process the last sentences count, and the last processes that were given
anything. What is forgotten here is caught where it matters, in ``ums.learning``: a fact is
never made twice, and what a fact's own record says word for word does not support it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from ums.extract import LONGEST, sentences

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ums.records import Stored

LEAST = 3
"""Words that a sentence must have to be known again; of characters without blanks, too."""
MOST = 8192
"""Sentences of one process."""
PROCESSES = 512
THOROUGH = 20_000
"""Words of one text that are looked through; beyond that whole sentences are compared."""
WHOLE = 64_000
"""Characters of one record that are taken in."""

_TOKENS = re.compile(r"[぀-ヿ㐀-鿿가-힣]|\w+")


def tokens(text: str) -> list[str]:
    """The words of a text, without case and marks; a character each where there are no blanks."""
    return _TOKENS.findall(unicodedata.normalize("NFKC", text).casefold())


def contains(whole: list[str], part: list[str]) -> bool:
    """Whether one list of words stands in another, in one piece."""
    size = len(part)
    return bool(part) and any(whole[at : at + size] == part for at in range(len(whole) - size + 1))


class EchoStatistics(msgspec.Struct, frozen=True):
    """Figures since the start."""

    processes: int
    sentences: int
    """Those that are remembered."""
    heard: int
    """Sentences that came back."""


class _Handed:
    """What one process was given."""

    __slots__ = ("hashes", "lengths")

    def __init__(self) -> None:
        self.hashes: OrderedDict[int, int] = OrderedDict()
        self.lengths: dict[int, int] = {}

    def add(self, words: list[str]) -> None:
        key = hash(tuple(words))
        if key in self.hashes:
            self.hashes.move_to_end(key)
            return
        self.hashes[key] = len(words)
        self.lengths[len(words)] = self.lengths.get(len(words), 0) + 1
        if len(self.hashes) > MOST:
            _, size = self.hashes.popitem(last=False)
            self.lengths[size] -= 1
            if not self.lengths[size]:
                del self.lengths[size]

    def stands_in(self, words: list[str], *, thorough: bool) -> bool:
        if hash(tuple(words)) in self.hashes:
            return True
        sizes = [size for size in self.lengths if size < len(words)] if thorough else []
        return any(
            hash(tuple(words[at : at + size])) in self.hashes
            for size in sizes
            for at in range(len(words) - size + 1)
        )


class Echoes:
    """What was handed to whom."""

    def __init__(self) -> None:
        self._handed: OrderedDict[int, _Handed] = OrderedDict()
        self._heard = 0

    def hand(self, apid: int, texts: Iterable[str]) -> None:
        """Note that a process is given these texts."""
        handed = self._handed.get(apid)
        if handed is None:
            handed = self._handed[apid] = _Handed()
            if len(self._handed) > PROCESSES:
                self._handed.popitem(last=False)
        else:
            self._handed.move_to_end(apid)
        for text in (whole[:WHOLE] for whole in texts):
            for start, stop in sentences(text):
                words = tokens(text[start:stop])
                if LEAST <= len(words) <= LONGEST:
                    handed.add(words)

    def fork(self, parent: int, child: int) -> None:
        """A fork was handed what its parent was."""
        handed = self._handed.get(parent)
        if handed is not None:
            copy = self._handed[child] = _Handed()
            copy.hashes, copy.lengths = handed.hashes.copy(), handed.lengths.copy()
            if len(self._handed) > PROCESSES:
                self._handed.popitem(last=False)

    def drop(self, apid: int) -> None:
        """Forget a process."""
        self._handed.pop(apid, None)

    def mark(self, stored: Stored, before: str = "") -> None:
        """Mark what of a record its writer was handed before; the whole of it is ``recalled``.

        What the record said already (``before``) is no echo of itself.
        """
        handed = self._handed.get(stored.writer)
        stored.echoes = []
        if handed is None or stored.taint == "recalled" or stored.fact is not None:
            return
        own = {tuple(tokens(before[start:stop])) for start, stop in sentences(before)}
        fresh, left = False, THOROUGH
        for start, stop in sentences(stored.content):
            words = tokens(stored.content[start:stop])
            left -= len(words)
            if tuple(words) not in own and handed.stands_in(words, thorough=left > 0):
                stored.echoes.append((start, stop))
            elif len(words) >= LEAST:
                fresh = True
        self._heard += len(stored.echoes)
        if stored.echoes and not fresh:
            stored.taint = "recalled"

    def statistics(self) -> EchoStatistics:
        """Figures for ``sys.stats``."""
        return EchoStatistics(
            len(self._handed), sum(len(h.hashes) for h in self._handed.values()), self._heard
        )
