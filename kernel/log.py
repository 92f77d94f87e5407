"""The kernel's log: a ring that ``dmesg`` reads, and stderr."""

import sys
from datetime import datetime

from drivers.contracts import Clock
from kernel.feed import Feed
from syscalls.shapes import Level, LogLine

RANK: dict[str, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Log(Feed[LogLine]):
    """Call it with a level, a source and a text."""

    def __init__(self, clock: Clock, size: int, stderr_level: Level | None) -> None:
        super().__init__(size)
        self._clock = clock
        self._least = RANK[stderr_level] if stderr_level else len(RANK)

    def __call__(self, level: Level, source: str, text: str) -> None:
        """Write one line; ``source`` is the part of the kernel or the driver that speaks."""
        line = LogLine(self.written + 1, self._clock.now(), level, source, text)
        self.append(line)
        if RANK[level] >= self._least:
            when = datetime.fromtimestamp(line.at).strftime("%H:%M:%S.%f")[:-3]
            sys.stderr.write(f"{when} {level:7} {source}: {text}\n")
            sys.stderr.flush()
