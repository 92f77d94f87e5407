"""A clock for tests that is moved by hand, and a log that nobody reads."""

from syscalls.shapes import Level


class HandClock:
    """Both clocks in one: ``time`` is set by the test, in seconds."""

    def __init__(self, time: float = 1_000_000.0) -> None:
        self.time = time

    def now(self) -> float:
        """The time."""
        return self.time

    def monotonic(self) -> float:
        """The same."""
        return self.time


def quiet(level: Level, source: str, text: str) -> None:
    """Say nothing."""
