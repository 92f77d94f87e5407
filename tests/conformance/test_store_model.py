"""Stores against a model made of plain dictionaries, through random histories."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drivers.contracts import Batch, Bucket, Mismatch
from drivers.store.lmdb import LmdbStore, open_store
from drivers.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

TOP = b"\xff" * 500
buckets: st.SearchStrategy[Bucket] = st.sampled_from(["records", "mail"])
keys = st.sampled_from([b"\0", b"a", b"ab", b"b", b"\xff", b"\xff" * 500])
values = st.binary(max_size=3)
streams = st.sampled_from([0, 1, (1 << 64) - 1])
batches = st.builds(
    Batch,
    puts=st.lists(st.tuples(buckets, keys, values), max_size=3),
    deletes=st.lists(st.tuples(buckets, keys), max_size=2),
    expect=st.lists(st.tuples(buckets, keys, st.none() | values), max_size=2),
    journal=st.lists(st.tuples(streams, values), max_size=2),
)


async def inline(work: Callable[[], T]) -> T:
    return work()


class Model:
    """What a store is, said as simply as can be."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[bytes, bytes]] = {"records": {}, "mail": {}}
        self.journal: list[tuple[int, int, bytes]] = []

    def commit(self, batch: Batch) -> list[int] | int:
        """Sequence numbers, or the index of the expectation that does not hold."""
        for index, (bucket, key, wanted) in enumerate(batch.expect):
            if self.maps[bucket].get(key) != wanted:
                return index
        for bucket, key in batch.deletes:
            self.maps[bucket].pop(key, None)
        for bucket, key, value in batch.puts:
            self.maps[bucket][key] = value
        first = len(self.journal) + 1
        for stream, payload in batch.journal:
            self.journal.append((stream, len(self.journal) + 1, payload))
        return list(range(first, len(self.journal) + 1))


class MemoryMachine(RuleBasedStateMachine):
    """Commits one by one and together, and compares everything after each."""

    store: MemoryStore | LmdbStore

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.store = trio.run(self.open)

    async def open(self) -> MemoryStore | LmdbStore:
        return MemoryStore()

    def teardown(self) -> None:
        trio.run(self.store.aclose)

    async def one(self, batch: Batch) -> list[int] | int:
        try:
            return await self.store.commit(batch)
        except Mismatch as error:
            return error.index

    @rule(batch=batches)
    def commit(self, batch: Batch) -> None:
        assert trio.run(self.one, batch) == self.model.commit(batch)

    @rule(group=st.lists(batches, min_size=2, max_size=5))
    def together(self, group: list[Batch]) -> None:
        """Called in an order, waited for at once: one after the other all the same."""
        results: dict[int, list[int] | int] = {}

        async def keep(index: int) -> None:
            results[index] = await self.one(group[index])

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for index in range(len(group)):
                    nursery.start_soon(keep, index)
                    await trio.lowlevel.checkpoint()

        trio.run(main)
        expected = copy.deepcopy(self.model)
        assert [results[n] for n in range(len(group))] == [expected.commit(b) for b in group]
        self.model = expected

    @rule(bucket=buckets, start=keys, stop=keys, limit=st.integers(0, 3), reverse=st.booleans())
    def scan(self, bucket: Bucket, start: bytes, stop: bytes, limit: int, reverse: bool) -> None:
        items = sorted(item for item in self.model.maps[bucket].items() if start <= item[0] < stop)
        if reverse:
            items.reverse()
        found = self.store.scan(bucket, start, stop, limit=limit, reverse=reverse)
        assert found == (items[:limit] if limit else items)

    @rule(stream=streams, after=st.integers(0, 20), limit=st.integers(0, 3))
    def journal(self, stream: int, after: int, limit: int) -> None:
        entries = [
            (seq, payload)
            for found, seq, payload in self.model.journal
            if found == stream and seq > after
        ]
        assert self.store.journal(stream, after, limit) == (entries[:limit] if limit else entries)

    @invariant()
    def same(self) -> None:
        for bucket in ("records", "mail"):
            items = sorted(self.model.maps[bucket].items())
            assert self.store.scan(bucket, b"\0", TOP + b"\xff") == items
        for stream in (0, 1, 2, (1 << 64) - 1):
            seqs = [seq for found, seq, _ in self.model.journal if found == stream]
            assert self.store.last(stream) == (seqs[-1] if seqs else 0)
        assert self.store.statistics().seq == len(self.model.journal)


class LmdbMachine(MemoryMachine):
    """The same on disk, closed and opened again from time to time."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        super().__init__()

    async def open(self) -> LmdbStore:
        path = Path(self.folder.name) / "store"
        return await open_store(path, offload=inline, map_size=1 << 16)

    @precondition(lambda self: self.model.journal)
    @rule()
    def reopen(self) -> None:
        trio.run(self.store.aclose)
        self.store = trio.run(self.open)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestMemoryStore = MemoryMachine.TestCase
TestLmdbStore = LmdbMachine.TestCase
TestMemoryStore.settings = settings(max_examples=40, stateful_step_count=25)
TestLmdbStore.settings = settings(max_examples=20, stateful_step_count=25)
