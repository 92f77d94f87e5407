"""The life of records in a whole kernel: two simulated years, and the calls for it."""

import random
from contextlib import suppress

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from kernel.tidy import Order
from syscalls.calls import life
from syscalls.errors import ECONFLICT, EINVAL, ENOENT, EPERM, EngramError
from tests.simulation import World, run_seeded, simulated
from ums.activation import DAY
from userland.channel import Channel

TOPICS = [
    "pottery",
    "sailing",
    "chess",
    "baking",
    "astronomy",
    "gardening",
    "fencing",
    "beekeeping",
]
CITIES = ["Lisbon", "Hamburg", "Trieste", "Oslo", "Porto", "Ghent", "Graz", "Turin"]
CHATTER = ["Thanks!", "Wow, great!", "How are you?", "You should!", "Sounds good to you?"]


def jump(seconds: float) -> None:
    """Let the time pass at once; what waits for it wakes up one time."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)


async def settled() -> None:
    """Let what the jump woke up run."""
    await trio.sleep(30.0)


def matter(generator: random.Random) -> str:
    """A note that says something."""
    topic, city = generator.choice(TOPICS), generator.choice(CITIES)
    year, price = generator.randint(1990, 2024), generator.randint(10, 9000)
    return f"In {year} I took a {topic} course in {city} with Elena for {price} euros last summer."


async def two_years(seed: int, room: int) -> None:
    """Notes come in for two years; what is pinned or used stays, the rest makes room."""
    generator = random.Random(seed)
    pinned: dict[str, str] = {}
    said: dict[str, str] = {}
    async with simulated(seed, {}, tidy_every=7 * DAY) as world:
        shell = world.attach()
        for step in range(146):
            for text in (matter(generator), f"{generator.choice(CHATTER)} {step}"):
                rid = (await shell.mem.write(segment="episodic", content=text)).rid
                said[rid] = text
                if generator.random() < 0.06:
                    await shell.mem.pin(rid=rid)
                    pinned[rid] = text
            await shell.mem.search(query="pottery in Lisbon", k=3)
            if step % 10 == 9:
                tidied = await shell.mem.tidy(tasks=["archive"], room=room)
                assert tidied.complete
                assert (await shell.mem.stat()).records <= max(room, len(pinned))
            jump(5 * DAY)
            await settled()
        await check(shell, world, said, pinned)
        shell.close()


async def check(shell: Channel, world: World, said: dict[str, str], pinned: dict[str, str]) -> None:
    """Nothing was lost, what is pinned is where it was, and what was archived comes back."""
    stat = await shell.mem.stat()
    live = {one.rid: one for one in (await shell.mem.read(limit=1000)).records}
    assert stat.records == len(live)
    assert set(pinned) <= set(live)
    assert all(live[rid].state == "frozen" for rid in pinned)
    away = [rid for rid in said if rid not in live]
    assert away
    for rid, text in said.items():
        record = (await shell.mem.read(rid=rid)).records[0]
        assert record.content == text
        assert record.state in ("generated", "activated", "frozen", "archived", "merged")
    chatter = [rid for rid, text in said.items() if not text.startswith("In ")]
    kept = [rid for rid in chatter if rid in live and rid not in pinned]
    matters = [rid for rid in live if rid not in pinned and rid not in chatter]
    assert len(kept) < len(matters) / 3
    for rid in away[:5]:
        await shell.mem.archive(rid=rid, restore=True)
        assert (await shell.mem.read(rid=rid)).records[0].state == "activated"
    story = await shell.mem.why(rid=away[0])
    assert any("archived" in line.said or "merged" in line.said for line in story.lines)
    assert story.state == "activated"
    assert world.kernel.memory.keeper.statistics().events["archive"] >= len(away)


@pytest.mark.parametrize("seed", [1, 2])
def test_two_years(seed: int) -> None:
    run_seeded(seed, lambda: two_years(seed, 60))


async def test_the_calls() -> None:
    async with simulated(5, {}) as world:
        shell = world.attach()
        tea = (await shell.mem.write(segment="semantic", content="Ann likes green tea")).rid
        cat = (await shell.mem.write(segment="semantic", content="Ann has a cat, Pixel")).rid
        pinned = await shell.mem.pin(query="green tea")
        assert [(one.rid, one.state) for one in pinned.records] == [(tea, "frozen")]
        with pytest.raises(ENOENT):
            await shell.mem.forget(query="a purple helicopter")
        with pytest.raises(ECONFLICT):
            await shell.mem.forget(rid=tea)
        with pytest.raises(EINVAL):
            await shell.mem.forget()
        dry = await shell.mem.forget(query="Ann", dry_run=True)
        assert (dry.rids, dry.kept, dry.action) == ([cat], [tea], 0)
        assert (await shell.mem.read(rid=cat)).records
        done = await shell.mem.forget(query="Ann")
        assert (done.rids, done.kept) == ([cat], [tea])
        assert [hit.rid for hit in (await shell.mem.search(query="cat Pixel")).hits] == [tea]
        story = await shell.mem.why(rid=cat)
        assert story.state == "forgotten"
        assert "Pixel" not in repr(story)
        lately = await shell.mem.why()
        assert lately.acts[0].event == "forget"
        undone = await shell.mem.undo(action=done.action)
        assert [act.rid for act in undone.acts] == [cat]
        assert (await shell.mem.search(query="cat Pixel")).hits[0].rid == cat
        await shell.mem.unpin(query="green tea")
        await shell.mem.forget(rid=cat)
        await shell.mem.delete(rid=cat)
        with pytest.raises(ENOENT):
            await shell.mem.undo(rid=cat)
        shell.close()


async def test_an_archived_record_is_not_found_and_can_be_read() -> None:
    async with simulated(6, {}) as world:
        shell = world.attach()
        rid = (await shell.mem.write(segment="semantic", content="zebra crossing")).rid
        await shell.mem.archive(rid=rid)
        assert (await shell.mem.search(query="zebra")).hits == []
        found = (await shell.mem.search(query="zebra", include_archived=True)).hits
        assert [hit.rid for hit in found] == [rid]
        assert (await shell.mem.read(rid=rid)).records[0].state == "archived"
        assert (await shell.mem.stat()).records == 0
        await shell.mem.undo(rid=rid)
        assert [hit.rid for hit in (await shell.mem.search(query="zebra")).hits] == [rid]
        shell.close()


async def test_duplicates_are_merged_and_what_differs_is_not() -> None:
    async with simulated(7, {}) as world:
        shell = world.attach()
        texts = ["The door code is 4711.", "the door code is 4711", "The door code is 4712."]
        rids = [(await shell.mem.write(segment="semantic", content=text)).rid for text in texts]
        dry = await shell.mem.tidy(dry_run=True)
        assert [(act.event, act.rid, act.other) for act in dry.acts] == [
            ("merge", rids[1], rids[0])
        ]
        assert (await shell.mem.stat()).records == 3
        done = await shell.mem.tidy()
        assert [act.rid for act in done.acts] == [rids[1]]
        assert (await shell.mem.read(rid=rids[0])).records[0].sources == [rids[1]]
        assert (await shell.mem.stat()).records == 2
        again = await shell.mem.tidy()
        assert again.acts == []
        await shell.mem.undo(action=done.action)
        assert (await shell.mem.read(rid=rids[0])).records[0].sources == []
        assert (await shell.mem.stat()).records == 3
        shell.close()


async def test_the_budget_holds() -> None:
    async with simulated(8, {}) as world:
        shell = world.attach()
        for number in range(40):
            await shell.mem.write(segment="semantic", content=f"note number {number}")
        tidied = await shell.mem.tidy(records=10, room=0)
        assert tidied.read == 10
        assert not tidied.complete
        assert len(tidied.acts) == 10
        shell.close()


async def test_another_process_needs_a_right() -> None:
    async with simulated(9, {}) as world:
        owner, other = world.attach("mem.*"), world.attach("mem.*")
        rid = (await owner.mem.write(segment="semantic", content="mine alone")).rid
        for call in (
            life.Archive(rid=rid),
            life.Undo(rid=rid),
            life.Why(rid=rid),
        ):
            with pytest.raises(EPERM):
                await other.call(call)
        for name in ("pin", "unpin", "forget"):
            with pytest.raises(EPERM):
                await getattr(other.mem, name)(rid=rid)
        space = (await owner.mem.stat()).space
        with pytest.raises(EPERM):
            await other.mem.tidy(space=space)
        owner.close()
        other.close()


STEPS = ("write", "pin", "unpin", "archive", "restore", "forget", "undo", "search", "tidy", "wait")


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9)), min_size=5, max_size=40))
def test_whatever_is_done_pins_hold_and_nothing_is_lost(steps: list[tuple[str, int]]) -> None:
    async def main() -> None:
        async with simulated(11, {}, tidy_every=20 * DAY) as world:
            shell = world.attach()
            said: dict[str, str] = {}
            for step, place in [("write", 0), *steps]:
                rid = list(said)[place % len(said)] if said else ""
                with suppress(ECONFLICT, ENOENT):
                    await act(shell, step, rid, said)
                stat = await shell.mem.stat()
                live = (await shell.mem.read(limit=1000)).records
                assert stat.records == len(live)
                assert all(said[one.rid] == one.content for one in live)
                for one in said:
                    state = (await shell.mem.why(rid=one)).state
                    assert (state == "forgotten") == (one in gone(world, said))
            shell.close()

    run_seeded(11, main)


def gone(world: World, said: dict[str, str]) -> set[str]:
    """The records that cannot be read."""
    missing = set()
    for rid in said:
        try:
            world.kernel.memory.read(rid)
        except EngramError:
            missing.add(rid)
    return missing


async def act(shell: Channel, step: str, rid: str, said: dict[str, str]) -> None:
    """One step."""
    if step == "write":
        text = f"note {len(said)} about {TOPICS[len(said) % 8]}"
        said[(await shell.mem.write(segment="semantic", content=text)).rid] = text
    elif step == "wait":
        jump(70 * DAY)
        await settled()
    elif step == "search":
        await shell.mem.search(query=said[rid])
    elif step == "tidy":
        pins = {
            one.rid for one in (await shell.mem.read(limit=1000)).records if one.state == "frozen"
        }
        await shell.mem.tidy(room=2)
        left = {one.rid for one in (await shell.mem.read(limit=1000)).records}
        assert pins <= left
        assert len(left) <= max(2, len(pins))
    elif step == "restore":
        await shell.mem.archive(rid=rid, restore=True)
    else:
        await getattr(shell.mem, step)(rid=rid)


async def test_the_background_goes_on_where_it_ended() -> None:
    async with simulated(12, {}, tidy_every=0.0) as world:
        shell, tidier = world.attach(), world.kernel.tidier
        space = (await shell.mem.stat()).space
        for number in range(30):
            await shell.mem.write(segment="semantic", content=f"number {number}")
        await shell.mem.write(segment="semantic", content="Number 0.")
        first = await tidier.turn(space)
        assert first is not None
        assert [act.event for act in first.acts] == ["merge"]
        assert first.complete
        second = await tidier.turn(space)
        assert second is not None
        assert second.acts == []
        read, end = 0, b""
        for _ in range(4):
            done, end = await tidier._go(space, Order(records=10, start=end))
            read += done.read
            assert done.complete == (not end)
        assert (read, end) == (31, b"")
        shell.close()
