"""Quotas: the limits of a process, and the account of what it has used. Sizes are bytes."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Flow = Literal["tokens", "prompt", "cached", "completion", "calls"]
"""What is used up, and can be given anew with time."""
Metered = Literal[
    "tokens", "prompt", "cached", "completion", "calls", "records", "bytes", "kv", "inflight",
    "children", "life",
]  # fmt: skip
"""What can have a soft limit; all but ``life`` is counted for whole subtrees and users."""


class Quota(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """Limits of a process. None means the kernel's default, and no limit where it has none.

    ``memory``, ``files`` and ``mailbox`` are for the process alone. Any other limit that is not
    the kernel's default binds the process and all that descend from it, together.
    """

    memory: Annotated[int, Meta(ge=16 << 20)] | None = None
    """Bytes of private writable memory (RLIMIT_DATA)."""
    files: Annotated[int, Meta(ge=16, le=65536)] | None = None
    """Open descriptors."""
    children: Annotated[int, Meta(ge=0, le=100000)] | None = None
    """Live child processes, those of the operating system included."""
    inflight: Annotated[int, Meta(ge=1, le=100000)] | None = None
    """Calls in flight at once."""
    mailbox: Annotated[int, Meta(ge=1, le=1000000)] | None = None
    """Messages waiting in the mailbox."""
    records: Annotated[int, Meta(ge=0)] | None = None
    """Records in the space."""
    kv: Annotated[int, Meta(ge=0)] | None = None
    """Bytes of keys and values that the pinned prefixes of the space may take."""
    bytes: Annotated[int, Meta(ge=0)] | None = None
    """Stored bytes: of records as they are encoded, and of originals."""
    tokens: Annotated[int, Meta(ge=0)] | None = None
    """Tokens that models compute: of prompts without those that were cached, of completions."""
    prompt: Annotated[int, Meta(ge=0)] | None = None
    """Tokens of prompts, the cached ones too."""
    cached: Annotated[int, Meta(ge=0)] | None = None
    """Tokens of prompts that were cached."""
    completion: Annotated[int, Meta(ge=0)] | None = None
    """Tokens of completions."""
    calls: Annotated[int, Meta(ge=0)] | None = None
    """Syscalls."""
    life: Seconds | None = None
    """Seconds from its start until it is ended, and what descends from it."""
    per: dict[Flow, Seconds] = {}
    """Seconds in which what is used up comes back, evenly; without an entry, or 0: never."""
    soft: dict[Metered, Annotated[float, Meta(ge=0)]] = {}
    """Above these a process and its parent are warned: a message of type ``quota``."""


class Allowance(msgspec.Struct):
    """One limit and what is used of it."""

    quota: Metered
    used: float
    hard: float | None = None
    soft: float | None = None
    per: float = 0.0
    """Seconds in which all of it comes back; 0 for never."""
    refills: float = 0.0
    """Seconds until nothing of it is used any more, where it comes back."""


class AccountInfo(msgspec.Struct):
    """What a process has used, or a process with all that descends from it, or a user."""

    whose: str
    """``process 12``, ``subtree of 12``, ``user 1000``."""
    apid: int = 0
    """0 for a user."""
    name: str = ""
    prompt: int = 0
    """Tokens of prompts; ``cached`` of them were not computed again."""
    cached: int = 0
    completion: int = 0
    tokens: int = 0
    """``prompt`` without ``cached``, and ``completion``."""
    calls: int = 0
    """Syscalls made; this and the tokens stay counted when a process has ended."""
    records: int = 0
    """Records in its spaces now."""
    bytes: int = 0
    """Stored bytes now: of those records, and of originals."""
    kv: int = 0
    """Bytes of the prefixes that are pinned in its spaces now."""
    inflight: int = 0
    children: int = 0
    life: float = 0.0
    """Seconds since it began; 0 for a user."""
    limits: list[Allowance] = []
    """Those that bind it as a whole."""


class QuotaWarning(msgspec.Struct):
    """Body of a message of type ``quota``, from init: a soft limit was passed."""

    whose: str
    allowance: Allowance
