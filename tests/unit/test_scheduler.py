"""The scheduler's mechanism, on a virtual engine and clock."""

from __future__ import annotations

import random
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from drivers.llm.contract import GenerateRequest
from kernel.turns.fairness import LEAD, WEIGHT_OUT, make_policy, weight
from kernel.turns.scheduler import OVERALL, STALLED, Limits
from kernel.turns.schedulers import Schedulers
from syscalls.errors import EAGAIN, EIO, ETIME
from syscalls.shapes import Usage
from tests.load import TrioClock, pieces, process, serving, whole
from tests.virtual_model import BLOCK, VirtualLLM

if TYPE_CHECKING:
    from trio.testing import MockClock

    from kernel.turns.fairness import Order
    from kernel.turns.scheduler import Scheduler
    from procs.process import Process


def asking(tokens: int = 100, answer: int = 10, salt: str = "s") -> GenerateRequest:
    return GenerateRequest(prompt=f"{salt}ord " * tokens, max_tokens=answer, salt=salt)


def idle(scheduler: Scheduler) -> bool:
    figures = scheduler.statistics()
    left = figures.running, figures.waiting, figures.parked, figures.computing, figures.kv_used
    return left == (0, 0, 0, 0, 0) and not any(each.running for each in figures.processes)


async def test_no_more_than_its_slots_are_in_the_engine(autojump_clock: MockClock) -> None:
    llm = VirtualLLM(batch=64)
    async with serving(llm, make_policy("dlpm"), Limits(slots=5)) as scheduler:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(whole, scheduler, llm, process(10 + number % 3), asking())
            await trio.sleep(0.05)
            figures = scheduler.statistics()
            assert (figures.running, figures.ordinary, figures.slots) == (4, 4, 5)
            assert figures.waiting == 26
        assert llm.most <= 5
        assert idle(scheduler)
        figures = scheduler.statistics()
        assert figures.admitted == 30
        by_process = sorted(figures.processes, key=lambda each: each.apid)
        assert [each.apid for each in by_process] == [10, 11, 12]
        assert all(each.completion == 100 and each.prompt == 1250 for each in by_process)
        assert all(0 < each.wait_p50 <= each.wait_p95 for each in by_process)


async def test_what_is_told_to_observers_is_exact_in_the_end(autojump_clock: MockClock) -> None:
    llm = VirtualLLM()
    async with serving(llm, make_policy("dlpm")) as scheduler:
        told: dict[int, Usage] = {}

        def observe(who: Process, more: Usage) -> None:
            sum_ = told.setdefault(who.apid, Usage())
            sum_.prompt += more.prompt
            sum_.cached += more.cached
            sum_.completion += more.completion

        scheduler.on_served.append(observe)
        for _ in range(3):
            usage = await whole(scheduler, llm, process(10), asking(700, 20))
        assert usage.cached > 0
        assert (told[10].prompt, told[10].completion) == (3 * usage.prompt, 60)
        assert told[10].cached == 2 * usage.cached
        live: list[int] = []
        async with aclosing(pieces(scheduler, llm, process(11), asking(50, 20))) as stream:
            async for _ in stream:
                live.append(told[11].completion)
                if len(live) == 5:
                    break
        assert live == [1, 2, 3, 4, 5], "it is charged while it comes"


async def test_a_full_queue_says_when_to_come_back(autojump_clock: MockClock) -> None:
    llm = VirtualLLM(batch=2)
    async with serving(llm, make_policy("dlpm"), Limits(slots=1, queue=3)) as scheduler:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(whole, scheduler, llm, process(10), asking(100, 100))
            await wait_all_tasks_blocked()
            with pytest.raises(EAGAIN) as caught:
                await whole(scheduler, llm, process(10), asking())
            await whole(scheduler, llm, process(11), asking())  # others have a queue of their own
            assert 0.05 <= caught.value.retry_after <= 60
            nursery.cancel_scope.cancel()
        assert scheduler.statistics().refusals == 1
        assert idle(scheduler)


async def test_all_queues_together_are_bounded_too(autojump_clock: MockClock) -> None:
    llm = VirtualLLM(batch=2)
    async with serving(llm, make_policy("dlpm"), Limits(slots=1, queue=1)) as scheduler:
        async with trio.open_nursery() as nursery:
            for number in range(OVERALL + 1):
                nursery.start_soon(whole, scheduler, llm, process(10 + number), asking(100, 1000))
            await wait_all_tasks_blocked()
            with pytest.raises(EAGAIN):
                await whole(scheduler, llm, process(9), asking())
            nursery.cancel_scope.cancel()
        assert idle(scheduler)


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(autojump_clock: MockClock) -> None:
    llm = VirtualLLM()
    async with serving(llm, make_policy("dlpm"), Limits(slots=1)) as scheduler:
        await whole(scheduler, llm, process(10), asking(4000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(whole, scheduler, llm, process(10), asking(100, 1000))
            await trio.sleep(0.1)
            began = trio.current_time()
            with pytest.raises(ETIME, match="left"):
                async for _ in pieces(scheduler, llm, process(11), asking(100_000, salt="x"), 2.0):
                    raise AssertionError("it was served")
            assert trio.current_time() == began
            nursery.cancel_scope.cancel()
        assert scheduler.statistics().expired == 1
        assert idle(scheduler)


async def test_the_nearest_deadline_goes_ahead_when_it_would_be_missed(
    autojump_clock: MockClock,
) -> None:
    llm = VirtualLLM(batch=4)
    async with serving(llm, make_policy("dlpm"), Limits(slots=3)) as scheduler:
        for _ in range(3):
            await whole(scheduler, llm, process(10), asking(100, 100))
        done: list[str] = []
        async with trio.open_nursery() as nursery:

            async def timed(who: int, patience: float, name: str) -> None:
                async for _ in pieces(scheduler, llm, process(who), asking(), patience):
                    pass
                done.append(name)

            for _ in range(20):
                nursery.start_soon(whole, scheduler, llm, process(10), asking(100, 100))
            await trio.sleep(0.05)
            nursery.start_soon(timed, 11, 60.0, "later")
            nursery.start_soon(timed, 10, 2.0, "sooner")
            await trio.sleep(2.0)
            assert done[0] == "sooner"
            nursery.cancel_scope.cancel()
        assert scheduler.statistics().ahead >= 1


async def test_a_stopped_process_keeps_what_it_began_and_others_go_on(
    autojump_clock: MockClock,
) -> None:
    llm = VirtualLLM(batch=2)
    limits = Limits(slots=1)
    async with serving(llm, make_policy("dlpm"), limits) as scheduler:
        stopped, other = process(10), process(11)
        got: list[str] = []

        async def read() -> None:
            async with aclosing(pieces(scheduler, llm, stopped, asking(600, 50))) as stream:
                async for piece in stream:
                    got.append(piece.text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0.3)
            nursery.start_soon(whole, scheduler, llm, stopped, asking())
            await wait_all_tasks_blocked()
            assert len(got) > 5
            scheduler.hold(stopped.apid)
            before = len(got)
            await whole(scheduler, llm, other, asking())
            await trio.sleep(100)
            assert len(got) <= before + 1
            figures = scheduler.statistics()
            assert (figures.parked, figures.waiting, figures.running) == (1, 1, 0)
            scheduler.release(stopped.apid)
        assert len(got) == 50
        served = {each.apid: each for each in scheduler.statistics().processes}[10]
        assert served.completion == 60 and served.prompt == 750 + 125, "nothing was paid twice"
        assert idle(scheduler)


async def test_what_is_new_of_a_stopped_process_waits_as_well(autojump_clock: MockClock) -> None:
    llm = VirtualLLM()
    schedulers = Schedulers(TrioClock(), "dlpm", Limits())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(llm.run)
        nursery.start_soon(schedulers.run)
        schedulers.hold(10)
        with trio.move_on_after(30) as scope:
            await whole(schedulers.of(llm), llm, process(10), asking())
        assert scope.cancelled_caught
        schedulers.release(10)
        assert (await whole(schedulers.of(llm), llm, process(10), asking())).completion == 10
        nursery.cancel_scope.cancel()
    assert schedulers.figures(llm).waiting == 0


async def test_one_far_ahead_is_suspended_and_goes_on_where_it_was(
    autojump_clock: MockClock,
) -> None:
    llm = VirtualLLM(batch=2)
    async with serving(llm, make_policy("dlpm"), Limits(slots=2)) as scheduler:
        long = int(2 * LEAD / WEIGHT_OUT)
        usages: list[Usage] = []

        async def hog() -> None:
            usages.append(await whole(scheduler, llm, process(10, 2), asking(100, long)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hog)
            await trio.sleep(0.1)
            with trio.fail_after(3600):
                while not llm.suspensions:
                    await whole(scheduler, llm, process(11, 3), asking(100, 200))
        assert usages[0].completion == long
        figures = {each.apid: each for each in scheduler.statistics().processes}
        assert figures[10].preemptions == scheduler.statistics().preemptions >= 1
        assert figures[10].completion == long and figures[10].prompt == 125
        assert idle(scheduler)


async def test_a_shell_has_a_slot_when_all_are_taken(autojump_clock: MockClock) -> None:
    llm = VirtualLLM(batch=1)
    async with serving(llm, make_policy("dlpm"), Limits(slots=1)) as scheduler:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(whole, scheduler, llm, process(10), asking(100, 1000))
            await trio.sleep(0.1)
            began = trio.current_time()
            user = process(4, 4, kind="session")
            await whole(scheduler, llm, user, asking(100, 10))
            assert trio.current_time() - began < 1
            assert llm.suspensions == 1
            nursery.cancel_scope.cancel()
        assert idle(scheduler)


async def test_a_reader_that_does_not_read_gives_its_slot_away(autojump_clock: MockClock) -> None:
    llm = VirtualLLM(batch=1)
    async with serving(llm, make_policy("vtc"), Limits(slots=1)) as scheduler:
        async with aclosing(pieces(scheduler, llm, process(10), asking(100, 40))) as stream:
            await anext(stream)
            began = trio.current_time()
            await whole(scheduler, llm, process(11), asking())
            assert STALLED <= trio.current_time() - began < 10 * STALLED
            rest = [piece async for piece in stream]
        assert rest[-1].usage is not None and rest[-1].usage.completion == 40
        assert idle(scheduler)


async def test_keys_and_values_of_what_runs_fit_into_the_engine(autojump_clock: MockClock) -> None:
    llm = VirtualLLM(batch=16, blocks=24)
    async with serving(llm, make_policy("dlpm")) as scheduler:
        most = 0
        async with trio.open_nursery() as nursery:
            for number in range(12):
                request = asking(1000, 20, salt=str(number))
                nursery.start_soon(whole, scheduler, llm, process(10), request)
            await wait_all_tasks_blocked()
            while scheduler.statistics().waiting:
                most = max(most, scheduler.statistics().kv_used)
                await trio.sleep(0.05)
        assert 0 < most <= 24 * BLOCK
        assert idle(scheduler)


async def test_the_death_of_the_engine_is_told_and_what_waits_is_served_by_the_next(
    autojump_clock: MockClock,
) -> None:
    llm = VirtualLLM(batch=2)
    async with serving(llm, make_policy("dlpm"), Limits(slots=1)) as scheduler:
        ends: list[str] = []

        async def one(number: int) -> None:
            try:
                await whole(scheduler, llm, process(10 + number), asking(100, 50))
                ends.append("done")
            except EIO:
                ends.append("EIO")

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(one, number)
            await trio.sleep(0.1)
            llm.die()
        assert sorted(ends) == ["EIO", "done", "done", "done"]
        assert idle(scheduler)


async def test_what_the_engine_refused_costs_nothing(autojump_clock: MockClock) -> None:
    llm = VirtualLLM()
    async with serving(llm, make_policy("vtc")) as scheduler:
        async with trio.open_nursery() as nursery:

            async def fail() -> None:
                with pytest.raises(EIO):
                    await whole(scheduler, llm, process(10), asking(5000, 10))

            nursery.start_soon(fail)
            await trio.sleep(0.01)
            llm.die()
        (figures,) = scheduler.statistics().processes
        assert (figures.prompt, figures.cached, figures.completion) == (0, 0, 0)


async def test_processes_and_sessions_that_have_ended_are_forgotten(
    autojump_clock: MockClock,
) -> None:
    llm = VirtualLLM()
    async with serving(llm, make_policy("dlpm")) as scheduler:
        for number in range(5):
            await whole(scheduler, llm, process(10 + number, 2), asking())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(whole, scheduler, llm, process(20, 3), asking())
            await trio.sleep(0.01)
            scheduler.ended(20)
            scheduler.ended(3)
            assert len(scheduler.statistics().processes) == 6, "its call has not ended yet"
        for number in range(5):
            scheduler.ended(10 + number)
        assert scheduler.statistics().processes == []
        assert sorted(scheduler._queue._sessions) == [2], "the session's account stays with it"
        scheduler.ended(2)
        assert not scheduler._queue._sessions


async def test_nice_levels_have_their_share_of_the_tokens(autojump_clock: MockClock) -> None:
    llm = VirtualLLM(batch=4)
    async with serving(llm, make_policy("dlpm"), Limits(slots=4)) as scheduler:
        async with trio.open_nursery() as nursery:

            async def work(who: Process) -> None:
                while True:
                    await whole(scheduler, llm, who, asking(100, 30, salt=str(who.apid)))

            for who in (process(10, nice=0), process(11, nice=6)):
                for _ in range(8):
                    nursery.start_soon(work, who)
            await trio.sleep(150)
            nursery.cancel_scope.cancel()
        had = {each.apid: each.completion for each in scheduler.statistics().processes}
        assert had[10] / had[11] == pytest.approx(weight(0) / weight(6), rel=0.1)


async def test_a_long_prompt_goes_in_when_nothing_is_computed(autojump_clock: MockClock) -> None:
    llm = VirtualLLM(batch=8)
    async with serving(llm, make_policy("dlpm"), Limits(slots=8)) as scheduler:
        await whole(scheduler, llm, process(10), asking(4000))  # the speed is known now
        own = random.Random(7)
        for round_ in range(50):
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    request = asking(own.randrange(1, 300), 5, f"{round_} {number} ")
                    nursery.start_soon(whole, scheduler, llm, process(10 + number), request)
            assert scheduler.statistics().computing == 0
            with trio.fail_after(1000):
                await whole(scheduler, llm, process(10), asking(3000, 1, f"{round_}"))


@pytest.mark.parametrize("order", ["dlpm", "vtc", "fcfs", "lpm"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_storm_leaves_nothing_behind(
    order: Order, seed: int, autojump_clock: MockClock
) -> None:
    own = random.Random(f"{order} {seed}")
    llm = VirtualLLM(batch=own.randrange(1, 6), blocks=own.randrange(20, 60))
    limits = Limits(own.choice([0, 1, 3]), queue=20)
    ends: dict[str, int] = {}
    async with serving(llm, make_policy(order), limits) as scheduler:

        async def one() -> None:
            who = process(10 + own.randrange(6), 2 + own.randrange(3), nice=own.randrange(-5, 5))
            who.kind = own.choice(["python", "python", "session"])
            request = asking(own.randrange(1, 900), own.randrange(1, 60), str(own.randrange(3)))
            patience = own.choice([float("inf"), 1.0, 20.0, 100.0])
            end = "done"
            try:
                with trio.move_on_after(own.choice([0.1, 5.0, 60.0, 1e6])) as scope:
                    async with aclosing(pieces(scheduler, llm, who, request, patience)) as stream:
                        async for _ in stream:
                            if own.random() < 0.01:
                                await trio.sleep(1.0)
                if scope.cancelled_caught:
                    end = "cancelled"
            except (EIO, EAGAIN, ETIME) as error:
                end = error.code
            ends[end] = ends.get(end, 0) + 1

        with trio.fail_after(10_000):  # of virtual time: else who waits for ever is not seen
            async with trio.open_nursery() as nursery:
                for _ in range(250):
                    nursery.start_soon(one)
                    await trio.sleep(own.random() * 0.05)
                    if own.random() < 0.1:
                        apid = 10 + own.randrange(6)
                        own.choice([scheduler.hold, scheduler.release, scheduler.ended])(apid)
                    if own.random() < 0.01:
                        llm.die()
                for apid in range(10, 16):
                    scheduler.release(apid)
        assert idle(scheduler)
        assert sum(ends.values()) == 250 and ends["done"] > 10
