"""What can be set about memory, in one frozen struct, and what it is given to work with."""

from typing import Protocol

import msgspec

from syscalls.shapes import Level


class Log(Protocol):
    """Where memory says what a person may have to know."""

    def __call__(self, level: Level, source: str, text: str) -> None:
        """Write one line; ``source`` names the part that speaks."""


class Weights(msgspec.Struct, frozen=True):
    """How much each signal counts in a search; see ``ums.recall.fuse``."""

    dense: float = 1.0
    lexical: float = 1.5
    cjk_dense: float = 0.5
    """In place of ``dense`` when the whole query is CJK."""
    cjk_lexical: float = 2.0
    """In place of ``lexical`` when the whole query is CJK."""
    dense_floor: float = 0.05
    """Least deviation of similarities: differences below it are noise."""
    lexical_floor: float = 0.25
    """The same for word scores, as a part of the best one."""


class MemorySettings(msgspec.Struct, frozen=True):
    """Times are in seconds, sizes in bytes."""

    weights: Weights = Weights()
    patience: float = 15.0
    """How long a search without a deadline waits for the embedder."""
    candidates: int = 60
    """Least number of candidates from each index."""
    open_spaces: int = 256
    """Spaces whose indexes are kept open."""
    index_memory: int = 4 << 30
    """Memory of the open indexes together."""
    lexical_page: int = 512
    """Most changes applied at once; between pages a search gets its turn."""
    dense_page: int = 256
    lexical_rate: float = 2000.0
    """Changes a second that indexing is expected to manage. A search waits for an index
    that would be up to date before its deadline, else it is degraded."""
    dense_rate: float = 250.0
    lexical_workers: int = 2
    dense_workers: int = 8
    linger: float = 0.05
    """How long background indexing waits for more changes to come."""
    flush_after: float = 30.0
    """How long an applied change may stay in an index's memory only."""
    housekeeping: float = 5.0
    """Time between two sweeps of expired records and checkpoints of sums."""
    retry: float = 1.0
    """Pause after an index or the embedder failed."""
