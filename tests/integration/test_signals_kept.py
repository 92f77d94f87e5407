"""INT that comes when what it is to cancel is as good as done: it is kept, and not lost."""

from typing import Any

import trio

from drivers.contracts import Batch
from drivers.store.memory import MemoryStore
from syscalls.errors import ECANCELED, EngramError
from syscalls.launch import Launch
from tests.simulation import Program, run_seeded, simulated
from userland.channel import Channel

SLOW = 5.0
"""Seconds, virtual, that the disk takes: what is on its way there cannot be cancelled."""


class Slow(MemoryStore):
    """A store that takes its time, once it is told to."""

    slow = False

    async def commit(self, batch: Batch) -> list[int]:
        numbers = await super().commit(batch)
        if self.slow:
            with trio.CancelScope(shield=True):
                await trio.sleep(SLOW)
        return numbers


class Heard:
    """A program that does what cannot be cancelled, and then waits."""

    def __init__(self, *, beside: bool) -> None:
        self.beside = beside
        """Whether it waits for something else meanwhile, which is cancelled."""
        self.told: list[tuple[str, Any]] = []

    async def main(self, channel: Channel, _launch: Launch) -> None:
        """Starts a child; waits for messages, and for others after each that is cancelled."""
        async with trio.open_nursery() as nursery:
            if self.beside:
                nursery.start_soon(self.wait, channel, "beside")
            child = await channel.proc.spawn(program="child")
            self.told.append(("spawn", child.apid > 0))
            await self.wait(channel, "after")
            await self.wait(channel, "later")
            nursery.cancel_scope.cancel()

    async def wait(self, channel: Channel, what: str) -> None:
        """Take a message, or note what came instead."""
        try:
            await channel.ipc.recv(timeout=60)
            self.told.append((what, "message"))
        except EngramError as error:
            cancelled = isinstance(error, ECANCELED)
            self.told.append((what, error.detail.get("signal") if cancelled else error.code))


async def idle(channel: Channel, _launch: Launch) -> None:
    await channel.ipc.recv()


def interrupted(heard: Heard) -> list[tuple[str, Any]]:
    """What a program met with that got INT while its call was on its way to the disk."""
    store = Slow()

    async def main() -> None:
        programs: dict[str, Program] = {"main": heard.main, "child": idle}
        async with simulated(1, programs, store=store) as world:
            shell = world.attach()
            apid = (await shell.proc.spawn(program="main")).apid
            store.slow = True  # it has not begun
            await trio.sleep(SLOW * 1.5)  # its space is written, and its record on its way
            await shell.proc.signal(target=apid, signal="INT")
            await shell.proc.wait(target=apid, timeout=600)
            store.slow = False
            shell.close()

    run_seeded(1, main)
    return heard.told


def test_it_cancels_the_next_wait_and_only_that() -> None:
    told = interrupted(Heard(beside=False))
    assert told == [("spawn", True), ("after", "INT"), ("later", "ETIME")]


def test_it_is_heeded_once_where_something_else_was_cancelled() -> None:
    told = interrupted(Heard(beside=True))
    assert sorted(told) == [
        ("after", "ETIME"), ("beside", "INT"), ("later", "ETIME"), ("spawn", True),
    ]  # fmt: skip
