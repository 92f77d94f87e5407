"""The process table: families, states, ends, waits, numbers, what survives a reboot."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drivers.contracts import Batch
from drivers.store.memory import MemoryStore
from procs.numbers import BLOCK, Numbers
from procs.process import TRANSITIONS, Born, IllegalTransition, Process
from procs.table import ProcessTable
from syscalls.capability import compiled
from syscalls.errors import EAGAIN, ECONFLICT, EINVAL, EIO, ESRCH, ETIME
from syscalls.shapes import Exit, Quota

NOBODY = compiled(frozenset())


class Tick:
    """A clock that goes on by one each time it is asked."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def now(self) -> float:
        return float(next(self._count))

    def monotonic(self) -> float:
        return self.now()


class Family:
    """A table with an init, and short words for what tests do."""

    def __init__(self, table: ProcessTable) -> None:
        self.table = table
        self.init = table.create(None, Born(name="init", kind="init", caps=NOBODY, quota=Quota()))

    def spawn(self, parent: Process, name: str = "agent") -> Process:
        process = self.table.create(
            parent, Born(name=name, kind="python", caps=NOBODY, quota=Quota())
        )
        self.table.started(process)
        return process

    def end(self, process: Process, status: int = 0) -> list[Process]:
        return self.table.exit(process, Exit(process.apid, status, "exit"))


async def opened(store: MemoryStore, *, zombies: int = 1000, remembered: int = 1000) -> Family:
    table = ProcessTable(store, Tick(), zombies=zombies, remembered=remembered)
    await table.open()
    return Family(table)


@pytest.fixture
async def family() -> AsyncIterator[Family]:
    yield await opened(MemoryStore())


async def started(nursery: trio.Nursery, wait: Callable[[], Awaitable[Exit]]) -> list[object]:
    """Run a wait in the background; the list gets its result or its error."""
    results: list[object] = []

    async def run() -> None:
        try:
            results.append(await wait())
        except (ESRCH, ETIME) as error:
            results.append(error.code)

    nursery.start_soon(run)
    await trio.testing.wait_all_tasks_blocked()
    return results


# --- states


def test_every_state_but_zombie_leads_to_zombie_and_zombie_to_nothing() -> None:
    assert all("ZOMBIE" in steps for state, steps in TRANSITIONS.items() if state != "ZOMBIE")
    assert not TRANSITIONS["ZOMBIE"]
    assert set().union(*TRANSITIONS.values()) | {"NEW"} == set(TRANSITIONS)


async def test_an_illegal_step_raises_and_changes_nothing(family: Family) -> None:
    process = family.table.create(
        family.init, Born(name="a", kind="python", caps=NOBODY, quota=Quota())
    )
    with pytest.raises(IllegalTransition, match="NEW to STOPPED"):
        process.move("STOPPED")
    assert process.state == "NEW"
    assert IllegalTransition("x").code == "EINVAL"


async def test_a_process_ends_once(family: Family) -> None:
    process = family.spawn(family.spawn(family.init))
    family.end(process, 3)
    with pytest.raises(IllegalTransition):
        family.end(process, 4)
    assert process.exit is not None
    assert process.exit.status == 3


async def test_stop_wins_over_running_until_resumed(family: Family) -> None:
    process = family.spawn(family.init)
    family.table.running(process)
    family.table.waiting(process)
    seen: list[str] = [process.state]
    family.table.stop(process)
    family.table.running(process)
    seen.append(process.state)
    process.calls = 1
    family.table.resume(process)
    seen.append(process.state)
    family.table.resume(process)
    assert seen == ["WAITING", "STOPPED", "RUNNING"]


# --- look-up


async def test_a_name_finds_the_only_live_bearer(family: Family) -> None:
    parent = family.spawn(family.init, "parent")
    first, second = family.spawn(parent, "twin"), family.spawn(parent, "twin")
    with pytest.raises(ECONFLICT) as caught:
        family.table.find("twin")
    assert caught.value.detail["candidates"] == [first.apid, second.apid]
    family.end(first)
    assert family.table.find("twin") is second
    family.end(second)
    with pytest.raises(ECONFLICT):
        family.table.find("twin")
    await family.table.wait(parent.apid, first.apid)
    assert family.table.find("twin") is second  # the last zombie of that name
    await family.table.wait(parent.apid, second.apid)
    with pytest.raises(ESRCH):
        family.table.find("twin")


async def test_numbers_find_too_and_names_come_before_numbers_as_text(family: Family) -> None:
    named = family.spawn(family.init, "7")
    assert family.table.find(named.apid) is named
    assert family.table.find(str(family.init.apid)) is family.init
    assert family.table.find("7") is named
    for missing in (99999, "99999", "nobody", 0, -1):
        with pytest.raises(ESRCH):
            family.table.find(missing)


async def test_a_rename_moves_the_name(family: Family) -> None:
    process = family.spawn(family.init, "before")
    family.table.rename(process, "after")
    assert family.table.find("after") is process
    with pytest.raises(ESRCH):
        family.table.find("before")


async def test_descendants_come_after_their_parents(family: Family) -> None:
    a = family.spawn(family.init)
    b, c = family.spawn(a), family.spawn(a)
    d = family.spawn(b)
    assert family.table.descendants(a.apid) == [b, c, d]
    assert family.table.is_descendant(d.apid, a.apid)
    assert not family.table.is_descendant(a.apid, a.apid)
    assert not family.table.is_descendant(c.apid, b.apid)
    assert d.session == family.init.session


async def test_a_session_is_its_own_and_its_childrens(family: Family) -> None:
    session = family.table.create(
        family.init, Born(name="shell", kind="session", caps=NOBODY, quota=Quota())
    )
    assert session.session == session.apid
    assert family.spawn(session).session == session.apid


# --- ends and waits


async def test_the_parents_first_wait_reaps(family: Family) -> None:
    parent = family.spawn(family.init)
    child = family.spawn(parent)
    family.end(child, 5)
    stranger = family.spawn(family.init)
    assert (await family.table.wait(stranger.apid, child.apid)).status == 5
    assert family.table.get(child.apid).state == "ZOMBIE"
    assert (await family.table.wait(parent.apid, child.apid)).status == 5
    for who in (parent, stranger):
        with pytest.raises(ESRCH):
            await family.table.wait(who.apid, child.apid)


async def test_everybody_who_waits_hears_of_the_end(family: Family) -> None:
    parent = family.spawn(family.init)
    child, other = family.spawn(parent), family.spawn(parent)
    async with trio.open_nursery() as nursery:
        results = [
            await started(nursery, lambda who=who: family.table.wait(who, child.apid))  # type: ignore[misc]
            for who in (parent.apid, parent.apid, other.apid, family.init.apid)
        ]
        family.end(child, 9)
    assert [result[0].status for result in results] == [9, 9, 9, 9]  # type: ignore[attr-defined]
    with pytest.raises(ESRCH):
        family.table.get(child.apid)


async def test_each_end_goes_to_one_wait_for_any_in_order(family: Family) -> None:
    parent = family.spawn(family.init)
    children = [family.spawn(parent) for _ in range(3)]
    async with trio.open_nursery() as nursery:
        waits = [
            await started(nursery, lambda: family.table.wait_any(parent.apid)) for _ in range(4)
        ]
        for child in reversed(children):
            family.end(child)
    apids = [result[0].apid for result in waits[:3]]  # type: ignore[attr-defined]
    assert apids == [child.apid for child in reversed(children)]
    assert waits[3] == ["ESRCH"]  # no child was left for it


async def test_wait_any_takes_zombies_in_the_order_of_their_ends(family: Family) -> None:
    parent = family.spawn(family.init)
    first, second = family.spawn(parent), family.spawn(parent)
    family.end(second)
    family.end(first)
    assert (await family.table.wait_any(parent.apid, 0)).apid == second.apid
    assert (await family.table.wait_any(parent.apid, 0)).apid == first.apid
    with pytest.raises(ESRCH, match="no children"):
        await family.table.wait_any(parent.apid, 0)


async def test_a_wait_for_one_child_is_not_robbed_by_a_wait_for_any(family: Family) -> None:
    parent = family.spawn(family.init)
    wanted, other = family.spawn(parent), family.spawn(parent)
    async with trio.open_nursery() as nursery:
        any_child = await started(nursery, lambda: family.table.wait_any(parent.apid))
        this_child = await started(nursery, lambda: family.table.wait(parent.apid, wanted.apid))
        family.end(wanted)
        await trio.testing.wait_all_tasks_blocked()
        assert len(this_child) == 1
        assert any_child == []
        family.end(other)
    assert any_child[0].apid == other.apid  # type: ignore[attr-defined]


async def test_timeouts_are_of_the_loops_clock(autojump_clock: trio.testing.MockClock) -> None:
    family = await opened(MemoryStore())
    child = family.spawn(family.init)
    began = trio.current_time()
    with pytest.raises(ETIME):
        await family.table.wait(family.init.apid, child.apid, 30)
    with pytest.raises(ETIME):
        await family.table.wait_any(family.init.apid, 12)
    assert trio.current_time() - began == pytest.approx(42)
    assert family.table.statistics().waiting == 0


async def test_a_timeout_of_0_only_looks(family: Family) -> None:
    parent = family.spawn(family.init)
    child = family.spawn(parent)
    with pytest.raises(ETIME):
        await family.table.wait(parent.apid, child.apid, 0)
    family.end(child)
    assert (await family.table.wait(parent.apid, child.apid, 0)).apid == child.apid


async def test_a_cancelled_wait_loses_no_exit(family: Family) -> None:
    """The child ends in the very moment in which the wait is cancelled."""
    parent = family.spawn(family.init)
    child = family.spawn(parent)
    async with trio.open_nursery() as nursery:
        await started(nursery, lambda: family.table.wait_any(parent.apid))
        nursery.cancel_scope.cancel()
        family.end(child)
    assert (await family.table.wait_any(parent.apid, 0)).apid == child.apid


async def test_nobody_waits_for_itself(family: Family) -> None:
    with pytest.raises(EINVAL):
        await family.table.wait(family.init.apid, family.init.apid)


async def test_orphans_go_to_init_which_reaps_at_once(family: Family) -> None:
    parent = family.spawn(family.init)
    live, dead = family.spawn(parent), family.spawn(parent)
    family.end(dead)
    assert family.end(parent) == [live]
    assert live.parent == family.init.apid
    assert family.table.children(family.init.apid) == [live]
    family.end(live)
    assert family.table.all() == [family.init]


async def test_a_wait_for_children_ends_with_the_parent(family: Family) -> None:
    parent = family.spawn(family.init)
    family.spawn(parent)
    async with trio.open_nursery() as nursery:
        result = await started(nursery, lambda: family.table.wait_any(parent.apid))
        family.end(parent)
    assert result == ["ESRCH"]


async def test_a_cancelled_wait_of_a_dead_parent_leaves_no_zombie(family: Family) -> None:
    parent = family.spawn(family.init)
    child = family.spawn(parent)
    async with trio.open_nursery() as nursery:
        await started(nursery, lambda: family.table.wait(parent.apid, child.apid))
        family.end(parent)
        family.end(child)
        nursery.cancel_scope.cancel()
    assert family.table.all() == [family.init]


async def test_zombies_are_bounded_and_the_oldest_go_first() -> None:
    family = await opened(MemoryStore(), zombies=3)
    parent = family.spawn(family.init)
    children = [family.spawn(parent) for _ in range(5)]
    for child in children:
        family.end(child)
    assert list(parent.zombies) == [child.apid for child in children[2:]]
    with pytest.raises(ESRCH):
        family.table.get(children[0].apid)


async def test_the_dead_have_no_children(family: Family) -> None:
    parent = family.spawn(family.spawn(family.init))
    family.end(parent)
    with pytest.raises(ESRCH):
        family.spawn(parent)


async def test_who_watches_is_told_of_each_end_once(family: Family) -> None:
    seen: list[int] = []
    family.table.watch(lambda process: seen.append(process.apid))
    child = family.spawn(family.init)
    family.end(child)
    assert seen == [child.apid]


async def test_a_process_that_could_not_be_started_is_forgotten(family: Family) -> None:
    process = family.table.create(
        family.init, Born(name="ghost", kind="python", caps=NOBODY, quota=Quota())
    )
    async with trio.open_nursery() as nursery:
        result = await started(nursery, lambda: family.table.wait(1, process.apid))
        batch = family.table.discard(process)
    assert result[0].status == 127  # type: ignore[attr-defined]
    assert batch.deletes
    assert family.table.all() == [family.init]


# --- disk


async def test_numbers_are_not_given_out_again_after_a_reboot() -> None:
    store, given = MemoryStore(), set[int]()
    for _boot in range(5):
        family = await opened(store)
        fresh = {family.spawn(family.init).apid for _ in range(10)}
        assert not fresh & given
        assert min(fresh) > max(given, default=1)
        given |= fresh


async def test_no_number_is_given_out_before_its_reservation_is_on_disk(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Stuck(MemoryStore):
        """Commits only while it may."""

        open = True

        async def commit(self, batch: Batch) -> list[int]:
            if not self.open:
                raise EIO("the disk is full", driver="store")
            return await super().commit(batch)

    store = Stuck()
    numbers = Numbers(store, block=8)
    await numbers.open()
    reserved = max(int.from_bytes(k[5:], "big") for k, _ in store.scan("meta", b"apid/", b"apid0"))
    store.open = False
    async with trio.open_nursery() as nursery:
        await nursery.start(numbers.run)
        taken = []
        with pytest.raises(EAGAIN, match="disk is full") as caught:
            while True:
                taken.append(numbers.take())
                await trio.testing.wait_all_tasks_blocked()
        assert max(taken) == reserved
        assert caught.value.retry_after > 0
        store.open = True
        with trio.fail_after(30):
            while True:
                try:
                    assert numbers.take() == reserved + 1
                    break
                except EAGAIN as busy:
                    await trio.sleep(busy.retry_after)
        nursery.cancel_scope.cancel()


async def test_spawning_more_than_a_block_needs_no_wait() -> None:
    family = await opened(MemoryStore())
    async with trio.open_nursery() as nursery:
        await nursery.start(family.table.run)
        apids = set()
        for at in range(3 * BLOCK):
            process = family.spawn(family.init)
            apids.add(process.apid)
            family.end(process)
            if at % 100 == 0:
                await trio.lowlevel.checkpoint()
        assert len(apids) == 3 * BLOCK
        nursery.cancel_scope.cancel()


async def test_who_was_alive_is_recorded_as_ended_after_a_crash() -> None:
    store = MemoryStore()
    family = await opened(store)
    alive, dead = family.spawn(family.init, "alive"), family.spawn(family.init, "dead")
    for process in (alive, dead):
        await store.commit(family.table.record(process))
    ended = Exit(dead.apid, 4, "exit", ended=9.0)
    await store.commit(family.table.record(dead, ended))
    family.table.exit(dead, ended)

    table = ProcessTable(store, Tick())
    lost = await table.open()
    assert [(one.apid, one.reason) for one in lost] == [(alive.apid, "kernel died")]
    past = {info.name: info for info in table.past()}
    assert past["dead"].exit == ended
    assert past["alive"].exit == table.past_exit(alive.apid) == lost[0]
    assert past["alive"].state == "ZOMBIE"
    assert await ProcessTable(store, Tick()).open() == []


async def test_the_past_is_bounded() -> None:
    store = MemoryStore()
    family = await opened(store, remembered=5)
    for at in range(20):
        process = family.spawn(family.init, f"number-{at}")
        await store.commit(family.table.record(process))
        ended = Exit(process.apid, 0, "exit")
        await store.commit(family.table.record(process, ended))
        family.table.exit(process, ended)
    assert [info.name for info in family.table.past()] == [f"number-{at}" for at in range(15, 20)]
    smaller = ProcessTable(store, Tick(), remembered=2)
    await smaller.open()
    assert len(smaller.past()) == 2
    assert len(store.scan("procs", b"", b"\xff")) == 2


# --- all of it together


class TableMachine(RuleBasedStateMachine):
    """Any order of spawns, ends, stops, waits; a model beside it says who must be there."""

    @initialize()
    def boot(self) -> None:
        self.store = MemoryStore()
        trio.run(self._open)
        self.live: list[Process] = []
        self.used: set[int] = {1}
        self.exits: dict[int, int] = {}

    async def _open(self) -> None:
        self.family = await opened(self.store, zombies=4)

    def pick(self, data: st.DataObject, *, init: bool) -> Process:
        return data.draw(st.sampled_from([self.family.init, *self.live] if init else self.live))

    @rule(data=st.data(), name=st.sampled_from("abc"))
    def spawn(self, data: st.DataObject, name: str) -> None:
        process = self.family.spawn(self.pick(data, init=True), name)
        assert process.apid not in self.used
        self.used.add(process.apid)
        self.live.append(process)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), status=st.integers(0, 255))
    def end(self, data: st.DataObject, status: int) -> None:
        process = self.pick(data, init=False)
        children = self.family.table.children(process.apid)
        adopted = self.family.end(process, status)
        assert adopted == children
        assert all(child.parent == 1 for child in children)
        self.live.remove(process)
        self.exits[process.apid] = status

    @precondition(lambda self: self.live)
    @rule(data=st.data(), go=st.sampled_from(["stop", "resume", "running", "waiting"]))
    def change(self, data: st.DataObject, go: str) -> None:
        getattr(self.family.table, go)(self.pick(data, init=False))

    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        parent = self.pick(data, init=True)
        zombies = list(parent.zombies)

        async def look() -> Exit:
            return await self.family.table.wait_any(parent.apid, 0)

        if zombies:
            found = trio.run(look)
            assert found.apid == zombies[0]
            assert found.status == self.exits[found.apid]
            return
        with pytest.raises(ETIME if parent.children else ESRCH):
            trio.run(look)

    @rule()
    def reboot(self) -> None:
        self.live = []
        trio.run(self._open)

    @invariant()
    def one_tree(self) -> None:
        table, init = self.family.table, self.family.init
        assert {process.apid for process in table.live()} == {1, *(p.apid for p in self.live)}
        assert not init.zombies
        for process in table.all():
            if process is not init:
                parent = table.get(process.parent)
                assert parent.alive
                assert parent.children[process.apid] is process
                assert (process.apid in parent.zombies) == (not process.alive)
                assert table.is_descendant(process.apid, 1)
            assert process.alive == (process.state != "ZOMBIE")
            assert len(process.zombies) <= 4
        figures = table.statistics()
        assert figures.alive + figures.zombies == len(table.all())


TestTableMachine = TableMachine.TestCase
