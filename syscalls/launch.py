"""What the kernel tells a new process about itself: the contract with the userland runtime.

The zygote is given the *name* of a runtime module and imports it once. The module offers

    def resolve(program: str, cwd: str) -> Resolved      in the zygote, before the fork
    def main(channel_fd: int, launch: Launch) -> int     in the child, after the fork

and, where it knows programs that say themselves what they want (``DECLARED``),

    def describe(program: str, cwd: str) -> Wants        in the zygote, before a spawn

``resolve`` says what a program's name stands for and raises ENOENT (there is none), EPERM
(it may not be executed) or EINVAL; it runs in the process that everything is forked from,
so it imports no agent, starts no thread and opens nothing that stays open. ``main`` runs a
Python agent on the descriptor of its channel to the kernel and returns the exit status,
0 to 255. An executable does not meet ``main``: it is exec'ed and finds

    fd 3            its channel (the wire format of ``wire.py``)
    ENGRAM_FD=3     the same, for programs that would rather be told
    ENGRAM_APID     its APID

and so do Python agents in their environment, with the number of their own descriptor.
"""

from typing import Any, Literal

import msgspec

from syscalls.shapes import Quota, Shape

LaunchKind = Literal["python", "exec"]

FD_VARIABLE = "ENGRAM_FD"
APID_VARIABLE = "ENGRAM_APID"
DECLARED = ".md"
"""Ending of programs that say themselves what they want."""


class Resolved(msgspec.Struct, frozen=True):
    """What a program's name stands for."""

    kind: LaunchKind
    program: str
    """``python``: a dotted module or the absolute path of a file; ``exec``: an absolute path."""


class Wants(Shape):
    """What a declared program asks for; whoever spawns it may say otherwise, and give less."""

    name: str = ""
    goal: str = ""
    caps: list[str] | None = None
    quota: Quota = Quota()
    nice: int = 0
    space: str = ""


class Launch(Shape, kw_only=True):
    """One process to start."""

    apid: int
    program: str
    """As it was asked for; in ``main`` what it resolved to."""
    kind: LaunchKind = "python"
    """Set from ``Resolved`` by the zygote; what the kernel puts here is not looked at."""
    name: str = ""
    args: list[str] = []
    goal: str = ""
    space: int = 0
    """Number of the process's own space."""
    cwd: str = ""
    """Working directory; empty for the kernel's."""
    env: dict[str, str] = {}
    """Added to the zygote's environment."""
    forked: int = 0
    """APID of the process that it was forked from; 0 for none."""
    state: Any = None
    """What was declared as its state: by the one that it was forked from, or by itself before."""
    quota: Quota = Quota()
    """``memory``, ``files`` and ``children`` are enforced by the operating system."""
