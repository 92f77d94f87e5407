"""What can be set about memory, in one frozen struct, and what it is given to work with."""

from typing import Protocol

import msgspec

from syscalls.errors import EINVAL
from syscalls.shapes import Level


class Log(Protocol):
    """Where memory says what a person may have to know."""

    def __call__(self, level: Level, source: str, text: str) -> None:
        """Write one line; ``source`` names the part that speaks."""


class Weights(msgspec.Struct, frozen=True):
    """How much each signal counts in a search; 0 turns it off. See ``docs/recall.md``."""

    dense: float = 1.0
    """For a similarity one standard deviation above the candidates' mean."""
    lexical: float = 0.16
    """For one unit of BM25."""
    share: float = 2.3
    """For a record that has all that the query's words are worth (part of ``lexical``)."""
    context: float = 1.7
    """For words of the neighbours in a conversation, in place of its own."""
    context_dense: float = 0.2
    """For the neighbours' similarity."""
    session: float = 0.4
    """For the best score in the session."""
    nearby: float = 0.3
    """For the mean score of what was written around the same time."""
    voice: float = 2.5
    """For a speaker whom the query names."""
    time: float = 3.5
    """For a time that the query names."""
    form: float = 0.8
    """Against a question."""
    graph: float = 1.0
    activation: float = 0.0
    cjk_dense: float = 0.15
    """In place of ``dense`` when the whole query is CJK; raise it to that of ``dense`` for a
    multilingual embedder."""
    dense_floor: float = 0.03
    """Least deviation of similarities: differences below it are noise."""


SIGNALS = {
    "dense": ("dense", "cjk_dense"),
    "lexical": ("lexical", "share"),
    "context": ("context", "context_dense"),
    "session": ("session",),
    "nearby": ("nearby",),
    "voice": ("voice",),
    "time": ("time",),
    "form": ("form",),
    "graph": ("graph",),
    "activation": ("activation",),
}
"""The signals of a search, by the names of ``Parts``, with their weights."""


def weighted(text: str) -> Weights:
    """The weights with those that a text such as ``voice=0,time=2`` names. Raises EINVAL.

    ``NAME=0`` of a signal sets all of its weights.
    """
    values: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise EINVAL(f"the weight {part!r} is no number") from None
        if name not in Weights.__struct_fields__:
            known = ", ".join(Weights.__struct_fields__)
            raise EINVAL(f"there is no weight {name!r}", hint=f"there are {known}")
        fields = SIGNALS.get(name, (name,)) if number == 0 else (name,)
        values.update(dict.fromkeys(fields, number))
    return Weights(**values)


class MemorySettings(msgspec.Struct, frozen=True):
    """Times are in seconds, sizes in bytes."""

    weights: Weights = Weights()
    patience: float = 15.0
    """How long a search without a deadline waits for the embedder."""
    candidates: int = 60
    """Least number of candidates from each index."""
    depth: int = 200
    """Candidates, best first, of which a search looks at the record and not only the indexes."""
    neighbours: int = 40
    """Candidates whose neighbours in the conversation are looked at too."""
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
    audit_lines: int = 1000
    """Uses by others that each space remembers."""
    uses_after: float = 2.0
    """How long a use may be only in memory: what a crash loses of them."""
    retry: float = 1.0
    """Pause after an index or the embedder failed."""
