"""Capabilities: what a process may do, as sets of strings.

A grant is ``capability`` or ``capability:object``:

    mem.read              the call, on what is the caller's own (or was shared with it)
    mem.read:space/42     the call, on that object
    proc.signal:child     the call, on the caller's descendants
    proc.signal:*         the call, on anything
    mem.*                 every call of the group, on the caller's own
    mem.*:*               every call of the group, on anything
    *                     everything (what a person at a shell holds)

Grants are compiled once into a ``CapSet``, so that a check is one or two set look-ups.
A child's grants are narrowed to its parent's: ``narrow`` never yields more than it was
given.
"""

from collections.abc import Iterable
from functools import lru_cache

from syscalls.errors import EINVAL, EPERM
from syscalls.table import TABLE

ALL = "*"
OWN = "own"


class CapSet:
    """A compiled set of grants. Immutable; equal sets compare and hash equal."""

    __slots__ = ("_anything", "_exact", "_hash", "_some", "grants")

    def __init__(self, grants: Iterable[str]) -> None:
        self.grants: frozenset[str] = frozenset(grants)
        self._hash = hash(self.grants)
        exact: set[str] = set()
        anything: set[str] = set()
        for grant in self.grants:
            names, target = _expand(grant)
            if target == ALL:
                anything |= names
            exact |= names if target in (ALL, OWN) else {f"{name}:{target}" for name in names}
        self._exact = frozenset(exact)
        self._anything = frozenset(anything)
        self._some = frozenset(held.partition(":")[0] for held in exact)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CapSet) and self.grants == other.grants

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"CapSet({sorted(self.grants)})"

    def may(self, capability: str) -> bool:
        """Whether the call may be made at all, on some object."""
        return capability in self._some

    def own(self, capability: str) -> bool:
        """Whether the call may be made on what is the caller's own."""
        return capability in self._exact

    def on(self, capability: str, *objects: str) -> bool:
        """Whether the call may be made on an object known by any of these names."""
        if capability in self._anything:
            return True
        return any(f"{capability}:{name}" in self._exact for name in objects)

    def covers(self, grant: str) -> bool:
        """Whether everything that ``grant`` allows is allowed by this set."""
        names, target = _expand(grant)
        if target == ALL:
            return names <= self._anything
        if target == OWN:
            return names <= self._exact
        return all(self.on(name, target) for name in names)


@lru_cache(maxsize=4096)
def _expand(grant: str) -> tuple[frozenset[str], str]:
    """The capability names and the object of one grant. Raises EINVAL."""
    pattern, _, target = grant.partition(":")
    if grant == ALL:
        return TABLE.capabilities(), ALL
    if grant.endswith(":"):
        raise EINVAL(f"the grant {grant!r} names no object after the colon")
    if pattern.endswith(".*"):
        names = frozenset(n for n in TABLE.capabilities() if n.startswith(pattern[:-1]))
    else:
        names = frozenset({pattern}) & TABLE.capabilities()
    if not names:
        raise EINVAL(
            f"the grant {grant!r} names no capability",
            hint="docs/syscalls.md lists the capability of each call",
        )
    return names, target or OWN


@lru_cache(maxsize=1024)
def compiled(grants: frozenset[str]) -> CapSet:
    """The compiled set, shared between the processes that hold equal grants."""
    return CapSet(grants)


def narrow(parent: CapSet, wanted: Iterable[str]) -> CapSet:
    """``wanted`` as a set, if ``parent`` holds all of it. Raises EPERM otherwise."""
    grants = frozenset(wanted)
    missing = sorted(grant for grant in grants if not parent.covers(grant))
    if missing:
        raise EPERM(
            f"cannot grant what the parent does not hold: {', '.join(missing)}", missing=missing
        )
    return compiled(grants)


def intersect(parent: CapSet, wanted: Iterable[str]) -> CapSet:
    """The part of ``wanted`` that ``parent`` holds: for defaults, where silence is right."""
    return compiled(frozenset(grant for grant in wanted if parent.covers(grant)))
