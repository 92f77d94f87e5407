"""Builds a part out of an older one and what has come since, aside from both.

    living rows of the old part ─┐                      ┌─ rows, in the order of the lists
    rows that were in memory   ──┴─ centres ─> lists ──>┤  codes, rids
                                    (kept while they fit)└─ how many lists to probe

Rows are read and written in small blocks, so a build needs little memory beside the rows in
memory that it was given, and never holds the interpreter for long. It computes on one core.
"""

from __future__ import annotations

import math
import os
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from drivers.vectors.part import LEVELS, MAGIC, VERSION, Header, Layout, Part, encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from drivers.contracts import Vectors

BLOCK: Final = 1024
ASSIGN: Final = 4096
ROUNDS: Final = 8
SAMPLE: Final = 64
"""Rows for each centre that the centres are trained on."""
RETRAIN: Final = 2.5
"""Growth since the last training that asks for more centres."""
WHOLE: Final = 4096
"""Rows up to which every list is probed."""
EXAM: Final = 192
"""Queries that the number of lists to probe is measured with."""
NOISE: Final = (0.5, 1.0, 1.5)
"""How far these are from a vector of the space, against its own length: a question is nearer to
its answer or further from it."""
TARGET: Final = 0.985
"""Part of the true neighbours that must be found at the worst of these distances."""
SCANNED: Final = 60_000
"""Rows a search may scan, though it then finds a little less: of millions, the neighbours of a
far question lie all over, and to find the last of them would take as long as exact search."""


class Cancelled(Exception):
    """The build was told to stop."""


class Build:
    """One build. ``run`` may be called in any thread; it shares nothing with the index."""

    def __init__(
        self, tag: int, path: Path, old: Part | None, rids: Sequence[str], rows: Vectors
    ) -> None:
        """``rids`` and ``rows`` are its own; of ``old`` those are taken that live now."""
        self.tag = tag
        self.path = path
        self._old = old
        self._alive = np.flatnonzero(~old.dead) if old is not None else np.empty(0, np.int64)
        self._fresh = rows
        names = np.array([rid.encode() for rid in rids], np.bytes_)
        if old is not None and len(old):
            names = (
                np.concatenate([old.rids[self._alive], names])
                if len(names)
                else (old.rids[self._alive])
            )
        self._names = names
        self._count = len(names)
        self._width = rows.shape[1]
        self._stopped = False
        self._random = np.random.default_rng(len(names))
        self.done = False
        """Whether the part is there."""

    def __len__(self) -> int:
        return self._count

    def cancel(self) -> None:
        """Have ``run`` end soon, with Cancelled. From any thread."""
        self._stopped = True

    def discard(self) -> None:
        """Remove what was written."""
        self.path.unlink(missing_ok=True)

    def run(self) -> None:
        """Build the part's file. Raises Cancelled; Corrupt for damage of the old part; OSError
        (what was written is removed)."""
        import faiss

        faiss.omp_set_num_threads(1)
        try:
            if len(self):
                self._write()
            self.done = True
        except BaseException:
            self.discard()
            raise
        finally:
            self._old = None
            self._names, self._fresh = self._names[:0].copy(), self._fresh[:0].copy()

    def _check(self) -> None:
        if self._stopped:
            raise Cancelled

    def _rows(self, numbers: NDArray[np.int64]) -> Vectors:
        """Vectors by number: first those of the old part, then the others."""
        held = len(self._alive)
        fresh = numbers >= held
        if fresh.all():
            return self._fresh[numbers - held]
        assert self._old is not None
        rows = np.empty((len(numbers), self._width), np.float32)
        rows[fresh] = self._fresh[numbers[fresh] - held]
        rows[~fresh] = self._old.exact(self._alive[numbers[~fresh]])
        return rows

    # --- centres and lists

    def _centres(self) -> tuple[Vectors, NDArray[np.int32], int]:
        """The centre and the list of each row, and how many rows the centres were made from."""
        count, old = len(self), self._old
        if old is not None and count <= RETRAIN * old.header.trained:
            lists = [old.lists_of(self._alive), self._assign(old.centres, len(self._alive))]
            return old.centres, np.concatenate(lists), old.header.trained
        wanted = max(1, min(count, round(2 * math.sqrt(count))))
        sample = self._random.permutation(count)[: SAMPLE * wanted]
        centres = self._train(self._rows(np.sort(sample)), wanted)
        return centres, self._assign(centres, 0), count

    def _train(self, rows: Vectors, wanted: int) -> Vectors:
        """Spherical k-means (Dhillon and Modha, 2001): Lloyd's rounds on the unit sphere."""
        centres = rows[self._random.permutation(len(rows))[:wanted]].copy()
        for _ in range(ROUNDS):
            lists = self._nearest(rows, centres)
            order = np.argsort(lists, kind="stable")
            found, first = np.unique(lists[order], return_index=True)
            sums = np.empty((len(found), self._width), np.float32)
            ends = np.append(first[1:], len(order))
            for place, (start, end) in enumerate(zip(first.tolist(), ends.tolist(), strict=True)):
                sums[place] = rows[order[start:end]].sum(0)
            # A centre that nobody chose starts anew somewhere.
            centres = rows[self._random.permutation(len(rows))[:wanted]].copy()
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            centres[found] = np.divide(sums, lengths, out=centres[found], where=lengths > 0)
        return centres

    def _nearest(self, rows: Vectors, centres: Vectors) -> NDArray[np.int32]:
        import faiss

        lists = np.empty(len(rows), np.int32)
        for start in range(0, len(rows), ASSIGN):
            self._check()
            block = rows[start : start + ASSIGN]
            _, found = faiss.knn(block, centres, 1, metric=faiss.METRIC_INNER_PRODUCT)
            lists[start : start + len(block)] = found[:, 0]
        return lists

    def _assign(self, centres: Vectors, first: int) -> NDArray[np.int32]:
        """The list of each row from number ``first`` on."""
        blocks = [
            self._nearest(self._rows(np.arange(start, min(start + ASSIGN, len(self)))), centres)
            for start in range(first, len(self), ASSIGN)
        ]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int32)

    # --- the file

    def _write(self) -> None:
        centres, lists, trained = self._centres()
        order = np.argsort(lists, kind="stable")
        sizes = np.bincount(lists, minlength=len(centres))
        bounds = np.concatenate([[0], np.cumsum(sizes)]).astype("<i8")
        rids = self._names[order]
        layout = Layout(self._width, len(self), len(centres), rids.itemsize)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, layout.size)
            scale = self._scale()
            by_rid = np.argsort(rids, kind="stable").astype("<u4")
            sections = {"scale": scale, "centres": centres, "bounds": bounds, "rids": rids}
            for name, array in {**sections, "order": by_rid}.items():
                _put(fd, np.ascontiguousarray(array), layout.at[name])
            exam = self._write_rows(fd, layout, order, scale)
            head = Header(
                MAGIC,
                VERSION,
                self._width,
                len(self),
                len(np.unique(rids)),
                trained,
                len(centres),
                rids.itemsize,
                len(centres),
                len(centres),
                self._checksum(fd, layout),
                0,
            )
            os.pwrite(fd, head.pack(), 0)
            if len(self) > WHOLE:
                few, many = self._calibrate(*exam, centres, bounds)
                os.pwrite(fd, head._replace(probe=few, probe_many=many).pack(), 0)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _scale(self) -> Vectors:
        """Least value and range of each dimension."""
        rows = self._fresh
        if self._old is not None:
            low, span = self._old.scale
            rows = np.concatenate([rows, [low, low + span]])
        low, high = rows.min(0), rows.max(0)
        return np.stack([low, high - low]).astype("<f4")

    def _write_rows(
        self, fd: int, layout: Layout, order: NDArray[np.int64], scale: Vectors
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Write codes and rows; queries and, of each, the numbers of its true neighbours."""
        queries = self._exam(order)
        best = np.full((len(queries), LEVELS[-1]), -np.inf, np.float32)
        where = np.full(best.shape, -1, np.int64)
        for start in range(0, len(order), BLOCK):
            self._check()
            rows = np.ascontiguousarray(self._rows(order[start : start + BLOCK]), "<f4")
            _put(fd, encode(rows, scale), layout.at["codes"] + start * self._width)
            sealed = np.empty((len(rows), layout.row_size), np.uint8)
            sealed[:, :-4] = rows.view(np.uint8)
            crcs = np.array([zlib.crc32(row) for row in rows], "<u4")
            sealed[:, -4:] = crcs.view(np.uint8).reshape(-1, 4)
            _put(fd, sealed, layout.rows + start * layout.row_size)
            best, where = _merged(best, where, queries @ rows.T, start)
        ranked = np.argsort(-best, axis=1)
        return queries, np.take_along_axis(where, ranked, 1)

    def _exam(self, order: NDArray[np.int64]) -> Vectors:
        """Queries like those to come: vectors of the space with noise."""
        picked = np.sort(self._random.permutation(len(order))[:EXAM])
        rows = self._rows(order[picked])
        noise = self._random.standard_normal(rows.shape).astype(np.float32) * rows.std(0)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True) + 1e-9
        far = np.resize(np.array(NOISE, np.float32), (len(rows), 1))
        exam: Vectors = rows + far * noise * np.linalg.norm(rows, axis=1, keepdims=True)
        return exam

    def _checksum(self, fd: int, layout: Layout) -> int:
        crc, place = 0, layout.body
        while place < layout.rows:
            self._check()
            data = os.pread(fd, min(1 << 20, layout.rows - place), place)
            crc = zlib.crc32(data, crc)
            place += len(data)
        return crc

    def _calibrate(
        self, queries: Vectors, truth: NDArray[np.int64], centres: Vectors, bounds: NDArray[Any]
    ) -> list[int]:
        """How many lists must be probed for answers of each of the sizes in ``LEVELS``."""
        nearness = queries @ centres.T
        lists = np.searchsorted(bounds, truth, "right") - 1
        # The place of each true neighbour's list among all, from the nearest on.
        order = np.argsort(-nearness, axis=1)
        places = np.take_along_axis(np.argsort(order, axis=1), lists, 1) + 1
        groups = [places[kind :: len(NOISE)] for kind in range(len(NOISE))]
        asked = [
            max(int(np.quantile(group[:, :k], TARGET, method="higher")) for group in groups)
            for k in LEVELS
        ]
        most = max(1, math.ceil(len(centres) * SCANNED / len(self)))
        return [min(probe, most) for probe in asked]


def _merged(
    best: Vectors, where: NDArray[np.int64], scores: Vectors, start: int
) -> tuple[Vectors, NDArray[np.int64]]:
    """The best scores so far, and of which rows, with those of rows from ``start`` on."""
    most = best.shape[1]
    numbers = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
    scores = np.concatenate([best, scores], axis=1)
    numbers = np.concatenate([where, numbers], axis=1)
    top = np.argpartition(-scores, most - 1, axis=1)[:, :most]
    return np.take_along_axis(scores, top, 1), np.take_along_axis(numbers, top, 1)


def _put(fd: int, array: NDArray[np.generic], place: int) -> None:
    """Write an array to a place in a file. Raises OSError."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while data:
        done = os.pwrite(fd, data, place)
        data, place = data[done:], place + done
