"""Embedders without a host: feature hashing in this process, and none at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import msgspec
import trio

from drivers.contracts import DriverState
from drivers.embedder.hashing import hash_info, hash_vectors
from syscalls.errors import ENODEV

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import EmbedderInfo, Vectors


class LocalStatistics(msgspec.Struct, frozen=True):
    """Figures of an embedder without a host."""

    name: str
    state: DriverState
    texts: int = 0


class LocalEmbedder:
    """Feature hashing here and now: deterministic, so simulations use it."""

    state: DriverState = "ready"

    def __init__(self, spec: str) -> None:
        """``spec`` is ``hash:DIM``. Raises EINVAL."""
        self.info: EmbedderInfo = hash_info(spec)
        self._texts = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing to supervise."""
        task_status.started()

    async def ready(self) -> EmbedderInfo:
        """At once."""
        await trio.lowlevel.checkpoint()
        return self.info

    async def embed(self, texts: Sequence[str], *, background: bool = False) -> Vectors:
        """Unit vectors of shape (len(texts), dimension), float32."""
        await trio.lowlevel.checkpoint()
        self._texts += len(texts)
        return hash_vectors(texts, self.info.dimension)

    def statistics(self) -> LocalStatistics:
        """Figures since it was made."""
        return LocalStatistics(self.info.name, self.state, self._texts)


class NoEmbedder:
    """The embedder of a system that was told to have none."""

    state: DriverState = "absent"
    info: EmbedderInfo | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing to supervise."""
        task_status.started()

    async def ready(self) -> NoReturn:
        """Raises ENODEV."""
        await trio.lowlevel.checkpoint()
        raise ENODEV(
            "no embedder is attached",
            hint="start with `engram boot --embedder minilm`, or set `embedder`",
        )

    async def embed(self, texts: Sequence[str], *, background: bool = False) -> NoReturn:
        """Raises ENODEV."""
        await self.ready()

    def statistics(self) -> LocalStatistics:
        """Nothing but its absence."""
        return LocalStatistics("none", self.state)
