"""Which records a search may answer with, beyond what the indexes can tell."""

from syscalls.calls.mem import Search
from syscalls.records import Filter
from ums.moment import Moment
from ums.records import Stored

_ARCHIVED = frozenset({"archived", "merged"})


class Sieve:
    """The conditions of one search."""

    def __init__(self, call: Search, now: float) -> None:
        self._filter = call.filter
        self.moment = Moment(now, call.as_of, call.known_at)
        self._archived = call.include_archived
        self._now = now

    @property
    def narrow(self) -> bool:
        """Whether many candidates may fail, so that more are wanted from the start."""
        return self._filter is not None or not self.moment.plain

    def passes(self, stored: Stored) -> bool:
        """Whether a record may be answered with."""
        if stored.expired(self._now) or stored.state == "forgotten":
            return False
        if stored.state in _ARCHIVED and not self._archived:
            return False
        everything = self._archived and self.moment.plain
        if not everything and not self.moment.holds(stored):
            return False
        return self._filter is None or matches(self._filter, stored)


def matches(wanted: Filter, stored: Stored) -> bool:
    """Whether a record fits a filter."""
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
