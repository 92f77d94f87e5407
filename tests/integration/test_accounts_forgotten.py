"""The accounts of what was spawned to stay: gone when it is gone for good, and not before."""

import pytest
import trio
import trio.testing

from drivers.store.memory import MemoryStore
from syscalls.errors import EngramError
from syscalls.launch import Launch
from tests.simulation import Program, run_seeded, simulated
from userland.channel import Channel


async def once(channel: Channel, _launch: Launch) -> None:
    """Uses something up, and ends well."""
    await channel.sys.clock()


async def stays(channel: Channel, _launch: Launch) -> None:
    """Uses something up, and waits."""
    await channel.ipc.recv()


PROGRAMS: dict[str, Program] = {"once": once, "stays": stays}


def test_what_is_gone_for_good_leaves_no_account() -> None:
    store = MemoryStore()

    def kept() -> int:
        return len(store.scan("meta", b"account/name/", b"account/name0"))

    async def main() -> None:
        async with simulated(1, PROGRAMS, store=store) as world:
            shell = world.attach()
            stayed = (await shell.proc.spawn(program="stays", restart="permanent")).apid
            for _ in range(5):
                await shell.proc.spawn(program="once", restart="transient")
                with pytest.raises(EngramError):
                    await shell.proc.spawn(program="nosuch", restart="permanent")
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(10)
            await world.kernel.accounts.flush()
            assert kept() == 1
            await shell.proc.supervise(action="stop", name=str(stayed))
            await trio.sleep(10)
            await world.kernel.accounts.flush()
            assert kept() == 0
            assert (await shell.proc.usage()).user.calls > 5, "it stays counted above"
            shell.close()

    run_seeded(1, main)
