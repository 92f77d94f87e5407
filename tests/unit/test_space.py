"""Spaces: writing, versions, keys, deleting, sums, names; on the store in memory."""

from random import Random
from typing import Any

import pytest
import trio

from drivers.contracts import Batch
from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Update
from syscalls.errors import ECONFLICT, EDQUOT, EEXIST, EINVAL, EIO, ENOENT
from syscalls.records import Note
from tests.clock import HandClock
from ums.rid import MAX_SPACE, RidMaker, to_text
from ums.sharing import Sharing
from ums.space import Space
from ums.spaces import Spaces


def note(content: str = "text", **fields: Any) -> Note:
    return Note(**{"segment": "semantic", "content": content, **fields})


class World:
    """A store with one space."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        self.reopen()

    def reopen(self) -> None:
        """As after a restart: everything in memory is new but the store."""
        self.spaces = Spaces(self.store, self.clock, Random(1))

    async def space(self) -> Space:
        return self.spaces.open(await self.spaces.create(5, "home"))


@pytest.fixture
def world() -> World:
    return World()


async def test_a_record_keeps_every_field(world: World) -> None:
    space = await world.space()
    source = (await space.write(note(), 1)).rid
    fields = {
        "kind": "fact",
        "key": "k",
        "meta": {"a": [1, {"b": None}]},
        "tags": ["x", "y"],
        "importance": 0.9,
        "valid_from": 1.0,
        "valid_to": 2.0,
        "sources": [source],
        "taint": "tool",
    }
    written = await space.write(note("所有字段", ttl=10.0, **fields), 42, "mem.write")
    record = space.read(written.rid)
    assert record.content == "所有字段"
    assert {name: getattr(record, name) for name in fields} == fields
    assert (record.space, record.segment, record.version) == (space.number, "semantic", 1)
    assert (record.writer, record.call, record.state) == (42, "mem.write", "generated")
    assert record.created == record.updated == world.clock.time
    assert record.expires == world.clock.time + 10
    assert space.find("k") == record


async def test_versions_and_compare_and_set(world: World) -> None:
    space = await world.space()
    rid = (await space.write(note("one", tags=["t"]), 1)).rid
    world.clock.time += 5
    assert (await space.update(Update(rid=rid, content="two", expect=1), 2)).version == 2
    with pytest.raises(ECONFLICT) as caught:
        await space.update(Update(rid=rid, content="lost", expect=1), 3)
    assert caught.value.detail == {"version": 2, "expect": 1}
    record = space.read(rid)
    assert (record.content, record.tags, record.version, record.writer) == ("two", ["t"], 2, 2)
    assert record.updated == record.created + 5
    assert space.read(rid, 1).content == "one"
    with pytest.raises(ENOENT):
        space.read(rid, 3)
    assert [(v.version, v.content, v.writer) for v in space.history(rid)] == [
        (1, "one", 1),
        (2, "two", 2),
    ]


async def test_an_update_of_nothing_is_refused(world: World) -> None:
    space = await world.space()
    rid = (await space.write(note(), 1)).rid
    with pytest.raises(EINVAL):
        await space.update(Update(rid=rid, expect=1), 1)


async def test_delete_erases_content_everywhere_and_keeps_who_and_when(world: World) -> None:
    space = await world.space()
    secret = "the-secret-itself"
    first = note(secret, key=f"{secret}-key", meta={"m": secret}, idempotency="i", tags=[secret])
    rid = (await space.write(first, 1)).rid
    await space.update(Update(rid=rid, content=f"{secret}!"), 2)
    world.clock.time += 1
    await space.delete(rid, 9)
    with pytest.raises(ENOENT):
        space.read(rid)
    with pytest.raises(ENOENT):
        space.find(f"{secret}-key")
    history = space.history(rid)
    assert [(v.version, v.content, v.state, v.writer) for v in history] == [
        (1, None, "generated", 1),
        (2, None, "generated", 2),
        (3, None, "forgotten", 9),
    ]
    assert (history[-1].call, history[-1].at) == ("mem.delete", world.clock.time)
    for bucket in ("records", "versions", "keys", "idem", "meta"):
        for key, value in world.store.scan(bucket, b"\x00", b"\xff" * 60):
            assert secret.encode() not in key + value
    # A late repeat of the write is still the write that was done.
    assert (await space.write(first, 1)).rid == rid
    with pytest.raises(ENOENT):
        await space.delete(rid, 9)
    with pytest.raises(ENOENT):
        await space.update(Update(rid=rid, content="x"), 9)


async def test_delete_with_expect(world: World) -> None:
    space = await world.space()
    rid = (await space.write(note(), 1)).rid
    await space.update(Update(rid=rid, content="two"), 1)
    with pytest.raises(ECONFLICT):
        await space.delete(rid, 1, expect=1)
    await space.delete(rid, 1, expect=2)


async def test_a_key_names_one_record(world: World) -> None:
    space = await world.space()
    long = "键" * 400
    one = await space.write(note("one", key=long), 1)
    world.clock.time += 1
    two = await space.write(note("two", key=long, segment="working", tags=["new"]), 2)
    assert (two.rid, two.version) == (one.rid, 2)
    record = space.find(long)
    assert (record.content, record.segment, record.tags) == ("two", "working", ["new"])
    assert record.created == world.clock.time - 1
    assert space.find(long, 1).content == "one"
    await space.delete(one.rid, 1)
    three = await space.write(note("three", key=long), 1)
    assert (three.rid == one.rid, three.version) == (False, 1)


async def test_idempotency(world: World) -> None:
    space = await world.space()
    one = await space.write(note("a", idempotency="x"), 1)
    assert await space.write(note("a", idempotency="x"), 1) == one
    await space.update(Update(rid=one.rid, content="b"), 1)
    assert await space.write(note("a", idempotency="x"), 1) == one
    with pytest.raises(ECONFLICT):
        await space.write(note("other", idempotency="x"), 1)
    assert space.info().records == 1


async def test_expired_records_are_invisible_at_once_and_erased_by_the_sweep(world: World) -> None:
    space = await world.space()
    rid = (await space.write(note("short", ttl=10, key="k"), 1)).rid
    kept = (await space.write(note("kept", ttl=10), 1)).rid
    await space.update(Update(rid=kept, ttl=100), 1)
    world.clock.time += 10
    with pytest.raises(ENOENT):
        space.read(rid)
    with pytest.raises(ENOENT):
        space.find("k")
    with pytest.raises(ENOENT):
        await space.update(Update(rid=rid, content="x"), 1)
    assert [record.rid for record in await space.newest(10)] == [kept]
    assert [v.content for v in space.history(rid)] == [None]
    world.clock.time += 1
    assert await world.spaces.sweep() == [space.number]
    assert await world.spaces.sweep() == []
    assert space.info().records == 1
    assert space.read(kept).content == "kept"
    assert space.history(rid)[-1].call == "mem.expire"


async def test_an_expired_key_can_be_taken_again(world: World) -> None:
    space = await world.space()
    old = (await space.write(note("old", key="k", ttl=1), 1)).rid
    world.clock.time += 2
    new = await space.write(note("new", key="k"), 1)
    assert (new.rid == old, new.version) == (False, 1)
    assert [v.content for v in space.history(old)] == [None, None]


async def test_write_many_is_all_or_nothing(world: World) -> None:
    space = await world.space()
    await space.write(note("taken", idempotency="i"), 1)
    with pytest.raises(ECONFLICT):
        await space.write_many([note("a"), note("b", idempotency="i")], 1)
    with pytest.raises(EINVAL):
        await space.write_many([note("a"), note("b", meta={"x": object()})], 1)
    assert space.info().records == 1
    many = await space.write_many(
        [
            note("v1", key="k"),
            note("b"),
            note("v2", key="k"),
            note("c", ttl=0, key="z"),
            note("d", key="z"),
        ],
        1,
    )
    assert many[0].rid == many[2].rid
    assert many[2].version == 2
    assert space.read(many[0].rid, 1).content == "v1"
    assert space.find("z").content == "d"
    assert space.info().records == 4


async def test_listing_is_newest_first_and_continues(world: World) -> None:
    space = await world.space()
    other = world.spaces.open(await world.spaces.create(6))
    rids = []
    for number in range(700):
        segment = "episodic" if number % 100 == 0 else "semantic"
        rids.append((await space.write(note(str(number), segment=segment), 1)).rid)
        await other.write(note("noise"), 1)
    assert [r.rid for r in await space.newest(3)] == rids[:-4:-1]
    page = await space.newest(500, before=rids[600])
    assert [r.rid for r in page] == rids[100:600][::-1]
    rare = await space.newest(3, segment="episodic")
    assert [r.content for r in rare] == ["600", "500", "400"]
    assert await space.newest(3, segment="working") == []


async def test_quota(world: World) -> None:
    space = await world.space()
    refused = 0

    async def write(index: int) -> None:
        nonlocal refused
        try:
            await space.write(note(str(index), key=f"k{index}"), 1, limit=10)
        except EDQUOT as error:
            assert error.detail["quota"] == "records"
            refused += 1

    async with trio.open_nursery() as nursery:
        for index in range(30):
            nursery.start_soon(write, index)
    assert (space.info().records, refused) == (10, 20)
    with pytest.raises(EDQUOT):
        await space.write(note(), 1, limit=10)
    held = (await space.newest(1))[0]
    await space.write(note("another version", key=held.key), 1, limit=10)
    await space.delete(held.rid, 1)
    await space.write(note(), 1, limit=10)


async def test_sums_survive_any_restart(world: World) -> None:
    space = await world.space()
    rids = [(await space.write(note("x" * n, segment="episodic"), 1)).rid for n in range(1, 30)]
    await space.delete(rids[0], 1)
    await space.update(Update(rid=rids[1], content="longer" * 9), 1)
    await space.checkpoint()
    await space.delete(rids[2], 1)
    expected = space.info()
    assert expected.records == 27
    assert expected.by_segment == {"working": 0, "episodic": 27, "semantic": 0, "procedural": 0}
    stored = world.store.scan("records", b"\x00", b"\xff" * 30)
    assert expected.bytes == sum(len(value) for _, value in stored)
    world.reopen()
    assert world.spaces.open(space.number).info() == expected


async def test_rids_go_on_after_a_restart_with_the_clock_set_back(world: World) -> None:
    space = await world.space()
    last = (await space.write(note(), 1)).rid
    await space.delete(last, 1)
    world.reopen()
    world.clock.time -= 3600
    assert (await world.spaces.open(space.number).write(note(), 1)).rid > last


async def test_many_tasks_increment_one_record(world: World) -> None:
    space = await world.space()
    rid = (await space.write(note("n", meta={"n": 0}), 1)).rid

    async def increment() -> None:
        while True:
            record = space.read(rid)
            try:
                call = Update(rid=rid, meta={"n": record.meta["n"] + 1}, expect=record.version)
                await space.update(call, 1)
            except ECONFLICT:
                continue
            return

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(increment)
    assert space.read(rid).meta == {"n": 64}
    assert [v.version for v in space.history(rid)] == list(range(1, 66))


async def test_many_tasks_update_one_record_blindly(world: World) -> None:
    space = await world.space()
    rid = (await space.write(note(), 1)).rid

    async def update(number: int) -> None:
        await space.update(Update(rid=rid, content=str(number)), 1)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(update, number)
    assert space.read(rid).version == 65
    assert len({v.content for v in space.history(rid)}) == 65


async def test_one_key_written_by_many_tasks_stays_one_record(world: World) -> None:
    space = await world.space()

    async def write(number: int) -> None:
        await space.write(note(str(number), key="k"), 1)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(write, number)
    assert space.find("k").version == 40
    assert space.info().records == 1


class FullDisk(MemoryStore):
    """A store whose disk can be full."""

    full = False

    async def commit(self, batch: Batch) -> list[int]:
        if self.full:
            raise EIO("no space left", driver="store")
        return await super().commit(batch)


async def test_a_failed_commit_changes_nothing(world: World) -> None:
    store = world.store = FullDisk()
    world.reopen()
    space = await world.space()
    rid = (await space.write(note("kept"), 1)).rid
    before = space.info()
    store.full = True
    for attempt in (
        lambda: space.write(note(), 1),
        lambda: space.write_many([note(key="k"), note()], 1),
        lambda: space.update(Update(rid=rid, content="x"), 1),
        lambda: space.delete(rid, 1),
    ):
        with pytest.raises(EIO):
            await attempt()
    store.full = False
    assert space.info() == before
    await space.write(note(), 1, limit=2)
    with pytest.raises(EDQUOT):
        await space.write(note(), 1, limit=2)


async def test_a_cancelled_write_is_done_or_not_but_the_sums_know(world: World) -> None:
    space = await world.space()
    with trio.CancelScope() as scope:
        scope.cancel()
        await space.write(note(), 1)
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert space.info().records == len(await space.newest(10))


async def test_names_of_spaces(world: World) -> None:
    spaces = world.spaces
    one = await spaces.create(1, "team")
    with pytest.raises(EEXIST):
        await spaces.create(2, "team")
    two = await spaces.create(2)
    world.reopen()
    spaces = world.spaces
    assert spaces.resolve("team") == spaces.resolve(one) == one
    assert spaces.open(one).header.owner == 1
    assert spaces.numbers() == [one, two]
    assert await spaces.create(3) > two
    assert spaces.known("nobody") is None
    for ref in ("nobody", "", 0, -1, 99, MAX_SPACE + 1, 2**70):
        with pytest.raises(ENOENT):
            spaces.resolve(ref)


async def test_a_rid_of_another_space_is_not_found(world: World) -> None:
    space = await world.space()
    stranger = to_text(RidMaker(99, Random(1)).make(1.0))
    with pytest.raises(ENOENT):
        await space.delete(stranger, 1)
    with pytest.raises(ENOENT):
        await space.update(Update(rid=stranger, content="x"), 1)
    with pytest.raises(ENOENT):
        space.read(stranger)
    with pytest.raises(ENOENT):
        space.history(stranger)


async def test_sharing(world: World) -> None:
    sharing = Sharing(world.store, world.clock)
    assert sharing.access(7, 3, 3) == "write"
    assert sharing.access(7, 3, 4) is None
    await sharing.share(4, 7, "read", 1)
    assert sharing.access(7, 3, 4) == "read"
    grant = await sharing.share(4, 7, "write", 1)
    await sharing.share(2, 7, "read", 1)
    await sharing.share(4, 6, "read", 1)
    sharing = Sharing(world.store, world.clock)
    assert sharing.access(7, 3, 4) == "write"
    assert sharing.shared_with(7) == [2, 4]
    assert [g.apid for g in sharing.of(4)] == [6, 7]
    assert sharing.of(4)[1] == grant
    await sharing.revoke(4, 7)
    with pytest.raises(ENOENT):
        await sharing.revoke(4, 7)
    for again in (sharing, Sharing(world.store, world.clock)):
        assert again.access(7, 3, 4) is None
        assert again.shared_with(7) == [2]
