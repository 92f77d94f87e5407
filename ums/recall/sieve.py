"""Which records a search may answer with, beyond what the indexes can tell."""

from syscalls.calls.mem import Search
from syscalls.shapes import Filter
from ums.records import Stored

_ARCHIVED = frozenset({"archived", "merged"})


class Sieve:
    """The conditions of one search."""

    def __init__(self, call: Search, now: float) -> None:
        self._filter = call.filter
        self._as_of = call.as_of
        self._archived = call.include_archived
        self._now = now

    @property
    def narrow(self) -> bool:
        """Whether many candidates may fail, so that more are wanted from the start."""
        return self._filter is not None or self._as_of is not None

    def passes(self, stored: Stored) -> bool:
        """Whether a record may be answered with."""
        if stored.expired(self._now) or stored.state == "forgotten":
            return False
        if stored.state in _ARCHIVED and not self._archived:
            return False
        if self._as_of is not None and not valid_at(stored, self._as_of):
            return False
        return self._filter is None or _matches(self._filter, stored)


def valid_at(stored: Stored, moment: float) -> bool:
    """Whether it had been written, and was true, at a moment."""
    return (
        stored.created <= moment
        and (stored.valid_from is None or stored.valid_from <= moment)
        and (stored.valid_to is None or moment < stored.valid_to)
    )


def _matches(wanted: Filter, stored: Stored) -> bool:
    return (
        (wanted.kind is None or stored.kind == wanted.kind)
        and (wanted.writer is None or stored.writer == wanted.writer)
        and (wanted.since is None or stored.created >= wanted.since)
        and (wanted.until is None or stored.created < wanted.until)
        and (not wanted.tags or set(wanted.tags) <= set(stored.tags))
        and all(
            key in stored.meta and stored.meta[key] == value for key, value in wanted.meta.items()
        )
    )
