"""Entity graphs: kuzu or ladybug on disk, or plain dictionaries.

One library in a process: kuzu and ladybug register the same C++ types and cannot both be
loaded, so a kernel has one kind of graph. None is imported before the first graph is opened.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from syscalls.errors import EINVAL, EIO, ENODEV

if TYPE_CHECKING:
    from pathlib import Path

    from drivers.contracts import GraphFactory, GraphIndex

KINDS = ("kuzu", "ladybug", "memory", "none")


def make_graphs(kind: str, root: Path) -> GraphFactory:
    """The graphs of a kind (see ``KINDS``), those on disk below ``root``. Raises EINVAL."""
    if kind == "memory":
        return MemoryGraphs()
    if kind == "none":
        return NoGraphs()
    if kind not in KINDS:
        raise EINVAL(f"there is no kind of graph {kind!r}", hint=", ".join(KINDS))
    return DiskGraphs(kind, root)


class DiskGraphs:
    """``drivers.contracts.GraphFactory`` below a folder. Its methods block: offload them."""

    def __init__(self, kind: str, root: Path) -> None:
        self._kind = kind
        self._root = root

    def graph(self, space: int) -> GraphIndex:
        """See ``GraphFactory.graph``. Raises ENODEV, EIO."""
        from drivers.graph.cypher import CypherGraph

        if self._kind == "ladybug":
            from drivers.graph.ladybug import library
        else:
            from drivers.graph.kuzu import library
        return CypherGraph(library(), self._root / str(space) / f"graph.{self._kind}")

    def remove(self, space: int) -> None:
        """See ``GraphFactory.remove``. Raises EIO."""
        try:
            shutil.rmtree(self._root / str(space))
        except FileNotFoundError:
            return
        except OSError as error:
            raise EIO(f"graph: {error}", driver="graph", space=space) from error


class MemoryGraphs:
    """``drivers.contracts.GraphFactory`` without files: empty at each opening."""

    def graph(self, space: int) -> GraphIndex:
        """See ``GraphFactory.graph``."""
        from drivers.graph.memory import MemoryGraph

        return MemoryGraph()

    def remove(self, space: int) -> None:
        """See ``GraphFactory.remove``."""


class NoGraphs:
    """``drivers.contracts.GraphFactory`` where none is wanted."""

    def graph(self, space: int) -> GraphIndex:
        """Raises ENODEV."""
        raise ENODEV("there is no entity graph", hint="start the kernel with --graph kuzu")

    def remove(self, space: int) -> None:
        """See ``GraphFactory.remove``."""
