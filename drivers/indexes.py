"""Opens the derived indexes of a space: on disk, in a folder for each, or in memory.

On disk a space has ``<root>/<space>/vectors.log`` and ``<root>/<space>/words.db``.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from syscalls.errors import EIO

if TYPE_CHECKING:
    from pathlib import Path

    from drivers.contracts import LexicalIndex, VectorIndex


class DiskIndexes:
    """``drivers.contracts.IndexFactory`` below a folder. Its methods block: offload them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def vectors(self, space: int, dimension: int, fingerprint: str) -> VectorIndex:
        """See ``IndexFactory.vectors``. Raises EIO when the disk fails."""
        from drivers.vectors.flat import FlatIndex
        from drivers.vectors.log import VectorLog

        return FlatIndex(
            dimension, VectorLog(self._folder(space) / "vectors.log", dimension, fingerprint)
        )

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


class MemoryIndexes:
    """``drivers.contracts.IndexFactory`` without files: empty at each opening."""

    def vectors(self, space: int, dimension: int, fingerprint: str) -> VectorIndex:
        """See ``IndexFactory.vectors``."""
        from drivers.vectors.flat import FlatIndex

        return FlatIndex(dimension)

    def lexical(self, space: int) -> LexicalIndex:
        """See ``IndexFactory.lexical``."""
        from drivers.lexical.fts5 import Fts5Index

        return Fts5Index()

    def remove(self, space: int) -> None:
        """See ``IndexFactory.remove``."""
