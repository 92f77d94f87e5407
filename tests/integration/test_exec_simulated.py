"""proc.exec on a virtual clock: what comes in each of its moments, and nobody's message lost."""

import random
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import pytest
import trio
import trio.testing

from kernel.kernel import Kernel
from syscalls.errors import EIO, EngramError
from syscalls.launch import Launch, Wants
from syscalls.shapes import Quota, Signal
from tests.simulation import Program, TaskSpawner, World, run_seeded, simulated
from userland.channel import Channel

DYING = 10.0
"""Virtual seconds that a slow program takes to die."""
STEPS = 300
SIGNALS: tuple[Signal, ...] = ("STOP", "STOP", "CONT", "CONT", "INT", "TERM", "KILL")


async def slow(channel: Channel, launch: Launch) -> None:
    """Becomes ``waits``, and is long in dying."""
    try:
        await channel.proc.exec(program="waits")
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(DYING)


async def waits(channel: Channel, launch: Launch) -> None:
    """Ends with the first message."""
    message = (await channel.ipc.recv()).message
    await channel.proc.exit(value=[launch.program, message.body])


async def fickle(channel: Channel, launch: Launch) -> None:
    """Becomes itself again and again."""
    dice = random.Random(launch.apid)
    while True:
        try:
            await trio.sleep(dice.random())
            await channel.proc.exec(program=dice.choice(("fickle", "nothing", "slow")))
        except EngramError:
            await trio.sleep(0.1)


PROGRAMS: dict[str, Program] = {"slow": slow, "waits": waits, "fickle": fickle}


async def ignoring(awaitable: Any) -> Any:
    try:
        return await awaitable
    except EngramError:
        return None


def simulate(
    seed: int, programs: dict[str, Program], main: Callable[[World, Channel], Awaitable[None]]
) -> None:
    async def run() -> None:
        async with simulated(seed, programs) as world:
            with closing(world.attach()) as shell, trio.fail_after(6000):
                await main(world, shell)

    run_seeded(seed, run)


async def gone(world: World) -> None:
    with trio.fail_after(600):
        while [one for one in world.kernel.processes.live() if one.kind == "python"]:
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(0.5)


async def dying(shell: Channel) -> int:
    """A process that is ``waits`` already, while ``slow`` is still dying."""
    apid: int = (await shell.proc.spawn(program="slow")).apid
    while (await shell.proc.info(target=apid)).program != "waits":
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.1)
    return apid


def test_a_declared_program_narrows_and_widens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    caps = ["mem.*", "sys.shutdown", "proc.info"]
    quota = Quota(records=50, mailbox=7)
    wants = Wants("another", "another goal", caps, quota, nice=4, space="another")
    found: list[Any] = []

    async def describe(self: TaskSpawner, program: str, cwd: str) -> Wants:
        return wants

    async def old(channel: Channel, launch: Launch) -> None:
        await channel.proc.exec(program="new.md", args=["a"])

    async def new(channel: Channel, launch: Launch) -> None:
        found.extend([await channel.proc.info(), launch])

    async def main(world: World, shell: Channel) -> None:
        held = ["mem.*", "proc.info", "proc.exec", "ipc.*"]
        given = Quota(records=30, children=3)
        apid = (await shell.proc.spawn(program="old", caps=held, quota=given, nice=2)).apid
        assert (await shell.proc.wait(target=apid)).status == 0
        info, launch = found
        assert info.caps == ["mem.*", "proc.exit", "proc.info"]
        assert (info.name, info.nice, info.goal) == ("old", 4, "another goal")
        quota = launch.quota
        assert (quota.records, quota.mailbox, quota.children) == (30, 7, 3)
        assert info.space == launch.space
        assert launch.args == ["a"]

    monkeypatch.setattr(TaskSpawner, "describe", describe)
    simulate(1, {"old": old, "new.md": new}, main)


@pytest.mark.parametrize("signal", ["TERM", "KILL", "INT"])
def test_what_ends_it_while_the_old_one_dies_ends_the_new_one(signal: Signal) -> None:
    async def main(world: World, shell: Channel) -> None:
        apid = await dying(shell)
        began = trio.current_time()
        await shell.proc.signal(target=apid, signal=signal)
        ended = await shell.proc.wait(target=apid)
        assert ended.reason == f"signal {signal}"
        assert trio.current_time() - began > DYING / 2  # nothing of it outlives its end

    simulate(2, PROGRAMS, main)


def test_it_is_stopped_while_the_old_one_dies_and_its_messages_wait() -> None:
    async def main(world: World, shell: Channel) -> None:
        apid = await dying(shell)
        await shell.proc.signal(target=apid, signal="STOP")
        await shell.ipc.send(to=apid, body="hello")
        info = await shell.proc.info(target=apid)
        assert (info.state, info.mailbox, info.inflight) == ("STOPPED", 1, 0)
        await shell.proc.signal(target=apid, signal="CONT")
        assert (await shell.proc.wait(target=apid)).value == ["waits", "hello"]

    simulate(3, PROGRAMS, main)


@pytest.mark.parametrize("restart", ["temporary", "transient"])
def test_messages_are_received_once_by_whichever_program_is_there(restart: Any) -> None:
    got: list[int] = []

    async def link(channel: Channel, launch: Launch) -> None:
        got.append((await channel.ipc.recv()).message.body)
        if len(got) < 40:
            await channel.proc.exec(program="link")

    async def main(world: World, shell: Channel) -> None:
        apid = (await shell.proc.spawn(program="link", restart=restart)).apid
        for number in range(40):
            await shell.ipc.send(to=apid, body=number)
            await trio.sleep(random.random() * 0.01)
        with trio.fail_after(600):
            assert (await shell.proc.wait(target=apid)).status == 0
        assert got == list(range(40))

    simulate(4, {"link": link}, main)


def test_a_disk_that_fails_leaves_the_old_program(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    async def old(channel: Channel, launch: Launch) -> None:
        try:
            await channel.proc.exec(program="waits")
        except EngramError as error:
            told.append(error)
            await waits(channel, launch)

    async def main(world: World, shell: Channel) -> None:
        save = Kernel.save

        async def full(kernel: Kernel, process: Any) -> None:
            if process.program == "waits":
                raise EIO("no space left", driver="store", retryable=False)
            await save(kernel, process)

        monkeypatch.setattr(Kernel, "save", full)
        apid = (await shell.proc.spawn(program="old")).apid
        await shell.ipc.send(to=apid, body="hello")
        assert (await shell.proc.wait(target=apid)).value == ["old", "hello"]
        assert [type(error) for error in told] == [EIO]
        assert (await shell.proc.info()).children == []

    simulate(5, {"old": old, "waits": waits}, main)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storm_of_signals_leaves_nothing(seed: int) -> None:
    async def main(world: World, shell: Channel) -> None:
        dice = random.Random(seed)
        for _ in range(STEPS):
            alive = [one for one in world.kernel.processes.live() if one.kind == "python"]
            if len(alive) < 6:
                await shell.proc.spawn(program="fickle")
            else:
                target, signal = dice.choice(alive).apid, dice.choice(SIGNALS)
                await ignoring(shell.proc.signal(target=target, signal=signal))
            await trio.sleep(dice.random() / 4)
        for one in world.kernel.processes.live():
            if one.kind == "python":
                await ignoring(shell.proc.signal(target=one.apid, signal="KILL"))
        await gone(world)
        assert len(world.kernel.connections) == 1
        await shell.proc.spawn(program="fickle")  # the shutdown comes while it is replaced
        await trio.sleep(dice.random() * 2)

    simulate(seed, PROGRAMS, main)
