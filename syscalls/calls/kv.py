"""Activation memory: KV caches as attachable state. Numbers 112-127."""

from typing import Annotated, Literal

from msgspec import Meta

from syscalls.shapes import ChatMessage, Rid, Shape, Target
from syscalls.table import Call, syscall

HandleName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$", description="what a pinned prefix is called"
    ),
]


class Handle(Shape):
    """A pinned prefix."""

    handle: str
    tokens: int = 0
    """Tokens whose state is kept; vLLM keeps whole blocks only."""
    bytes: int = 0
    cached: int = 0
    """Tokens that did not have to be computed now."""
    seconds: float = 0.0
    """What it took."""


@syscall(112, "kv.pin", reply=Handle)
class Pin(Call, kw_only=True):
    """Compute and keep the model state of messages, records, or what a query finds.

    Give one of the three. Records are shown as marked data; the pin follows them: it says what
    they say now, and one that is forgotten takes the pin with it. The pin belongs to the
    caller's space: any process that works in it can attach it, now and after a reboot. ``name``
    replaces a pin of that name once the new one is computed, and not if that fails; until then
    both count. Without one it is ``pin-N``. Raises ENODEV (no model), EINVAL
    (the engine keeps no state, or the prefix is too short or too long for it), ENOENT, EPERM,
    EDQUOT (``kv``), EAGAIN (no room among what the engine may pin), EIO.
    """

    query: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    rids: Annotated[list[Rid], Meta(min_length=1, max_length=2000)] | None = None
    name: HandleName = ""
    adapter: str | None = None
    """The adapter under which it is computed; default the one attached to the caller."""


@syscall(113, "kv.attach")
class Attach(Call, kw_only=True):
    """Put a pinned prefix before the caller's generations, or those of ``target``.

    It replaces what was attached before. Raises ENOENT, EPERM, ECONFLICT (a source of it was
    corrected: pin it anew), ESRCH.
    """

    handle: HandleName
    target: Target | None = None


@syscall(114, "kv.drop", destructive=True)
class Drop(Call, kw_only=True):
    """Give a pinned prefix back: it is detached everywhere and its state erased."""

    handle: HandleName


class Prefix(Shape, omit_defaults=False):
    """One pinned prefix of a space."""

    handle: str
    made_by: Literal["pin", "promotion"]
    state: Literal["kept", "pending", "stale"]
    """``pending``: not computed, or to be computed anew; ``stale``: see ``why``."""
    tier: Literal["engine", "ram", "disk", "none"]
    """Where the greater part of its state is now."""
    tokens: int
    bytes: int
    hits: int
    """Generations that began with it and did not compute it."""
    saved: float
    """Seconds of computing that they saved."""
    prefill: float
    """Seconds that computing all of it costs."""
    sources: list[str]
    """Rids of all that it was made from."""
    attached: list[int]
    """APIDs of the processes before whose generations it is put."""
    text: str
    """How it begins."""
    adapter: str = ""
    why: str = ""
    by: int = 0
    created: float = 0.0
    used: float = 0.0


class Listed(Shape):
    """Pinned prefixes with tokens, bytes, tier, hits and saved seconds."""

    prefixes: list[Prefix]
    bytes: int = 0
    """What they take together, of ``limit``."""
    limit: int = 0
    saved: float = 0.0
    promote: bool = False
    """Whether prefixes are pinned by themselves."""


@syscall(115, "kv.list", reply=Listed)
class ListCall(Call, kw_only=True):
    """List the pinned prefixes of the caller's space."""


@syscall(116, "kv.detach")
class Detach(Call, kw_only=True):
    """Put nothing before the caller's generations any more, or before those of ``target``.

    Raises ENOENT when nothing was attached.
    """

    target: Target | None = None


class Cooled(Shape):
    """The record that a pin has become."""

    rid: Rid


@syscall(117, "kv.cool", reply=Cooled)
class Cool(Call, kw_only=True):
    """Turn a pinned prefix back into text: a record with its words and sources; then drop it.

    Raises ENOENT, EDQUOT (records).
    """

    handle: HandleName
