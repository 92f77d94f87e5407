"""What the kernel asks of its drivers. One file, so that a driver can be replaced.

Every implementation passes the suite in ``tests/conformance/``. Drivers are given their
clock and the way to run blocking work (``Offload``); they never reach for globals, so the
whole system also runs in one process on a virtual clock.

Truth and derivation:

    Store ──journal (sequence numbers)──> VectorIndex, LexicalIndex   (derived, rebuildable)

An index remembers the last sequence number it has applied (``position``). It may be absent,
stale or damaged: then it opens at an earlier position, or at 0, and is fed again.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy
    from numpy.typing import NDArray

    Vectors = NDArray[numpy.float32]

T = TypeVar("T")


class Clock(Protocol):
    """Time, as the kernel sees it."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds that never go back; the origin means nothing."""


class Offload(Protocol):
    """Runs blocking work away from the kernel's loop (or inline, in a simulation)."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run ``work`` and return its result or raise its error.

        The work is not abandoned when the caller is cancelled: it is waited for.
        """


# --- the store


Bucket = Literal[
    "meta",
    "spaces",
    "records",
    "versions",
    "keys",
    "idem",
    "grants",
    "procs",
    "mail",
    "whiteouts",
    "blobs",
    "prefixes",
]
"""The named maps of a store. Keys are 1 to 500 bytes and ordered bytewise."""


class Batch(msgspec.Struct):
    """One atomic change, as data.

    First every expectation is checked against the state that the batches before this one
    left; if one fails nothing of this batch is done. Then deletes, puts and journal entries
    happen together.
    """

    puts: list[tuple[Bucket, bytes, bytes]] = []
    deletes: list[tuple[Bucket, bytes]] = []
    expect: list[tuple[Bucket, bytes, bytes | None]] = []
    """``(bucket, key, value)``: the exact value now there; None for none."""
    journal: list[tuple[int, bytes]] = []
    """``(stream, payload)``: appended to the stream (a space's number) under the next
    sequence number of the store."""


class Mismatch(Exception):
    """An expectation of a batch did not hold; nothing of the batch was done."""

    def __init__(self, index: int) -> None:
        super().__init__(f"expectation {index} does not hold")
        self.index = index
        """Position in ``Batch.expect``."""


class StoreStatistics(msgspec.Struct, frozen=True):
    """Figures of a store since it was opened, but for the sizes."""

    commits: int
    """Transactions made durable."""
    batches: int
    """Batches acknowledged."""
    mismatches: int
    pending: int
    """Batches that wait for the next commit."""
    largest_group: int
    """Most batches that shared one commit."""
    bytes_used: int
    seq: int
    """Last sequence number given out."""


class Frozen(Protocol):
    """What a store held at one moment, to be read whatever is committed since.

    It costs nothing to make, but what is erased meanwhile takes up room until it is closed.
    Reading raises EAGAIN where the store could not keep it: then begin again.
    """

    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        """As of ``Store``, and so are the others."""

    def get_many(self, bucket: Bucket, keys: Sequence[bytes]) -> list[bytes | None]:
        """Several values."""

    def scan(
        self, bucket: Bucket, start: bytes, stop: bytes, *, limit: int = 0, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Items with ``start <= key < stop`` in order."""

    def journal(self, stream: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Entries of a stream above ``after``."""

    def last(self, stream: int) -> int:
        """The stream's last sequence number."""

    def close(self) -> None:
        """Let go of it. Again is nothing."""


class Store(Protocol):
    """Ordered maps with atomic batches and a journal. Acknowledged means on disk."""

    async def commit(self, batch: Batch) -> list[int]:
        """Apply ``batch``, durably, and return the sequence numbers of its journal entries.

        Batches are applied in the order of the calls. Those that are waiting at the same
        time share one commit. A caller that is already cancelled changes nothing; after that
        the call cannot be cancelled, so that its outcome is always known.

        Raises Mismatch; EIO with ``detail["driver"] == "store"`` when the disk is full or
        fails, and then nothing of the batch has happened.
        """

    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        """The acknowledged value, or None."""

    def get_many(self, bucket: Bucket, keys: Sequence[bytes]) -> list[bytes | None]:
        """Several values from one moment."""

    def scan(
        self, bucket: Bucket, start: bytes, stop: bytes, *, limit: int = 0, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Items with ``start <= key < stop`` in order; ``limit`` 0 means all."""

    def journal(self, stream: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Entries of a stream with sequence numbers above ``after``, in order."""

    def last(self, stream: int) -> int:
        """The stream's last sequence number; 0 when it has none."""

    def freeze(self) -> Frozen:
        """What is acknowledged now, and perhaps what is about to be; to be closed soon."""

    def statistics(self) -> StoreStatistics:
        """Figures for ``/proc`` and metrics."""

    async def aclose(self) -> None:
        """Finish what is pending and close."""


# --- derived indexes


class IndexStatistics(msgspec.Struct, frozen=True):
    """Figures of one index."""

    kind: str
    position: int
    entries: int
    bytes_disk: int
    bytes_memory: int
    rebuilt: str
    """Why it had to start from nothing at the last opening; empty when it did not."""


class Located(msgspec.Struct, frozen=True):
    """One candidate of an index; a higher score is better."""

    rid: str
    score: float


class Rebuild(Protocol):
    """Work on a copy or an immutable part of an index, to be done while that goes on serving."""

    def run(self) -> None:
        """Do it, in any thread, for minutes where the index is large.

        Raises OSError, or any error when the index is found to be damaged.
        """

    def cancel(self) -> None:
        """Have ``run`` end soon, with an error. From any thread."""

    def discard(self) -> None:
        """Remove what ``run`` has written; it will not be adopted."""


class VectorIndex(Protocol):
    """Vectors of one space. Not thread-safe: its owner calls it from one task at a time.

    It is exact while it is small. A large one may be approximate (at least 0.97 of the true
    ten nearest) once it was rebuilt.

    ``tag`` is a small number (0..63; the record's segment) by which a search can be narrowed
    inside the index, so that a narrowed search still finds k. Similarity is the inner
    product of unit vectors.
    """

    @property
    def position(self) -> int:
        """The last sequence number applied (and flushed or not)."""

    def apply(
        self,
        seq: int,
        upserts: Sequence[tuple[str, int]],
        vectors: Vectors,
        deletes: Sequence[str],
    ) -> None:
        """Apply changes up to ``seq``: ``upserts`` are (rid, tag), one row of ``vectors`` each.

        A rid that is named several times has all these vectors, and one tag. A rid that is
        there already is replaced, with all its vectors. Deleting an unknown rid is nothing.
        """

    def search(self, vector: Vectors, k: int, tags: frozenset[int] | None) -> list[Located]:
        """The ``k`` nearest records to a vector of shape (dimension,), best first.

        Of a record with several vectors the nearest counts.
        """

    def scores(self, vector: Vectors, rids: Sequence[str]) -> list[float | None]:
        """The similarity of each of ``rids``; None for one that is not there."""

    @property
    def wants_rebuild(self) -> bool:
        """Whether ``rebuild`` would have something to do. Cheap."""

    def rebuild(self) -> Rebuild | None:
        """Work that makes a large index fast, or a changed one small; one at a time."""

    def adopt(self, rebuild: Rebuild) -> None:
        """Take over what ``rebuild.run`` has made; changes since then stay in force.

        Raises EIO; the index is as before then.
        """

    def flush(self) -> None:
        """Write what is only in memory."""

    def close(self) -> None:
        """Flush and let go of files and memory."""

    def statistics(self) -> IndexStatistics:
        """Figures for ``/proc`` and metrics."""


class LexicalIndex(Protocol):
    """Words of one space; the same rules as for ``VectorIndex``."""

    @property
    def position(self) -> int:
        """The last sequence number applied."""

    def apply(
        self, seq: int, upserts: Sequence[tuple[str, int, str]], deletes: Sequence[str]
    ) -> None:
        """Apply changes up to ``seq``: ``upserts`` are (rid, tag, text)."""

    def search(self, query: str, k: int, tags: frozenset[int] | None) -> list[Located]:
        """The ``k`` best for any of the query's words (BM25), best first. Any text is valid."""

    def scores(self, query: str, rids: Sequence[str]) -> list[float]:
        """What ``search`` would give each of ``rids``; 0 for one that is not there."""

    def ceiling(self, query: str) -> float:
        """What a document of average length would score that has each of the query's words
        once; words that no document has count as the rarest ones do. 0 for no words."""

    def flush(self) -> None:
        """Write what is only in memory."""

    def close(self) -> None:
        """Flush and let go of files and memory."""

    def statistics(self) -> IndexStatistics:
        """Figures for ``/proc`` and metrics."""


class Tie(msgspec.Struct, frozen=True, order=True):
    """What a record says of two entities, for a stretch of event and of knowledge time."""

    rid: str
    subject: str
    """Key of an entity, as ``object``: the same for all spellings of its name."""
    relation: str
    object: str
    since: float = -inf
    until: float = inf
    known: float = -inf
    dropped: float = inf


class Mentioned(msgspec.Struct, frozen=True):
    """The entities of one record, with what it says of them."""

    rid: str
    names: dict[str, str]
    """Key and spelling of each; those of the ties are among them."""
    ties: list[Tie] = []


class GraphIndex(Protocol):
    """Entities of one space and what ties them; the same rules as for ``VectorIndex``.

    Answers are in a fixed order, the newest record first, and at most ``limit`` long.
    """

    @property
    def position(self) -> int:
        """The last sequence number applied."""

    def apply(self, seq: int, upserts: Sequence[Mentioned], deletes: Sequence[str]) -> None:
        """Apply changes up to ``seq``. A rid that is there already is replaced.

        An entity that no record mentions any more is gone.
        """

    def ties(self, entities: Sequence[str], as_of: float, known_at: float, limit: int) -> list[Tie]:
        """What ties any of these entities to others, in either direction, at a moment.

        A moment at infinity is the end of time: what is open holds there.
        """

    def mentions(self, entities: Sequence[str], limit: int) -> list[tuple[str, str]]:
        """Rid and entity, for the records that mention any of these."""

    def named(self, rids: Sequence[str]) -> dict[str, list[str]]:
        """The entities that each record mentions, sorted; nothing for one that is not there."""

    def names(self, entities: Sequence[str]) -> dict[str, str]:
        """The spelling of each entity that is there."""

    def flush(self) -> None:
        """Write what is only in memory."""

    def close(self) -> None:
        """Flush and let go of files and memory."""

    def statistics(self) -> IndexStatistics:
        """Figures for ``/proc`` and metrics."""


class GraphFactory(Protocol):
    """Opens the graph of a space; a damaged or foreign one opens empty at position 0."""

    def graph(self, space: int) -> GraphIndex:
        """The graph. Raises ENODEV when the library for it is not installed."""

    def remove(self, space: int) -> None:
        """Delete the files of a space's graph."""


class IndexFactory(Protocol):
    """Opens the indexes of a space in its folder; damaged ones open empty at position 0."""

    def vectors(self, space: int, dimension: int, fingerprint: str) -> VectorIndex:
        """The vector index of an embedder (fingerprint); each embedder has its own."""

    def retire(self, space: int, fingerprint: str) -> bool:
        """Delete the vector indexes of other embedders than this; whether there were any."""

    def lexical(self, space: int) -> LexicalIndex:
        """The lexical index."""

    def remove(self, space: int) -> None:
        """Delete the files of a space's indexes."""


# --- models


class EmbedderInfo(msgspec.Struct, frozen=True):
    """What an embedder is; known once it has loaded."""

    name: str
    dimension: int
    fingerprint: str
    """Hash of the weights and the settings that change vectors."""
    max_tokens: int


DriverState = Literal["absent", "starting", "ready", "failed", "stopped"]


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def state(self) -> DriverState:
        """``absent`` when none is configured."""

    @property
    def info(self) -> EmbedderInfo | None:
        """None until it is ready for the first time."""

    async def ready(self) -> EmbedderInfo:
        """Wait until it can serve. Raises ENODEV (absent), EIO (failed for good)."""

    async def embed(self, texts: Sequence[str], *, background: bool = False) -> Vectors:
        """Unit vectors of shape (len(texts), dimension), float32.

        Calls that wait at the same time share batches; ``background`` ones go after the
        others. Raises ENODEV, EIO.
        """

    def statistics(self) -> msgspec.Struct:
        """Figures for ``/proc`` and metrics."""
