"""Opens the derived indexes of a space: on disk, in a folder for each, or in memory.

    <root>/<space>/words.db                                  the words
    <root>/<space>/vectors-<embedder>.log                    the vectors, and what changed
    <root>/<space>/vectors-<embedder>.<tag>.<seq>.part       large parts of them

Each embedder has its own files, named by a hash of its fingerprint. So a change of embedder
destroys nothing: the old vectors are there until those of the new one are complete, and are
found again by who changes back before that.
"""

from __future__ import annotations

import shutil
from hashlib import blake2b
from typing import TYPE_CHECKING

from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drivers.contracts import LexicalIndex, VectorIndex


OLD_LOG = "vectors.log"


class DiskIndexes:
    """``drivers.contracts.IndexFactory`` below a folder. Its methods block: offload them."""

    def __init__(self, root: Path, *, large: int = 0) -> None:
        """``large``: vectors of a segment from which search is approximate; 0 for the default."""
        self._root = root
        self._large = large

    def vectors(self, space: int, dimension: int, fingerprint: str) -> VectorIndex:
        """See ``IndexFactory.vectors``. Raises EIO when the disk fails."""
        from drivers.vectors.index import LARGE, TaggedIndex
        from drivers.vectors.log import VectorLog

        path = self._folder(space) / f"{_stem(fingerprint)}.log"
        try:
            _take_over(path, fingerprint)
            log = VectorLog(path, dimension, fingerprint)
            return TaggedIndex(dimension, log, self._large or LARGE)
        except OSError as error:
            raise EIO(f"vectors: {error}", driver="vectors", path=str(path)) from error

    def retire(self, space: int, fingerprint: str) -> bool:
        """See ``IndexFactory.retire``. Raises EIO."""
        stem = _stem(fingerprint)
        try:
            others = [path for path in self._vectors(space) if not path.name.startswith(stem)]
            for path in others:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise EIO(f"indexes: {error}", driver="indexes", space=space) from error
        return bool(others)

    def _vectors(self, space: int) -> Iterator[Path]:
        folder = self._folder(space)
        yield from folder.glob("vectors-*")
        yield from folder.glob(OLD_LOG)

    def lexical(self, space: int) -> LexicalIndex:
        """See ``IndexFactory.lexical``. Raises EIO when the disk fails."""
        from drivers.lexical.fts5 import Fts5Index

        return Fts5Index(self._folder(space) / "words.db")

    def remove(self, space: int) -> None:
        """See ``IndexFactory.remove``; nothing when there are none. Raises EIO."""
        try:
            shutil.rmtree(self._folder(space))
        except FileNotFoundError:
            return
        except OSError as error:
            raise EIO(f"indexes: {error}", driver="indexes", space=space) from error

    def _folder(self, space: int) -> Path:
        return self._root / str(space)


def _stem(fingerprint: str) -> str:
    return f"vectors-{blake2b(fingerprint.encode(), digest_size=8).hexdigest()}"


def _take_over(path: Path, fingerprint: str) -> None:
    """Give a log from before each embedder had its own the name that it has now."""
    from drivers.vectors.log import fingerprint_of

    old = path.with_name(OLD_LOG)
    if old.exists() and not path.exists() and fingerprint_of(old) == fingerprint:
        old.rename(path)


class MemoryIndexes:
    """``drivers.contracts.IndexFactory`` without files: empty at each opening."""

    def vectors(self, space: int, dimension: int, fingerprint: str) -> VectorIndex:
        """See ``IndexFactory.vectors``."""
        from drivers.vectors.index import TaggedIndex

        return TaggedIndex(dimension)

    def retire(self, space: int, fingerprint: str) -> bool:
        """See ``IndexFactory.retire``: there is nothing of others."""
        return False

    def lexical(self, space: int) -> LexicalIndex:
        """See ``IndexFactory.lexical``."""
        from drivers.lexical.fts5 import Fts5Index

        return Fts5Index()

    def remove(self, space: int) -> None:
        """See ``IndexFactory.remove``."""
