"""Ten thousand operations on processes in any order: nothing is left over, nobody is forgotten."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drivers.store.memory import MemoryStore
from syscalls.errors import ESRCH, ETIME, EngramError
from syscalls.launch import Launch
from syscalls.shapes import Restart, Signal
from tests.harness import BOUND, processes_of, running
from tests.simulation import Program, World, run_seeded, simulated
from userland.channel import Channel
from userland.client import BlockingClient

OPERATIONS = 10_000
SIGNALS: tuple[Signal, ...] = ("TERM", "KILL", "INT")
SPACES = 8
"""Descriptors of indexes that a few spaces more may have open."""
MOST = 40
"""Processes that a shell has at one time."""


async def parent(channel: Channel, launch: Launch) -> None:
    """Spawns a child or two, which outlive it as often as not; then ends somehow."""
    dice = random.Random(launch.apid)
    for _ in range(dice.randrange(3)):
        spawned = await channel.proc.spawn(program=dice.choice(("leaf", "crash")))
        if dice.random() < 0.5:
            await ignoring(channel.proc.link(target=spawned.apid, trap=dice.random() < 0.5))
        if dice.random() < 0.3:
            await ignoring(channel.proc.wait(target=spawned.apid, timeout=dice.random()))
    if dice.random() < 0.3:
        raise ValueError("one of many")
    await trio.sleep(dice.random() * 5)


async def leaf(channel: Channel, launch: Launch) -> None:
    """Takes messages until it is ended."""
    while True:
        await channel.ipc.recv()


async def crash(channel: Channel, launch: Launch) -> None:
    """Fails soon."""
    await trio.sleep(random.Random(launch.apid).random())
    raise RuntimeError("as always")


PROGRAMS: dict[str, Program] = {"parent": parent, "leaf": leaf, "crash": crash}


async def ignoring(awaitable: Any) -> Any:
    """What a call answers, or None where it is refused: in a storm that is nothing unusual."""
    try:
        return await awaitable
    except EngramError:
        return None


class Storm:
    """One shell, and what it knows of the processes that it started."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.shell = world.attach()
        self.known: list[int] = []
        self.watched: set[int] = set()

    async def step(self) -> None:
        """One operation."""
        dice, call = self.dice, self.shell.proc
        what = dice.choice(("spawn", "kill", "wait", "any", "send", "monitor", "link", "list"))
        if what == "spawn" or not self.known:
            if len(self.known) < MOST:
                restart: Restart = "transient" if dice.random() < 0.03 else "temporary"
                program = dice.choice(list(PROGRAMS))
                made = await ignoring(call.spawn(program=program, restart=restart))
                if made is not None:
                    self.known.append(made.apid)
            else:
                self.known.pop(0)
            return
        apid = dice.choice(self.known)
        if what == "kill":
            name: Signal = dice.choice(SIGNALS)
            await ignoring(call.signal(target=apid, signal=name, tree=dice.random() < 0.3))
        elif what == "wait":
            await ignoring(call.wait(target=apid, timeout=dice.choice((0.0, 0.5))))
        elif what == "any":
            await ignoring(call.wait(timeout=0.0))
        elif what == "send":
            await ignoring(self.shell.ipc.send(to=apid, body="x"))
        elif what == "monitor":
            if apid not in self.watched:
                asked = await ignoring(call.monitor(target=apid))
                self.watched |= {apid} if asked is not None else set()
        elif what == "link":
            await ignoring(call.link(target=apid, trap=True, off=dice.random() < 0.5))
        else:
            await call.list()

    async def settle(self) -> None:
        """End what is left, and hear of each watched one exactly once."""
        for one in (await self.shell.proc.supervise()).services:
            if one.supervisor == "spawned":
                await self.shell.proc.supervise(action="stop", name=one.name)
        for apid in [
            one.apid for one in self.world.kernel.processes.live() if one.kind == "python"
        ]:
            await ignoring(self.shell.proc.signal(target=apid, signal="KILL"))
        with trio.fail_after(600):
            while any(one.kind == "python" for one in self.world.kernel.processes.live()):
                await trio.testing.wait_all_tasks_blocked()
                await trio.sleep(0.5)
        heard: Counter[int] = Counter()
        while (await self.shell.proc.info()).mailbox:
            message = (await self.shell.ipc.recv(timeout=60)).message
            heard[message.body["apid"]] += message.type == "down"
        told = {apid for apid, times in heard.items() if times}
        assert told == self.watched
        assert all(heard[apid] == 1 for apid in told)


def test_a_storm_leaves_nothing_behind(seed: int = 1) -> None:
    store = MemoryStore()
    descriptors = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        async with simulated(seed, PROGRAMS, store=store, mailbox=50) as world:
            storms = [Storm(world, random.Random(seed * 100 + n)) for n in range(4)]
            async with trio.open_nursery() as nursery:
                for storm in storms:
                    nursery.start_soon(blow, storm)
            for storm in storms:
                await storm.settle()
                storm.shell.close()
            kernel = world.kernel
            with trio.fail_after(60):
                while len(kernel.processes.all()) > 1:
                    await trio.testing.wait_all_tasks_blocked()
                    await trio.sleep(0.1)
            figures = kernel.processes.statistics()
            assert (figures.alive, figures.zombies, figures.waiting) == (1, 0, 0)
            assert figures.created > OPERATIONS / 20
            assert not kernel.connections
            ties = kernel.ties.statistics()
            assert (ties.links, ties.monitors) == (0, 0)
            assert ties.felled > 0
            tree = kernel.supervision.statistics()["spawned"]
            assert (tree.processes, tree.up) == (0, 0)

    run_seeded(seed, main)
    assert store.scan("mail", b"\0", b"\xff") == []
    assert store.scan("procs", b"a", b"b") == []
    assert store.scan("procs", b"r", b"u") == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors


async def blow(storm: Storm) -> None:
    for _ in range(OPERATIONS // 4):
        await storm.step()
        if storm.dice.random() < 0.05:
            await trio.sleep(storm.dice.random())


AGENT = """
async def main(agent):
    if agent.goal == "parent":
        child = await agent.spawn(__file__)
        await child.link(trap=True)
    await agent.recv()
"""


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait, within a bound, until ``condition`` holds."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def descendants(pid: int) -> list[str]:
    """The states, Z of a zombie too, of the processes below one of the operating system."""
    found: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has just gone
                state, above = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                found[int(entry.name)] = int(above), state
    below = {pid}
    for _ in found:  # deep enough for any tree
        below |= {one for one, (above, _) in found.items() if above in below}
    return [found[one][1] for one in below - {pid}]


def test_a_storm_of_real_processes_leaves_no_descriptor_and_no_zombie(tmp_path: Path) -> None:
    program, dice = tmp_path / "agent.py", random.Random(7)
    program.write_text(AGENT)
    flags = ("--embedder", "none", "--mind", "none")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        for name in ("first", "last"):
            apid = client.proc.spawn(program=str(program), goal="parent", name=name).apid
            client.proc.signal(target=apid, signal="KILL", tree=True)
            client.proc.wait(target=apid, timeout=BOUND)
        descriptors = len(os.listdir(f"/proc/{kernel.process.pid}/fd"))
        living: list[int] = []
        for _ in range(300):
            what = dice.choice(("spawn", "spawn", "kill", "wait", "monitor", "send"))
            if what == "spawn" and len(living) < 12:
                goal = dice.choice(("parent", ""))
                living.append(client.proc.spawn(program=str(program), goal=goal).apid)
            elif living:
                storm_on(client, what, dice, living)
        for apid in living:
            client.proc.signal(target=apid, signal="KILL")
            client.proc.wait(target=apid, timeout=BOUND)

        def quiet() -> bool:
            live = [one for one in client.proc.list().processes if one.kind == "python"]
            for one in live:  # grandchildren that init has adopted
                with suppress(ESRCH):
                    client.proc.signal(target=one.apid, signal="KILL")
            return not live

        eventually(quiet, "a process is left")
        pid = kernel.process.pid
        eventually(
            lambda: len(os.listdir(f"/proc/{pid}/fd")) <= descriptors + SPACES,
            "descriptors are left",
        )
        eventually(lambda: len(descendants(pid)) <= 2, "more than the zygote and its keeper")
        assert "Z" not in descendants(pid)
    assert not processes_of(kernel.data)


def storm_on(client: BlockingClient, what: str, dice: random.Random, living: list[int]) -> None:
    """One operation on a process that is there, or has just ended."""
    apid = dice.choice(living)
    if what == "kill":
        client.proc.signal(target=apid, signal=dice.choice(SIGNALS), tree=dice.random() < 0.5)
        client.proc.wait(target=apid, timeout=BOUND)
        living.remove(apid)
    elif what == "monitor":
        client.proc.monitor(target=apid)
    elif what == "send":
        client.ipc.send(to=apid, body="go on")
        client.proc.wait(target=apid, timeout=BOUND)
        living.remove(apid)
    else:
        with pytest.raises(ETIME):
            client.proc.wait(target=apid, timeout=0.0)
