"""What a space grows by, for who counts it: the kernel's accounts, or nobody."""

from typing import Protocol


class Meter(Protocol):
    """Told of each change of the stored sizes. Both are over at once, and change no space."""

    def admit(self, space: int, records: int, size: int) -> None:
        """Asked before so many more records and bytes are written for a caller. Raises EDQUOT."""

    def grew(self, space: int, records: int, size: int) -> None:
        """So many more (or less) records and bytes are on their way to the disk."""


class NoMeter:
    """Counts nothing."""

    def admit(self, space: int, records: int, size: int) -> None:
        """Everything."""

    def grew(self, space: int, records: int, size: int) -> None:
        """Nothing."""
