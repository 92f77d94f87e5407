"""Originals: kept while a version names them, gone when none does; damage is found and said."""

from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock

from drivers.contracts import Batch
from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Update
from syscalls.capsule import PIECE
from syscalls.errors import EINVAL, EIO
from syscalls.records import Note
from tests.clock import HandClock
from ums.blobs import GRACE, Blobs
from ums.living import Reason, lapsed
from ums.spaces import Spaces

if TYPE_CHECKING:
    from ums.capsule.adopt import AdoptingSpace


class World:
    """A store, a space, its blobs."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        self.spaces = Spaces(self.store, self.clock, Random(1))
        self.blobs = Blobs(self.store, self.clock, Random(2))
        self.space: AdoptingSpace

    async def open(self) -> "World":
        self.space = self.spaces.open(await self.spaces.create(5, "home"))
        return self

    async def keep(self, data: bytes, space: int = 0) -> str:
        space = space or self.space.number
        name = f"sha256:{sha256(data).hexdigest()}"
        for at in range(0, max(1, len(data)), PIECE):
            await self.blobs.upload(space, name, len(data), at, data[at : at + PIECE])
        return name

    async def write(self, name: str, **fields: Any) -> str:
        note = Note(segment="semantic", content="a document", meta={"blob": name}, **fields)
        return (await self.space.write(note, 5)).rid

    def there(self, name: str) -> bool:
        return self.blobs.find(name, [self.space.number]) is not None

    def keys(self) -> int:
        return len(self.store.scan("blobs", b"\0", b"\xff"))

    async def later(self, seconds: float) -> None:
        self.clock.time += seconds
        over = lapsed(self.store, self.clock.time, 100)
        await self.store.commit(Batch(deletes=[("meta", key) for key in over]))
        await self.blobs.sweep()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
async def test_bytes_come_back_as_they_were(size: int) -> None:
    world = await World().open()
    data = Random(size).randbytes(size)
    name = await world.keep(data)
    blob = world.blobs.find(name, [world.space.number])
    assert blob is not None and blob.size == size
    assert b"".join(world.blobs.pieces(name, blob)) == data
    got, at = b"", 0
    while piece := world.blobs.read(blob, at):
        got, at = got + piece, at + len(piece)
    assert got == data
    assert world.blobs.read(blob, size // 2)[:9] == data[size // 2 :][:9]


async def test_an_upload_goes_on_where_it_stopped_also_in_a_new_kernel() -> None:
    world = await World().open()
    data = Random(1).randbytes(3 * PIECE + 5)
    name, space = f"sha256:{sha256(data).hexdigest()}", world.space.number
    up = world.blobs.upload
    assert await up(space, name, len(data), 0, b"") == (0, False)
    assert await up(space, name, len(data), 0, data[: 2 * PIECE]) == (2 * PIECE, False)
    world.blobs = Blobs(world.store, world.clock, Random(3))
    up = world.blobs.upload
    assert await up(space, name, len(data), 0, b"") == (2 * PIECE, False)
    for at, piece in ((0, data[:PIECE]), (PIECE, data[:PIECE]), (2 * PIECE, data[:10])):
        with pytest.raises(EINVAL):
            await up(space, name, len(data), at, piece)
    assert await up(space, name, len(data), 2 * PIECE, data[2 * PIECE :]) == (len(data), True)
    assert await up(space, name, len(data), 0, data) == (len(data), True)


async def test_bytes_with_another_hash_are_refused_and_leave_nothing() -> None:
    world = await World().open()
    name = f"sha256:{sha256(b'right').hexdigest()}"
    with pytest.raises(EINVAL, match="another hash"):
        await world.blobs.upload(world.space.number, name, 5, 0, b"wrong")
    assert not world.there(name)
    await world.later(GRACE + 1)
    assert world.keys() == 0
    with pytest.raises(EINVAL):
        await world.blobs.upload(world.space.number, "sha256:ABC", 5, 0, b"wrong")


async def test_to_know_a_hash_gives_nobody_another_spaces_bytes() -> None:
    world = await World().open()
    other = await world.spaces.create(6, "other")
    name = await world.keep(b"private", other)
    await world.write(name)
    assert not world.there(name)
    assert world.blobs.find(name, [other]) is not None


async def test_what_no_record_names_goes_after_a_day() -> None:
    world = await World().open()
    loose, kept = await world.keep(b"loose"), await world.keep(b"kept")
    await world.write(kept)
    await world.later(GRACE - 10)
    assert world.there(loose)
    await world.later(100)
    assert not world.there(loose) and world.there(kept)
    assert world.blobs.statistics().dropped == 1


async def test_deleting_the_last_record_drops_the_original_at_the_next_sweep() -> None:
    world = await World().open()
    name = await world.keep(bytes(2 * PIECE))
    one, two = await world.write(name), await world.write(name, key="k")
    await world.space.delete(one, 5)
    await world.later(1)
    assert world.there(name)
    await world.space.update(Update(rid=two, meta={"blob": await world.keep(b"newer")}), 5)
    await world.later(GRACE + 1)
    assert world.there(name)  # the first version still names it
    await world.space.delete(two, 5)
    await world.later(1)
    assert world.keys() == 0


async def test_a_forgotten_documents_original_waits_with_it() -> None:
    world = await World().open()
    name = await world.keep(b"the original")
    rid = await world.write(name)
    until = world.clock.now() + 100 * GRACE
    await world.space.forget(rid, Reason("no use", until=until))
    await world.later(90 * GRACE)
    assert world.there(name)
    await world.space.undo(rid, Reason("sorry"))
    await world.later(20 * GRACE)
    assert world.there(name)
    await world.space.forget(rid, Reason("again", until=world.clock.now() + 100))
    await world.later(101)
    assert not world.there(name)


async def test_burning_takes_the_original_at_once() -> None:
    world = await World().open()
    name = await world.keep(b"the original")
    rid = await world.write(name)
    await world.space.forget(rid, Reason("no use", until=world.clock.now() + 100 * GRACE))
    await world.space.burn(rid)
    await world.later(1)
    assert world.keys() == 0


async def test_a_fork_keeps_what_its_parent_lets_go() -> None:
    world = await World().open()
    name = await world.keep(b"shared")
    rid = await world.write(name)
    await world.spaces.branch(world.space.number, 6, "copy", sealed=True)
    await world.space.delete(rid, 5)
    await world.later(GRACE + 1)
    assert world.there(name)


@pytest.mark.parametrize("how", ["altered", "cut", "gone"])
async def test_damage_is_found_and_said(how: str) -> None:
    world = await World().open()
    name = await world.keep(Random(1).randbytes(2 * PIECE))
    key, value = world.store.scan("blobs", b"#", b"$")[1]
    puts = {"altered": value[:-1] + b"?", "cut": value[:-1]}
    change = Batch([("blobs", key, puts[how])]) if how in puts else Batch([], [("blobs", key)])
    await world.store.commit(change)
    blob = world.blobs.find(name, [world.space.number])
    assert blob is not None
    assert len(world.blobs.read(blob, 0)) == PIECE
    with pytest.raises(EIO, match="missing" if how == "gone" else "altered"):
        world.blobs.read(blob, PIECE)
    assert world.blobs.statistics().damaged == 1


class Originals(RuleBasedStateMachine):
    """Records come, change, go and come back: an original is there while one may name it."""

    @initialize()
    def start(self) -> None:
        self.world = World()
        self.run(self.world.open)
        self.named: dict[str, set[str]] = {}
        self.undoable: dict[str, set[str]] = {}

    def run(self, work: Any, *given: Any) -> Any:
        return trio.run(work, *given, clock=MockClock(autojump_threshold=0))

    @rule(content=st.sampled_from([b"a", b"b", b"c"]))
    def write(self, content: bytes) -> None:
        name = self.run(self.world.keep, content)
        self.named[self.run(self.world.write, name)] = {name}

    @precondition(lambda self: self.named)
    @rule(data=st.data(), content=st.sampled_from([b"a", b"b", b"c"]))
    def change(self, data: st.DataObject, content: bytes) -> None:
        rid = data.draw(st.sampled_from(sorted(self.named)))
        name = self.run(self.world.keep, content)
        self.run(self.world.space.update, Update(rid=rid, meta={"blob": name}), 5)
        self.named[rid].add(name)

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        rid = data.draw(st.sampled_from(sorted(self.named)))
        self.run(self.world.space.delete, rid, 5)
        del self.named[rid]

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        rid = data.draw(st.sampled_from(sorted(self.named)))
        reason = Reason("x", until=self.world.clock.now() + 1000 * GRACE)
        self.run(self.world.space.forget, rid, reason)
        self.undoable[rid] = self.named.pop(rid)

    @precondition(lambda self: self.undoable)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        rid = data.draw(st.sampled_from(sorted(self.undoable)))
        self.run(self.world.space.undo, rid, Reason("y"))
        self.named[rid] = self.undoable.pop(rid)

    @rule(days=st.sampled_from([0.0, 0.5, 2.0]))
    def sweep(self, days: float) -> None:
        self.run(self.world.later, days * GRACE)

    @invariant()
    def what_is_named_is_there(self) -> None:
        if hasattr(self, "named"):
            for names in (*self.named.values(), *self.undoable.values()):
                assert all(self.world.there(name) for name in names)

    def teardown(self) -> None:
        if hasattr(self, "named") and not self.undoable:
            self.run(self.world.later, 2 * GRACE)
            wanted = set().union(*self.named.values())
            found = {key[1:33].hex() for key, _ in self.world.store.scan("blobs", b"@", b"A")}
            assert {f"sha256:{one}" for one in found} == wanted


TestOriginals = Originals.TestCase
TestOriginals.settings = settings(max_examples=40, stateful_step_count=25)
