"""Spaces that wait to be worked on in the background."""

from __future__ import annotations

import trio


class Backlog:
    """Spaces that wait to be worked on, each once, first come first served."""

    def __init__(self) -> None:
        self._spaces: dict[int, float] = {}
        """With the time when they came."""
        self._come = trio.Event()

    def __len__(self) -> int:
        return len(self._spaces)

    def add(self, space: int) -> None:
        """Put a space at the end, if it is not waiting already."""
        if space not in self._spaces:
            self._spaces[space] = trio.current_time()
            self._come.set()

    async def take(self, linger: float) -> int:
        """The next space, ``linger`` seconds after it came at the soonest.

        Changes that follow each other closely are then applied together; a search in
        between does not wait for this but applies what it needs.
        """
        await trio.lowlevel.checkpoint()
        while True:
            while not self._spaces:
                self._come = trio.Event()
                await self._come.wait()
            due = next(iter(self._spaces.values())) + linger
            if due <= trio.current_time():
                break
            await trio.sleep_until(due)  # another worker may have taken it meanwhile
        space = next(iter(self._spaces))
        del self._spaces[space]
        return space
