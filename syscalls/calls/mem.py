"""Memory: the records of a space. Numbers 64-95."""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.records import (
    AuditLine,
    Evidence,
    Fact,
    Filter,
    Grant,
    Hit,
    Note,
    Record,
    SpaceInfo,
    Version,
)
from syscalls.shapes import (
    Access,
    ChatMessage,
    Content,
    Rid,
    Seconds,
    Segment,
    Shape,
    SpaceRef,
    Tags,
    Taint,
    Target,
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
    list. ``as_of`` answers with what was so at that time (which may be before 1970), and
    ``known_at`` with what was believed then. ``prefix`` lists by key, those that begin so, in
    their order, archived ones too; ``after`` (a key) continues that. Raises ENOENT, EPERM.
    """

    rid: Rid | None = None
    key: str | None = None
    prefix: Annotated[str, Meta(min_length=1, max_length=400)] | None = None
    after: str = ""
    version: Annotated[int, Meta(ge=1)] | None = None
    segment: Segment | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    before: Rid | None = None
    as_of: float | None = None
    known_at: float | None = None
    space: SpaceRef | None = None


class Hits(Shape, omit_defaults=False):
    """Best first. ``degraded`` names signals that could not take part (no embedder)."""

    hits: list[Hit]
    degraded: list[str] = []


@syscall(67, "mem.search", reply=Hits, capability="mem.read")
class Search(Call, kw_only=True):
    """Find records by meaning and by words, in the caller's space and what is shared with it.

    ``space`` narrows it to one. ``as_of`` answers with what was so at that time, ``known_at``
    with what was believed then; without them a fact that a newer one has replaced is left out,
    unless ``include_archived``. ``deadline`` is how many seconds it may wait for the embedder
    before it answers without it.
    """

    query: Query
    segments: list[Segment] | None = None
    k: Annotated[int, Meta(ge=1, le=1000)] = 10
    filter: Filter | None = None
    as_of: float | None = None
    known_at: float | None = None
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
    fact: Fact | None = None
    evidence: Annotated[list[Evidence], Meta(max_length=64)] | None = None
    expect: Annotated[int, Meta(ge=1)] | None = None
    space: SpaceRef | None = None
    """Where it is changed, if several spaces have it."""


@syscall(69, "mem.delete", destructive=True)
class Delete(Call, kw_only=True):
    """Erase a record: its content and that of all its versions. Its history says when and who.

    A snapshot or fork that has it too keeps it, until it is deleted there as well: only then
    it is gone from the disk. Raises ENOENT, ECONFLICT, EPERM.
    """

    rid: Rid
    expect: Annotated[int, Meta(ge=1)] | None = None
    space: SpaceRef | None = None


class Forgotten(Shape):
    """The records that were forgotten, or would be."""

    rids: list[str]
    kept: list[str] = []
    """Found too, but pinned."""
    action: int = 0
    """Number of the run, for ``mem.undo``."""


@syscall(70, "mem.forget", reply=Forgotten, destructive=True)
class Forget(Call, kw_only=True):
    """Forget what a query finds, with everything derived from it.

    A query finds the records with all its words in them, or else the one nearest to it with
    most of them. The content is erased, that of all versions and merged duplicates too; a
    tombstone says when, who and why. Until the retention period is over ``mem.undo`` brings
    it back; ``mem.delete`` erases at once and for good. Raises ENOENT, EPERM, ECONFLICT when
    the record is pinned.
    """

    query: Query | None = None
    rid: Rid | None = None
    dry_run: bool = False
    space: SpaceRef | None = None


class Versions(Shape):
    """Oldest first."""

    versions: list[Version]


@syscall(71, "mem.history", reply=Versions, capability="mem.read")
class History(Call, kw_only=True):
    """All versions of a record."""

    rid: Rid
    space: SpaceRef | None = None


@syscall(72, "mem.pin", reply=Records)
class Pin(Call, kw_only=True):
    """Keep records from being demoted, merged, archived or forgotten.

    ``query`` finds as for ``mem.forget``. Only who may write it can still change or delete a
    pinned record, and its time to live still ends it. Raises ENOENT, EPERM.
    """

    query: Query | None = None
    rid: Rid | None = None
    space: SpaceRef | None = None


@syscall(73, "mem.unpin", reply=Records, capability="mem.pin")
class Unpin(Call, kw_only=True):
    """Undo a pin."""

    query: Query | None = None
    rid: Rid | None = None
    space: SpaceRef | None = None


class Context(Shape):
    """Messages for a model, stable prefix first, and what is in them."""

    messages: list[ChatMessage]
    tokens: int = 0
    """Of all messages."""
    exact: bool = False
    """Whether the attached model's tokenizer counted them; else they are estimated."""
    shown: list[str] = []
    """Rids of what is in them, in order."""
    cut: list[str] = []
    """Those of ``shown`` of which only the beginning is."""
    left: list[str] = []
    """Rids of what did not fit: pinned, working, then recalled records."""
    paged_out: list[str] = []
    """Rids of what went from working to episodic memory just now; search finds it there."""


@syscall(74, "mem.context", reply=Context, capability="mem.read")
class ContextCall(Call, kw_only=True):
    """Assemble the working context for a model within a budget of tokens, and page out.

    Pinned records come first, then working memory in order of time, then what ``query`` recalls.
    The budget holds by the attached model's tokenizer where it answers in time, else by an
    estimate. What does not fit is named. Raises EINVAL (the query alone is over the budget).
    """

    budget_tokens: Annotated[int, Meta(ge=1)] = 2048
    query: str = ""


class Granted(Shape):
    """The grant that is now in force."""

    grant: Grant


@syscall(75, "mem.share", reply=Granted)
class Share(Call, kw_only=True):
    """Let another process read (or read and write) a space; default the caller's own.

    ``rid`` narrows it to one record with its history, ``filter`` to what fits it; ``ttl`` is
    after how many seconds it ends. Who has got a share may pass on what is in it: less, and
    not for longer; it ends with the one it came from. Raises ESRCH, ENOENT, EPERM.
    """

    to: Target
    access: Access = "read"
    space: SpaceRef | None = None
    rid: Rid | None = None
    filter: Filter | None = None
    ttl: Seconds | None = None


@syscall(76, "mem.revoke", capability="mem.share")
class Revoke(Call, kw_only=True):
    """Take shares of a space back, with what was passed on of them; effective at once.

    All that ``to`` holds, or the one numbered ``grant``; who does not own the space takes back
    what it gave itself. Raises ENOENT when there is none.
    """

    to: Target
    space: SpaceRef | None = None
    grant: int | None = None


@syscall(77, "mem.attach", capability="mem.read")
class Attach(Call, kw_only=True):
    """Put a space, as it is now, under the caller's own as a read-only layer.

    Its records are found, read and listed as if they were the caller's; a change copies one
    up. What rests on a share ends with it. ``detach`` takes it away. Raises ENOENT, EPERM,
    EEXIST, EINVAL when one of the two was made from the other.
    """

    space: SpaceRef
    detach: bool = False


Entity = Annotated[str, Meta(min_length=1, max_length=400)]


@syscall(78, "mem.link", reply=Written)
class Link(Call, kw_only=True):
    """Relate two entities: writes the fact as a semantic record of kind ``link``.

    ``functional`` says that the subject has one such object at a time, so that this one
    supersedes what contradicts it; by default well-known relations are (``lives_in``, ...). The
    relation ``also_known_as`` makes two names one entity. Raises what ``mem.write`` does.
    """

    subject: Entity
    relation: Annotated[str, Meta(min_length=1, max_length=200)]
    object: Annotated[str, Meta(min_length=1, max_length=4000)]
    valid_from: float | None = None
    valid_to: float | None = None
    sources: list[Rid] = []
    functional: bool | None = None
    evidence: Annotated[list[Evidence], Meta(max_length=64)] = []
    space: SpaceRef | None = None


class GraphNode(Shape):
    """One entity."""

    name: str
    hops: int
    """How far from the one that was asked about."""
    also: list[str] = []
    """Its other names."""


class GraphEdge(Shape):
    """What relates two entities, with the records that say so."""

    subject: str
    relation: str
    object: str
    rids: list[str]
    """Newest first; of many the first few."""
    since: float | None = None
    """None for always."""
    until: float | None = None
    count: int = 1
    """How many records say so."""


class Graph(Shape, omit_defaults=False):
    """Entities and what relates them: nearest first, then by name."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]
    paths: list[list[str]] = []
    """The shortest ones, as names, where ``to`` was given."""
    more: bool = False
    """Whether something was left out for the limit."""
    behind: int = 0
    """Changes that the graph does not have yet: it is still being built."""


@syscall(79, "mem.graph", reply=Graph, capability="mem.read")
class GraphCall(Call, kw_only=True):
    """Ask the entity graph: what is within some hops of an entity, or the shortest paths.

    An entity goes by any of its names, in any case. ``to`` asks for paths (of at most ``hops``,
    by default 6) in place of the neighbourhood (by default 1). ``as_of`` and ``known_at`` are
    those of ``mem.search``. ``mentions`` adds entities that are only named together. It waits
    ``deadline`` seconds at most for a graph that is being built. Raises ENOENT (no such
    entity), ENODEV (no graph), EIO.
    """

    entity: Entity
    to: Entity | None = None
    hops: Annotated[int, Meta(ge=1, le=6)] | None = None
    relation: Annotated[str, Meta(max_length=200)] = ""
    """Only these edges."""
    as_of: float | None = None
    known_at: float | None = None
    mentions: bool = False
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    """Most edges."""
    space: SpaceRef | None = None
    deadline: Seconds | None = None


@syscall(85, "mem.facts", reply=Records, capability="mem.read")
class Facts(Call, kw_only=True):
    """The facts about an entity under any of its names, the oldest event first.

    Those that hold now, or ``as_of`` a time and as ``known_at`` a time; with ``all`` those that
    were superseded or have ended too. Raises ENOENT (no space), EPERM.
    """

    entity: Entity
    relation: Annotated[str, Meta(max_length=200)] = ""
    as_of: float | None = None
    known_at: float | None = None
    all: bool = False
    space: SpaceRef | None = None


class Snapshotted(Shape):
    """The space of the snapshot."""

    space: int


@syscall(81, "mem.snapshot", reply=Snapshotted)
class Snapshot(Call, kw_only=True):
    """Keep the space as it is now under a name, at constant cost.

    The snapshot is a space of its own, which can be read, searched and shared, and is not
    written. Raises EEXIST, EPERM, EAGAIN while there are too many layers.
    """

    name: Annotated[str, Meta(max_length=200)] = ""
    space: SpaceRef | None = None


@syscall(84, "mem.stat", reply=SpaceInfo, capability="mem.read")
class Stat(Call, kw_only=True):
    """Size, segments, indexes and grants of a space; default the caller's own."""

    space: SpaceRef | None = None


class AuditLog(Shape, omit_defaults=False):
    """Newest first."""

    lines: list[AuditLine]


@syscall(92, "mem.audit", reply=AuditLog)
class Audit(Call, kw_only=True):
    """Who used a space that is not his own: which records, or what query, and when.

    Of the caller's space, or one it holds ``mem.audit:space/N`` for. ``by`` narrows it to one
    process (also one that has ended), ``rid`` to one record; ``before`` continues a list.
    """

    space: SpaceRef | None = None
    by: int | None = None
    rid: Rid | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    before: int | None = None
