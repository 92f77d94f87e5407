"""What leaves a tier when there is no room: GreedyDual-Size-Frequency.

    priority = age + frequency x seconds / bytes

``seconds`` is what computing a block again would cost. ``age`` is the priority of what left
last, so that nothing stays for what it was worth long ago. L. Cherkasova, "Improving WWW Proxies
Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs HPL-98-69R1, 1998.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Rank(NamedTuple):
    """The least goes first."""

    pinned: bool
    priority: float
    shallow: int
    """Minus the block's place in its prompt: without its beginning the rest is worth nothing."""
    number: int
    """Of the use: among equals the longest unused goes first."""
    name: str


class _Entry:
    __slots__ = ("bytes", "depth", "frequency", "rank", "seconds")

    def __init__(self, size: int, seconds: float, depth: int) -> None:
        self.bytes = size
        self.seconds = seconds
        self.depth = depth
        self.frequency = 0
        self.rank: _Rank | None = None


class Shelf:
    """Names with sizes. Not for several threads at once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._entries: dict[str, _Entry] = {}
        self._heap: list[_Rank] = []
        self._pins: dict[str, int] = {}
        self._age = 0.0
        self._number = 0

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, size: int, seconds: float, depth: int = 0) -> None:
        """Put one in, or use it once more. ``shrink`` comes next."""
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(size, seconds, depth)
        else:
            self.bytes -= entry.bytes
            entry.bytes, entry.seconds, entry.depth = size, seconds, depth
        self.bytes += size
        self.use(name)

    def use(self, name: str) -> None:
        """It was wanted. Unknown ones are let be."""
        if (entry := self._entries.get(name)) is not None:
            entry.frequency += 1
            self._number += 1
            worth = entry.frequency * entry.seconds / max(entry.bytes, 1)
            self._rank(name, entry, self._age + worth, self._number)

    def depth(self, name: str) -> int:
        """What it was added with; 0 for an unknown one."""
        entry = self._entries.get(name)
        return entry.depth if entry is not None else 0

    def remove(self, name: str) -> bool:
        """Take one out; whether it was in."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.bytes -= entry.bytes
        return entry is not None

    def pin(self, name: str) -> None:
        """It goes after all that are not pinned, until ``unpin`` was called as often."""
        self._pins[name] = self._pins.get(name, 0) + 1
        self._again(name)

    def unpin(self, name: str) -> None:
        """Undo one ``pin``."""
        self._pins[name] = self._pins.get(name, 1) - 1
        if self._pins[name] <= 0:
            del self._pins[name]
        self._again(name)

    def shrink(self, most: int) -> list[str]:
        """Let the least wanted go until no more than ``most`` bytes are in; their names."""
        gone = []
        while self.bytes > most:
            rank = heapq.heappop(self._heap)
            entry = self._entries.get(rank.name)
            if entry is None or entry.rank is not rank:
                continue  # it left, or was ranked anew
            if not rank.pinned:
                self._age = max(self._age, rank.priority)
            self.remove(rank.name)
            gone.append(rank.name)
        return gone

    def _again(self, name: str) -> None:
        if (entry := self._entries.get(name)) is not None and entry.rank is not None:
            self._rank(name, entry, entry.rank.priority, entry.rank.number)

    def _rank(self, name: str, entry: _Entry, priority: float, number: int) -> None:
        entry.rank = _Rank(name in self._pins, priority, -entry.depth, number, name)
        heapq.heappush(self._heap, entry.rank)
        if len(self._heap) > 4 * len(self._entries) + 64:
            self._heap = [each.rank for each in self._entries.values() if each.rank is not None]
            heapq.heapify(self._heap)
