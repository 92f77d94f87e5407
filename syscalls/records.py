"""Records: the structs of memory that calls carry and answer with.

Times are seconds since the Unix epoch (float). Optional fields are left out of the encoded form
when they hold their default.
"""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.shapes import (
    Access,
    Content,
    RecordState,
    Rid,
    Seconds,
    Segment,
    Shape,
    Tags,
    Taint,
)


class Fact(Shape, forbid_unknown_fields=True):
    """What a semantic record states, where it states one thing: subject, relation, object."""

    subject: Annotated[str, Meta(min_length=1, max_length=400)]
    relation: Annotated[str, Meta(min_length=1, max_length=200)]
    object: Annotated[str, Meta(min_length=1, max_length=4000)]
    functional: bool | None = None
    """Whether a subject has one object at a time, so that a newer one supersedes; by default
    what the table of well-known relations says (``lives_in``, ``works_at``, ``email``...)."""


class Evidence(Shape, forbid_unknown_fields=True):
    """The stretch of another record's content that says so, word for word."""

    rid: Rid
    start: Annotated[int, Meta(ge=0)]
    """Offset of the first character."""
    stop: Annotated[int, Meta(ge=1)]
    """Offset after the last character."""
    quote: str
    """The stretch itself; it must stand there."""


class Record(Shape):
    """One record of a space."""

    rid: str
    space: int
    segment: Segment
    content: str
    kind: str = ""
    key: str = ""
    """A name by which its writer finds it again; unique among a space's live records."""
    meta: dict[str, Any] = {}
    tags: list[str] = []
    importance: float = 0.5
    version: int = 1
    created: float = 0.0
    updated: float = 0.0
    valid_from: float | None = None
    valid_to: float | None = None
    expires: float | None = None
    sources: list[str] = []
    """Rids that this record was made from."""
    writer: int = 0
    """APID that wrote this version."""
    call: str = ""
    """Name of the syscall that wrote this version."""
    taint: Taint = "user"
    state: RecordState = "generated"
    fact: Fact | None = None
    evidence: list[Evidence] = []
    supersedes: str = ""
    """Rid of the fact that this one replaces."""
    superseded_by: str = ""
    """Rid of the fact that replaced this one; both are kept."""
    stale: str = ""
    """Why it should not be relied on: what it was made from has changed or is gone."""
    gaps: list[tuple[float, float]] = []
    """Stretches between ``valid_from`` and ``valid_to`` in which another fact was so."""


class Note(Shape, forbid_unknown_fields=True):
    """What ``mem.write_many`` takes for each record; the fields of ``mem.write``."""

    segment: Segment
    content: Content
    kind: Annotated[str, Meta(max_length=100)] = ""
    key: Annotated[str, Meta(max_length=400)] = ""
    meta: dict[str, Any] = {}
    tags: Tags = []
    importance: Annotated[float, Meta(ge=0, le=1)] = 0.5
    ttl: Seconds | None = None
    valid_from: float | None = None
    valid_to: float | None = None
    sources: list[Rid] = []
    taint: Taint = "user"
    idempotency: Annotated[str, Meta(max_length=200)] = ""
    fact: Fact | None = None
    evidence: Annotated[list[Evidence], Meta(max_length=64)] = []


class Filter(Shape, forbid_unknown_fields=True):
    """Narrows a search; every field that is given must hold."""

    kind: str | None = None
    tags: list[str] = []
    """All of these."""
    meta: dict[str, Any] = {}
    """These keys with these values."""
    writer: int | None = None
    since: float | None = None
    """Created at or after."""
    until: float | None = None
    """Created before."""


class Parts(Shape, omit_defaults=False):
    """What each signal contributed to a score; 0 where it was silent. They sum to the score."""

    dense: float = 0.0
    """Near in meaning."""
    lexical: float = 0.0
    """Words in common."""
    graph: float = 0.0
    """Tied to an entity that the query names."""
    time: float = 0.0
    """Of a time that the query names."""
    activation: float = 0.0
    """Used recently and often."""
    context: float = 0.0
    """What was said just before and after it in the conversation."""
    session: float = 0.0
    """The best of its session."""
    nearby: float = 0.0
    """What was written around the same time."""
    voice: float = 0.0
    """Said by, or about, somebody whom the query names."""
    form: float = 0.0
    """Negative for a question: it asks rather than tells."""


class Provenance(Shape):
    """Where a hit comes from."""

    space: int
    writer: int
    call: str
    created: float
    version: int
    sources: list[str] = []
    taint: Taint = "user"


class Hit(Shape):
    """One result of a search, best first."""

    rid: str
    content: str
    score: float
    segment: Segment
    provenance: Provenance
    kind: str = ""
    key: str = ""
    tags: list[str] = []
    meta: dict[str, Any] = {}
    parts: Parts | None = None
    """Only with ``explain``."""
    stale: str = ""
    """Why it should not be relied on, where that is so."""


class Version(Shape):
    """One step in a record's history."""

    version: int
    at: float
    writer: int
    call: str
    content: str | None
    """None where the content was erased by a delete."""
    state: RecordState = "generated"


class Grant(Shape):
    """Who else may use a space, or one record of it, or what fits a filter."""

    space: int
    apid: int
    access: Access
    granted: float = 0.0
    by: int = 0
    id: int = 0
    """Its number, never used again."""
    rid: str = ""
    """The one record that it is for."""
    filter: Filter | None = None
    """What a record must fit."""
    until: float | None = None
    """When it ends by itself."""
    parent: int = 0
    """The grant that it was passed on from, and ends with."""


class AuditLine(Shape):
    """One use of a space by a process that does not own it."""

    space: int
    apid: int
    call: str
    seq: int = 0
    """Number within the space."""
    at: float = 0.0
    rids: list[str] = []
    """The records that were answered with; of many the first hundred."""
    count: int = 0
    """How many they were."""
    query: str = ""
    about: str = ""
    """What was granted, taken back or attached."""


class SpaceInfo(Shape, omit_defaults=False):
    """A space and what it holds."""

    space: int
    name: str
    owner: int
    """APID that the space was made for."""
    created: float
    records: int
    by_segment: dict[str, int]
    bytes: int
    """Encoded size of the live records."""
    seq: int
    """Sequence number of the last change."""
    indexed: dict[str, int]
    """Sequence number that each derived index has reached."""
    grants: list[Grant]
    """Those in force; who does not own the space sees its own only."""
    layers: list[int] = []
    """Numbers of the layers it stands on, the one that is written first."""
    attached: list[int] = []
    """Spaces whose layers lie under its own, read-only."""
    origin: int = 0
    """The space that it was made from by a snapshot or a fork."""
    sealed: bool = False
    """Whether it is a snapshot, which nothing is written to."""
