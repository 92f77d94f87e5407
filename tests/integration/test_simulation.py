"""The whole kernel in one process on a virtual clock: the same seed gives the same run."""

from typing import Any

import pytest
import trio

from syscalls.errors import EPERM, ETIME, EngramError
from syscalls.launch import Launch
from tests.simulation import Program, run_seeded, simulated
from userland.channel import Channel

DAY = 86400.0


async def chatter(channel: Channel, launch: Launch) -> None:
    """Remembers, sends to the next one in the ring, sleeps for hours, and answers."""
    info = await channel.sys.info()
    peer = int(launch.args[0]) if launch.args else 0
    for turn in range(5):
        note = f"{launch.name} writes {turn}"
        await channel.mem.write(segment="episodic", content=note)
        if peer:
            await channel.ipc.send(to=peer, body={"turn": turn, "from": info.apid})
        try:
            await channel.ipc.recv(timeout=3600.0 * (info.apid % 5 + 1))
        except ETIME:
            await channel.mem.write(segment="working", content=f"{launch.name} heard nothing")
    await channel.ipc.recv(type="end")
    await channel.proc.exit(value=launch.name)


async def story(seed: int) -> list[Any]:
    """Twenty agents in a ring over some virtual days; what an observer saw."""
    programs: dict[str, Program] = {"chatter": chatter}
    seen: list[Any] = []
    async with simulated(seed, programs) as world:
        shell = world.attach()
        apids: list[int] = []
        for number in range(20):
            peer = [str(apids[-1])] if apids else []
            spawned = await shell.proc.spawn(program="chatter", name=f"c{number}", args=peer)
            apids.append(spawned.apid)
        began = (await shell.sys.clock()).now
        await trio.sleep(3 * DAY)
        assert (await shell.sys.clock()).now - began >= 3 * DAY
        for apid in apids:
            await shell.ipc.send(to=apid, body=None, type="end")
        for apid in apids:
            ended = await shell.proc.wait(target=apid)
            seen.append((ended.apid, ended.status, ended.reason, ended.value, ended.ended))
        trace = world.kernel.trace.tail(10_000, lambda _: True)
        seen.append([(line.apid, line.number, line.ok, line.at) for line in trace])
        for apid in apids:
            process = next(r for r in seen if r[0] == apid)
            assert process[1] == 0, process
        shell.close()
    return seen


def test_the_same_seed_gives_the_same_run() -> None:
    first = run_seeded(7, lambda: story(7))
    again = run_seeded(7, lambda: story(7))
    assert first == again
    assert len(first[-1]) > 200


def test_another_seed_gives_another_run() -> None:
    one, other = run_seeded(1, lambda: story(1)), run_seeded(2, lambda: story(2))
    assert [entry[:4] for entry in one[:-1]] == [entry[:4] for entry in other[:-1]]
    assert one[-1] != other[-1]


def test_isolation_holds_in_the_simulation() -> None:
    async def victim(channel: Channel, launch: Launch) -> None:
        await channel.mem.write(segment="semantic", content="the password is swordfish")
        await channel.ipc.recv()

    async def thief(channel: Channel, launch: Launch) -> None:
        target = int(launch.args[0])
        caught: list[str] = []
        for attempt in (
            lambda: channel.mem.search(query="password", space=target),
            lambda: channel.mem.read(space=target),
            lambda: channel.mem.write(segment="semantic", content="mine", space=target),
            lambda: channel.mem.share(to=launch.apid, space=target),
            lambda: channel.mem.stat(space=target),
        ):
            try:
                await attempt()
            except EngramError as error:
                caught.append(error.code)
        hits = (await channel.mem.search(query="password")).hits
        await channel.proc.exit(value=[caught, len(hits)])

    async def main() -> Any:
        async with simulated(3, {"victim": victim, "thief": thief}) as world:
            shell = world.attach()
            owner = (await shell.proc.spawn(program="victim")).apid
            space = (await shell.proc.info(target=owner)).space
            apid = (await shell.proc.spawn(program="thief", args=[str(space)])).apid
            ended = await shell.proc.wait(target=apid)
            shell.close()
            return ended.value

    caught, hits = run_seeded(3, main)
    assert caught == ["EPERM"] * 5
    assert hits == 0


def test_a_session_holds_only_what_it_was_given() -> None:
    async def main() -> None:
        async with simulated(4, {}) as world:
            shell = world.attach("mem.read", "sys.clock")
            await shell.sys.clock()
            with pytest.raises(EPERM, match=r"mem\.write"):
                await shell.mem.write(segment="working", content="x")
            with pytest.raises(EPERM):
                await shell.proc.spawn(program="anything")
            shell.close()

    run_seeded(4, main)
