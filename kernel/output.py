"""What a process writes to its standard output and error, kept for who asks later."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

KEPT = 256 * 1024
READ = 65536


class OutputRing:
    """The last ``KEPT`` bytes of one process's output, with their offset."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._end = 0
        self._more = trio.Event()
        self.closed = False

    @property
    def end(self) -> int:
        """Bytes written so far."""
        return self._end

    def append(self, data: bytes) -> None:
        """Add what came."""
        self._data += data
        self._end += len(data)
        if len(self._data) > KEPT:
            del self._data[: len(self._data) - KEPT]
        self._wake()

    def close(self) -> None:
        """Say that nothing more will come."""
        self.closed = True
        self._wake()

    def since(self, offset: int) -> tuple[int, bytes]:
        """What is kept from ``offset`` on, and the offset it really begins at."""
        first = self._end - len(self._data)
        at = min(max(offset, first), self._end)
        return at, bytes(self._data[at - first :])

    async def follow(self, offset: int) -> AsyncGenerator[tuple[int, bytes], None]:
        """Pieces from ``offset`` on, until the output is closed."""
        while True:
            more = self._more
            at, data = self.since(offset)
            if data:
                offset = at + len(data)
                yield at, data
            elif self.closed:
                return
            else:
                await more.wait()

    async def pump(self, fd: int) -> None:
        """Read a pipe until its end, and close it; another one may come after it."""
        os.set_blocking(fd, False)
        try:
            while True:
                try:
                    data = os.read(fd, READ)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(fd)
                    continue
                if not data:
                    return
                self.append(data)
        finally:
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    def _wake(self) -> None:
        self._more.set()
        self._more = trio.Event()
