"""Feature hashing: vectors without a model, for tests, simulations and bare machines.

A text becomes the counts of its character n-grams, each hashed to one coordinate and one
sign (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009), then
scaled to length 1. Texts that share words or characters are near, those that share only
meaning are not. The same text gives the same bits on every machine.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import deque
from typing import TYPE_CHECKING

from drivers.contracts import EmbedderInfo
from drivers.embedder.shapes import EmbedArguments, Embedding
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drivers.contracts import Vectors
    from drivers.engine import Job
    from drivers.protocol import EngineSpec

NGRAMS = (2, 3, 4)
DIMENSIONS = range(8, 8193)
_MIX = 0x9E3779B97F4A7C15
"""Odd constant of Fibonacci hashing: 2**64 divided by the golden ratio."""


def hash_vectors(texts: Sequence[str], dimension: int) -> Vectors:
    """Unit vectors of shape (len(texts), dimension), float32."""
    import numpy

    vectors = numpy.zeros((len(texts), dimension), numpy.float32)
    for row, text in enumerate(texts):
        words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        codes = numpy.frombuffer(f" {words} ".encode("utf-32-le", "replace"), "<u4")
        sums = numpy.zeros(dimension)
        state = numpy.ones(len(codes), numpy.uint64)
        for size in range(1, max(NGRAMS) + 1):
            if len(codes) < size:
                break
            # One pass extends every n-gram by the character that follows it.
            state = state[: len(codes) - size + 1] * numpy.uint64(_MIX)
            state = (state ^ codes[size - 1 :]) * numpy.uint64(_MIX)
            state ^= state >> numpy.uint64(29)
            if size in NGRAMS:
                place = (state >> numpy.uint64(8)) % numpy.uint64(dimension)
                sign = 1.0 - 2.0 * (state & numpy.uint64(1))
                sums += numpy.bincount(place.astype(numpy.int64), sign, dimension)
        length = float(numpy.sqrt(sums @ sums))
        if length > 0:
            vectors[row] = sums / length
        else:
            vectors[row, 0] = 1.0
    return vectors


def hash_info(spec: str) -> EmbedderInfo:
    """What ``hash:DIM`` is. Raises EINVAL for a dimension that is none."""
    _, _, size = spec.partition(":")
    if not size.isascii() or not size.isdigit() or int(size) not in DIMENSIONS:
        raise EINVAL(
            f"{spec!r} names no dimension from {DIMENSIONS[0]} to {DIMENSIONS[-1]}",
            hint="write for example hash:384",
        )
    name = f"hash:{int(size)}"
    mark = hashlib.sha256(f"feature-hash 1 {NGRAMS} {name}".encode()).hexdigest()
    return EmbedderInfo(name, int(size), mark, 1 << 20)


class HashEngine:
    """The engine for a host; ``model`` of the spec is the dimension."""

    window = 4

    def __init__(self, spec: EngineSpec) -> None:
        self._info = hash_info(f"hash:{spec.model}")
        self._jobs: deque[Job] = deque()

    def load(self, progress: Callable[[str], None]) -> EmbedderInfo:
        """There is nothing to load."""
        return self._info

    def begin(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def cancel(self, job: Job) -> None:
        """Drop a job that still waits."""
        self._jobs.remove(job)
        job.cancelled()

    @property
    def busy(self) -> bool:
        """Whether a job waits."""
        return bool(self._jobs)

    def step(self) -> None:
        """Answer one job."""
        job = self._jobs.popleft()
        with job.guard():
            arguments = job.arguments(EmbedArguments)
            vectors = hash_vectors(arguments.texts, self._info.dimension)
            job.done(Embedding(vectors.astype("<f4").tobytes()))

    def close(self) -> None:
        """Nothing to keep."""
