"""Parametric memory: LoRA adapters. Numbers 128-143.

An adapter belongs to the space whose records it was trained in. ``NAME`` is whatever version is
live; ``NAME@VERSION`` a certain one.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from syscalls.records import Filter
from syscalls.shapes import Rid, Seconds, Shape, Target
from syscalls.table import Call, syscall

Query = Annotated[str, Meta(min_length=1, max_length=4000)]
JobState = Literal["waiting", "running", "done", "refused", "failed", "cancelled", "stale"]


class Job(Shape):
    """A training job."""

    job: str


@syscall(128, "lora.train", reply=Job)
class Train(Call, kw_only=True):
    """Train an adapter from records or examples in a process of its own.

    Of the caller's space: the records ``rids``, those that ``query`` finds (``k`` at most), or
    that fit ``filter``. ``examples`` are ``{"prompt", "completion"}``, with the rids that they
    were made from in ``sources``, so that forgetting reaches them; for nano a ``program`` (a
    list of ``{"call", "args"}``) in place of the completion. ``base`` is ``nano`` or ``model``;
    empty for the model that is attached, else nano. ``held_out`` is the share set aside first.

    The new version goes live only if it answers what was set aside better than before and the
    base's other answers stay; else it is refused, and its figures are kept. Follow the job with
    ``lora.job``. Raises EINVAL (no record, nothing to learn from, a record of another space),
    EAGAIN (another one is being trained; ``retry_after``), EDQUOT, ENODEV (no such base), EPERM.
    """

    name: str
    rids: list[Rid] = []
    examples: list[dict[str, Any]] = []
    base: str = ""
    rank: Annotated[int, Meta(ge=0, le=256)] = 0
    """0: what suits the base, as with the three below."""
    query: Query | None = None
    filter: Filter | None = None
    k: Annotated[int, Meta(ge=1, le=1000)] = 100
    epochs: Annotated[int, Meta(ge=0, le=10_000)] = 0
    steps: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    learning_rate: Annotated[float, Meta(ge=0, le=1)] = 0.0
    batch: Annotated[int, Meta(ge=0, le=4096)] = 0
    seed: int = 0
    held_out: Annotated[float, Meta(ge=0, lt=1)] = 0.25
    seconds: Seconds = 1800.0
    """The most that it may take."""


@syscall(129, "lora.attach")
class Attach(Call, kw_only=True):
    """Use an adapter for a process's generations from its next request on.

    By its name it follows the live version, by ``NAME@VERSION`` it stays. ``everyone``: for all
    that work in the caller's space, those to come too, also after a restart. The owner of an
    adapter may attach it to other processes of his. Raises ENOENT, EPERM, ESRCH, ECONFLICT (it
    was refused, is stale, or is for another model).
    """

    adapter: str
    target: Target | None = None
    everyone: bool = False


@syscall(130, "lora.detach")
class Detach(Call, kw_only=True):
    """Stop using an adapter for a process.

    ``base`` narrows it to ``nano`` or ``model``; ``everyone`` undoes an attach for a space.
    """

    target: Target | None = None
    base: str = ""
    everyone: bool = False


class AdapterInfo(Shape):
    """One version of an adapter."""

    name: str
    version: int
    base: str
    """``nano`` or ``model``."""
    state: str
    """training, refused, live, retired, stale (a source is gone) or dropped."""
    identity: str = ""
    why: str = ""
    """Why it was refused, is stale or was dropped."""
    doubt: str = ""
    """Why it may be out of date: a source says something else now."""
    rank: int = 8
    examples: int = 0
    figures: dict[str, float] = {}
    """Shares of right answers before and after: probes, and what must not be lost."""
    sources: list[str] = []
    """Rids of the records that it was trained on."""
    attached: list[int] = []
    """APIDs."""
    everyone: bool = False
    """Whether all that work in the space use it."""
    bytes: int = 0
    created: float = 0.0


class Listed(Shape):
    """Adapters with versions, sources and figures."""

    adapters: list[AdapterInfo]


@syscall(131, "lora.list", reply=Listed)
class ListCall(Call, kw_only=True):
    """List the adapters.

    ``all``: also the versions that are stale or dropped.
    """

    adapter: str = ""
    all: bool = False


@syscall(132, "lora.drop", destructive=True)
class Drop(Call, kw_only=True):
    """Delete an adapter's versions: all of them, or with ``NAME@VERSION`` one. Raises ENOENT."""

    adapter: str


class TrainingProgress(Shape):
    """Where a job is."""

    phase: str
    """load, before, train, after, save."""
    step: int = 0
    of: int = 0
    """0 until it is known."""
    loss: float = 0.0
    seconds: float = 0.0


class JobInfo(Shape, omit_defaults=False):
    """A training job, now or at its end."""

    job: str
    state: JobState
    adapter: AdapterInfo
    progress: TrainingProgress | None = None


@syscall(133, "lora.job", reply=JobInfo, chunk=TrainingProgress, capability="lora.list")
class JobCall(Call, kw_only=True):
    """Say how a training job is; with ``follow`` its progress comes in chunks until the end.

    Raises ENOENT.
    """

    job: str
    follow: bool = False


@syscall(134, "lora.cancel", reply=JobInfo, capability="lora.train")
class Cancel(Call, kw_only=True):
    """End a training job; nothing of it is kept. Raises ENOENT, ECONFLICT when it is over."""

    job: str


class Rolled(Shape, omit_defaults=False):
    """The version that is live now."""

    name: str
    version: int
    identity: str


@syscall(135, "lora.rollback", reply=Rolled, capability="lora.train")
class Rollback(Call, kw_only=True):
    """Make an earlier version of an adapter the live one; who has it attached follows at once.

    ``version`` 0 is the one before. Raises ENOENT, ECONFLICT (it was refused, is stale, or was
    dropped).
    """

    adapter: str
    version: Annotated[int, Meta(ge=0)] = 0


class Probed(Shape, omit_defaults=False):
    """One question, and what was answered with the adapter attached."""

    question: str
    answer: str
    right: bool
    """Whether it is what the sources say."""
    sources: list[str]
    """Rids of the records that the question was made from."""
    rid: str = ""
    """The record of the answer."""


class Probes(Shape, omit_defaults=False):
    """What an adapter still knows."""

    identity: str
    probes: list[Probed]
    right: int
    sources: list[str]
    """Rids of the records that the adapter was made from."""


@syscall(136, "lora.probe", reply=Probes, chunk=Probed)
class Probe(Call, kw_only=True):
    """Ask an adapter about its sources and record what it says: parameters back to text.

    Questions are made from the records that it was trained on, as for its training; those that
    were set aside come first. With ``record`` each answer becomes a semantic record of the kind
    ``probe`` that rests on those records. Raises ENOENT, ECONFLICT, ENODEV, EDQUOT, ETIME.
    """

    adapter: str
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    record: bool = True
    stream: bool = False
    max_tokens: Annotated[int, Meta(ge=1, le=4096)] = 64
    deadline: Seconds | None = None
