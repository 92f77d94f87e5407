"""An immutable part of a large index: inverted lists with quantised vectors, in one file.

    header    what it is, and checksums
    scale     least value and range of each dimension         2 x d x 4
    centres   one of each list                                lists x d x 4
    bounds    first row of each list, and the end             (lists + 1) x 8
    codes     one byte for each dimension of each row         n x d      } in the order
    rids      of each row, padded                             n x width  } of the lists
    order     the rows, by rid                                n x 4
    rows      the vectors themselves, each with its crc32     n x (4 d + 4)

A search compares the query with the centres, scans the codes of the nearest lists (Jégou,
Douze and Schmid, "Product quantization for nearest neighbor search", 2011, section 4, with a
scalar in place of the product quantiser), reads the rows of the best and ranks these exactly.
So the loss is only what lies in lists that were not probed, and ``build`` measures how many
must be.

The file is mapped, not read: opening costs one pass over all but the rows, for the checksum;
rows are checked as they are used. Their pages are handed back after use, so that what stays
in memory is about ``d + width + 5`` bytes a row. A ``Build`` may read rows meanwhile.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from drivers.contracts import Vectors

MAGIC: Final = b"ENGRAMp\0"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIQQQIIIIII")
ALIGN: Final = 64
RETURN_AFTER: Final = 512
"""Rows touched after which their pages are handed back."""
LEVELS: Final = (10, 100)
"""Sizes of answers for which the number of lists to probe was measured."""


class Corrupt(Exception):
    """The file is not what was written."""


class Header(NamedTuple):
    """The first bytes of a part."""

    magic: bytes
    version: int
    dimension: int
    rows: int
    records: int
    trained: int
    """Rows there were when the centres were last trained."""
    lists: int
    width: int
    """Bytes of the longest rid."""
    probe: int
    """Lists to probe for ten answers, and in ``probe_many`` for a hundred."""
    probe_many: int
    body_crc: int
    """Of all sections but the rows."""
    header_crc: int

    def pack(self) -> bytes:
        """The header with its checksum."""
        head = HEADER.pack(*self[:-1], 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(head))


class Layout:
    """Where the sections of a part begin."""

    def __init__(self, dimension: int, count: int, lists: int, width: int) -> None:
        sizes = {
            "scale": 8 * dimension,
            "centres": 4 * dimension * lists,
            "bounds": 8 * (lists + 1),
            "codes": dimension * count,
            "rids": width * count,
            "order": 4 * count,
        }
        self.body = _aligned(HEADER.size)
        self.at: dict[str, int] = {}
        place = self.body
        for name, size in sizes.items():
            self.at[name] = place
            place = _aligned(place + size)
        self.rows = place
        self.row_size = 4 * dimension + 4
        self.size = place + self.row_size * count


def _aligned(place: int) -> int:
    return -(-place // ALIGN) * ALIGN


class Part:
    """A part open for searching. Not thread-safe."""

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        """Map the file. Raises Corrupt; OSError."""
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < HEADER.size:
                raise Corrupt(f"{path.name} is cut off")
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        head = self.header = Header(*HEADER.unpack_from(self._map))
        if head.magic != MAGIC or head.version != VERSION:
            raise Corrupt(f"{path.name} is no part of format {VERSION}")
        if head.header_crc != zlib.crc32(self._map[: HEADER.size - 4]):
            raise Corrupt(f"the header of {path.name} is damaged")
        where = Layout(head.dimension, head.rows, head.lists, head.width)
        if size != where.size:
            raise Corrupt(f"{path.name} has {size} bytes, not {where.size}")
        data = memoryview(self._map)
        if verify and zlib.crc32(data[where.body : where.rows]) != head.body_crc:
            raise Corrupt(f"{path.name} is damaged")
        self._where = where
        d, n, at = head.dimension, head.rows, where.at
        self.scale: Vectors = np.frombuffer(data, "<f4", 2 * d, at["scale"]).reshape(2, d)
        self.centres: Vectors = np.frombuffer(data, "<f4", head.lists * d, at["centres"]).reshape(
            -1, d
        )
        self.bounds: NDArray[np.int64] = np.frombuffer(data, "<i8", head.lists + 1, at["bounds"])
        self.codes: NDArray[np.uint8] = np.frombuffer(data, np.uint8, n * d, at["codes"])
        self.rids: NDArray[np.bytes_] = np.frombuffer(data, f"S{head.width}", n, at["rids"])
        self._order: NDArray[np.uint32] = np.frombuffer(data, "<u4", n, at["order"])
        self._rows = np.frombuffer(data, np.uint8, n * where.row_size, where.rows)
        self._rows = self._rows.reshape(n, where.row_size)
        self.dead: NDArray[np.bool_] = np.zeros(n, np.bool_)
        """Rows of records that were deleted or have newer vectors elsewhere."""
        self.buried = 0
        """How many are dead."""
        self.records = head.records
        """Records that have a living row."""
        self._touched = 0
        self._scanner: tuple[Any, Any] | None = None

    def __len__(self) -> int:
        return self.header.rows

    @property
    def bytes_memory(self) -> int:
        """What it takes when all of it is in use."""
        return self._where.rows + self.dead.nbytes

    @property
    def bytes_disk(self) -> int:
        """The size of its file."""
        return self._where.size

    @property
    def row_size(self) -> int:
        """Bytes of a row in the file, where the rows come last."""
        return self._where.row_size

    # --- records

    def find(self, rids: Iterable[str]) -> dict[str, NDArray[np.uint32]]:
        """The rows of each of ``rids`` that is there, dead ones too."""
        width = self.header.width
        known = [(rid, key) for rid in rids if len(key := rid.encode()) <= width]
        if not known or not len(self):
            return {}
        keys = np.array([key for _, key in known], f"S{width}")
        first = np.searchsorted(self.rids, keys, "left", self._order).tolist()
        found: dict[str, NDArray[np.uint32]] = {}
        for (rid, key), start in zip(known, first, strict=True):
            end = start
            while end < len(self) and self.rids[self._order[end]] == key:
                end += 1
            if end > start:
                found[rid] = self._order[start:end]
        return found

    def kill(self, rids: Iterable[str]) -> None:
        """Bury the rows of records; those that are not there are nothing."""
        for rows in self.find(rids).values():
            if not self.dead[rows[0]]:
                self.dead[rows] = True
                self.buried += len(rows)
                self.records -= 1

    def bury(self, bits: bytes) -> None:
        """Take over who is dead, as ``graves`` gave it. Raises Corrupt."""
        if bits:
            packed = np.frombuffer(zlib.decompress(bits), np.uint8)
            if len(packed) * 8 < len(self):
                raise Corrupt(f"the list of the dead of {self.path.name} is too short")
            self.dead = np.unpackbits(packed, count=len(self)).astype(np.bool_)
            self.buried = int(self.dead.sum())
            self.records = len(np.unique(self.rids[~self.dead]))

    def graves(self) -> bytes:
        """Who is dead, as ``bury`` takes it."""
        return zlib.compress(np.packbits(self.dead).tobytes(), 1) if self.buried else b""

    def exact(self, rows: NDArray[Any]) -> Vectors:
        """The vectors of some rows. Raises Corrupt."""
        raw = self._rows[rows]
        for row, data in enumerate(raw):
            if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:].tobytes(), "little"):
                raise Corrupt(f"row {rows[row]} of {self.path.name} is damaged")
        self._touched += len(rows)
        if self._touched >= RETURN_AFTER:
            self._touched = 0
            page = mmap.PAGESIZE
            start = -(-self._where.rows // page) * page
            if start < len(self._map):
                self._map.madvise(mmap.MADV_DONTNEED, start, len(self._map) - start)
        return np.ascontiguousarray(raw[:, :-4]).view("<f4")

    def lists_of(self, rows: NDArray[Any]) -> NDArray[np.int32]:
        """In which list each row is."""
        lists = np.searchsorted(self.bounds, rows, "right") - 1
        return lists.astype(np.int32)

    # --- searching

    def probes(self, k: int) -> int:
        """How many lists hold what is nearest, as measured when the part was built."""
        few, many = LEVELS
        if k <= few:
            return self.header.probe
        if k <= many:
            return self.header.probe_many
        return int(self.header.probe_many * (k / many) ** 0.5) + 1

    def search(self, query: Vectors, k: int, probe: int = 0) -> dict[str, float]:
        """The nearest ``k`` living records at least, as far as there are, with the best product
        of each; ``query`` of shape (1, d). Raises Corrupt."""
        import faiss

        if k < 1 or not self.records:
            return {}
        faiss.omp_set_num_threads(1)
        probe, wanted = probe or self.probes(k), 2 * k + 16
        while True:
            probe = min(probe, self.header.lists)
            _, lists = faiss.knn(query, self.centres, probe, metric=faiss.METRIC_INNER_PRODUCT)
            rows, scanned = self._scan(query, lists[0], wanted)
            alive = rows[~self.dead[rows]]
            names = self.rids[alive]
            if len(alive) >= k and len(np.unique(names)) >= k:
                break
            # Dead rows, records with many rows or short lists took the places: look further.
            if scanned > wanted:
                wanted *= 4
            elif probe < self.header.lists:
                probe *= 4
            else:
                break
        best: dict[str, float] = {}
        for name, score in zip(
            names.tolist(), (self.exact(alive) @ query[0]).tolist(), strict=True
        ):
            rid = name.decode()
            if score > best.get(rid, -np.inf):
                best[rid] = score
        return best

    def _scan(
        self, query: Vectors, lists: NDArray[np.int64], wanted: int
    ) -> tuple[NDArray[np.int64], int]:
        """The best rows of some lists by their codes, and how many rows there were."""
        import faiss

        if self._scanner is None:
            self._scanner = _scanner(self.scale)
        (_, scanner), width = self._scanner, self.header.dimension
        scores = np.full(wanted, -np.inf, np.float32)
        labels = np.full(wanted, -1, np.int64)
        heap = faiss.swig_ptr(scores), faiss.swig_ptr(labels)
        scanner.set_query(faiss.swig_ptr(query))
        scanned = 0
        for number in lists.tolist():
            first, last = int(self.bounds[number]), int(self.bounds[number + 1])
            if first < last:
                scanner.set_list(number, 0.0)
                codes = self.codes[first * width : last * width]
                scanner.scan_codes(last - first, faiss.swig_ptr(codes), None, *heap, wanted)
                scanned += last - first
        labels = labels[labels >= 0]
        return self.bounds[labels >> 32] + (labels & 0xFFFFFFFF), scanned

    def close(self) -> None:
        """Let go of the file; it goes with the last view of it."""
        self._scanner = None


def encode(rows: Vectors, scale: Vectors) -> NDArray[np.uint8]:
    """One byte for each value: where it lies in its dimension's range."""
    index = _quantiser(scale)  # held: ``index.sq`` is a pointer into it
    codes: NDArray[np.uint8] = index.sq.compute_codes(np.ascontiguousarray(rows))
    return codes


def _quantiser(scale: Vectors) -> Any:
    import faiss

    width = scale.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width),
        width,
        1,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
        False,  # codes of the vectors and not of what they differ from their centre by
    )
    faiss.copy_array_to_vector(np.ascontiguousarray(scale).reshape(-1), index.sq.trained)
    index.is_trained = True
    return index


def _scanner(scale: Vectors) -> tuple[Any, Any]:
    """faiss's kernel for scanning codes, with the quantiser that it lives on."""
    index = _quantiser(scale)
    return index, index.get_InvertedListScanner(True, None, None)
