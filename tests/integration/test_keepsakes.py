"""Images by policy: of whom, how many, and that there is a whole one after a power cut."""

import time
from pathlib import Path
from typing import Any

import trio

from drivers.lora.files import WEIGHTS
from kernel.imaging.album import Album
from kernel.imaging.keepsakes import Changed, Signs
from procs.process import Worn
from syscalls.errors import EIO
from syscalls.launch import Launch
from syscalls.quota import Quota
from tests.harness import BOUND, running
from tests.simulation import World, run_seeded, simulated
from ums.adapters import DIGEST_SIZE, Version
from userland.channel import Channel

EVERY = 60.0
PROGRAM = """
async def main(agent):
    if agent.state is not None:
        return [agent.state, len(await agent.read(limit=1000))]
    for number in range(5):
        await agent.remember(f"fact {number}")
        await agent.declare(number + 1)
    await agent.recv()
"""


def signs(calls: int) -> Signs:
    return Signs(calls, 0, (), 0, Quota())


def test_the_policy_picks_who_has_changed_longest_unseen_first() -> None:
    policy = Changed()
    assert policy.due({3: signs(1), 2: signs(1)}) == [3, 2]
    for apid in (2, 3):
        policy.kept(apid, signs(1))
    assert policy.due({2: signs(1), 3: signs(1)}) == []
    assert policy.due({2: signs(1), 3: signs(2), 4: signs(1)}) == [4, 3]
    policy.kept(2, signs(5))
    assert policy.due({2: signs(6), 3: signs(2)}) == [3, 2]
    assert policy.due({}) == []
    assert policy.due({2: signs(6)}) == [2]  # what has ended is not remembered


async def agent(channel: Channel, launch: Launch) -> None:
    """Remembers and declares what it is told to; ends when it is told to."""
    while True:
        body = (await channel.ipc.recv()).message.body
        if body == "end":
            return
        if body == "fail":
            raise ValueError(body)
        await channel.mem.write(segment="semantic", content=str(body))
        await channel.proc.declare(state=body)


async def deaf(channel: Channel, launch: Launch) -> None:
    """Does nothing, so that only others change it."""
    await trio.sleep_forever()


def held(folder: Path) -> list[str]:
    return sorted(one.name.removesuffix(".image") for one in (folder / "images").glob("*"))


def simulate(tmp_path: Path, story: Any) -> None:
    async def main() -> None:
        async with simulated(1, {"agent": agent, "deaf": deaf}, checkpoint_every=EVERY) as world:
            world.kernel.images.album = Album(tmp_path)
            shell = world.attach()
            await story(world, shell)
            shell.close()

    run_seeded(1, main)


async def spawned(shell: Channel, program: str = "agent") -> int:
    apid: int = (await shell.proc.spawn(program=program)).apid
    await trio.sleep(0.1)  # until it waits for messages
    return apid


def test_rounds_on_the_virtual_clock(tmp_path: Path) -> None:
    async def story(world: World, shell: Channel) -> None:
        keepsakes = world.kernel.images.keepsakes
        await trio.sleep(EVERY / 2)
        busy, idle = await spawned(shell), await spawned(shell)
        await trio.sleep(EVERY)
        first = [f"auto-{busy}-1", f"auto-{idle}-1"]
        assert held(tmp_path) == first
        await trio.sleep(3 * EVERY)
        assert held(tmp_path) == first  # nothing has changed
        for number in range(4):
            await shell.ipc.send(to=busy, body=number)
            await trio.sleep(EVERY)
        assert held(tmp_path) == [f"auto-{busy}-1", f"auto-{busy}-2", f"auto-{idle}-1"]
        figures = keepsakes.statistics()
        assert (figures.written, figures.failed, figures.removed) == (2 + 4, 0, 0)
        states = set()
        for slot in (1, 2):
            again = await shell.proc.restore(path=f"auto-{busy}-{slot}")
            states.add(world.kernel.processes.get(again.apid).declared)
            await shell.proc.signal(target=again.apid, signal="KILL")
        assert states == {2, 3}  # the last two

    simulate(tmp_path, story)


def test_a_record_by_another_and_a_message_are_changes(tmp_path: Path) -> None:
    async def story(world: World, shell: Channel) -> None:
        keepsakes = world.kernel.images.keepsakes
        apid = await spawned(shell, "deaf")
        space = (await shell.proc.info(target=apid)).space
        assert await keepsakes.round() == 1
        assert await keepsakes.round() == 0
        await shell.mem.write(segment="semantic", content="by another", space=space)
        assert await keepsakes.round() == 1
        await shell.ipc.send(to=apid, body="later")
        assert await keepsakes.round() == 1
        await shell.proc.limit(target=apid, quota=Quota(calls=1000))
        assert await keepsakes.round() == 1
        assert await keepsakes.round() == 0

    simulate(tmp_path, story)


def test_what_is_left_of_those_that_have_ended(tmp_path: Path) -> None:
    async def story(world: World, shell: Channel) -> None:
        keepsakes = world.kernel.images.keepsakes
        done, failed = await spawned(shell), await spawned(shell)
        await keepsakes.round()
        assert len(held(tmp_path)) == 2
        await shell.ipc.send(to=done, body="end")
        await shell.ipc.send(to=failed, body="fail")
        await shell.proc.wait(target=done)
        await trio.sleep(1)
        await keepsakes.round()
        assert held(tmp_path) == [f"auto-{failed}-1"]
        assert keepsakes.statistics().removed == 1

    simulate(tmp_path, story)


def test_an_adapter_is_given_again_only_while_it_is_the_same(tmp_path: Path) -> None:
    async def story(world: World, shell: Channel) -> None:
        kernel = world.kernel
        kernel.adapters.root = tmp_path / "lora"
        apid = await spawned(shell, "deaf")
        process, versions = kernel.processes.get(apid), kernel.adapters.versions

        async def learned(digest: str) -> None:
            made = await versions.begin(Version(process.space, "tone", 0, "model"))
            made.digest = digest * 64
            live = await versions.accept(made)
            folder = trio.Path(kernel.adapters.root / live.folder)
            await folder.mkdir(parents=True)
            await (folder / WEIGHTS).write_bytes(b"")

        await learned("a")
        for name, ref in (("follows", "tone"), ("stays", "tone@1")):
            process.adapters["model"] = Worn(process.space, ref)
            await shell.proc.checkpoint(target=apid, path=name)
        again = await shell.proc.restore(path="follows")
        assert again.missing == []
        assert kernel.processes.get(again.apid).adapters == {"model": Worn(process.space, "tone")}
        await learned("b")
        again = await shell.proc.restore(path="follows")
        assert again.missing == [
            f"the adapter tone: it is another one now, tone@2-{'b' * DIGEST_SIZE}"
        ]
        assert kernel.processes.get(again.apid).adapters == {}
        assert (await shell.proc.restore(path="stays")).missing == []

    simulate(tmp_path, story)


def test_a_round_goes_on_after_a_failure(tmp_path: Path) -> None:
    class Failing(Album):
        def settle(self, place: Path, part: Any) -> None:
            if place.name.startswith(f"auto-{bad}-"):
                raise EIO("the disk is full", driver="images")
            super().settle(place, part)

    bad = 0

    async def story(world: World, shell: Channel) -> None:
        nonlocal bad
        images = world.kernel.images
        bad, good = await spawned(shell), await spawned(shell)
        images.album = Failing(tmp_path)
        assert await images.keepsakes.round() == 1
        assert held(tmp_path) == [f"auto-{good}-1"]
        assert images.keepsakes.statistics().failed == 1
        images.album = Album(tmp_path)
        assert await images.keepsakes.round() == 1  # tried again
        assert held(tmp_path) == [f"auto-{bad}-1", f"auto-{good}-1"]

    simulate(tmp_path, story)


def test_after_a_power_cut(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    flags = ("--embedder", "none", "--checkpoint-every", "0.2")
    with running(tmp_path / "data", *flags) as kernel:
        with kernel.client() as client:
            apid = client.proc.spawn(program=str(program)).apid
            end = time.monotonic() + BOUND
            while _rounds(client.sys.stats().stats) < 3:
                assert time.monotonic() < end
                time.sleep(0.05)
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            newest = max((kernel.data / "images").glob(f"auto-{apid}-*"), key=_age)
            again = client.proc.restore(path=newest.name, apid="same").apid
            assert again == apid
            assert client.proc.wait(target=apid, timeout=BOUND).value == [5, 5]


def _rounds(stats: dict[str, Any]) -> int:
    rounds: int = stats["images"]["policy"]["rounds"] if "images" in stats else 0
    return rounds


def _age(place: Path) -> float:
    return place.stat().st_mtime
