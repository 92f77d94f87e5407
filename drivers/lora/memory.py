"""The bound on a training process's memory, and how to tell that it was met. No model library."""

from __future__ import annotations

import resource
from pathlib import Path

from syscalls.errors import EDQUOT

SAYINGS = (
    "allocate memory",  # torch and the C library
    "bad_alloc",
    "memory allocation of",  # Rust
    "not enough memory",
    "out of memory",  # CUDA
    "can't start new thread",
    "Thread creation failed",
)
"""How the libraries say it."""


def bound(limit: int) -> None:
    """Let this process have ``limit`` bytes of private memory from now on. Raises EDQUOT.

    Called once the libraries are loaded: they do not take it well in the middle of that (some
    try again for ever).
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next((int(line.split()[1]) for line in lines if line.startswith("VmData:")), 0) * 1024
    if used >= limit:
        raise exceeded(limit)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def ran_out(error: BaseException) -> bool:
    """Whether this is how Python or a library says that there is no memory left."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and said_so(str(error))


def said_so(text: str) -> bool:
    """Whether a text ends a process that ran out."""
    return any(saying in text for saying in SAYINGS)


def exceeded(limit: int) -> EDQUOT:
    """The error for it."""
    return EDQUOT(
        f"training needs more than {limit} bytes of memory",
        hint="allow more, or take a smaller `batch`, `rank` or `longest`",
        limit=limit,
        quota="most_bytes",
    )
