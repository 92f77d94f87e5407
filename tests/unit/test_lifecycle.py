"""The states of records: the table, and undo that gives back every byte."""

import random

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Update
from syscalls.errors import ECONFLICT, EIO, ENOENT, EngramError
from syscalls.records import Note
from syscalls.shapes import LifeEvent, RecordState
from ums import lifecycle
from ums import records as form
from ums.activation import DAY, Uses
from ums.keeper import Keeper
from ums.living import SEALED
from ums.rid import pack
from ums.spaces import Spaces

STATES: tuple[RecordState, ...] = (
    "generated",
    "activated",
    "merged",
    "archived",
    "forgotten",
    "frozen",
)


class StillClock:
    def __init__(self) -> None:
        self.at = 1_700_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class World:
    """Spaces with a keeper on a store in memory."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.store = MemoryStore()
        self.spaces = Spaces(self.store, self.clock, random.Random(1))
        self.uses = Uses(self.store, self.clock)
        self.gone: list[tuple[int, list[str], str]] = []
        self.keeper = Keeper(self.store, self.spaces, self.uses, self.clock, lambda space: None)
        self.keeper.on_gone(self._hook)
        self.space = 0

    async def _hook(self, space: int, rids: object, event: str) -> None:
        self.gone.append((space, list(rids), event))  # type: ignore[call-overload]

    async def open(self) -> "World":
        self.space = await self.spaces.create(1, "home")
        return self

    async def write(self, content: str, **fields: object) -> str:
        note = Note(segment="semantic", content=content, **fields)  # type: ignore[arg-type]
        return (await self.spaces.open(self.space).write(note, 7)).rid

    def raw(self, rid: str) -> dict[bytes, bytes]:
        """Every stored byte of a record and its versions."""
        key = form.record_key(self.space, rid)
        found = {b"v" + k: v for k, v in self.store.scan("versions", key, form.after(key))}
        value = self.store.get("records", key)
        return found if value is None else found | {b"r" + key: value}

    def anywhere(self, text: bytes) -> list[bytes]:
        """Keys of the store whose value has a text in it, packed or sealed too."""
        import zlib

        found = []
        for bucket in ("records", "versions", "meta", "keys", "idem"):
            for key, value in self.store.scan(bucket, b"", b"\xff" * 40):
                plain = value
                if bucket in ("records", "versions") and form.is_packed(value):
                    plain = form.unpack_value(value)
                if key.startswith(SEALED):
                    plain = zlib.decompress(value)
                if text in plain or text in key:
                    found.append(key)
        return found


@pytest.fixture
async def world() -> World:
    return await World().open()


# --- the table


def test_every_move_is_between_states_and_none_leads_out_of_forgotten() -> None:
    for moves in lifecycle.MOVES.values():
        assert set(moves) <= set(STATES)
        assert set(moves.values()) <= set(STATES)
        assert "forgotten" not in moves
    for event in ("cool", "merge", "archive", "forget"):
        assert "frozen" not in lifecycle.MOVES[event]


@given(st.sampled_from(STATES), st.sampled_from(sorted(lifecycle.MOVES)))
def test_what_is_not_in_the_table_is_refused(state: RecordState, event: LifeEvent) -> None:
    if state in lifecycle.MOVES[event]:
        assert lifecycle.step(state, event) == lifecycle.MOVES[event][state]
    else:
        with pytest.raises(ECONFLICT):
            lifecycle.step(state, event)


# --- packing


@given(st.binary(max_size=500), st.sampled_from(["archived", "merged"]))
def test_packing_gives_every_byte_back(data: bytes, state: RecordState) -> None:
    value = b"\x01\x02" + data
    survivor = b"s" * 16 if state == "merged" else b""
    packed = form.pack_value(value, state, survivor)
    assert form.survivor_of(packed) == survivor
    assert form.unpack_value(packed) == value
    assert form.tag_of(packed) == 2


def test_a_damaged_packed_value_is_refused() -> None:
    packed = form.pack_value(b"\x01\x02" + bytes(range(200)), "archived")
    for broken in (packed[:-4], packed[:20] + b"\xff\x00\xff" + packed[23:]):
        with pytest.raises(EIO):
            form.decode(broken)


# --- one record


async def test_an_archived_record_is_read_and_comes_back_byte_for_byte(world: World) -> None:
    rid = await world.write("first words", tags=["a"], meta={"n": 1})
    space = world.spaces.open(world.space)
    await space.update(Update(rid=rid, content="second words " * 40), 7)
    before, info = world.raw(rid), space.info()
    await world.keeper.archive(world.space, rid, world.keeper.reason("for a test"))
    assert space.read(rid).state == "archived"
    assert space.read(rid).content == "second words " * 40
    assert space.read(rid, 1).content == "first words"
    assert space.info().records == 0
    assert space.info().bytes == 0
    assert await space.newest(10) == []
    assert sum(map(len, world.raw(rid).values())) < sum(map(len, before.values()))
    await world.keeper.restore(world.space, rid, world.keeper.reason("for a test"))
    assert world.raw(rid) == before
    assert (space.info().records, space.info().bytes) == (info.records, info.bytes)


async def test_forgetting_erases_and_undo_brings_everything_back(world: World) -> None:
    rid = await world.write("the xyzzy secret", key="secret")
    space = world.spaces.open(world.space)
    await space.update(Update(rid=rid, content="the xyzzy plugh"), 7)
    before = world.raw(rid)
    fate = await world.keeper.forget(world.space, rid, world.keeper.reason("it was asked for"))
    assert fate == [rid]
    with pytest.raises(ENOENT):
        space.read(rid)
    with pytest.raises(ENOENT):
        space.find("secret")
    assert [version.content for version in space.history(rid)] == [None, None, None]
    assert all(key.startswith(SEALED) for key in world.anywhere(b"xyzzy"))
    await world.keeper.undo(world.space, rid, world.keeper.reason("a mistake"))
    assert world.raw(rid) == before
    assert space.find("secret").rid == rid
    assert world.gone == [(world.space, [rid], "forget"), (world.space, [rid], "undo")]


async def test_after_the_retention_nothing_is_left_and_nothing_is_undone(world: World) -> None:
    rid = await world.write("the xyzzy secret")
    await world.keeper.forget(world.space, rid, world.keeper.reason("it was asked for"))
    world.clock.at += 31 * DAY
    with pytest.raises(ENOENT):
        await world.keeper.undo(world.space, rid, world.keeper.reason(""))
    await world.keeper.lapse()
    assert world.anywhere(b"xyzzy") == []
    assert world.keeper.state(world.space, rid) == "forgotten"
    story = " ".join(said for _, said in world.keeper.story(world.space, rid))
    assert "forgotten" in story
    assert "it was asked for" in story


async def test_delete_erases_at_once_also_what_was_merged_or_sealed(world: World) -> None:
    kept = await world.write("the xyzzy secret")
    twin = await world.write("The xyzzy secret.")
    await world.keeper.merge(world.space, kept, [twin], world.keeper.reason("the same"))
    space = world.spaces.open(world.space)
    assert space.read(kept).sources == [twin]
    twins = world.keeper.merged_into(world.space, kept)
    await space.delete(kept, 7)
    await world.keeper.deleted(world.space, kept, twins)
    assert world.anywhere(b"xyzzy") == []
    other = await world.write("another xyzzy")
    await world.keeper.forget(world.space, other, world.keeper.reason(""))
    assert world.anywhere(b"xyzzy")
    assert await world.keeper.burn(world.space, other)
    assert world.anywhere(b"xyzzy") == []
    with pytest.raises(ENOENT):
        await world.keeper.undo(world.space, other, world.keeper.reason(""))


async def test_forgetting_a_survivor_takes_its_twins_and_brings_them_back(world: World) -> None:
    kept, twin = await world.write("the same"), await world.write("The same!")
    before = world.raw(kept), world.raw(twin)
    await world.keeper.merge(world.space, kept, [twin], world.keeper.reason("the same"))
    merged = world.raw(kept), world.raw(twin)
    gone = await world.keeper.forget(world.space, kept, world.keeper.reason(""))
    assert sorted(gone) == sorted([kept, twin])
    await world.keeper.undo(world.space, kept, world.keeper.reason(""))
    assert (world.raw(kept), world.raw(twin)) == merged
    await world.keeper.restore(world.space, twin, world.keeper.reason(""))
    assert (world.raw(kept), world.raw(twin)) == before


async def test_undoing_a_merge_restores_both(world: World) -> None:
    kept, twin = await world.write("the same"), await world.write("The same!")
    before = world.raw(kept), world.raw(twin)
    await world.keeper.merge(world.space, kept, [twin], world.keeper.reason("the same"))
    assert world.spaces.open(world.space).read(twin).state == "merged"
    await world.keeper.undo(world.space, twin, world.keeper.reason(""))
    assert (world.raw(kept), world.raw(twin)) == before


async def test_a_pinned_record_is_not_demoted_and_keeps_its_pin_when_written(
    world: World,
) -> None:
    rid = await world.write("pinned", key="k")
    before = world.raw(rid)
    keeper, reason = world.keeper, world.keeper.reason("")
    await keeper.pin(world.space, rid, reason)
    for change in (keeper.archive, keeper.forget, keeper.cool, keeper.pin):
        with pytest.raises(ECONFLICT):
            await change(world.space, rid, reason)
    other = await world.write("other")
    with pytest.raises(ECONFLICT):
        await keeper.merge(world.space, other, [rid], reason)
    space = world.spaces.open(world.space)
    assert space.read(other).sources == []
    await keeper.undo(world.space, rid, reason)
    assert world.raw(rid) == before
    await keeper.pin(world.space, rid, reason)
    await space.write(Note(segment="semantic", content="again", key="k"), 7)
    assert space.find("k").state == "frozen"
    await space.update(Update(rid=rid, content="and again"), 7)
    assert space.find("k").state == "frozen"


async def test_writing_to_an_archived_record_restores_it(world: World) -> None:
    rid = await world.write("old", key="k")
    await world.keeper.archive(world.space, rid, world.keeper.reason(""))
    space = world.spaces.open(world.space)
    await space.write(Note(segment="semantic", content="new", key="k"), 7)
    assert (space.find("k").content, space.find("k").state) == ("new", "generated")
    assert space.info().records == 1
    assert space.read(rid, 1).content == "old"
    assert [fate.event for fate in world.keeper.fates(world.space, rid)] == ["archive", "restore"]


async def test_undo_is_refused_when_the_key_names_another_record(world: World) -> None:
    rid = await world.write("one", key="k")
    await world.keeper.forget(world.space, rid, world.keeper.reason(""))
    await world.write("two", key="k")
    with pytest.raises(ECONFLICT):
        await world.keeper.undo(world.space, rid, world.keeper.reason(""))


async def test_a_run_is_undone_as_a_whole(world: World) -> None:
    rids = [await world.write(f"note {n}") for n in range(5)]
    action = world.keeper.action()
    for rid in rids[:4]:
        await world.keeper.archive(world.space, rid, world.keeper.reason("r", 0, action))
    await world.keeper.restore(world.space, rids[0], world.keeper.reason(""))
    back = await world.keeper.undo_action(world.space, action, world.keeper.reason(""))
    assert sorted(back) == sorted(rids[1:4])
    assert world.spaces.open(world.space).info().records == 5
    with pytest.raises(ENOENT):
        await world.keeper.undo_action(world.space, action, world.keeper.reason(""))


async def test_fates_are_bounded(world: World) -> None:
    from ums.keeper import Retention

    rid = await world.write("busy")
    for _ in range(20):
        world.clock.at += 1
        await world.keeper.pin(world.space, rid, world.keeper.reason(""))
        await world.keeper.unpin(world.space, rid, world.keeper.reason(""))
    world.keeper.retention = Retention(most=10)
    while await world.keeper.prune(world.space, limit=7):
        pass
    assert len(world.keeper.fates(world.space, rid)) == 10
    assert len(world.keeper.lately(world.space, 100)) == 10
    fate = await world.keeper.pin(world.space, rid, world.keeper.reason(""))
    assert fate.number == 41


async def test_a_fork_changes_its_own_view_only(world: World) -> None:
    rid = await world.write("shared words")
    fork = await world.spaces.branch(world.space, 2, sealed=False)
    keeper, reason = world.keeper, world.keeper.reason("")
    ours, theirs = world.spaces.open(world.space), world.spaces.open(fork)
    await keeper.archive(fork, rid, reason)
    assert (ours.read(rid).state, theirs.read(rid).state) == ("generated", "archived")
    assert (ours.info().records, theirs.info().records) == (1, 0)
    await keeper.undo(fork, rid, reason)
    assert theirs.info().records == 1
    await keeper.forget(fork, rid, reason)
    assert ours.read(rid).content == "shared words"
    with pytest.raises(ENOENT):
        theirs.read(rid)
    await keeper.undo(fork, rid, reason)
    assert theirs.read(rid).content == "shared words"
    assert [version.version for version in theirs.history(rid)] == [1]
    await keeper.pin(world.space, rid, reason)
    assert (ours.read(rid).state, theirs.read(rid).state) == ("frozen", "generated")


# --- anything at all


EVENTS = ("pin", "unpin", "archive", "restore", "forget", "cool", "warm", "undo")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from((*EVENTS, "update", "use", "merge", "wait", "delete")),
        ),
        max_size=40,
    )
)
def test_no_history_breaks_the_table(steps: list[tuple[int, str]]) -> None:
    """States move by the table only, pins hold, sums are exact, undo restores exactly."""

    async def main() -> None:
        world = await World().open()
        rids = [await world.write(f"note {n} of four", key=f"k{n}") for n in range(4)]
        space, keeper = world.spaces.open(world.space), world.keeper
        for place, event in steps:
            world.clock.at += DAY
            rid, before = rids[place], world.raw(rids[place])
            pinned = keeper.state(world.space, rid) == "frozen"
            told = len(keeper.fates(world.space, rid))
            try:
                await _do(world, rid, rids[(place + 1) % 4], event)
            except EngramError:
                assert world.raw(rid) == before
                assert len(keeper.fates(world.space, rid)) == told
                continue
            if pinned and event not in ("unpin", "update", "undo", "delete", "warm"):
                assert space.read(rid).state == "frozen"
            restored = event == "pin" and len(keeper.fates(world.space, rid)) == told + 2
            if event in ("archive", "forget", "pin") and place % 2 and not restored:
                await keeper.undo(world.space, rid, keeper.reason("back"))
                assert world.raw(rid) == before
            _check(world, rids)
        await world.store.aclose()

    trio.run(main)


async def _do(world: World, rid: str, other: str, event: str) -> None:
    space, keeper = world.spaces.open(world.space), world.keeper
    if event in EVENTS:
        await getattr(keeper, event)(world.space, rid, keeper.reason("because"))
    elif event == "update":
        await space.update(Update(rid=rid, content="other words " * 9), 7)
    elif event == "use":
        world.uses.note(world.space, [rid])
        await world.uses.flush()
    elif event == "merge":
        await keeper.merge(world.space, rid, [other], keeper.reason("the same"))
    elif event == "delete":
        twins = keeper.merged_into(world.space, rid)
        await space.delete(rid, 7)
        await keeper.deleted(world.space, rid, twins)


def _check(world: World, rids: list[str]) -> None:
    live = 0
    size = 0
    for rid in rids:
        value = world.store.get("records", form.record_key(world.space, rid))
        state = world.keeper.state(world.space, rid)
        assert state in STATES
        assert (value is None) == (state == "forgotten")
        if value is not None and not form.is_packed(value):
            live, size = live + 1, size + len(value)
        for fate in world.keeper.fates(world.space, rid):
            if fate.event == "undo":
                assert any(
                    moves.get(fate.after) == fate.before for moves in lifecycle.MOVES.values()
                ) or (fate.before, fate.after) == ("activated", "frozen")
            else:
                assert lifecycle.MOVES[fate.event][fate.before] == fate.after
    info = world.spaces.open(world.space).info()
    assert (info.records, info.bytes) == (live, size)
    assert pack(rids[0])
