"""Exact nearest neighbours of one space: inner products with faiss's flat kernel.

    tag 0   rows  [ r r r r r . . ]   rids [ ... ]     one block for each tag, dense:
    tag 3   rows  [ r r . . ]         rids [ ... ]     a deleted row is filled by the last one

A search narrowed by tags reads just those blocks, so that it costs less than a full one and
still finds k; there are no tombstones to skip. At the sizes of one space exact search is
fast enough (100,000 x 384: about 5 ms) and, unlike a graph of neighbours, needs no building,
forgets at once what is deleted, and never misses.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import numpy as np

from drivers.contracts import IndexStatistics, Located
from drivers.vectors.log import LogBatch
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drivers.contracts import Vectors
    from drivers.vectors.log import VectorLog

logger = logging.getLogger(__name__)

COMPACT_ABOVE: Final = 1024
"""Rows in the log below which dead ones are let be."""
_SNAPSHOT_ROWS: Final = 4096
_ENTRY_BYTES: Final = 200
"""Rough memory of an entry beside its row: rid, place and their share of the tables."""


class _Block:
    """The rows of one tag, without holes."""

    def __init__(self, dimension: int) -> None:
        self.rows: Vectors = np.empty((0, dimension), np.float32)
        self.rids: list[str] = []

    def extend(self, rids: Sequence[str], rows: Vectors) -> None:
        """Add rows at the end."""
        first, last = len(self.rids), len(self.rids) + len(rids)
        if last > len(self.rows):
            # In place (the kernel moves pages, not bytes), so that growing needs no second
            # copy; by an eighth, so that little lies idle.
            self.rows.resize((last + max(16, last // 8), self.rows.shape[1]), refcheck=False)
        self.rows[first:last] = rows
        self.rids += rids

    def remove(self, row: int) -> str | None:
        """Take a row out; the rid that has moved into its place, if any."""
        last = self.rids.pop()
        end = len(self.rids)
        moved = None
        if row != end:
            self.rows[row] = self.rows[end]
            self.rids[row] = moved = last
        if end < len(self.rows) // 4:
            self.rows.resize((end * 2, self.rows.shape[1]), refcheck=False)
        return moved


class FlatIndex:
    """``drivers.contracts.VectorIndex``; without a log it is in memory only."""

    def __init__(self, dimension: int, log: VectorLog | None = None) -> None:
        self._dimension = dimension
        self._log = log
        self._blocks: dict[int, _Block] = {}
        self._places: dict[str, tuple[_Block, int]] = {}
        self._position = 0
        self._logged = 0
        if log is not None:
            for batch in log.read():
                self._change(batch)
                self._logged += len(batch.upserts)

    @property
    def position(self) -> int:
        """See ``VectorIndex.position``."""
        return self._position

    def apply(
        self,
        seq: int,
        upserts: Sequence[tuple[str, int]],
        vectors: Vectors,
        deletes: Sequence[str],
    ) -> None:
        """See ``VectorIndex.apply``. A rid in both lists is deleted.

        Raises EIO when the log cannot be written (nothing is changed then) and ValueError
        when rows and upserts do not fit together.
        """
        rows = np.asarray(vectors, np.float32)
        if not upserts:
            rows = np.empty((0, self._dimension), np.float32)
        if rows.shape != (len(upserts), self._dimension):
            raise ValueError(
                f"{len(upserts)} upserts of dimension {self._dimension} with rows {rows.shape}"
            )
        if not all(0 <= tag <= 63 for _, tag in upserts):
            raise ValueError("a tag is 0 to 63")
        batch = LogBatch(seq, upserts, rows, deletes)
        if self._log is not None:
            self._log.append(batch)
            self._logged += len(upserts)
        self._change(batch)
        if self._log is not None and self._logged > COMPACT_ABOVE + 2 * len(self._places):
            self._compact(self._log)

    def _change(self, batch: LogBatch) -> None:
        fresh: dict[int, dict[str, int]] = {}
        for row, (rid, tag) in enumerate(batch.upserts):
            place = self._places.get(rid)
            if place is not None:
                if place[0] is self._blocks.get(tag):
                    place[0].rows[place[1]] = batch.rows[row]
                    continue
                self._remove(rid)
            for other in fresh.values():  # of two upserts of one rid the later one counts
                other.pop(rid, None)
            fresh.setdefault(tag, {})[rid] = row
        for tag, new in fresh.items():
            block = self._blocks.setdefault(tag, _Block(self._dimension))
            first = len(block.rids)
            whole = len(new) == len(batch.upserts)
            block.extend(list(new), batch.rows if whole else batch.rows[list(new.values())])
            self._places.update((rid, (block, first + i)) for i, rid in enumerate(new))
        for rid in batch.deletes:
            self._remove(rid)
        self._position = batch.seq

    def _remove(self, rid: str) -> None:
        place = self._places.pop(rid, None)
        if place is not None:
            block, row = place
            moved = block.remove(row)
            if moved is not None:
                self._places[moved] = place

    def _compact(self, log: VectorLog) -> None:
        try:
            log.replace(self._snapshot())
        except EIO as error:
            # The long log is whole and the change is in it: only room is wasted.
            logger.warning("vectors: could not be compacted: %s", error)
        self._logged = len(self._places)

    def _snapshot(self) -> Iterator[LogBatch]:
        """The rows as batches. Only the last one says the position: a log that was damaged
        before it must be fed again from the beginning."""
        for tag, block in self._blocks.items():
            for first in range(0, len(block.rids), _SNAPSHOT_ROWS):
                rids = block.rids[first : first + _SNAPSHOT_ROWS]
                rows = block.rows[first : first + len(rids)]
                yield LogBatch(0, [(rid, tag) for rid in rids], rows, [])
        yield LogBatch(self._position, [], np.empty((0, self._dimension), np.float32), [])

    def search(self, vector: Vectors, k: int, tags: frozenset[int] | None) -> list[Located]:
        """See ``VectorIndex.search``."""
        import faiss

        query = self._query(vector)
        # One query is nothing to share out: with two threads on two cores it takes 2.7 times
        # as long (measured). The setting is the calling thread's own.
        faiss.omp_set_num_threads(1)
        found: list[Located] = []
        for tag, block in self._blocks.items():
            count = len(block.rids)
            if k < 1 or not count or not (tags is None or tag in tags):
                continue
            scores, rows = faiss.knn(
                query, block.rows[:count], min(k, count), metric=faiss.METRIC_INNER_PRODUCT
            )
            for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True):
                if row >= 0:
                    found.append(Located(block.rids[row], score))
        found.sort(key=lambda hit: (-hit.score, hit.rid))
        return found[:k]

    def scores(self, vector: Vectors, rids: Sequence[str]) -> list[float | None]:
        """See ``VectorIndex.scores``."""
        query = self._query(vector)[0]
        places = [self._places.get(rid) for rid in rids]
        rows = [place[0].rows[place[1]] for place in places if place is not None]
        if not rows:
            return [None] * len(rids)
        products = iter((np.stack(rows) @ query).tolist())
        return [None if place is None else next(products) for place in places]

    def _query(self, vector: Vectors) -> Vectors:
        query = np.ascontiguousarray(vector, np.float32)
        if query.shape != (self._dimension,):
            raise ValueError(f"a vector of dimension {self._dimension}, not of {query.shape}")
        return query.reshape(1, -1)

    def flush(self) -> None:
        """See ``VectorIndex.flush``. Raises EIO."""
        if self._log is not None:
            self._log.flush()

    def close(self) -> None:
        """See ``VectorIndex.close``. Raises EIO when the log could not be flushed."""
        try:
            self.flush()
        finally:
            if self._log is not None:
                self._log.close()
            self._blocks.clear()
            self._places.clear()

    def statistics(self) -> IndexStatistics:
        """See ``VectorIndex.statistics``."""
        rows = sum(block.rows.nbytes for block in self._blocks.values())
        return IndexStatistics(
            kind="flat",
            position=self._position,
            entries=len(self._places),
            bytes_disk=self._log.size if self._log is not None else 0,
            bytes_memory=rows + _ENTRY_BYTES * len(self._places),
            rebuilt=self._log.reason if self._log is not None else "",
        )
