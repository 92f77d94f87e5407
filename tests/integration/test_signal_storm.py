"""Signals in any order, to whole trees and groups, while processes start, wait, write and end."""

import random
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from syscalls.calls.proc import SignalCall
from syscalls.errors import ECANCELED, EngramError
from syscalls.launch import Launch
from syscalls.shapes import Grouping, Signal
from tests.simulation import Program, World, run_seeded, simulated
from tests.virtual_model import VirtualLLM
from userland.channel import Channel

STEPS = 500
SIGNALS: tuple[Signal, ...] = ("STOP", "STOP", "CONT", "CONT", "INT", "USR1", "TERM", "KILL")
GROUPS: tuple[Grouping | None, ...] = (None, "new", "inherit")
MOST = 30


async def writer(channel: Channel, launch: Launch) -> None:
    """Has a model write; whoever interrupts it makes it begin the next text."""
    for number in range(4):
        try:
            await channel.llm.generate(prompt=f"text {number} " * 200, max_tokens=60)
        except ECANCELED:
            continue


async def sleeper(channel: Channel, launch: Launch) -> None:
    """Waits for messages, whatever comes."""
    while True:
        try:
            await channel.ipc.recv()
        except ECANCELED:
            continue


async def parent(channel: Channel, launch: Launch) -> None:
    """Starts children one after the other, without end."""
    dice = random.Random(launch.apid)
    while True:
        try:
            program = dice.choice(("writer", "sleeper"))
            await channel.proc.spawn(program=program, group=dice.choice(GROUPS))
            await channel.proc.wait(timeout=dice.random() * 3)
        except EngramError:
            await trio.sleep(0.05)


PROGRAMS: dict[str, Program] = {"writer": writer, "sleeper": sleeper, "parent": parent}


async def ignoring(awaitable: Any) -> Any:
    try:
        return await awaitable
    except EngramError:
        return None


def python(world: World) -> list[int]:
    return [each.apid for each in world.kernel.processes.live() if each.kind == "python"]


async def gone(world: World) -> None:
    with trio.fail_after(600):
        while python(world):
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(0.5)


async def step(world: World, shell: Channel, dice: random.Random) -> None:
    alive = python(world)
    if len(alive) < MOST and (not alive or dice.random() < 0.3):
        program = dice.choice(list(PROGRAMS))
        await ignoring(shell.proc.spawn(program=program, group=dice.choice(GROUPS)))
        return
    await ignoring(
        shell.proc.signal(
            target=dice.choice(alive),
            signal=dice.choice(SIGNALS),
            tree=dice.random() < 0.3,
            group=dice.random() < 0.3,
        )
    )


def consistent(world: World) -> int:
    """Nothing runs for who is stopped; how many are."""
    kernel = world.kernel
    states = {each.apid: each.state for each in kernel.processes.all()}
    figures = kernel.schedulers.figures(kernel.llm)
    for served in figures.processes:
        assert not served.running or states.get(served.apid) != "STOPPED", served
    for process in kernel.processes.live():
        assert process.group in (process.apid, 1) or process.parent, process
    return sum(state == "STOPPED" for state in states.values())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storm_of_signals_leaves_nothing_stopped_held_or_alive(seed: int) -> None:
    stopped: list[int] = []

    async def main() -> None:
        dice = random.Random(seed)
        llm = VirtualLLM(batch=4)
        async with simulated(seed, PROGRAMS) as world, trio.open_nursery() as nursery:
            world.kernel.llm = llm
            nursery.start_soon(llm.run)
            shells = [world.attach() for _ in range(3)]
            for _ in range(STEPS):
                async with trio.open_nursery() as several:
                    for shell in shells:
                        several.start_soon(step, world, shell, dice)
                stopped.append(consistent(world))
                if dice.random() < 0.2:
                    await trio.sleep(dice.random() / 5)
            await all_go_on(world, shells[0])
            for apid in python(world):
                await ignoring(shells[0].proc.signal(target=apid, signal="KILL", tree=True))
            await gone(world)
            figures = world.kernel.schedulers.figures(llm)
            assert (figures.running, figures.waiting, figures.parked) == (0, 0, 0)
            for shell in shells:
                shell.close()
            with trio.fail_after(60):
                while len(world.kernel.processes.all()) > 1:
                    await trio.testing.wait_all_tasks_blocked()
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    run_seeded(seed, main)
    assert max(stopped) > 3, "it was a storm"


async def all_go_on(world: World, shell: Channel) -> None:
    """After CONT to all of them everything that was asked of the model is written."""
    for process in world.kernel.processes.live():
        if process.kind == "python" and process.program == "parent":
            await ignoring(shell.proc.signal(target=process.apid, signal="KILL"))
    for apid in python(world):
        await ignoring(shell.proc.signal(target=apid, signal="CONT"))
    with trio.fail_after(300):
        while [each for each in world.kernel.processes.live() if each.program == "writer"]:
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(1)


async def breeder(channel: Channel, launch: Launch) -> None:
    """Has several children started at once, for ever."""

    async def breed() -> None:
        while True:
            await channel.proc.spawn(program="sleeper")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(breed)


@pytest.mark.parametrize("how", ["tree", "group"])
def test_no_child_slips_through_when_all_are_killed(how: str) -> None:
    async def once(seed: int) -> int:
        born = 0
        programs: dict[str, Program] = {"breeder": breeder, "sleeper": sleeper}
        async with simulated(seed, programs) as world:
            shell = world.attach()
            root = (await shell.proc.spawn(program="breeder")).apid
            for _ in range(random.Random(seed).randrange(20, 60)):
                await trio.lowlevel.checkpoint()
            born = len(python(world))
            tree, group = how == "tree", how == "group"
            await shell.proc.signal(target=root, signal="KILL", tree=tree, group=group)
            await shell.proc.wait(target=root, timeout=60)
            await trio.sleep(5)
            assert python(world) == [], seed
            shell.close()
        return born

    counts = [run_seeded(seed, partial(once, seed)) for seed in range(12)]
    assert sum(counts) > 20


async def mother(channel: Channel, launch: Launch) -> None:
    """Has one child, whose declaration is read first."""
    await channel.proc.spawn(program="sleeper.md")
    await trio.sleep_forever()


@pytest.mark.parametrize("how", ["tree", "group"])
def test_a_child_without_a_number_yet_is_stopped_with_its_parent(how: str) -> None:
    async def main() -> None:
        async with simulated(9, {"mother": mother, "sleeper.md": sleeper}) as world:
            kernel, shell = world.kernel, world.attach()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(shell.proc.spawn, program="mother"))
                while not (alive := kernel.processes.live()[2:]) or not (
                    alive[0].calls and kernel.signals.statistics().starting
                ):
                    await trio.lowlevel.checkpoint()
            assert [each.program for each in alive] == ["mother"], "the child has no number yet"
            apid, tree, group = alive[0].apid, how == "tree", how == "group"
            call = SignalCall(target=apid, signal="STOP", tree=tree, group=group)
            kernel.signals.send_all(kernel.init, call, alive[0])
            await trio.sleep(5)
            states = [kernel.processes.get(each).state for each in python(world)]
            assert states == ["STOPPED", "STOPPED"]
            shell.close()

    run_seeded(9, main)


def test_what_is_sent_to_one_that_is_being_started_reaches_it() -> None:
    async def main() -> None:
        async with simulated(5, {"sleeper": sleeper}) as world:
            shell = world.attach()
            found: list[int] = []

            async def meanwhile() -> None:
                while not (new := [p for p in world.kernel.processes.all() if p.state == "NEW"]):
                    await trio.lowlevel.checkpoint()
                found.append(new[0].apid)
                await shell.proc.signal(target=new[0].apid, signal="STOP")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(meanwhile)
                apid = (await shell.proc.spawn(program="sleeper")).apid
            assert found == [apid]
            assert (await shell.proc.info(target=apid)).state == "STOPPED"
            await shell.proc.signal(target=apid, signal="TERM")
            assert (await shell.proc.wait(target=apid, timeout=60)).reason == "signal TERM"
            shell.close()

    run_seeded(5, main)
