"""Children of init that begin with the state of their newest image, and with all of their space."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from kernel.imaging.album import Album
from syscalls.shapes import ChatMessage
from tests.harness import running
from tests.integration.test_supervision import eventually
from tests.integration.test_supervision_simulated import Machine, child, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from syscalls.launch import Launch
    from tests.harness import RunningKernel
    from tests.simulation import World
    from userland.channel import Channel
    from userland.client import BlockingClient

COUNTER = """
    async def main(agent):
        count = agent.state or 0
        await agent.remember(f"begins at {count}")
        async for message in agent.messages():
            if message.body == "done":
                return
            count += 1
            await agent.declare(count)
            await agent.remember(f"counted {count}")
"""
FLAGS = ("--embedder", "none", "--mind", "none")


def tables(folder: Path) -> str:
    """Two children that do the same; one is restored."""
    program = folder / "counter.py"
    program.write_text(textwrap.dedent(COUNTER))
    return child("again", str(program)) + "restore = true\n" + child("afresh", str(program))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[RunningKernel]:
    data = tmp_path / "data"
    data.mkdir()
    (data / "init.toml").write_text(tables(tmp_path))
    with running(data, *FLAGS) as kernel:
        yield kernel


def contents(client: BlockingClient, name: str) -> list[str]:
    there = {one.name: one for one in client.proc.supervise().services}
    if name not in there or there[name].state != "up":
        return []
    records = client.mem.read(space=name, limit=1000).records
    return [one.content for one in reversed(records)]


def births(client: BlockingClient, name: str) -> list[int]:
    """The states that the processes of a child have begun with."""
    return [int(one[10:]) for one in contents(client, name) if one.startswith("begins at ")]


def born(client: BlockingClient, name: str, *states: int) -> None:
    """Wait until just so many processes of a child have begun, with these states."""
    eventually(lambda: len(births(client, name)) >= len(states), f"{name} does not begin")
    assert births(client, name) == list(states)


def count(client: BlockingClient, number: int) -> None:
    """Have both children count once."""
    for name in ("again", "afresh"):
        client.ipc.send(to=name, body="go on")
    wanted = f"counted {number}"
    eventually(lambda: wanted in contents(client, "again"), "it does not count")
    eventually(lambda: wanted in contents(client, "afresh"), "it does not count")


def checkpoint(client: BlockingClient, which: str) -> None:
    for name in ("again", "afresh"):
        client.proc.checkpoint(target=name, path=f"{name}-{which}")


def test_after_a_kill_of_the_kernel_a_child_has_its_state_and_all_of_its_space(
    kernel: RunningKernel,
) -> None:
    with kernel.client() as client:
        for name in ("again", "afresh"):
            born(client, name, 0)
        count(client, 1)
        checkpoint(client, "first")
        count(client, 2)
        checkpoint(client, "second")
        count(client, 3)
    kernel.kill()
    kernel.reboot()
    with kernel.client() as client:
        born(client, "again", 0, 2)
        born(client, "afresh", 0, 0)
        # The state is the image's; what was written after it is there still.
        before = ["begins at 0", "counted 1", "counted 2", "counted 3", "begins at 2"]
        assert contents(client, "again")[:5] == before
        client.proc.signal(target="again", signal="KILL")
        born(client, "again", 0, 2, 2)
    kernel.kill()
    place = kernel.data / "images" / "again-second.image"
    place.write_bytes(place.read_bytes()[:-20])  # it is no image any more
    kernel.reboot()
    with kernel.client() as client:
        born(client, "again", 0, 2, 2, 1)
        assert "again-second.image is passed over" in str(client.sys.log(level="warning").lines)


def test_with_images_by_policy_it_goes_on_from_the_last_of_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "init.toml").write_text(tables(tmp_path))
    with running(data, *FLAGS, "--checkpoint-every", "0.2") as kernel:
        with kernel.client() as client:
            for name in ("again", "afresh"):
                born(client, name, 0)
            for number in (1, 2, 3):
                count(client, number)
            before = rounds(client)
            eventually(lambda: rounds(client) >= before + 2, "no images are written")
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            born(client, "again", 0, 3)
            client.ipc.send(to="again", body="done")  # then there is nothing to go on with
            born(client, "again", 0, 3, 0)
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            eventually(lambda: len(births(client, "again")) >= 4, "it is not back")
            assert births(client, "again")[3] != 3, "nor with what was before that"


def rounds(client: BlockingClient) -> int:
    stats: dict[str, Any] = client.sys.stats().stats
    return int(stats["images"]["policy"]["rounds"]) if "images" in stats else 0


def test_the_context_comes_back_and_nobody_elses_image_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel.imaging.images.Album", lambda _: Album(tmp_path))
    machine = Machine(tmp_path, child("listener") + "restore = true\n")
    said = [ChatMessage("user", "who are you?"), ChatMessage("assistant", "a listener")]
    begun: list[Any] = []

    async def listener(channel: Channel, launch: Launch) -> None:
        begun.append(launch.state)
        await channel.proc.declare(state=f"{launch.name} {len(begun)}")
        await channel.ipc.recv()

    async def first(world: World, shell: Channel) -> None:
        await state(shell, "listener", "up")
        kernel = world.kernel
        (process,) = [one for one in kernel.processes.live() if one.name == "listener"]
        kernel.conversations.put(process.apid, said)
        await shell.proc.spawn(program="listener", name="listener", space="listener")
        while len(begun) < 2 or not all(
            one.declared for one in kernel.processes.live() if one.name == "listener"
        ):
            await shell.sys.clock()
        for one in kernel.processes.live():
            if one.name == "listener":
                await kernel.images.checkpoint(kernel.init, one, f"of-{one.apid}")

    async def second(world: World, shell: Channel) -> None:
        await state(shell, "listener", "up")
        (process,) = [one for one in world.kernel.processes.live() if one.name == "listener"]
        assert world.kernel.conversations.of(process.apid) == said
        assert begun == [None, None, "listener 1"]

    machine.heard.programs = lambda: {"listener": listener}  # type: ignore[method-assign]
    machine.boot(first)
    machine.boot(second)
