"""Memory as the kernel uses it: writing and searching; in memory, with hashed vectors."""

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import pytest
import trio

from drivers.contracts import Batch, EmbedderInfo
from drivers.embedder.local import LocalEmbedder, NoEmbedder
from drivers.indexes import MemoryIndexes
from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Hits, Search, Update
from syscalls.errors import EDQUOT, EIO, ENOENT
from syscalls.records import Filter, Note
from syscalls.shapes import Level
from tests.clock import HandClock
from ums.memory import Memory
from ums.rid import space_of
from ums.settings import MemorySettings


class GatedEmbedder(LocalEmbedder):
    """Hashing that can be not ready yet, slow or broken."""

    def __init__(self) -> None:
        super().__init__("hash:64")
        self._info = self.info
        self.gate = trio.Event()
        self.broken = False
        self.asked = 0

    def load(self) -> None:
        self.gate.set()

    async def ready(self) -> EmbedderInfo:
        await self.gate.wait()
        return await super().ready()

    async def embed(self, texts: Sequence[str], *, background: bool = False) -> Any:
        await self.gate.wait()
        self.asked += len(texts)
        if self.broken:
            raise EIO("the host died", driver="embedder")
        return await super().embed(texts, background=background)


async def inline(work: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return work()


class World:
    """A memory with what it stands on."""

    def __init__(self, embedder: Any = None, **settings: Any) -> None:
        self.clock = HandClock(1_700_000_000.0)
        self.store = MemoryStore()
        self.indexes = MemoryIndexes()
        self.embedder = embedder or LocalEmbedder("hash:64")
        self.lines: list[str] = []
        self.settings = MemorySettings(**settings)
        self.boot()

    def log(self, level: Level, source: str, text: str) -> None:
        self.lines.append(f"{level} {source}: {text}")

    def boot(self) -> None:
        self.memory = Memory(
            self.store,
            self.indexes,
            self.embedder,
            self.clock,
            Random(1),
            inline,
            self.log,
            self.settings,
        )

    async def write(self, space: int, content: str, **fields: Any) -> str:
        note = Note(**{"segment": "semantic", "content": content, **fields})
        return (await self.memory.write(space, 1, note)).rid

    async def fill(self, space: int, count: int, **fields: Any) -> None:
        notes = [
            Note(**{"segment": "semantic", "content": f"filler number {n} of many", **fields})
            for n in range(count)
        ]
        await self.memory.write_many(space, 1, notes)

    async def search(self, spaces: int | list[int], query: str, **fields: Any) -> Hits:
        wanted = [spaces] if isinstance(spaces, int) else spaces
        with trio.fail_after(60):
            return await self.memory.search(wanted, Search(query=query, **fields))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def running(world: World) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        await nursery.start(world.memory.run)
        yield world
        nursery.cancel_scope.cancel()
    await world.memory.aclose()


async def test_a_write_that_returned_is_found_by_the_next_search(world: World) -> None:
    space = await world.memory.create_space(1)
    for number in range(30):
        content = f"note {number} says zebra{number}"
        rid = await world.write(space, content)
        hits = await world.search(space, f"zebra{number}", k=1)
        assert [hit.rid for hit in hits.hits] == [rid]
        assert hits.degraded == []
    stat = await world.memory.stat(space)
    assert stat.indexed == {"lexical": stat.seq, "dense": stat.seq}


async def test_tasks_find_their_own_writes_while_the_workers_index(running: World) -> None:
    space = await running.memory.create_space(1)

    async def agent(name: int) -> None:
        for number in range(5):
            rid = await running.write(space, f"agent{name}x{number} was here")
            hits = await running.search(space, f"agent{name}x{number}", k=1)
            assert [hit.rid for hit in hits.hits] == [rid]

    async with trio.open_nursery() as nursery:
        for name in range(20):
            nursery.start_soon(agent, name)


async def test_what_changed_or_went_is_not_found_as_it_was(world: World) -> None:
    space = await world.memory.create_space(1)
    await world.fill(space, 20)
    rid = await world.write(space, "the giraffe")
    await world.search(space, "giraffe")
    await world.memory.update(1, Update(rid=rid, content="the walrus"))
    hit = (await world.search(space, "walrus", k=1)).hits[0]
    assert (hit.rid, hit.content, hit.provenance.version) == (rid, "the walrus", 2)
    parts = (await world.search(space, "giraffe", k=30, explain=True)).hits
    assert all(hit.parts is not None and hit.parts.lexical == 0 for hit in parts)
    await world.memory.delete(1, rid)
    assert rid not in [hit.rid for hit in (await world.search(space, "walrus", k=30)).hits]


async def test_a_hit_says_everything(world: World) -> None:
    space = await world.memory.create_space(1)
    source = await world.write(space, "source")
    rid = await world.write(
        space,
        "the record",
        kind="fact",
        key="k",
        tags=["t"],
        meta={"m": 1},
        sources=[source],
        taint="tool",
    )
    hit = (await world.search(space, "the record", k=1, explain=True)).hits[0]
    assert (hit.rid, hit.content, hit.segment) == (rid, "the record", "semantic")
    assert (hit.kind, hit.key, hit.tags, hit.meta) == ("fact", "k", ["t"], {"m": 1})
    origin = hit.provenance
    assert (origin.space, origin.writer, origin.call) == (space, 1, "mem.write")
    assert (origin.sources, origin.taint, origin.version) == ([source], "tool", 1)
    assert hit.parts is not None
    assert hit.score == hit.parts.dense + hit.parts.lexical
    assert (await world.search(space, "the record")).hits[0].parts is None


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(kind="rare"),
        Filter(tags=["rare"]),
        Filter(meta={"rare": True}),
        Filter(writer=9),
        Filter(until=1_600_000_000.0),
    ],
)
async def test_filters_do_not_starve(world: World, wanted: Filter) -> None:
    space = await world.memory.create_space(1)
    now, world.clock.time = world.clock.time, 1_500_000_000.0
    rare = Note("episodic", "about something else", "rare", tags=["rare"], meta={"rare": True})
    await world.memory.write_many(space, 9, [rare] * 7)
    world.clock.time = now
    await world.fill(space, 2000)
    hits = await world.search(space, "filler number 5 of many", k=5, filter=wanted)
    assert len(hits.hits) == 5
    assert {hit.content for hit in hits.hits} == {"about something else"}
    assert len((await world.search(space, "filler", k=20, filter=wanted)).hits) == 7


async def test_segments_narrow_inside_the_index(world: World) -> None:
    space = await world.memory.create_space(1)
    await world.fill(space, 500)
    rids = [await world.write(space, f"unlike {n}", segment="procedural") for n in range(3)]
    hits = await world.search(space, "filler number 7 of many", segments=["procedural", "working"])
    assert sorted(hit.rid for hit in hits.hits) == rids
    assert (await world.search(space, "filler", segments=["working"])).hits == []


async def test_a_small_tenant_beside_a_large_one_gets_its_k(world: World) -> None:
    small = await world.memory.create_space(1)
    large = await world.memory.create_space(2)
    await world.fill(large, 2000)
    await world.fill(small, 20)
    for space in (small, large):
        hits = (await world.search(space, "filler number 3", k=10)).hits
        assert len(hits) == 10
        assert {space_of(hit.rid) for hit in hits} == {space}


async def test_several_spaces_are_one_ranking(world: World) -> None:
    own = await world.memory.create_space(1)
    shared = await world.memory.create_space(2)
    await world.fill(own, 50)
    await world.fill(shared, 50)
    mine = await world.write(own, "the plan for the moon landing")
    theirs = await world.write(shared, "the moon landing plan, second draft")
    hits = (await world.search([own, shared], "moon landing plan", k=2)).hits
    assert {hit.rid for hit in hits} == {mine, theirs}
    assert {hit.provenance.space for hit in hits} == {own, shared}
    assert len((await world.search([own, shared], "filler", k=100)).hits) == 100


async def test_nothing_to_search(world: World) -> None:
    space = await world.memory.create_space(1)
    assert await world.search([], "x") == Hits([])
    assert (await world.search(space, "x")).hits == []
    rid = await world.write(space, "x")
    await world.memory.delete(1, rid)
    assert (await world.search(space, "x")).hits == []


async def test_the_same_search_has_the_same_answer(world: World) -> None:
    space = await world.memory.create_space(1)
    for _ in range(40):
        await world.write(space, "all alike")
    first = await world.search(space, "alike", k=10)
    assert [hit.rid for hit in first.hits] == sorted((h.rid for h in first.hits), reverse=True)
    assert await world.search(space, "alike", k=10) == first
    world.boot()
    assert await world.search(space, "alike", k=10) == first


async def test_expired_and_not_yet_valid(world: World) -> None:
    space = await world.memory.create_space(1)
    start = world.clock.time
    brief = await world.write(space, "pizza brief", ttl=10)
    fact = await world.write(space, "pizza fact", valid_from=start - 50, valid_to=start + 50)

    async def found(**fields: Any) -> set[str]:
        return {hit.rid for hit in (await world.search(space, "pizza", **fields)).hits}

    assert await found() == {brief, fact}
    world.clock.time += 10
    assert await found() == {fact}
    assert await found(as_of=start + 49) == {fact}
    assert await found(as_of=start + 50) == set()
    assert await found(as_of=start - 1) == {fact}  # it was so before it was written
    assert await found(as_of=start - 1, known_at=start - 1) == set()
    assert await found(as_of=start - 51) == set()


async def test_as_of_shows_the_version_of_that_time(world: World) -> None:
    space = await world.memory.create_space(1)
    start = world.clock.time
    rid = await world.write(space, "the office is in Berlin")
    for city in ("Paris", "Rome"):
        world.clock.time += 10
        await world.memory.update(1, Update(rid=rid, content=f"the office is in {city}"))
    for after, city in ((0, "Berlin"), (9, "Berlin"), (10, "Paris"), (20, "Rome"), (99, "Rome")):
        hits = (await world.search(space, "office", as_of=start + after)).hits
        assert [hit.content for hit in hits] == [f"the office is in {city}"]
    assert (await world.search(space, "office", as_of=start - 1)).hits == []


async def test_expired_records_make_room_before_the_quota_refuses(world: World) -> None:
    space = await world.memory.create_space(1)
    for _ in range(5):
        await world.memory.write(space, 1, Note("working", "x", ttl=10), "mem.write", 5)
    with pytest.raises(EDQUOT):
        await world.memory.write(space, 1, Note("working", "x"), "mem.write", 5)
    world.clock.time += 11
    await world.memory.write(space, 1, Note("working", "x"), "mem.write", 5)
    assert (await world.memory.stat(space)).records == 1


class FullDisk(MemoryStore):
    """A store whose disk can be full."""

    full = False

    async def commit(self, batch: Batch) -> list[int]:
        if self.full:
            raise EIO("no space left", driver="store")
        return await super().commit(batch)


async def test_a_full_disk_does_not_end_the_housekeeping() -> None:
    world = World(housekeeping=0.01)
    store = world.store = FullDisk()
    world.boot()
    space = await world.memory.create_space(1)
    await world.write(space, "brief", ttl=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.memory.run)
        store.full = True
        world.clock.time += 5
        with trio.fail_after(60):
            while True:
                if any("no space left" in line for line in world.lines):
                    break
                await trio.sleep(0.01)
            store.full = False
            while True:
                if (await world.memory.stat(space)).records == 0:
                    break
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    store.full = True
    await world.memory.aclose()


def test_the_kernel_loads_no_number_library_with_it() -> None:
    code = "import sys, ums.memory; print(sorted({'numpy', 'faiss', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_without_an_embedder_words_are_enough() -> None:
    world = World(NoEmbedder())
    space = await world.memory.create_space(1)
    await world.fill(space, 100)
    rid = await world.write(space, "the aardvark")
    hits = await world.search(space, "aardvark", explain=True)
    assert [hit.rid for hit in hits.hits] == [rid]
    assert hits.degraded == ["dense"]
    assert (await world.memory.stat(space)).indexed.keys() == {"lexical"}


async def test_an_embedder_that_is_late_is_not_waited_for_beyond_the_deadline() -> None:
    embedder = GatedEmbedder()
    world = World(embedder)
    space = await world.memory.create_space(1)
    rid = await world.write(space, "the aardvark")
    hits = await world.search(space, "aardvark", deadline=0.01)
    assert ([hit.rid for hit in hits.hits], hits.degraded) == ([rid], ["dense"])
    embedder.load()
    assert (await world.search(space, "aardvark")).degraded == []


async def test_an_embedder_that_dies_only_degrades() -> None:
    embedder = GatedEmbedder()
    embedder.load()
    world = World(embedder)
    space = await world.memory.create_space(1)
    await world.write(space, "before the crash")
    assert (await world.search(space, "crash")).degraded == []
    embedder.broken = True
    rid = await world.write(space, "the aardvark")
    hits = await world.search(space, "aardvark", k=1)
    assert ([hit.rid for hit in hits.hits], hits.degraded) == ([rid], ["dense"])
    embedder.broken = False
    assert (await world.search(space, "aardvark")).degraded == []


async def test_too_much_to_embed_is_left_to_the_background() -> None:
    embedder = GatedEmbedder()
    embedder.load()
    world = World(embedder, dense_rate=5.0, linger=0.0)
    space = await world.memory.create_space(1)
    await world.fill(space, 200)
    assert (await world.search(space, "filler", k=1)).degraded == ["dense"]
    assert embedder.asked == 1  # the query
    async with trio.open_nursery() as nursery:
        await nursery.start(world.memory.run)
        with trio.fail_after(60):
            while True:
                if not (await world.search(space, "filler", k=1)).degraded:
                    break
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_statistics(world: World) -> None:
    space = await world.memory.create_space(1)
    await world.write(space, "one")
    await world.search(space, "one")
    figures = world.memory.statistics()
    assert (figures.spaces_open, figures.written) == (1, 1)
    assert (figures.recall.searches, figures.recall.degraded) == (1, 0)
    assert figures.indexes.open == 1


async def test_reading_through_memory(world: World) -> None:
    memory = world.memory
    space = await memory.create_space(1, "home")
    rid = await world.write(space, "one", key="k")
    assert memory.space_of(rid) == space == memory.resolve("home")
    assert memory.read(rid) == memory.read_key(space, "k")
    assert [r.rid for r in await memory.newest(space)] == [rid]
    assert [v.content for v in memory.history(rid)] == ["one"]
    with pytest.raises(ENOENT):
        memory.read("0" * 26)
    with pytest.raises(ENOENT):
        await world.write(99, "nowhere")
    await memory.share(space, 7, "read", 1)
    assert memory.access(7, space) == "read"
    assert memory.access(8, space) is None
    assert [g.apid for g in (await memory.stat(space)).grants] == [7]
    with pytest.raises(ENOENT):
        await memory.share(99, 7, "read", 1)
