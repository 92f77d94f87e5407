"""A feed: the last N items of a sequence, and readers who follow it.

The log and the trace are feeds. Writing never waits: a reader that is too slow loses items
and is told how many.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

import msgspec
import trio

T = TypeVar("T")

BACKLOG = 4096
"""Items that a follower may lag behind."""


class FeedStatistics(msgspec.Struct, frozen=True):
    """Figures of a feed."""

    written: int
    kept: int
    followers: int


class Follower(Generic[T]):
    """One reader's queue; iterate it for what comes after it was made."""

    def __init__(self, wanted: Callable[[T], bool]) -> None:
        self._wanted = wanted
        self._queue: deque[T] = deque()
        self._wake = trio.Event()
        self.lost = 0

    def offer(self, item: T) -> None:
        """Queue ``item`` if it is wanted and there is room."""
        if not self._wanted(item):
            return
        if len(self._queue) >= BACKLOG:
            self.lost += 1
            return
        self._queue.append(item)
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next item; there is always a next one, so only cancellation ends a loop."""
        while not self._queue:
            self._wake = trio.Event()
            await self._wake.wait()
        return self._queue.popleft()


class Feed(Generic[T]):
    """The ring and its followers."""

    def __init__(self, size: int) -> None:
        self._ring: deque[T] = deque(maxlen=size)
        self._followers: list[Follower[T]] = []
        self.written = 0

    @property
    def followed(self) -> bool:
        """Whether anybody follows; who writes may skip work when nobody does."""
        return bool(self._followers)

    def append(self, item: T) -> None:
        """Add an item; the oldest one falls out when the ring is full."""
        self.written += 1
        self._ring.append(item)
        for follower in self._followers:
            follower.offer(item)

    def tail(self, limit: int, wanted: Callable[[T], bool]) -> list[T]:
        """The last ``limit`` wanted items, oldest first."""
        found: list[T] = []
        for item in reversed(self._ring):
            if wanted(item):
                found.append(item)
                if len(found) == limit:
                    break
        found.reverse()
        return found

    @contextmanager
    def follow(self, wanted: Callable[[T], bool]) -> Iterator[Follower[T]]:
        """A follower, for as long as the block runs."""
        follower = Follower(wanted)
        self._followers.append(follower)
        try:
            yield follower
        finally:
            self._followers.remove(follower)

    def statistics(self) -> FeedStatistics:
        """Figures for ``/proc``."""
        return FeedStatistics(self.written, len(self._ring), len(self._followers))
