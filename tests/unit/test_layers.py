"""Stacks of layers: snapshots, forks, attachments; what each of them sees and erases."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from drivers.embedder.local import LocalEmbedder
from drivers.indexes import MemoryIndexes
from drivers.store.changes import BUCKETS
from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Hits, Search, Update
from syscalls.errors import EAGAIN, ECONFLICT, EDQUOT, EEXIST, EINVAL, EIO, ENOENT, EPERM
from syscalls.records import Filter, Note
from tests.clock import HandClock
from ums.memory import Memory
from ums.rid import space_of
from ums.spaces import MAX_LAYERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from drivers.contracts import Batch, Bucket
    from syscalls.shapes import Level


class CountingStore(MemoryStore):
    """Counts what it is asked for, and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.full = False
        self.hold: trio.Event | None = None

    async def commit(self, batch: Batch) -> list[int]:
        if self.full:
            raise EIO("no space left", driver="store")
        self.counts["commits"] += 1
        self.counts["puts"] += len(batch.puts) + len(batch.deletes) + len(batch.journal)
        self.counts["bytes"] += sum(len(key) + len(value) for _, key, value in batch.puts)
        given = await super().commit(batch)
        if self.hold is not None:
            await self.hold.wait()
        return given

    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        self.counts["reads"] += 1
        return super().get(bucket, key)

    def scan(self, *args: Any, **kwargs: Any) -> list[tuple[bytes, bytes]]:
        found = super().scan(*args, **kwargs)
        self.counts["reads"] += 1 + len(found)
        return found


async def inline(work: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return work()


class World:
    """A memory with one space, ``home``."""

    def __init__(self) -> None:
        self.clock = HandClock(1_700_000_000.0)
        self.store = CountingStore()
        self.boot()

    def boot(self) -> None:
        """As after a restart: all is new but the store."""
        self.memory = Memory(
            self.store,
            MemoryIndexes(),
            LocalEmbedder("hash:64"),
            self.clock,
            Random(1),
            inline,
            self.log,
        )

    def log(self, level: Level, source: str, text: str) -> None:
        pass

    async def home(self) -> int:
        return await self.memory.create_space(5, "home")

    async def write(self, space: int, content: str, **fields: Any) -> str:
        note = Note(**{"segment": "semantic", "content": content, **fields})
        return (await self.memory.write(space, 5, note)).rid

    async def update(self, space: int, rid: str, content: str) -> int:
        call = Update(rid=rid, content=content)
        return (await self.memory.update(5, call, space=space)).version

    async def delete(self, space: int, rid: str) -> None:
        await self.memory.delete(5, rid, space=space)

    async def contents(self, space: int) -> list[str]:
        return [record.content for record in await self.memory.newest(space, limit=1000)]

    async def search(self, space: int, query: str, **fields: Any) -> Hits:
        return await self.memory.search([space], Search(query=query, **fields))

    async def found(self, space: int, query: str, **fields: Any) -> list[str]:
        return [hit.content for hit in (await self.search(space, query, **fields)).hits]

    def on_disk(self, text: str) -> list[tuple[str, bytes]]:
        """Where in the store a text is."""
        return [
            (bucket, key)
            for bucket in BUCKETS
            for key, value in self.store.scan(bucket, b"\x00", b"\xff" * 60)
            if text.encode() in key + value
        ]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_snapshot_keeps_what_was_and_the_space_goes_on(world: World) -> None:
    memory, home = world.memory, await world.home()
    kept = await world.write(home, "kept")
    changed = await world.write(home, "before")
    gone = await world.write(home, "deleted later")
    then = await memory.snapshot(home, 5, "then")
    await world.update(home, changed, "after")
    await world.delete(home, gone)
    await world.write(home, "new")
    assert await world.contents(home) == ["new", "after", "kept"]
    assert await world.contents(then) == ["deleted later", "before", "kept"]
    assert memory.read(kept, space=then).space == then
    assert memory.read(kept).space == home
    assert memory.read(changed, space=home).version == 2
    assert memory.read(changed, space=then).version == 1
    assert [v.content for v in memory.history(changed)] == ["before", "after"]
    assert [v.content for v in memory.history(changed, space=then)] == ["before"]
    assert memory.read(changed, 1).content == "before"
    with pytest.raises(ENOENT):
        memory.read(gone)
    assert memory.resolve("then") == then
    stat = await memory.stat(then)
    assert (stat.records, stat.origin, stat.sealed) == (3, home, True)
    assert (await memory.stat(home)).records == 3
    world.boot()
    assert await world.contents(home) == ["new", "after", "kept"]
    assert await world.contents(then) == ["deleted later", "before", "kept"]


async def test_a_snapshot_is_not_written(world: World) -> None:
    home = await world.home()
    rid = await world.write(home, "x")
    then = await world.memory.snapshot(home, 5)
    with pytest.raises(EPERM):
        await world.write(then, "y")
    with pytest.raises(EPERM):
        await world.memory.write_many(then, 5, [Note("semantic", "y", key="k")])
    with pytest.raises(EPERM):
        await world.update(then, rid, "y")
    assert await world.contents(then) == ["x"]


async def test_a_fork_goes_on_by_itself(world: World) -> None:
    memory, home = world.memory, await world.home()
    rid = await world.write(home, "common")
    fork = await memory.fork(home, 9)
    await world.update(fork, rid, "the fork's")
    await world.update(home, rid, "the parent's")
    mine = await world.write(fork, "made in the fork")
    assert memory.space_of(mine) == fork
    assert await world.contents(fork) == ["made in the fork", "the fork's"]
    assert await world.contents(home) == ["the parent's"]
    assert [v.content for v in memory.history(rid, space=fork)] == ["common", "the fork's"]
    with pytest.raises(ENOENT):
        memory.read(mine, space=home)
    grandchild = await memory.fork(fork, 10)
    await world.delete(grandchild, rid)
    assert await world.contents(grandchild) == ["made in the fork"]
    assert await world.contents(fork) == ["made in the fork", "the fork's"]


async def test_search_through_layers(world: World) -> None:
    memory, home = world.memory, await world.home()
    first = await world.write(home, "the zebra sleeps")
    second = await world.write(home, "the zebra runs")
    then = await memory.snapshot(home, 5)
    await world.update(home, first, "the giraffe sleeps")
    await world.delete(home, second)
    third = await world.write(home, "another zebra")
    assert (await world.found(home, "zebra"))[0] == "another zebra"
    assert "the zebra sleeps" not in await world.found(home, "zebra")
    assert "the zebra runs" not in await world.found(home, "zebra")
    assert (await world.found(home, "giraffe"))[0] == "the giraffe sleeps"
    assert sorted(await world.found(then, "zebra")) == ["the zebra runs", "the zebra sleeps"]
    hit = (await world.search(home, "giraffe", k=1)).hits[0]
    assert (hit.rid, hit.provenance.space, hit.provenance.version) == (first, home, 2)
    assert space_of(third) not in (home, then)  # born in a layer that has its own number
    both = await memory.search([home, then], Search(query="sleeps", k=10))
    assert [hit.content for hit in both.hits if hit.rid == first] == ["the giraffe sleeps"]


async def test_a_narrow_search_finds_k_below_many_covered_records(world: World) -> None:
    """More candidates are covered than an index is first asked for."""
    home = await world.home()
    notes = [Note("semantic", f"zebra number {n}") for n in range(700)]
    written = await world.memory.write_many(home, 5, notes)
    await world.memory.snapshot(home, 5)
    for one in written[:690]:
        await world.delete(home, one.rid)
    found = await world.found(home, "zebra", k=10)
    assert sorted(found) == sorted(f"zebra number {n}" for n in range(690, 700))
    tagged = await world.write(home, "zebra of the herd", tags=["rare"])
    hits = await world.search(home, "zebra", k=1, filter=Filter(tags=["rare"]))
    assert [hit.rid for hit in hits.hits] == [tagged]


async def test_search_as_of_a_moment_looks_into_lower_layers(world: World) -> None:
    home = await world.home()
    rid = await world.write(home, "the plan is red")
    past = world.clock.time
    world.clock.time += 100
    await world.memory.snapshot(home, 5)
    await world.update(home, rid, "the plan is blue")
    assert await world.found(home, "plan") == ["the plan is blue"]
    assert await world.found(home, "plan", as_of=past) == ["the plan is red"]


async def test_keys_and_idempotency_reach_through_layers(world: World) -> None:
    memory, home = world.memory, await world.home()
    rid = await world.write(home, "one", key="k")
    once = await world.write(home, "once", idempotency="i")
    fork = await memory.fork(home, 9)
    assert await world.write(fork, "two", key="k") == rid
    assert memory.read_key(fork, "k").content == "two"
    assert memory.read_key(home, "k").content == "one"
    assert await world.write(fork, "once", idempotency="i") == once
    with pytest.raises(ECONFLICT):
        await world.write(fork, "something else", idempotency="i")
    await world.delete(fork, rid)
    with pytest.raises(ENOENT):
        memory.read_key(fork, "k")
    assert memory.read_key(home, "k").content == "one"
    again = await world.write(fork, "three", key="k")
    assert again != rid
    assert memory.read_key(fork, "k").content == "three"
    assert memory.read_key(home, "k").content == "one"


async def test_delete_covers_while_another_space_sees_it_and_erases_with_the_last(
    world: World,
) -> None:
    memory, home = world.memory, await world.home()
    secret = "the-secret-itself"
    first = {"key": f"{secret}-key", "meta": {"m": secret}, "tags": [secret], "idempotency": "i"}
    rid = await world.write(home, secret, **first)
    await world.update(home, rid, f"{secret} again")
    then = await memory.snapshot(home, 5)
    await world.update(home, rid, f"{secret} at last")
    await world.delete(home, rid)
    assert [v.content for v in memory.history(rid)] == [None] * 4
    assert memory.history(rid)[-1].state == "forgotten"
    assert not world.on_disk("at last")
    # A repeat of the write is still the one that was done, and confirms no guess.
    assert await world.write(home, "guess", idempotency="i") == rid
    # The snapshot is what it was.
    assert memory.read(rid, space=then).content == f"{secret} again"
    assert [v.content for v in memory.history(rid, space=then)] == [secret, f"{secret} again"]
    fork = await memory.fork(then, 9)
    await world.delete(then, rid)
    assert world.on_disk(secret)
    assert memory.read(rid, space=fork).content == f"{secret} again"
    await world.delete(fork, rid)
    assert not world.on_disk(secret)
    assert await world.found(home, secret) == []
    for space in (home, then, fork):
        with pytest.raises(ENOENT):
            memory.read(rid, space=space)
        assert (await memory.stat(space)).records == 0
    world.boot()
    assert (await world.memory.stat(home)).records == 0


async def test_a_delete_alone_on_its_layers_erases_at_once(world: World) -> None:
    memory, home = world.memory, await world.home()
    rid = await world.write(home, "only-here")
    then = await memory.snapshot(home, 5)
    await world.delete(then, rid)
    assert world.on_disk("only-here")
    await world.delete(home, rid)
    assert not world.on_disk("only-here")


async def test_expiry_through_layers(world: World) -> None:
    memory, home = world.memory, await world.home()
    rid = await world.write(home, "short-lived", ttl=10, key="k")
    longer = await world.write(home, "prolonged", ttl=10)
    then = await memory.snapshot(home, 5)
    await memory.update(5, Update(rid=longer, ttl=1000), space=home)
    world.clock.time += 11
    assert await world.contents(home) == ["prolonged"]
    assert await world.contents(then) == []
    assert await world.found(then, "short-lived prolonged") == []
    with pytest.raises(ENOENT):
        memory.read_key(then, "k")
    await memory.sweep()
    assert not world.on_disk("short-lived")
    assert memory.read(longer, space=home).content == "prolonged"
    assert (await memory.stat(home)).records == 1
    assert (await memory.stat(then)).records == 0
    world.clock.time += 1000
    await memory.sweep()
    assert not world.on_disk("prolonged")
    assert (await memory.stat(home)).records == 0
    assert await world.write(home, "anew", key="k") != rid


async def test_quota_counts_what_the_space_has_through_its_layers(world: World) -> None:
    memory, home = world.memory, await world.home()
    rids = [await world.write(home, f"r{n}") for n in range(5)]
    await memory.snapshot(home, 5)
    note = Note("semantic", "one more")
    with pytest.raises(EDQUOT):
        await memory.write(home, 5, note, limit=5)
    await world.update(home, rids[0], "changed")
    with pytest.raises(EDQUOT):
        await memory.write(home, 5, note, limit=5)
    await world.delete(home, rids[1])
    await memory.write(home, 5, note, limit=5)
    # What is attached does not count.
    other = await memory.create_space(6)
    for n in range(5):
        await world.write(other, f"lib{n}")
    await memory.attach(home, other)
    assert (await memory.stat(home)).records == 10
    with pytest.raises(EDQUOT):
        await memory.write(home, 5, note, limit=5)
    await memory.write(home, 5, note, limit=6)


async def test_attach_and_detach(world: World) -> None:
    memory, home = world.memory, await world.home()
    library = await memory.create_space(6, "library")
    rid = await world.write(library, "the heron manual", key="manual")
    world.clock.time += 1
    await world.write(home, "my note", key="mine")
    await memory.attach(home, library)
    assert await world.contents(home) == ["my note", "the heron manual"]
    assert (await world.found(home, "heron"))[0] == "the heron manual"
    assert memory.read_key(home, "manual").content == "the heron manual"
    assert memory.read(rid, space=home).space == home
    await world.update(library, rid, "the heron manual, second edition")
    assert memory.read(rid, space=home).content == "the heron manual"  # as it was then
    await world.write(home, "my remarks on the manual", key="manual")
    assert memory.read(rid, space=library).content == "the heron manual, second edition"
    assert [v.content for v in memory.history(rid, space=home)] == [
        "the heron manual",
        "my remarks on the manual",
    ]
    with pytest.raises(EEXIST):
        await memory.attach(home, library)
    with pytest.raises(EINVAL):
        await memory.attach(home, home)
    with pytest.raises(EINVAL):
        await memory.attach(home, await memory.create_space(7))
    with pytest.raises(EINVAL):
        await memory.attach(home, await memory.snapshot(home, 5))
    world.boot()
    memory = world.memory
    assert await world.contents(home) == ["my note", "my remarks on the manual"]
    assert (await memory.stat(home)).attached == [library]
    await memory.detach(home, library)
    assert await world.contents(home) == ["my note", "my remarks on the manual"]
    assert await world.contents(library) == ["the heron manual, second edition"]
    with pytest.raises(ENOENT):
        await memory.detach(home, library)


async def test_two_spaces_attach_each_other_at_once(world: World) -> None:
    memory, one = world.memory, await world.home()
    two = await memory.create_space(6)
    await world.write(one, "of one")
    await world.write(two, "of two")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.attach, one, two)
            nursery.start_soon(memory.attach, two, one)
    assert sorted(await world.contents(one)) == ["of one", "of two"]
    assert sorted(await world.contents(two)) == ["of one", "of two"]


async def test_constant_cost_whatever_the_size() -> None:
    """Store operations and bytes of a snapshot of 1k and of 100k records are the same."""
    costs = []
    for size in (1_000, 100_000):
        world = World()
        home = await world.home()
        for start in range(0, size, 10_000):
            notes = [Note("semantic", f"{n}") for n in range(start, min(start + 10_000, size))]
            await world.memory.write_many(home, 5, notes)
        for number, make in enumerate((world.memory.snapshot, world.memory.fork), 1):
            rid = await world.write(home, "since")
            world.store.counts.clear()
            made = await make(home, 5, f"made{number}")
            assert world.memory.read(rid, space=made).content == "since"
            costs.append(dict(world.store.counts))
            assert (await world.memory.stat(made)).records == size + number
    assert costs[:2] == costs[2:]
    for cost in costs:
        assert cost["commits"] == 1
        assert cost["puts"] < 16
        assert cost["bytes"] < 1024


async def test_snapshots_of_an_unchanged_space_add_no_layers(world: World) -> None:
    home = await world.home()
    await world.write(home, "x")
    for _ in range(3 * MAX_LAYERS):
        await world.memory.snapshot(home, 5)
    assert len((await world.memory.stat(home)).layers) == 2
    empty = await world.memory.create_space(6)
    made = await world.memory.fork(empty, 6)
    assert await world.contents(made) == []
    await world.write(empty, "later")
    assert await world.contents(made) == []


async def test_deep_stacks_end_at_a_bound_and_stay_correct(world: World) -> None:
    memory, home = world.memory, await world.home()
    rid = await world.write(home, "version 0", key="k")
    made = []
    with pytest.raises(EAGAIN):
        for number in range(1, 2 * MAX_LAYERS):
            made.append(await memory.snapshot(home, 5))
            await world.update(home, rid, f"version {number}")
    assert len(made) == MAX_LAYERS - 1
    for number, space in enumerate(made):
        assert memory.read(rid, space=space).content == f"version {number}"
    assert len(memory.history(rid)) == MAX_LAYERS
    assert memory.read_key(home, "k", 7).content == "version 6"


class Killed(BaseException):
    """The process ends here."""


async def test_either_the_old_stack_or_the_new_one(world: World) -> None:
    """The end of the process before or after any commit leaves a whole state."""
    home = await world.home()
    rid = await world.write(home, "one", key="k")
    steps: list[Callable[[], Awaitable[Any]]] = [
        lambda: world.memory.snapshot(home, 5, "s"),
        lambda: world.memory.fork(home, 9, "f"),
        lambda: world.update(home, rid, "two"),
        lambda: world.memory.attach(home, library),
        lambda: world.delete(home, rid),
    ]
    library = await world.memory.create_space(6)
    await world.write(library, "of the library")
    commit = world.store.commit
    for step in steps:
        states = []
        for survives in (False, True):

            async def dying(batch: Batch, survives: bool = survives) -> list[int]:
                if survives:
                    await commit(batch)
                raise Killed

            before = {n: await world.contents(n) for n in world.memory._spaces.numbers()}
            world.store.commit = dying  # type: ignore[method-assign]
            with pytest.raises(Killed):
                await step()
            world.store.commit = commit  # type: ignore[method-assign]
            world.boot()
            after = {n: await world.contents(n) for n in world.memory._spaces.numbers()}
            states.append((before, after))
            for number, held in after.items():
                assert (await world.memory.stat(number)).records == len(held)
        (old, undone), (_, done) = states
        assert undone == old
        assert {number: done[number] for number in old if number != home}.items() <= done.items()
        # What the space held is there, and in the copies made of it.
        assert "of the library" in done[library]


async def test_writes_while_a_snapshot_is_made_are_below_or_above_it(world: World) -> None:
    memory, home = world.memory, await world.home()
    written: list[str] = []
    made: list[tuple[int, int]] = []

    async def writer(name: int) -> None:
        for number in range(20):
            rid = await world.write(home, f"{name}.{number}", key=f"{name}.{number % 3}")
            written.append(rid)

    async def snapper() -> None:
        for _ in range(10):
            at_least = len(set(written))
            made.append((await memory.snapshot(home, 5), at_least))
            await trio.lowlevel.checkpoint()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for name in range(5):
                nursery.start_soon(writer, name)
            nursery.start_soon(snapper)
    assert (await memory.stat(home)).records == len(await world.contents(home)) == 15
    assert len(memory.history(memory.read_key(home, "0.0").rid)) == 7
    for space, at_least in made:
        listed = await world.contents(space)
        assert len(listed) >= at_least
        assert (await memory.stat(space)).records == len(listed)
    world.boot()
    assert (await world.memory.stat(home)).records == 15
    for space, _ in made:
        assert (await world.memory.stat(space)).records == len(await world.contents(space))


async def test_a_writer_waits_for_a_snapshot_that_is_on_its_way(world: World) -> None:
    memory, home = world.memory, await world.home()
    await world.write(home, "before")
    made: list[int] = []

    async def snap() -> None:
        made.append(await memory.snapshot(home, 5))

    world.store.hold = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(snap)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(world.write, home, "after")
            await trio.testing.wait_all_tasks_blocked()
            assert world.store.counts["puts"] < 20
            assert not made
            world.store.hold.set()
    assert await world.contents(made[0]) == ["before"]
    assert await world.contents(home) == ["after", "before"]


async def test_a_snapshot_that_fails_changes_nothing(world: World) -> None:
    home = await world.home()
    await world.write(home, "x")
    world.store.full = True
    with pytest.raises(EIO):
        await world.memory.snapshot(home, 5, "s")
    world.store.full = False
    assert (await world.memory.stat(home)).layers == [home]
    await world.write(home, "y")
    with pytest.raises(EEXIST):
        await world.memory.snapshot(home, 5, "home")
    made = await world.memory.snapshot(home, 5, "s")
    assert await world.contents(made) == await world.contents(home) == ["y", "x"]


async def test_rids_grow_across_layers_with_the_clock_set_back(world: World) -> None:
    home = await world.home()
    rids = [await world.write(home, "0")]
    for number in range(1, 6):
        await world.memory.snapshot(home, 5)
        world.clock.time -= 60
        if number == 3:
            world.boot()
        rids.append(await world.write(home, str(number)))
    assert rids == sorted(rids)
    assert await world.contents(home) == ["5", "4", "3", "2", "1", "0"]
    page = await world.memory.newest(home, limit=2, before=rids[3])
    assert [record.content for record in page] == ["2", "1"]


async def deep(world: World) -> tuple[int, list[int], dict[int, list[str]]]:
    """A space with many layers, its snapshots, and what each of them holds."""
    memory, home = world.memory, await world.home()
    base = [await world.write(home, f"base {n}", key=f"k{n}") for n in range(20)]
    made = [await memory.snapshot(home, 5)]
    for number in range(1, 14):
        await world.update(home, base[number], f"changed {number}")
        await world.update(home, base[0], f"often {number}")
        if number % 3 == 0:
            await world.delete(home, base[number])
        await world.write(home, f"new {number}", ttl=500, idempotency=f"i{number}")
        made.append(await memory.snapshot(home, 5))
    return home, made, {space: await world.contents(space) for space in (home, *made)}


async def fold(world: World) -> None:
    """Let housekeeping fold what is deep."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(world.memory.run)
            while not await world.memory.folding.step():  # noqa: ASYNC110 - the indexes follow
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()


async def test_a_deep_stack_is_folded_and_looks_the_same(world: World) -> None:
    home, made, before = await deep(world)
    memory = world.memory
    sums = memory.view(home).info()
    rids = [record.rid for record in await memory.newest(home, limit=1000)]
    histories = {rid: memory.history(rid, space=home) for rid in rids}
    keys = {n: memory.view(home).lookup(f"k{n}") for n in range(20)}
    gone = [rid for n in (3, 6, 9, 12) if (rid := keys[n])]
    await fold(world)
    for again in (False, True):
        if again:
            world.boot()
            memory = world.memory
        assert len((await memory.stat(home)).layers) < 10
        for space, contents in before.items():
            assert await world.contents(space) == contents
        assert {rid: memory.history(rid, space=home) for rid in rids} == histories
        assert [v.content for v in memory.history(gone[0], space=home)][-1] is None
        assert memory.history(gone[0], space=made[0])[-1].content is not None
        after = memory.view(home).info()
        assert (after.records, after.bytes, after.by_segment) == (
            sums.records,
            sums.bytes,
            sums.by_segment,
        )
        for n, rid in keys.items():
            assert memory.view(home).lookup(f"k{n}") == rid
        assert (await world.found(home, "often", k=1)) == ["often 13"]
        assert sorted(await world.found(home, "base", k=100, deadline=0.0))[0].startswith("base")
        assert await world.write(home, "new 5", ttl=500, idempotency="i5") in rids
    await world.update(home, keys[0] or "", "after the fold")
    assert memory.read_key(home, "k0").content == "after the fold"
    assert len(memory.history(keys[0] or "", space=home)) == 15
    world.clock.time += 1000
    await memory.sweep()
    assert not any(content.startswith("new") for content in await world.contents(home))
    assert memory.view(home).info().records == len(await world.contents(home))


async def test_deleting_while_a_stack_is_folded_erases_there_too(world: World) -> None:
    home, made, _ = await deep(world)
    memory = world.memory
    rid = memory.read_key(home, "k2").rid
    await memory.folding.step()  # filled, and not indexed yet
    await world.delete(home, rid)
    await fold(world)
    with pytest.raises(ENOENT):
        memory.read(rid, space=home)
    for space in made:
        await world.delete(space, rid)
    assert not world.on_disk("changed 2")
    assert memory.view(home).info().records == len(await world.contents(home))


async def test_a_fold_that_was_not_finished_leaves_nothing(world: World) -> None:
    """The end of the process at any commit of a fold: the same to see, and no copy left over."""
    home, made, before = await deep(world)
    commit = world.store.commit
    for survived in range(0, 300, 9):
        left = survived

        async def dying(batch: Batch) -> list[int]:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return await commit(batch)

        world.store.commit = dying  # type: ignore[method-assign]
        try:
            await world.memory.folding.step()
        except Killed:
            finished = False
        else:
            finished = True
        world.store.commit = commit  # type: ignore[method-assign]
        world.boot()
        for space, contents in before.items():
            assert await world.contents(space) == contents
        if finished:
            break
    assert finished
    assert survived > 3
    await world.memory.folding.step()
    await fold(world)
    for space, contents in before.items():
        assert await world.contents(space) == contents
    spares = world.store.scan("meta", b"ums/spare/", b"ums/spare0")
    assert spares == []
    rid = world.memory.read_key(home, "k19").rid
    for space in (home, *made):
        await world.delete(space, rid)
    assert not world.on_disk("base 19")
