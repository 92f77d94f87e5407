"""Alarms on a virtual clock: how many there may be, and what is left of them at an end."""

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drivers.contracts import Batch
from drivers.store.memory import MemoryStore
from kernel.supervision.identities import Identities
from syscalls.errors import EAGAIN
from syscalls.launch import Launch
from tests.simulation import Program, World, run_seeded, simulated
from userland.channel import Channel

BOUND = 20
YEARS = 1e8
"""Seconds until alarms of which nobody hears."""


class Asked:
    """A program that sets more alarms than it may, and does not wait for them."""

    def __init__(self, *, durable: bool) -> None:
        self.durable = durable
        self.refused: list[EAGAIN] = []

    async def main(self, channel: Channel, launch: Launch) -> None:
        """Sets them; then answers what comes, as agents do, until told to end."""
        for _ in range(BOUND):
            await channel.sys.alarm(after=YEARS, durable=self.durable)
        for _ in range(3):
            try:
                await channel.sys.alarm(after=YEARS, durable=self.durable)
            except EAGAIN as error:
                self.refused.append(error)
        while (message := (await channel.ipc.recv()).message).body != "end":
            await channel.ipc.send(to=message.sender, body="thanks", reply_to=message.id)


async def settled(world: World) -> Any:
    await trio.testing.wait_all_tasks_blocked()
    return world.kernel.alarms.statistics()


def boot(program: Program, main: Any, store: MemoryStore | None = None, **settings: Any) -> None:
    async def run() -> None:
        system = simulated(1, {"asker": program}, store=store, mailbox=BOUND, **settings)
        async with system as world:
            shell = world.attach()
            try:
                await main(world, shell)
            finally:
                shell.close()

    run_seeded(1, run)


def test_alarms_are_bounded_as_the_mailbox_is_and_end_with_their_process() -> None:
    asked = Asked(durable=False)

    async def main(world: World, shell: Channel) -> None:
        apid = (await shell.proc.spawn(program="asker")).apid
        assert (await settled(world)).waiting == BOUND
        assert [error.detail["limit"] for error in asked.refused] == [BOUND] * 3
        assert all(error.retry_after > 0 for error in asked.refused)
        await shell.ipc.send(to=apid, body="end")
        await shell.proc.wait(target=apid)
        assert (await settled(world)).waiting == 0

    boot(asked.main, main)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "init.toml"
    path.write_text('[[child]]\nname = "asker"\nprogram = "asker"\n')
    return str(path)


def test_durable_alarms_are_bounded_too_and_count_again_after_a_reboot(file: str) -> None:
    store, asked, again = MemoryStore(), Asked(durable=True), Asked(durable=True)

    async def first(world: World, _shell: Channel) -> None:
        await trio.sleep(1)
        figures = await settled(world)
        assert (figures.waiting, figures.durable, len(asked.refused)) == (BOUND, BOUND, 3)

    async def second(world: World, _shell: Channel) -> None:
        await trio.sleep(1)
        assert (await settled(world)).waiting == BOUND
        last = world.kernel.supervision.status().services[1].last
        assert last is not None and last.cause is not None
        assert last.cause.kind == "exception", "it sets them once more, and does not expect it"

    boot(asked.main, first, store, init=file)
    assert len(Identities(store).alerts()) == BOUND
    boot(again.main, second, store, init=file)
    assert len(Identities(store).alerts()) == BOUND


def test_an_alarm_whose_mailbox_goes_while_it_rings_ends_nothing(file: str) -> None:
    store = MemoryStore()

    async def asker(channel: Channel, _launch: Launch) -> None:
        await channel.sys.alarm(after=10, message="too late", durable=True)
        await trio.sleep_forever()

    async def main(world: World, shell: Channel) -> None:
        await trio.sleep(5)
        commit, kernel = store.commit, world.kernel
        box = kernel.supervision.box("asker")
        assert box is not None

        async def dropping(batch: Batch) -> list[int]:
            if any(b"too late" in value for _bucket, _key, value in batch.puts):
                await kernel.mailboxes.drop(box)
            return await commit(batch)

        store.commit = dropping  # type: ignore[method-assign]
        await trio.sleep(10)
        assert (await settled(world)).waiting == 0
        assert kernel.alarms.statistics().rung == 0
        assert (await shell.sys.clock()).now > 0

    boot(asker, main, store, init=file)


def test_answers_to_init_do_not_heap_up(tmp_path: Path) -> None:
    asked = Asked(durable=False)
    path = tmp_path / "init.toml"
    path.write_text(
        '[[child]]\nname = "asker"\nprogram = "asker"\n'
        '[[schedule]]\nname = "each"\ncron = "* * * * *"\nto = "asker"\n'
    )

    async def main(world: World, shell: Channel) -> None:
        await trio.sleep(60 * (2 * BOUND))
        row = next(one for one in (await shell.proc.supervise()).services if one.name == "asker")
        assert (row.state, row.restarts) == ("up", 0)
        assert (await shell.proc.info(target=row.apid)).calls >= 4 * BOUND
        assert world.kernel.mailboxes.waiting(1) == 0

    boot(asked.main, main, init=str(path))
