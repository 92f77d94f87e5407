"""Which records were handed to whom, so that they are known again in what a process has pinned.

Of a record its beginning is kept. A process that puts what it read into a prompt shows at least
that, for a context cuts long records at the end.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from ums.prefixes import HEAD, Source, holds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from syscalls.records import Hit, Record

MOST = 2048
"""Records of one process."""
PROCESSES = 512


class Handed:
    """What the last processes were given, by record."""

    def __init__(self) -> None:
        self._given: OrderedDict[int, OrderedDict[tuple[Source, str], None]] = OrderedDict()

    def note(self, apid: int, records: Iterable[Record]) -> None:
        """A process is given these records."""
        self._add(apid, [(Source(one.rid, one.space), one.content) for one in records])

    def found(self, apid: int, hits: Iterable[Hit]) -> None:
        """A process is given these hits."""
        self._add(apid, [(Source(one.rid, one.provenance.space), one.content) for one in hits])

    def _add(self, apid: int, given: Sequence[tuple[Source, str]]) -> None:
        if not given:
            return
        known = self._given.setdefault(apid, OrderedDict())
        self._given.move_to_end(apid)
        while len(self._given) > PROCESSES:
            self._given.popitem(last=False)
        for source, content in given:
            key = (source, content[:HEAD])
            known[key] = None
            known.move_to_end(key)
        while len(known) > MOST:
            known.popitem(last=False)

    def shown(self, apid: int, texts: Sequence[str]) -> list[Source]:
        """The records that are shown in some texts, in the order in which they were given."""
        known: Iterable[tuple[Source, str]] = self._given.get(apid, ())
        return list(
            dict.fromkeys(
                source for source, head in known if any(holds(text, head) for text in texts)
            )
        )

    def fork(self, parent: int, child: int, was: int, now: int) -> None:
        """A fork has in its hands what its parent has; its view of the space ``was`` is ``now``.

        So what it pins of that rests on the records as it has them itself.
        """
        given = OrderedDict[tuple[Source, str], None]()
        for source, head in self._given.get(parent, ()):
            given[Source(source.rid, now) if source.space == was else source, head] = None
        if given:
            self._given[child] = given

    def drop(self, apid: int) -> None:
        """Nothing is known of a process any more."""
        self._given.pop(apid, None)
