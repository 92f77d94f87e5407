"""The life of records: archive, undo, tidy, why. Numbers 88-91, of the group ``mem``."""

from typing import Annotated

from msgspec import Meta

from syscalls.shapes import RecordState, Rid, Shape, SpaceRef, Task
from syscalls.table import Call, syscall


class Act(Shape):
    """One change of a record's state, done or (in a dry run) to be done."""

    rid: str
    event: str
    """pin, unpin, merge, archive, restore, forget, delete, expire, cool, warm, undo."""
    before: RecordState
    after: RecordState
    why: str = ""
    at: float = 0.0
    by: int = 0
    """APID of who asked for it; 0 is the kernel."""
    action: int = 0
    """Number that all changes of one run share; ``mem.undo`` takes it."""
    other: str = ""
    """Rid of the record that it was merged into."""
    until: float = 0.0
    """Until when it can be undone; 0 for never."""


class Acts(Shape, omit_defaults=False):
    """What was done, or would be."""

    acts: list[Act]


@syscall(88, "mem.archive", reply=Acts)
class Archive(Call, kw_only=True):
    """Compress a record and take it out of the indexes; it can be read, and had back whole.

    ``restore`` has it back. Raises ENOENT, EPERM, ECONFLICT when it is pinned.
    """

    rid: Rid
    restore: bool = False
    space: SpaceRef | None = None


@syscall(89, "mem.undo", reply=Acts, capability="mem.forget")
class Undo(Call, kw_only=True):
    """Take back the last change of a record's state, or all of a run (``action``).

    A pin, a merge, an archive, a forget; within the retention period. A forgotten record is
    back with all its versions. What ``mem.delete`` erased is not. Raises ENOENT when nothing
    can be undone, ECONFLICT when its key names another record by now, EPERM.
    """

    rid: Rid | None = None
    action: int | None = None
    space: SpaceRef | None = None


class Tidied(Shape, omit_defaults=False):
    """What a run did, or would do."""

    acts: list[Act]
    action: int
    """Its number, for ``mem.undo``; 0 for a dry run."""
    read: int
    """Records that were looked at."""
    complete: bool
    """False when the budget ended before the work did."""


@syscall(90, "mem.tidy", reply=Tidied, capability="mem.forget")
class Tidy(Call, kw_only=True):
    """Keep a space small: merge near duplicates, make cold, archive, forget, by the policy.

    ``tasks`` narrows it to some of these. ``room`` has the least worth archived until so many
    records are left. ``dry_run`` only says what would be done, and why. The budget is
    ``records`` looked at and ``seconds``. Pinned records and the working segment are never
    touched. Raises ENOENT, EPERM.
    """

    tasks: Annotated[list[Task], Meta(max_length=4)] = []
    room: Annotated[int, Meta(ge=0)] | None = None
    dry_run: bool = False
    records: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    seconds: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    space: SpaceRef | None = None


class Moment(Shape):
    """One line of a story."""

    at: float
    said: str


class Story(Shape, omit_defaults=False):
    """The life of a record in words, or (without a rid) what happened lately in a space."""

    rid: str
    state: str
    tier: str
    """hot, warm, cold, archive."""
    activation: float
    """Base-level activation; 0 is one use a second ago, and each use and each day counts."""
    lines: list[Moment]
    sources: list[str] = []
    """Rids that it was made from, or that were merged into it."""
    acts: list[Act] = []
    """The changes of state, oldest first; of a space the newest first."""


@syscall(91, "mem.why", reply=Story, capability="mem.read")
class Why(Call, kw_only=True):
    """Say what became of a record, when, and why. Without a rid: of the records of a space.

    Also of one that is archived or forgotten. Raises ENOENT, EPERM.
    """

    rid: Rid | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    space: SpaceRef | None = None
