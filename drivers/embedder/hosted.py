"""An embedder in a driver host, with batches that form by themselves.

    embed(3 texts) ─┐                          ┌─ worker ─┐
    embed(1 text)  ─┼─ lane: texts that wait ──┤          ├── host: one call, one batch
    embed(40)      ─┘                          └─ worker ─┘

There are two lanes, foreground and background, with ``WORKERS`` calls in flight each: one
computes while the next is on its way. A worker that comes free takes what waits, up to
``BATCH`` texts, so batches are as large as the load and a lone query waits for nobody. The
engine does foreground calls first and cuts background ones into short steps.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import msgspec
import trio
from trio import lowlevel

from drivers.contracts import EmbedderInfo
from drivers.embedder.shapes import EmbedArguments, Embedding
from drivers.supervisor import Host, HostStatistics
from syscalls.errors import EngramError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import DriverState, Vectors

BATCH = 128
"""Most texts in one call to the host."""
CHARACTERS = 1 << 18
"""Most characters in one call, unless a single text is longer."""
WORKERS = 2
"""Calls in flight for each lane."""
CACHE = 1024
"""Single foreground texts whose vectors are kept."""


class EmbedderStatistics(msgspec.Struct, frozen=True):
    """Figures of a hosted embedder."""

    host: HostStatistics
    texts: int
    tokens: int
    batches: int
    largest_batch: int
    hits: int
    """Queries answered from the cache."""
    misses: int
    waiting: int
    """Texts in the lanes."""


class _Request:
    """What one caller waits for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.missing = len(texts)
        self.rows: list[memoryview] = [memoryview(b"")] * len(texts)
        self.error: EngramError | None = None
        self.event = trio.Event()

    def put(self, index: int, row: memoryview) -> None:
        self.rows[index] = row
        self.missing -= 1
        if not self.missing:
            self.event.set()

    def fail(self, error: EngramError) -> None:
        self.error = error
        self.event.set()


class _Lane:
    """Texts that wait, in order of arrival."""

    def __init__(self) -> None:
        self.items: deque[tuple[_Request, int]] = deque()
        self._lot = lowlevel.ParkingLot()

    def put(self, request: _Request) -> None:
        self.items.extend((request, index) for index in range(len(request.texts)))
        self._lot.unpark()

    async def take(self) -> list[tuple[_Request, int]]:
        """Wait for something, then take one batch of it."""
        await lowlevel.checkpoint()
        batch: list[tuple[_Request, int]] = []
        size = 0
        while not batch:
            while not self.items:
                await self._lot.park()
            while self.items and len(batch) < BATCH:
                request, index = self.items[0]
                if request.event.is_set():  # failed or abandoned
                    self.items.popleft()
                    continue
                size += len(request.texts[index])
                if batch and size > CHARACTERS:
                    break
                batch.append(self.items.popleft())
        if self.items:
            self._lot.unpark()
        return batch


class HostedEmbedder:
    """``contracts.Embedder`` on a supervised host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._info: EmbedderInfo | None = None
        self._lanes = (_Lane(), _Lane())
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._texts = self._tokens = self._batches = self._largest = 0
        self._hits = self._misses = 0

    @property
    def state(self) -> DriverState:
        """The host's."""
        return self._host.state

    @property
    def info(self) -> EmbedderInfo | None:
        """None until it is ready for the first time."""
        return self._info

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise the host and pass batches to it, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._host.run)
                for background, lane in enumerate(self._lanes):
                    for _ in range(WORKERS):
                        nursery.start_soon(self._work, lane, bool(background))
                task_status.started()
        finally:
            self._abandon()

    async def ready(self) -> EmbedderInfo:
        """Wait until it can serve. Raises EIO (failed for good, or stopped)."""
        raw = await self._host.ready()
        if self._info is None:
            self._info = msgspec.msgpack.decode(raw, type=EmbedderInfo)
        return self._info

    async def embed(self, texts: Sequence[str], *, background: bool = False) -> Vectors:
        """Unit vectors of shape (len(texts), dimension), float32, read-only."""
        import numpy

        query = texts[0] if len(texts) == 1 and not background else None
        if query is not None and query in self._cache:
            await lowlevel.checkpoint()
            self._hits += 1
            self._cache.move_to_end(query)
            return self._cache[query]
        info = await self.ready()
        if not texts:
            return numpy.zeros((0, info.dimension), numpy.float32)
        request = _Request(texts)
        self._lanes[background].put(request)
        try:
            await request.event.wait()
        finally:
            request.event.set()  # where we were cancelled: workers pass it over
        if request.error is not None:
            raise request.error
        data = numpy.frombuffer(b"".join(request.rows), "<f4")
        vectors: Vectors = data.reshape(len(texts), info.dimension)
        if query is not None:
            self._misses += 1
            self._cache[query] = vectors
            if len(self._cache) > CACHE:
                self._cache.popitem(last=False)
        return vectors

    async def _work(self, lane: _Lane, background: bool) -> None:
        """Answer batches of one lane, for ever."""
        while True:
            batch = await lane.take()
            # Lone surrogates cannot travel.
            texts = [request.texts[at].encode(errors="replace").decode() for request, at in batch]
            try:
                raw = await self._host.call("embed", EmbedArguments(texts, background), replays=1)
            except EngramError as error:
                for request, _ in batch:
                    request.fail(error)
                continue
            except trio.Cancelled:
                for request, _ in batch:
                    request.fail(self._host.unavailable())
                raise
            answer = msgspec.msgpack.decode(raw, type=Embedding)
            self._texts += len(texts)
            self._tokens += answer.tokens
            self._batches += 1
            self._largest = max(self._largest, len(texts))
            rows = memoryview(answer.data)
            width = len(rows) // len(texts)
            for row, (request, index) in enumerate(batch):
                request.put(index, rows[row * width : (row + 1) * width])

    def _abandon(self) -> None:
        """Nobody works any more: whoever waits is told."""
        for lane in self._lanes:
            for request, _ in lane.items:
                request.fail(self._host.unavailable())
            lane.items.clear()

    def statistics(self) -> EmbedderStatistics:
        """Figures since it was made."""
        return EmbedderStatistics(
            self._host.statistics(),
            self._texts,
            self._tokens,
            self._batches,
            self._largest,
            self._hits,
            self._misses,
            sum(len(lane.items) for lane in self._lanes),
        )
