"""What leaves a space as bytes and comes as bytes: capsules, originals. Numbers 82, 83, 93, 94.

Of the group ``mem``. The format of a capsule is ``syscalls.capsule``.
"""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.capsule import BlobHash, Left
from syscalls.shapes import Rid, Shape, SpaceRef, Taint
from syscalls.table import Call, syscall


class Redact(Shape, forbid_unknown_fields=True):
    """A rule for what an export leaves out: what fits all that is given of it.

    What was made from such a record, or quotes one, is left out with it.
    """

    kind: str | None = None
    tags: list[str] = []
    """All of these."""
    meta: dict[str, Any] = {}
    """These keys with these values."""
    taint: Taint | None = None


class CapsulePiece(Shape):
    """Bytes of a capsule, in order."""

    at: int
    data: bytes


class Exported(Shape, omit_defaults=False):
    """What went into the capsule."""

    bytes: int
    records: int
    versions: int
    facts: int
    blobs: int
    left: list[Left] = []
    """What each rule left out."""
    missing: list[str] = []
    """Originals that records name and that are not there, or altered."""
    seal: str = ""
    """64 hexadecimal digits that name this capsule and no other."""


@syscall(82, "mem.export", reply=Exported, chunk=CapsulePiece)
class Export(Call, kw_only=True):
    """Stream a space, as far as the caller may read it, as a checksummed capsule.

    The caller keeps the bytes; the kernel writes no file. ``at`` goes on from there, given the
    ``digest`` (SHA-256, hexadecimal) of the bytes before. Raises ECONFLICT when the space has
    changed since: a snapshot does not.
    """

    space: SpaceRef | None = None
    redact: Annotated[list[Redact], Meta(max_length=64)] = []
    new: bool = False
    """Only what was first written to the space itself, since it was forked from another."""
    at: Annotated[int, Meta(ge=0)] = 0
    digest: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""


class Imported(Shape, omit_defaults=False):
    """What was taken."""

    records: int
    known: int
    """Records that were there already, or had been and were deleted since: left as they are."""
    versions: int
    facts: int
    blobs: int
    unnamed: int = 0
    """Records whose key another one has here: they came without it."""
    seal: str = ""


@syscall(83, "mem.import", reply=Imported)
class Import(Call, kw_only=True):
    """Take the records of an uploaded capsule into a space; all of it is checked before.

    ``seal`` is what the capsule's seal must be, where it is known from elsewhere; ``taint``
    marks all records. The same again adds nothing. Raises EINVAL (cut off, altered), EDQUOT.
    """

    capsule: BlobHash
    seal: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    taint: Taint | None = None
    space: SpaceRef | None = None


class Uploaded(Shape, omit_defaults=False):
    """How far an upload is."""

    at: int
    """Bytes that are there."""
    done: bool
    """Whether all are, and the hash is theirs."""


@syscall(93, "mem.upload", reply=Uploaded, capability="mem.write")
class Upload(Call, kw_only=True):
    """Give the kernel an original (a file), a piece after another; named by its hash.

    A record keeps it by naming it in ``meta["blob"]``; what no record names is dropped after
    a day. ``at`` is where the piece begins; without ``data`` it is asked how far the upload is.
    Raises EINVAL (wrong place, the hash is another), EDQUOT.
    """

    hash: BlobHash
    size: Annotated[int, Meta(ge=0)]
    at: Annotated[int, Meta(ge=0)] = 0
    data: Annotated[bytes, Meta(max_length=4 * 1024 * 1024)] = b""
    space: SpaceRef | None = None


class Downloaded(Shape, omit_defaults=False):
    """A piece of an original; empty at its end."""

    hash: str
    size: int
    at: int
    data: bytes


@syscall(94, "mem.download", reply=Downloaded, capability="mem.read")
class Download(Call, kw_only=True):
    """A piece of the original that a record names, from ``at``.

    Raises ENOENT (no such record, or it names none), EIO (missing or altered).
    """

    rid: Rid
    at: Annotated[int, Meta(ge=0)] = 0
    space: SpaceRef | None = None
