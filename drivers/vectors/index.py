"""The vectors of one space: for each tag what is in memory, on top of a part on disk.

    tag 0   part (large, approximate, immutable)  +  block (in memory, exact)
    tag 3                                            block
    disk    the log names the parts and holds the blocks, and all changes since

A vector comes into its tag's block and the log. When a block has grown large, ``rebuild``
gives out the work of making a new part of the old one and the block; it runs aside, for
minutes where there are millions, while this index serves and changes. ``adopt`` then takes
the part: what has changed since ``rebuild`` is dead in it and stays in the block. The new log
that names the new part is put in place by one rename, so there is no moment at which a crash
would leave anything but the old state or the new.

A search narrowed by tags reads just the parts and blocks of those, so that it costs less than
a full one and still finds k.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import numpy as np

from drivers.contracts import IndexStatistics, Located
from drivers.vectors.block import Block
from drivers.vectors.log import LogBatch, PartRef
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drivers.contracts import Rebuild, Vectors
    from drivers.vectors.build import Build
    from drivers.vectors.log import VectorLog
    from drivers.vectors.part import Part

logger = logging.getLogger(__name__)

LARGE: Final = 50_000
"""Rows of a tag from which it gets a part; up to there search is exact and all in memory."""
COMPACT_ABOVE: Final = 1024
"""Rows in the log below which dead ones are let be."""
_SNAPSHOT_ROWS: Final = 4096
_BASE_BYTES: Final = 4096
"""Rough memory of an empty index."""


class _Tag:
    """The vectors of one tag."""

    def __init__(self, block: Block, part: Part | None = None) -> None:
        self.block = block
        self.part = part

    def records(self) -> int:
        return self.block.records + (self.part.records if self.part is not None else 0)

    def wants_part(self, large: int) -> bool:
        """Whether search would be faster, or memory less, after a rebuild."""
        if self.part is None:
            return len(self.block) >= large
        most = max(large // 2, len(self.part) // 16)
        return len(self.block) >= most or self.part.buried > max(large // 2, len(self.part) // 4)


class TaggedIndex:
    """``drivers.contracts.VectorIndex``; without a log it is in memory only."""

    def __init__(self, dimension: int, log: VectorLog | None = None, large: int = LARGE) -> None:
        """Read the log. Raises EIO."""
        self._dimension = dimension
        self._log = log
        self._large = large
        self._tags: dict[int, _Tag] = {}
        self._position = 0
        self._logged = 0
        self._reason = ""
        self._since: set[str] | None = None
        """Rids changed since the rebuild on its way was given out."""
        if log is not None:
            self._load(log)

    def _load(self, log: VectorLog) -> None:
        reason = ""
        for number, batch in enumerate(log.read()):
            if number == 0 and log.parts:
                reason = self._open_parts(log)
            if not reason:
                self._change(batch)
                self._logged += len(batch.upserts)
        self._reason = reason or log.reason
        if log.parts and (reason or not self._position):
            # Part of a snapshot is no state that ever was, and a part alone says no position.
            self._reason = self._reason or "its log is cut off"
            self._tags.clear()
            self._position = self._logged = 0
            log.replace([], [])
        named = {ref.name for ref in log.parts}
        for path in log.path.parent.glob(f"{log.path.stem}.*.part"):
            if path.name not in named:
                path.unlink(missing_ok=True)
                if not (self._position or self._reason):
                    self._reason = "its log is gone"

    def _open_parts(self, log: VectorLog) -> str:
        """Open what the log names; why that cannot be done, or empty."""
        from drivers.vectors.part import Corrupt, Part

        for ref in log.parts:
            try:
                part = Part(log.path.with_name(ref.name))
                if part.header.dimension != self._dimension:
                    raise Corrupt(f"{ref.name} has dimension {part.header.dimension}")
                part.bury(ref.dead)
            except (Corrupt, OSError) as error:
                logger.warning("vectors: %s; starting empty", error)
                return str(error)
            self._tags[ref.tag] = _Tag(Block(self._dimension), part)
        return ""

    @property
    def position(self) -> int:
        """See ``VectorIndex.position``."""
        return self._position

    # --- changing

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
        if len(set(upserts)) != len(dict(upserts)):
            raise ValueError("the vectors of one record have one tag")
        batch = LogBatch(seq, upserts, rows, deletes)
        if self._log is not None:
            self._log.append(batch)
            self._logged += len(upserts)
        self._change(batch)
        held = sum(len(tag.block) for tag in self._tags.values())
        if self._log is not None and self._logged > COMPACT_ABOVE + 2 * held:
            self._compact(self._log)

    def _change(self, batch: LogBatch) -> None:
        gone = set(batch.deletes)
        fresh: dict[int, list[int]] = {}
        for row, (rid, tag) in enumerate(batch.upserts):
            if rid not in gone:
                fresh.setdefault(tag, []).append(row)
        changed = dict(batch.upserts) | dict.fromkeys(gone, -1)
        if self._since is not None:
            self._since.update(changed)
        for number, its in self._tags.items():
            if its.part is not None:
                its.part.kill(changed)
            if len(its.block):
                for rid, tag in changed.items():
                    if tag != number:
                        its.block.remove(rid)
        for number, places in fresh.items():
            its = self._tags.setdefault(number, _Tag(Block(self._dimension)))
            rows = batch.rows if len(places) == len(batch.rows) else batch.rows[places]
            its.block.put([batch.upserts[row][0] for row in places], rows)
        self._position = batch.seq

    def _compact(self, log: VectorLog) -> None:
        try:
            self._write_log(log)
        except EIO as error:
            # The long log is whole and the change is in it: only room is wasted.
            logger.warning("vectors: could not be compacted: %s", error)
            self._logged = sum(len(tag.block) for tag in self._tags.values())

    def _write_log(self, log: VectorLog) -> None:
        """Put the present state in the log's place. Raises EIO; the log is as before then."""
        parts = [
            PartRef(number, tag.part.path.name, tag.part.graves())
            for number, tag in self._tags.items()
            if tag.part is not None
        ]
        log.replace(self._snapshot(), parts)
        self._logged = sum(len(tag.block) for tag in self._tags.values())

    def _snapshot(self) -> Iterator[LogBatch]:
        """The blocks as batches. Only the last one says the position: a log that was damaged
        before it must be fed again from the beginning."""
        for number, tag in self._tags.items():
            rids, rows = tag.block.rids, tag.block.rows
            # A record's rows go into one batch: a second one would replace the first's.
            order = np.argsort(np.array(rids, np.str_), kind="stable").tolist()
            start = 0
            while start < len(order):
                end = min(start + _SNAPSHOT_ROWS, len(order))
                while end < len(order) and rids[order[end]] == rids[order[end - 1]]:
                    end += 1
                chosen = order[start:end]
                yield LogBatch(0, [(rids[row], number) for row in chosen], rows[chosen], [])
                start = end
        yield LogBatch(self._position, [], np.empty((0, self._dimension), np.float32), [])

    # --- parts

    @property
    def wants_rebuild(self) -> bool:
        """See ``VectorIndex.wants_rebuild``."""
        return self._log is not None and any(
            tag.wants_part(self._large) for tag in self._tags.values()
        )

    def rebuild(self) -> Rebuild | None:
        """See ``VectorIndex.rebuild``."""
        from drivers.vectors.build import Build

        log = self._log
        for number, tag in self._tags.items():
            if log is not None and tag.wants_part(self._large):
                path = log.path.with_name(f"{log.path.stem}.{number}.{self._position}.part")
                if tag.part is not None and tag.part.path == path:
                    path = path.with_name(f"{log.path.stem}.{number}.{self._position}b.part")
                self._since = set()
                return Build(number, path, tag.part, list(tag.block.rids), tag.block.rows.copy())
        return None

    def adopt(self, rebuild: Rebuild) -> None:
        """See ``VectorIndex.adopt``. Raises EIO; the index is as before then."""
        log, since, build = self._log, self._since, _build(rebuild)
        self._since = None
        if log is None or since is None or not build.done:
            raise ValueError("no such rebuild was given out")
        old = self._tags[build.tag]
        part = _built(build)
        if part is not None:
            part.kill(since)
        block = Block(self._dimension)
        for rid in since:
            rows = old.block.vectors(rid)
            if rows is not None:
                block.put([rid] * len(rows), rows)
        self._tags[build.tag] = _Tag(block, part)
        try:
            self._write_log(log)
        except EIO:
            self._tags[build.tag] = old
            build.discard()
            raise
        if old.part is not None:
            old.part.close()
            try:
                old.part.path.unlink(missing_ok=True)
            except OSError as error:  # the next opening removes what no log names
                logger.warning("vectors: an old part stays: %s", error)

    # --- searching

    def search(self, vector: Vectors, k: int, tags: frozenset[int] | None) -> list[Located]:
        """See ``VectorIndex.search``. Raises ``part.Corrupt``."""
        query = self._query(vector)
        found: list[Located] = []
        for number, tag in self._tags.items():
            if tags is None or number in tags:
                found += map(Located, *_columns(tag.block.search(query, k)))
                if tag.part is not None:
                    found += map(Located, *_columns(tag.part.search(query, k)))
        found.sort(key=lambda hit: (-hit.score, hit.rid))
        return found[: max(0, k)]

    def scores(self, vector: Vectors, rids: Sequence[str]) -> list[float | None]:
        """See ``VectorIndex.scores``. Raises ``part.Corrupt``."""
        query = self._query(vector)[0]
        found: dict[str, float] = {}
        wanted = list(dict.fromkeys(rids))
        for tag in self._tags.values():
            places = {rid: rows for rid in wanted if (rows := tag.block.vectors(rid)) is not None}
            if tag.part is not None:
                for rid, numbers in tag.part.find(wanted).items():
                    if not tag.part.dead[numbers[0]]:
                        places[rid] = tag.part.exact(numbers)
            if places:
                products = (np.concatenate(list(places.values())) @ query).tolist()
                start = 0
                for rid, rows in places.items():
                    found[rid] = max(products[start : start + len(rows)])
                    start += len(rows)
        return [found.get(rid) for rid in rids]

    def _query(self, vector: Vectors) -> Vectors:
        query = np.ascontiguousarray(vector, np.float32)
        if query.shape != (self._dimension,):
            raise ValueError(f"a vector of dimension {self._dimension}, not of {query.shape}")
        return query.reshape(1, -1)

    # --- the rest

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
            for tag in self._tags.values():
                if tag.part is not None:
                    tag.part.close()
            self._tags.clear()

    def statistics(self) -> IndexStatistics:
        """See ``VectorIndex.statistics``."""
        parts = [tag.part for tag in self._tags.values() if tag.part is not None]
        disk = self._log.size if self._log is not None else 0
        memory = sum(tag.block.bytes for tag in self._tags.values())
        return IndexStatistics(
            kind="ivf" if parts else "flat",
            position=self._position,
            entries=sum(tag.records() for tag in self._tags.values()),
            bytes_disk=disk + sum(part.bytes_disk for part in parts),
            bytes_memory=_BASE_BYTES + memory + sum(part.bytes_memory for part in parts),
            rebuilt=self._reason,
        )


def _columns(found: dict[str, float]) -> tuple[list[str], list[float]]:
    return list(found), list(found.values())


def _built(build: Build) -> Part | None:
    """The part that a build has made; None when nothing was left to put into one. Raises EIO."""
    from drivers.vectors.part import Corrupt, Part

    try:
        return Part(build.path, verify=False) if len(build) else None
    except (Corrupt, OSError) as error:
        build.discard()
        raise EIO(f"vectors: {error}", driver="vectors", path=str(build.path)) from error


def _build(rebuild: Rebuild) -> Build:
    from drivers.vectors.build import Build

    if not isinstance(rebuild, Build):
        raise TypeError("not a rebuild of this kind of index")
    return rebuild
