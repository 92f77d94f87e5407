"""The machine the kernel runs on: everything that is not deterministic, injected.

A real machine is made by ``boot``; a simulation makes one with a virtual clock, a seed and
stores in memory, and the same kernel runs on it in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import TypeVar

import msgspec
import trio

from drivers.contracts import Clock, Embedder, GraphFactory, IndexFactory, Offload, Store
from drivers.llm.contract import LLM
from drivers.lora.contract import Trainer
from procs.launcher import Spawner

T = TypeVar("T")

WORKERS = 8
"""Threads for blocking work; more would only contend for the interpreter lock."""


class SystemClock:
    """The computer's clocks."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class VirtualClock:
    """Trio's clock: real time, or a ``MockClock``'s in a simulation."""

    def __init__(self, epoch: float = 1_700_000_000.0) -> None:
        self._epoch = epoch

    def now(self) -> float:
        """Seconds since the epoch that the simulation pretends."""
        return self._epoch + trio.current_time()

    def monotonic(self) -> float:
        """Trio's time."""
        return trio.current_time()


class Threads:
    """``Offload`` to worker threads."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._limiter = trio.CapacityLimiter(workers)

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread; it is waited for even when the caller is cancelled."""
        return await trio.to_thread.run_sync(work, limiter=self._limiter)


class Inline:
    """``Offload`` that runs the work here and now: for simulations."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Run ``work``, after a checkpoint as a thread would be."""
        await trio.lowlevel.checkpoint()
        return work()


def _no_llm() -> LLM:
    from drivers.llm.hosted import NoLLM

    return NoLLM()


def _memory_graphs() -> GraphFactory:
    from drivers.graph import MemoryGraphs

    return MemoryGraphs()


def _no_embedder() -> Embedder:
    from drivers.embedder.local import NoEmbedder

    return NoEmbedder()


def _process_trainer() -> Trainer:
    from drivers.lora.trainer import ProcessTrainer

    return ProcessTrainer()


class Machine(msgspec.Struct, frozen=True):
    """What a kernel is given."""

    clock: Clock
    random: Random
    offload: Offload
    store: Store
    indexes: IndexFactory
    embedder: Embedder
    llm: LLM
    spawner: Spawner
    nano: LLM = msgspec.field(default_factory=_no_llm)
    """The embedded model that understands intents."""
    graphs: GraphFactory = msgspec.field(default_factory=_memory_graphs)
    """The entity graphs; none is opened before somebody asks."""
    former: Embedder = msgspec.field(default_factory=_no_embedder)
    """The embedder used before, where there is one at hand."""
    trainer: Callable[[], Trainer] = _process_trainer
    """Makes what trains adapters, at the first training."""
