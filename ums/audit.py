"""Who read what of whose space: a line for each use of a space that is not one's own.

A line is on disk before the answer goes out, so that nobody reads unseen: where it cannot
be written, the read fails. Each space keeps its last lines; older ones make room in the
same batch, so a busy space pushes no other space's lines out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from drivers.contracts import Batch
from syscalls.records import AuditLine
from ums.records import after, space_key

if TYPE_CHECKING:
    from drivers.contracts import Clock, Store

AUDIT = b"ums/audit/"
TRIM = 64
"""Most old lines that one new line removes: where the bound was lowered."""
LONGEST = 200
"""Characters of a query that are kept."""
MOST = 100
"""Rids that are kept of one answer."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AuditLine)


class Audit:
    """The audit of all spaces."""

    def __init__(self, store: Store, clock: Clock, lines: int) -> None:
        self._store = store
        self._clock = clock
        self._lines = lines
        self._last: dict[int, int] = {}
        self.written = 0

    async def note(self, *lines: AuditLine) -> None:
        """Write lines in one batch, durably; number and time are filled in. Raises EIO."""
        batch = Batch()
        for line in lines:
            prefix = AUDIT + space_key(line.space)
            line.seq, line.at = self._next(line.space, prefix), self._clock.now()
            line.count, line.rids = len(line.rids), line.rids[:MOST]
            line.query = line.query[:LONGEST]
            key = prefix + line.seq.to_bytes(8, "big")
            batch.puts.append(("meta", key, _encoder.encode(line)))
            first = max(0, line.seq - self._lines + 1).to_bytes(8, "big")
            stale = self._store.scan("meta", prefix, prefix + first, limit=TRIM)
            batch.deletes += [("meta", old) for old, _ in stale]
        if batch.puts:
            await self._store.commit(batch)
            self.written += len(batch.puts)

    def _next(self, space: int, prefix: bytes) -> int:
        number = self._last.get(space)
        if number is None:
            last = self._store.scan("meta", prefix, after(prefix), limit=1, reverse=True)
            number = int.from_bytes(last[0][0][-8:], "big") if last else 0
        self._last[space] = number + 1
        return number + 1

    def lines(
        self,
        space: int,
        *,
        apid: int | None = None,
        rid: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[AuditLine]:
        """The newest lines of a space, newest first: of one process, or about one record."""
        prefix = AUDIT + space_key(space)
        stop = after(prefix) if before is None else prefix + before.to_bytes(8, "big")
        found: list[AuditLine] = []
        for _, value in self._store.scan("meta", prefix, stop, reverse=True):
            line = _decoder.decode(value)
            if apid in (None, line.apid) and (rid is None or rid in line.rids):
                found.append(line)
                if len(found) == limit:
                    break
        return found
