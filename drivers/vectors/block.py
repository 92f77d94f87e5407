"""Exact nearest neighbours of a few vectors in memory: inner products with faiss's flat kernel.

    rows  [ r r r r r . . ]     dense: a deleted row is filled by the last one
    rids  [ a b a c d ]         a record with several vectors has several rows

There are no tombstones to skip. Up to tens of thousands of rows this is fast enough (50,000 x
384: about 2.5 ms) and, unlike a graph of neighbours, needs no building and never misses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import Vectors

ENTRY_BYTES: Final = 220
"""Rough memory of a row's rid, of its place and of their share of the tables."""


class Block:
    """The vectors of one tag that are in no part."""

    def __init__(self, dimension: int) -> None:
        self._space: Vectors = np.empty((0, dimension), np.float32)
        self.rids: list[str] = []
        """Of each row."""
        self._places: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self.rids)

    def __contains__(self, rid: str) -> bool:
        return rid in self._places

    @property
    def records(self) -> int:
        """Different rids."""
        return len(self._places)

    @property
    def rows(self) -> Vectors:
        """A view, good until the next change."""
        return self._space[: len(self.rids)]

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return self._space.nbytes + ENTRY_BYTES * len(self.rids)

    def put(self, rids: Sequence[str], rows: Vectors) -> None:
        """Give each rid the rows that stand beside it, in place of those that it had."""
        counts: dict[str, int] = {}
        for rid in rids:
            counts[rid] = counts.get(rid, 0) + 1
        fresh = []
        for number, rid in enumerate(rids):
            place = self._places.get(rid, ())
            if len(place) == 1 and counts[rid] == 1:
                self._space[place[0]] = rows[number]  # the usual update: where it was
            else:
                fresh.append(number)
        for rid in {rids[number] for number in fresh}:
            self.remove(rid)
        if fresh:
            self._extend([rids[number] for number in fresh], rows[fresh])

    def _extend(self, rids: Sequence[str], rows: Vectors) -> None:
        first, last = len(self.rids), len(self.rids) + len(rids)
        if last > len(self._space):
            # In place (the kernel moves pages, not bytes), so that growing needs no second
            # copy; by an eighth, so that little lies idle.
            self._space.resize((last + max(16, last // 8), rows.shape[1]), refcheck=False)
        self._space[first:last] = rows
        self.rids += rids
        for row, rid in enumerate(rids, first):
            self._places[rid] = (*self._places.get(rid, ()), row)

    def remove(self, rid: str) -> bool:
        """Take a record's rows out; whether it had any."""
        place = self._places.pop(rid, None)
        if place is None:
            return False
        for row in sorted(place, reverse=True):
            last = self.rids.pop()
            end = len(self.rids)
            if row != end:
                self._space[row] = self._space[end]
                self.rids[row] = last
                moved = self._places[last]
                self._places[last] = tuple(row if old == end else old for old in moved)
        if len(self.rids) < len(self._space) // 4:
            width = self._space.shape[1]
            self._space.resize((len(self.rids) * 2, width), refcheck=False)
        return True

    def vectors(self, rid: str) -> Vectors | None:
        """The rows of a record, or None."""
        place = self._places.get(rid)
        return None if place is None else self._space[list(place)]

    def search(self, query: Vectors, k: int) -> dict[str, float]:
        """The ``k`` nearest records (or all) with the best product of each; shape (1, d)."""
        import faiss

        count, wanted = len(self.rids), k
        # One query is nothing to share out: with two threads on two cores it takes 2.7 times
        # as long (measured). The setting is the calling thread's own.
        faiss.omp_set_num_threads(1)
        while count and k > 0:
            scores, rows = faiss.knn(
                query, self.rows, min(wanted, count), metric=faiss.METRIC_INNER_PRODUCT
            )
            best: dict[str, float] = {}
            for score, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True):
                if row >= 0:
                    best.setdefault(self.rids[row], score)
            if len(best) >= min(k, self.records) or wanted >= count:
                return best
            wanted *= 4  # some records took several of the places
        return {}
