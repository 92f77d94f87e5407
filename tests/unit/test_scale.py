"""Indexes that grow, change their embedder, and are many: on real files, under a real memory."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from drivers.embedder.local import LocalEmbedder
from drivers.indexes import DiskIndexes
from drivers.store.memory import MemoryStore
from drivers.vectors.build import Build
from drivers.vectors.part import Part
from syscalls.calls.mem import Hits, Search
from syscalls.errors import EIO
from syscalls.records import Note
from syscalls.shapes import Level
from tests.clock import HandClock
from ums.follower import PAGE_BYTES, read_page
from ums.memory import Memory
from ums.settings import MemorySettings


class Threads:
    """Blocking work in threads, as in a kernel."""

    async def __call__(self, work: Any) -> Any:
        return await trio.to_thread.run_sync(work)


class SmallEmbedder(LocalEmbedder):
    """One that reads only so many tokens."""

    def __init__(self, spec: str, most: int) -> None:
        super().__init__(spec)
        self.info = type(self.info)(self.info.name, self.info.dimension, f"{spec}/{most}", most)
        self.most = most
        self.longest = 0

    async def embed(self, texts: Any, *, background: bool = False) -> Any:
        self.longest = max(self.longest, *map(len, texts), 0)
        return await super().embed([text[: 6 * self.most] for text in texts])


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(120):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)


class World:
    """A memory on files."""

    def __init__(self, folder: Path, *, large: int = 0, **settings: Any) -> None:
        self.store = MemoryStore()
        self.folder = folder
        self.indexes = DiskIndexes(folder, large=large)
        self.lines: list[str] = []
        self.settings = MemorySettings(**{"linger": 0.0, "retry": 0.01, **settings})
        self.boot(LocalEmbedder("hash:64"))

    def boot(self, embedder: LocalEmbedder, former: LocalEmbedder | None = None) -> None:
        self.embedder = embedder
        self.memory = Memory(
            self.store,
            self.indexes,
            embedder,
            HandClock(1_700_000_000.0),
            Random(1),
            Threads(),
            self.log,
            self.settings,
            former=former,
        )

    def log(self, level: Level, source: str, text: str) -> None:
        self.lines.append(f"{level} {source}: {text}")

    async def write(self, space: int, *contents: str) -> None:
        await self.memory.write_many(space, 1, [Note("semantic", text) for text in contents])

    async def space(self, count: int) -> int:
        space = await self.memory.create_space(1)
        for start in range(0, count, 500):
            numbers = range(start, min(start + 500, count))
            await self.write(space, *(f"zebra{n} is number {n}" for n in numbers))
        return space

    async def search(self, space: int, query: str, **more: Any) -> Hits:
        with trio.fail_after(60):
            return await self.memory.search([space], Search(query=query, **more))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.memory.run)
            yield
            nursery.cancel_scope.cancel()
        await self.memory.aclose()

    async def indexed(self, space: int) -> None:
        with trio.fail_after(120):
            while True:
                stat = await self.memory.stat(space)
                if stat.indexed == {"lexical": stat.seq, "dense": stat.seq}:
                    return
                await trio.sleep(0.01)

    async def until_logged(self, text: str) -> None:
        await until(lambda: any(text in line for line in self.lines))

    def files(self, space: int, pattern: str) -> set[str]:
        return {path.name for path in (self.folder / str(space)).glob(pattern)}


def never(embedder: LocalEmbedder) -> None:
    """Have an embedder answer queries, but nothing in the background."""
    embed = embedder.embed

    async def stuck(texts: Any, *, background: bool = False) -> Any:
        if background:
            await trio.sleep_forever()
        return await embed(texts)

    embedder.embed = stuck  # type: ignore[method-assign]


async def indexed_world(tmp_path: Path) -> tuple[World, int, set[str]]:
    """A world with a space of 3,000 records, closed, and the names of its vectors."""
    world = World(tmp_path, patience=2.0)
    space = await world.space(3000)
    await world.write(space, "xylophonistically speaking")
    async with world.running():
        await world.indexed(space)
    return world, space, world.files(space, "vectors-*")


async def test_after_a_change_of_embedder_words_answer_and_it_says_so(tmp_path: Path) -> None:
    world, space, old = await indexed_world(tmp_path)
    new = LocalEmbedder("hash:32")
    never(new)
    world.boot(new)
    async with world.running():
        found = await world.search(space, "zebra77", k=1)
        assert [hit.content for hit in found.hits] == ["zebra77 is number 77"]
        assert found.degraded == ["dense"]
        assert old < world.files(space, "vectors-*")
    # Whoever goes back before it is done has lost nothing.
    back = LocalEmbedder("hash:64")
    never(back)
    world.boot(back)
    async with world.running():
        found = await world.search(space, "xylophonistikally", k=1)
        assert [hit.content for hit in found.hits] == ["xylophonistically speaking"]
        assert found.degraded == []


async def test_when_all_is_embedded_anew_the_old_vectors_go(tmp_path: Path) -> None:
    world, space, old = await indexed_world(tmp_path)
    world.boot(LocalEmbedder("hash:32"))
    async with world.running():
        await world.indexed(space)
        found = await world.search(space, "xylophonistikally", k=1)
        assert [hit.content for hit in found.hits] == ["xylophonistically speaking"]
        assert found.degraded == []
        await until(lambda: not old & world.files(space, "vectors-*"))
    assert len(world.files(space, "vectors-*")) == 1


async def test_with_the_old_embedder_at_hand_meaning_answers_on(tmp_path: Path) -> None:
    world, space, _ = await indexed_world(tmp_path)
    new = LocalEmbedder("hash:32")
    never(new)
    world.boot(new, LocalEmbedder("hash:64"))
    async with world.running():
        found = await world.search(space, "xylophonistikally", k=1)
        assert [hit.content for hit in found.hits] == ["xylophonistically speaking"]
        assert found.degraded == ["dense"]
    world.boot(new)
    async with world.running():
        assert (await world.search(space, "xylophonistikally", k=1)).hits == []


async def test_a_long_record_is_found_by_any_part_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.boot(SmallEmbedder("hash:256", 32))
    space = await world.space(20)
    filler = "nothing of any interest happens in this sentence at all. "
    parts = ["quetzalcoatlus", "bergamottatree", "xylophonistical"]
    await world.write(space, *("short note about " + part[::-1] for part in parts))
    await world.write(space, (filler * 12).join(["", *parts, ""]))
    async with world.running():
        await world.indexed(space)
    assert isinstance(world.embedder, SmallEmbedder)
    assert world.embedder.longest < 200
    for part in parts:
        near = f"{part[:5]}.{part[5:]}"  # no word of the text
        found = await world.search(space, near, k=1, explain=True)
        assert part in found.hits[0].content
    index = world.indexes.vectors(space, 256, "hash:256/32")
    assert index.statistics().entries == 24
    index.close()


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "\u200b",
        "\n\n\t",
        "é" * 1000,
        "漢字" * 2000,
        "👩‍👩‍👧‍👦" * 500,
        "\u0301" * 700,
        "مرحبا بالعالم " * 300,
        "\x00\x01\x7f" * 300,
        "word " * 800_000,
    ],
    ids=lambda text: ascii(text[:8]),
)
async def test_any_text_is_indexed(tmp_path: Path, text: str) -> None:
    world = World(tmp_path)
    world.boot(SmallEmbedder("hash:64", 64))
    space = await world.space(1)
    await world.write(space, text)
    await world.write(space, "zebra9 is number 9")
    async with world.running():
        await world.indexed(space)
        found = await world.search(space, "zebra9", k=1)
        assert found.hits[0].content == "zebra9 is number 9"
        assert (await world.search(space, text[:200], k=5)).degraded == []
    assert not [line for line in world.lines if "error" in line]


async def test_long_records_make_short_pages(tmp_path: Path) -> None:
    world = World(tmp_path)
    space = await world.memory.create_space(1)
    for n in range(70):
        await world.write(space, f"{n} " + "x" * (PAGE_BYTES // 35))
    position, seen = 0, 0
    while (page := read_page(world.store, space, position, 512)) is not None:
        assert page.seq > position
        assert len(page.upserts) <= 64
        position, seen = page.seq, seen + len(page.upserts)
    assert seen == 70


async def test_an_index_that_has_grown_is_rebuilt_while_it_serves(tmp_path: Path) -> None:
    world = World(tmp_path, large=200)
    space = await world.space(100)
    async with world.running():
        await world.indexed(space)
        assert world.files(space, "*.part") == set()
        for n in range(100, 1000, 100):
            await world.write(space, *(f"zebra{m} is number {m}" for m in range(n, n + 100)))
            found = await world.search(space, f"zebra{n + 7}", k=1)
            assert found.hits[0].content == f"zebra{n + 7} is number {n + 7}"
            assert found.degraded == []
        await world.until_logged("rebuilt in")
        gone = (await world.search(space, "zebra150", k=1)).hits[0]
        await world.memory.delete(1, gone.rid)
        await world.indexed(space)
        assert gone.rid not in [hit.rid for hit in (await world.search(space, "zebra150")).hits]
    assert len(world.files(space, "*.part")) == 1
    world.boot(LocalEmbedder("hash:64"))
    async with world.running():
        await world.indexed(space)
        for n in (3, 444, 999):
            found = await world.search(space, f"zebra{n}", k=1)
            assert found.hits[0].content == f"zebra{n} is number {n}"
    assert not [line for line in world.lines if "error" in line]


async def test_a_rebuild_that_fails_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Build) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Build, "run", full)
    world = World(tmp_path, large=200)
    space = await world.space(300)
    async with world.running():
        await world.until_logged("not rebuilt: vectors: no space left")
        found = await world.search(space, "zebra3", k=1)
        assert found.hits[0].content == "zebra3 is number 3"
        monkeypatch.undo()
        await world.write(space, "one more")
        await world.until_logged("rebuilt in")
    assert len(world.files(space, "*.part")) == 1


async def test_a_damaged_part_is_built_again(tmp_path: Path) -> None:
    world = World(tmp_path, large=200)
    space = await world.space(300)
    async with world.running():
        await world.until_logged("rebuilt in")
    part = next((tmp_path / str(space)).glob("*.part"))
    content = bytearray(part.read_bytes())
    opened = Part(part)
    for row in range(len(opened)):
        content[-1 - row * opened.row_size] ^= 4
    del opened
    part.write_bytes(content)
    world.boot(LocalEmbedder("hash:64"))
    async with world.running():
        found = await world.search(space, "zebra3", k=1)
        assert found.hits[0].content == "zebra3 is number 3"
        await world.indexed(space)
        assert (await world.search(space, "zebra5", k=1)).degraded == []
    assert any("damaged" in line and "built again" in line for line in world.lines)


async def test_a_shutdown_does_not_wait_for_a_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()
    check = Build._check

    def slow(build: Build) -> None:
        token.run_sync_soon(begun.set)
        import time

        for _ in range(6000):
            check(build)
            time.sleep(0.01)

    monkeypatch.setattr(Build, "_check", slow)
    world = World(tmp_path, large=200)
    space = await world.space(300)
    with trio.fail_after(50):
        async with world.running():
            await begun.wait()
    assert world.files(space, "*.part") == set()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_many_spaces_take_bounded_descriptors_and_memory(tmp_path: Path) -> None:
    """Whether they are used one by one or all at once."""
    world = World(tmp_path, open_spaces=5, index_memory=1 << 30)
    spaces = [await world.space(3) for _ in range(60)]
    before = descriptors()
    most = 0

    async def use(space: int) -> None:
        nonlocal most
        found = await world.search(space, "zebra1", k=1)
        assert found.hits[0].content == "zebra1 is number 1"
        most = max(most, world.memory.statistics().indexes.open)

    async with world.running():
        for space in spaces:
            await world.indexed(space)
        for space in spaces:
            await use(space)
            assert descriptors() - before < 6 * (5 + 12)
        assert most <= 5 + 10, "workers in the background may use some more"
        for space in spaces * 2:
            await use(space)
        await until(lambda: world.memory.statistics().indexes.open <= 5)
        async with trio.open_nursery() as nursery:
            for space in spaces:
                nursery.start_soon(use, space)
        await until(lambda: world.memory.statistics().indexes.open <= 5)
        assert descriptors() - before < 5 * 6
    assert not [line for line in world.lines if "error" in line]


async def test_open_indexes_stay_within_their_memory(tmp_path: Path) -> None:
    world = World(tmp_path, open_spaces=50, index_memory=700_000)
    spaces = [await world.space(200) for _ in range(8)]
    async with world.running():
        for space in spaces * 2:
            await world.search(space, "zebra1", k=1)
            await until(lambda: world.memory._indexer._bytes <= 700_000)
        assert 1 <= world.memory.statistics().indexes.open < 8


async def test_a_full_disk_at_adoption_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drivers.vectors.log import VectorLog

    replace = VectorLog.replace

    def full(*_: object) -> None:
        raise EIO("vectors: no space left", driver="vectors")

    monkeypatch.setattr(VectorLog, "replace", full)
    world = World(tmp_path, large=200)
    space = await world.space(300)
    async with world.running():
        await world.until_logged("not rebuilt")
        assert (await world.search(space, "zebra3", k=1)).degraded == []
        monkeypatch.setattr(VectorLog, "replace", replace)
        await world.write(space, "one more")
        await world.until_logged("rebuilt in")
    assert len(world.files(space, "*.part")) == 1
