"""Memory: the records of a space. Numbers 64-95."""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.shapes import (
    Access,
    ChatMessage,
    Content,
    Evidence,
    Fact,
    Filter,
    Grant,
    Hit,
    Note,
    Record,
    Rid,
    Seconds,
    Segment,
    Shape,
    SpaceInfo,
    SpaceRef,
    Tags,
    Taint,
    Target,
    Version,
)
from syscalls.table import Call, syscall

Query = Annotated[str, Meta(min_length=1, max_length=65536)]
Importance = Annotated[float, Meta(ge=0, le=1)]


class Written(Shape, omit_defaults=False):
    """The record that was written. It is on disk."""

    rid: str
    version: int = 1


@syscall(64, "mem.write", reply=Written)
class Write(Call, kw_only=True):
    """Write a record into a segment; durable when it returns, and found by the next search.

    ``key`` names the record: a second write with the same key adds a version to it.
    ``idempotency`` makes a repeated write return the first one's rid. ``ttl`` is seconds to
    live. Raises EDQUOT, EPERM, EIO (the disk is full).
    """

    segment: Segment
    content: Content
    kind: Annotated[str, Meta(max_length=100)] = ""
    key: Annotated[str, Meta(max_length=400)] = ""
    meta: dict[str, Any] = {}
    tags: Tags = []
    importance: Importance = 0.5
    ttl: Seconds | None = None
    valid_from: float | None = None
    valid_to: float | None = None
    sources: list[Rid] = []
    taint: Taint = "user"
    idempotency: Annotated[str, Meta(max_length=200)] = ""
    fact: Fact | None = None
    evidence: Annotated[list[Evidence], Meta(max_length=64)] = []
    space: SpaceRef | None = None


class WrittenMany(Shape):
    """The records in the order of the notes."""

    written: list[Written]


@syscall(65, "mem.write_many", reply=WrittenMany, capability="mem.write")
class WriteMany(Call, kw_only=True):
    """Write several records in one transaction: all of them or none."""

    notes: Annotated[list[Note], Meta(min_length=1, max_length=10000)]
    space: SpaceRef | None = None


class Records(Shape):
    """Records, newest first unless asked for by rid."""

    records: list[Record]


@syscall(66, "mem.read", reply=Records)
class Read(Call, kw_only=True):
    """Read a record by rid or key, or list the newest ones.

    ``version`` asks for an older version of the one record. ``before`` (a rid) continues a
    list. Raises ENOENT, EPERM.
    """

    rid: Rid | None = None
    key: str | None = None
    version: Annotated[int, Meta(ge=1)] | None = None
    segment: Segment | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    before: Rid | None = None
    space: SpaceRef | None = None


class Hits(Shape, omit_defaults=False):
    """Best first. ``degraded`` names signals that could not take part (no embedder)."""

    hits: list[Hit]
    degraded: list[str] = []


@syscall(67, "mem.search", reply=Hits, capability="mem.read")
class Search(Call, kw_only=True):
    """Find records by meaning and by words, in the caller's space and what is shared with it.

    ``space`` narrows it to one. ``as_of`` answers from an earlier time; ``deadline`` is how
    many seconds it may wait for the embedder before it answers without it.
    """

    query: Query
    segments: list[Segment] | None = None
    k: Annotated[int, Meta(ge=1, le=1000)] = 10
    filter: Filter | None = None
    as_of: float | None = None
    include_archived: bool = False
    explain: bool = False
    space: SpaceRef | None = None
    deadline: Seconds | None = None


@syscall(68, "mem.update", reply=Written, capability="mem.write")
class Update(Call, kw_only=True):
    """Add a version to a record: fields that are given replace those of the last version.

    ``expect`` is the version the caller read. Raises ECONFLICT when another came between,
    ENOENT, EPERM.
    """

    rid: Rid
    content: Content | None = None
    kind: str | None = None
    meta: dict[str, Any] | None = None
    tags: Tags | None = None
    importance: Importance | None = None
    ttl: Seconds | None = None
    valid_from: float | None = None
    valid_to: float | None = None
    sources: list[Rid] | None = None
    taint: Taint | None = None
    expect: Annotated[int, Meta(ge=1)] | None = None


@syscall(69, "mem.delete", destructive=True)
class Delete(Call, kw_only=True):
    """Erase a record: its content and that of all its versions. Its history says when and who."""

    rid: Rid
    expect: Annotated[int, Meta(ge=1)] | None = None


class Forgotten(Shape):
    """The records that were forgotten."""

    rids: list[str]


@syscall(70, "mem.forget", reply=Forgotten, destructive=True)
class Forget(Call, kw_only=True):
    """Forget what a query finds, with everything derived from it."""

    query: Query | None = None
    rid: Rid | None = None
    dry_run: bool = False


class Versions(Shape):
    """Oldest first."""

    versions: list[Version]


@syscall(71, "mem.history", reply=Versions, capability="mem.read")
class History(Call, kw_only=True):
    """All versions of a record."""

    rid: Rid


@syscall(72, "mem.pin", reply=Records)
class Pin(Call, kw_only=True):
    """Keep records from being demoted, archived or forgotten."""

    query: Query | None = None
    rid: Rid | None = None


@syscall(73, "mem.unpin", reply=Records, capability="mem.pin")
class Unpin(Call, kw_only=True):
    """Undo a pin."""

    query: Query | None = None
    rid: Rid | None = None


class Context(Shape):
    """Messages for a model, stable prefix first."""

    messages: list[ChatMessage]


@syscall(74, "mem.context", reply=Context, capability="mem.read")
class ContextCall(Call, kw_only=True):
    """Assemble the working context for a model within a budget of tokens."""

    budget_tokens: Annotated[int, Meta(ge=1)] = 2048
    query: str = ""


class Granted(Shape):
    """The grant that is now in force."""

    grant: Grant


@syscall(75, "mem.share", reply=Granted)
class Share(Call, kw_only=True):
    """Let another process read (or read and write) a space; default the caller's own.

    Only the owner's process, or who holds ``mem.share:space/N``, may. Raises ESRCH, EPERM.
    """

    to: Target
    access: Access = "read"
    space: SpaceRef | None = None


@syscall(76, "mem.revoke", capability="mem.share")
class Revoke(Call, kw_only=True):
    """Take a share back; effective from the next call. Raises ENOENT when there is none."""

    to: Target
    space: SpaceRef | None = None


@syscall(77, "mem.attach", capability="mem.read")
class Attach(Call, kw_only=True):
    """Put a space under the caller's own as a read-only layer."""

    space: SpaceRef


@syscall(78, "mem.link")
class Link(Call, kw_only=True):
    """Relate two entities of the caller's graph."""

    subject: str
    relation: str
    object: str
    valid_from: float | None = None
    valid_to: float | None = None
    sources: list[Rid] = []


class Graph(Shape):
    """Nodes and edges."""

    nodes: list[str]
    edges: list[list[str]]


@syscall(79, "mem.graph", reply=Graph, capability="mem.read")
class GraphCall(Call, kw_only=True):
    """Ask the entity graph: neighbours, paths, k hops, at a time."""

    entity: str
    to: str | None = None
    hops: Annotated[int, Meta(ge=1, le=6)] = 1
    as_of: float | None = None


@syscall(80, "mem.consolidate", reply=Records)
class Consolidate(Call, kw_only=True):
    """Turn episodes into facts, with evidence."""

    dry_run: bool = False


class Snapshotted(Shape):
    """The space of the snapshot."""

    space: int


@syscall(81, "mem.snapshot", reply=Snapshotted)
class Snapshot(Call, kw_only=True):
    """Keep the space as it is now under a name, at constant cost."""

    name: str = ""


class Exported(Shape):
    """Where the capsule was written."""

    path: str
    records: int


@syscall(82, "mem.export", reply=Exported)
class Export(Call, kw_only=True):
    """Write a space to a checksummed file."""

    path: str = ""
    space: SpaceRef | None = None


class Imported(Shape):
    """What was read."""

    records: int


@syscall(83, "mem.import", reply=Imported)
class Import(Call, kw_only=True):
    """Read a capsule, or the new records of a branch, into the caller's space."""

    path: str = ""
    space: SpaceRef | None = None


@syscall(84, "mem.stat", reply=SpaceInfo, capability="mem.read")
class Stat(Call, kw_only=True):
    """Size, segments, indexes and grants of a space; default the caller's own."""

    space: SpaceRef | None = None
