"""The derived indexes: fed, opened, closed, lost, damaged, made by another embedder."""

from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from drivers.contracts import LexicalIndex, VectorIndex
from drivers.embedder.local import LocalEmbedder
from drivers.indexes import MemoryIndexes
from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Search, Update
from syscalls.errors import EIO
from syscalls.records import Note
from syscalls.shapes import Level
from tests.clock import HandClock
from ums.follower import read_page
from ums.memory import Memory
from ums.settings import MemorySettings


class Flaky:
    """An index that fails when it is told to."""

    def __init__(self, inner: Any, faults: set[str], kind: str) -> None:
        self._inner = inner
        self._faults = faults
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if f"{self._kind}.{name}" in self._faults:
            raise RuntimeError(f"{self._kind}.{name} is damaged")
        return value


class FlakyIndexes:
    """Real indexes with faults and a memory of what was opened; empty at each opening."""

    def __init__(self) -> None:
        self.inner = MemoryIndexes()
        self.faults: set[str] = set()
        self.dense: dict[int, VectorIndex] = {}
        self.words: dict[int, LexicalIndex] = {}
        self.prepared: list[LexicalIndex] = []
        self.removed: list[int] = []
        self.opened: list[tuple[int, str]] = []

    def vectors(self, space: int, dimension: int, fingerprint: str) -> VectorIndex:
        self.opened.append((space, "dense"))
        self.dense[space] = index = self.inner.vectors(space, dimension, fingerprint)
        return Flaky(index, self.faults, "dense")

    def lexical(self, space: int) -> LexicalIndex:
        self.opened.append((space, "lexical"))
        index = self.prepared.pop() if self.prepared else self.inner.lexical(space)
        self.words[space] = index
        return Flaky(index, self.faults, "lexical")

    def retire(self, space: int, fingerprint: str) -> bool:
        return self.inner.retire(space, fingerprint)

    def remove(self, space: int) -> None:
        self.removed.append(space)
        self.inner.remove(space)
        self.faults.clear()


async def inline(work: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return work()


class World:
    """A memory with what it stands on."""

    def __init__(self, **settings: Any) -> None:
        self.store = MemoryStore()
        self.indexes = FlakyIndexes()
        self.lines: list[str] = []
        self.settings = MemorySettings(**{"linger": 0.0, "retry": 0.01, **settings})
        self.boot("hash:64")

    def log(self, level: Level, source: str, text: str) -> None:
        self.lines.append(f"{level} {source}: {text}")

    def boot(self, embedder: str) -> None:
        self.embedder = LocalEmbedder(embedder)
        self.memory = Memory(
            self.store,
            self.indexes,
            self.embedder,
            HandClock(1_700_000_000.0),
            Random(1),
            inline,
            self.log,
            self.settings,
        )

    async def space(self, count: int) -> int:
        space = await self.memory.create_space(1)
        await self.memory.write_many(
            space, 1, [Note("semantic", f"zebra{n} is number {n}") for n in range(count)]
        )
        return space

    async def check(self, space: int, number: int, degraded: list[str] | None = None) -> None:
        with trio.fail_after(60):
            found = await self.memory.search([space], Search(query=f"zebra{number}", k=1))
        assert [hit.content for hit in found.hits] == [f"zebra{number} is number {number}"]
        assert found.degraded == (degraded or [])

    async def settle(self, *spaces: int) -> None:
        """Run in the background until everything is indexed."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.memory.run)
            with trio.fail_after(60):
                for space in spaces:
                    while True:
                        stat = await self.memory.stat(space)
                        if stat.indexed == {"lexical": stat.seq, "dense": stat.seq}:
                            break
                        await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    async def until_open(self, most: int) -> None:
        with trio.fail_after(60):
            while True:
                if self.memory.statistics().indexes.open <= most:
                    break
                await trio.sleep(0.01)


@pytest.fixture
def world() -> World:
    return World()


async def test_workers_index_without_being_asked(world: World) -> None:
    spaces = [await world.space(10) for _ in range(5)]
    await world.settle(*spaces)
    assert len(world.indexes.words[spaces[3]].search("zebra7", 5, None)) == 1
    assert world.indexes.dense[spaces[3]].statistics().entries == 10


async def test_lost_indexes_are_rebuilt_after_the_start(world: World) -> None:
    spaces = [await world.space(30) for _ in range(3)]
    await world.settle(*spaces)
    await world.memory.aclose()
    world.boot("hash:64")
    await world.settle(*spaces)
    assert world.memory.statistics().recall.searches == 0
    await world.check(spaces[1], 17)
    assert any("caught up" in line for line in world.lines)


async def test_a_long_rebuild_says_how_far_it_is(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    space = await world.space(1500)
    embed = world.embedder.embed

    async def slow(texts: Any, *, background: bool = False) -> Any:
        await trio.sleep(3)
        return await embed(texts, background=background)

    world.embedder.embed = slow  # type: ignore[method-assign]
    await world.memory._indexer.recover([space])
    told = [line for line in world.lines if "dense: space 1 of 1" in line]
    assert len(told) >= 3
    assert "% rebuilt" in told[0]
    assert "dense: 1 of 1 spaces caught up" in world.lines[-1]


async def test_another_embedder_has_the_vectors_rebuilt(world: World) -> None:
    space = await world.space(50)
    await world.settle(space)
    await world.memory.aclose()
    world.boot("hash:32")
    await world.settle(space)
    await world.check(space, 31)
    assert world.indexes.dense[space].statistics().entries == 50


@pytest.mark.parametrize(
    "fault", ["lexical.search", "dense.search", "dense.scores", "lexical.apply", "dense.apply"]
)
async def test_an_index_damaged_in_use_is_built_again(world: World, fault: str) -> None:
    space = await world.space(40)
    await world.check(space, 3)
    if "apply" in fault:
        await world.memory.write(space, 1, Note("semantic", "one more"))
    if fault == "dense.scores":
        # Only what its words alone have found is compared.
        for n in range(100):
            await world.memory.write(space, 1, Note("semantic", f"number {n} again " * 3))
    world.indexes.faults.add(fault)
    await world.check(space, 12)
    if fault != "dense.scores":
        assert world.indexes.removed == [space]
        assert any("error" in line and "damaged" in line for line in world.lines)
    await world.check(space, 13)


async def test_an_index_that_stays_broken_only_degrades(world: World) -> None:
    space = await world.space(40)

    class Stubborn(set[str]):
        def clear(self) -> None:
            pass

    world.indexes.faults = Stubborn({"dense.search"})
    await world.check(space, 5, ["dense"])
    await world.check(space, 6, ["dense"])
    world.indexes.faults = set()
    await world.memory.aclose()
    world.boot("hash:64")
    await world.check(space, 7)


async def test_one_damage_seen_by_many_is_mended_once(world: World) -> None:
    space = await world.space(40)
    await world.check(space, 3)
    world.indexes.faults.add("lexical.search")
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(world.check, space, number)
    assert world.indexes.removed == [space]


async def test_an_index_ahead_of_the_store_is_not_believed(world: World) -> None:
    space = await world.space(5)
    ahead = MemoryIndexes().lexical(space)
    ahead.apply(10_000, [("0" * 26, 2, "zebra4 ghost")], [])
    world.indexes.prepared.append(ahead)
    await world.check(space, 4)
    assert world.indexes.removed == [space]


async def test_only_so_many_spaces_stay_open() -> None:
    world = World(open_spaces=3, flush_after=0.02)
    spaces = [await world.space(3) for _ in range(20)]
    async with trio.open_nursery() as nursery:
        await nursery.start(world.memory.run)
        for _ in range(2):
            for space in spaces:
                await world.check(space, 1)
        await world.until_open(3)
        nursery.cancel_scope.cancel()
    assert len(world.indexes.opened) > 2 * len(spaces)
    for space in spaces:
        await world.check(space, 2)


async def test_closing_under_use_is_safe() -> None:
    world = World(open_spaces=1, flush_after=0.001)
    spaces = [await world.space(5) for _ in range(6)]

    async def use(space: int) -> None:
        for number in range(5):
            await world.check(space, number)

    async with trio.open_nursery() as nursery:
        await nursery.start(world.memory.run)
        with trio.fail_after(60):
            async with trio.open_nursery() as users:
                for space in spaces * 3:
                    users.start_soon(use, space)
        nursery.cancel_scope.cancel()
    assert world.indexes.removed == []


async def test_big_indexes_are_closed_when_nobody_uses_them() -> None:
    world = World(index_memory=1, flush_after=0.01)
    space = await world.space(50)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.memory.run)
        await world.check(space, 3)
        await world.until_open(0)
        nursery.cancel_scope.cancel()


async def test_an_embedder_that_failed_for_good_ends_the_embedding_only(world: World) -> None:
    space = await world.space(10)

    async def failed() -> Any:
        await trio.lowlevel.checkpoint()
        raise EIO("the weights are damaged", driver="embedder")

    world.embedder.ready = failed  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        await nursery.start(world.memory.run)
        await world.memory.write(space, 1, Note("semantic", "zebra99 is number 99"))
        await world.check(space, 99, ["dense"])
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    assert sum("weights are damaged" in line for line in world.lines) == 1


async def test_an_embedder_that_dies_and_comes_back_goes_on(world: World) -> None:
    space = await world.space(200)
    embed = world.embedder.embed
    deaths = 3

    async def mortal(texts: Any, *, background: bool = False) -> Any:
        nonlocal deaths
        if background and deaths:
            deaths -= 1
            raise EIO("the host died", driver="embedder")
        return await embed(texts, background=background)

    world.embedder.embed = mortal  # type: ignore[method-assign]
    await world.settle(space)
    assert deaths == 0
    await world.check(space, 150)


async def test_a_page_names_each_record_once_as_it_is_now(world: World) -> None:
    space = await world.space(3)
    records = await world.memory.newest(space)
    await world.memory.update(1, Update(rid=records[0].rid, content="changed"))
    await world.memory.delete(1, records[1].rid)
    page = read_page(world.store, space, 0, 100)
    assert page is not None
    assert page.seq == world.store.last(space)
    assert {rid: stored.content for rid, _, stored in page.upserts} == {
        records[0].rid: "changed",
        records[2].rid: records[2].content,
    }
    assert page.deletes == [records[1].rid]
    early = read_page(world.store, space, 0, 3)
    assert early is not None
    assert [rid for rid, _, _ in early.upserts] == [records[2].rid]
    assert read_page(world.store, space, page.seq, 100) is None


async def test_reads_of_the_index_do_not_wait_for_the_embedder(world: World) -> None:
    """A page that waits for vectors holds no lock that a search needs."""
    space = await world.space(10)
    await world.check(space, 3)
    gate = trio.Event()
    embed = world.embedder.embed

    async def slow(texts: Any, *, background: bool = False) -> Any:
        if background:
            await gate.wait()
        return await embed(texts, background=background)

    world.embedder.embed = slow  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        await nursery.start(world.memory.run)
        await world.memory.write(space, 1, Note("semantic", "zebra99 is number 99"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        found = await world.memory.search([space], Search(query="zebra99", k=1, deadline=0.05))
        assert found.hits[0].content == "zebra99 is number 99"
        assert found.degraded == ["dense"]
        gate.set()
        await world.check(space, 99)
        nursery.cancel_scope.cancel()
