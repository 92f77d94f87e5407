"""Nothing outlives its agent, the zygote or the kernel; and signals end what they should."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

import procs.launcher
from drivers.store.memory import MemoryStore
from procs.launcher import Launcher
from procs.process import Born, Process
from procs.signals import deliver, terminate
from procs.table import ProcessTable
from syscalls.capability import compiled
from syscalls.errors import EAGAIN, EINVAL
from syscalls.shapes import Quota, Signal
from tests.agents.kit import PATIENCE, ROOT, Agent, alive, children, gone, launch, launcher, parent
from tests.unit.test_process_table import Tick

DAEMON = """
sleep 1000 &
setsid sh -c 'setsid sleep 1000 & echo $! > {pids}; sleep 1000' &
sleep 1000 & echo $! >> {pids}.own
cat <&3
"""
"""A shell script that leaves processes in its group and in sessions of their own."""


def written(path: Path) -> int:
    return int(path.read_text().strip() or 0) if path.exists() else 0


async def read_pid(path: Path) -> int:
    while not written(path):  # noqa: ASYNC110
        await trio.sleep(0.01)
    return written(path)


async def shell(made: Launcher, tmp_path: Path, name: str = "pids") -> tuple[Agent, list[int]]:
    pids = tmp_path / name
    agent = await launch(made, "/bin/sh", "-c", DAEMON.format(pids=pids), name=name)
    return agent, [await read_pid(pids), await read_pid(Path(f"{pids}.own"))]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
async def test_what_an_executable_left_behind_ends_with_it(
    tmp_path: Path, how: signal.Signals | None
) -> None:
    async with launcher() as made:
        other, others = await shell(made, tmp_path, "others")
        agent, pids = await shell(made, tmp_path)
        assert all(alive(pid) for pid in pids)
        if how is None:
            await agent.close()
        else:
            agent.child.kill(how)
        await agent.child.wait()
        await gone(*pids)
        assert all(alive(pid) for pid in others)  # another agent's are left alone
        await agent.close()
        await other.close()
        await gone(*others)


async def test_a_daemon_of_a_python_agent_lives_and_ends_with_it() -> None:
    async with launcher() as made:
        agent = await launch(made, "daemonize")
        said = await agent.heard()
        zygote = made.statistics().zygote
        assert said["daemon"] not in children(zygote)  # its agent has adopted it
        assert alive(said["daemon"])
        await agent.close()
        await agent.child.wait()
        await gone(said["daemon"])


async def test_the_end_of_the_launcher_is_the_end_of_all(tmp_path: Path) -> None:
    async with launcher() as made:
        agent, pids = await shell(made, tmp_path)
        python = await launch(made, "deaf")
        await python.heard()
        zygote = made.statistics().zygote
    for pid in (agent.child.pid, python.child.pid, zygote, *pids):
        assert not alive(pid)
    assert (await python.child.wait()).reason == "signal KILL"
    await agent.close()
    await python.close()


@pytest.mark.parametrize("victim", ["zygote", "keeper"])
async def test_a_zygote_that_dies_is_replaced_and_its_agents_end(
    tmp_path: Path, victim: str
) -> None:
    async with launcher() as made:
        agent, pids = await shell(made, tmp_path)
        python = await launch(made, "deaf")
        await python.heard()
        zygote = made.statistics().zygote
        keeper = parent(zygote)
        os.kill({"zygote": zygote, "keeper": keeper}[victim], signal.SIGKILL)
        assert await python.child.wait() == (137, "signal KILL")
        assert await agent.child.wait() == (137, "signal KILL")
        await gone(zygote, keeper, *pids)
        await agent.close()
        await python.close()

        while True:
            try:
                fresh = await launch(made, "status", "3")
                break
            except EAGAIN as busy:
                await trio.sleep(busy.retry_after)
        assert (await fresh.ended())[0].status == 3
        assert made.statistics().restarts == 1
        assert made.statistics().zygote not in (0, zygote)


KERNEL = """
import sys
from procs.zygote import start_zygote
zygote = start_zygote({runtime!r}, {private!r})     # before trio.run, as the kernel does
import os, trio
from procs.launcher import Launcher
from tests.agents.kit import launch, RUNTIME

async def main():
    async with trio.open_nursery() as nursery:
        made = Launcher(zygote, RUNTIME)
        await nursery.start(made.run)
        python = await launch(made, "daemonize")
        said = await python.heard()
        script = "setsid sh -c 'sleep 1000 & wait' & cat <&3"
        sh = await launch(made, "/bin/sh", "-c", script)
        print(f'[{{made.statistics().zygote}}, {{zygote.pid}}, {{said["pid"]}},'
              f'{{said["daemon"]}}, {{sh.child.pid}}]', flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_zygote_that_hangs_is_ended_with_its_agents_and_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(procs.launcher, "STUCK", 4.0)
    async with launcher() as made:
        agent = await launch(made, "deaf")
        zygote = made.statistics().zygote
        assert zygote
        os.kill(zygote, signal.SIGSTOP)
        assert (await agent.child.wait()).reason == "signal KILL"
        monkeypatch.setattr(procs.launcher, "STUCK", PATIENCE)
        await gone(zygote, agent.child.pid)
        fresh = None
        while fresh is None:
            try:
                fresh = await launch(made, "status", "3")
            except EAGAIN as busy:
                await trio.sleep(busy.retry_after)
        assert (await fresh.ended())[0].status == 3
        figures = made.statistics()
        assert (figures.restarts, figures.stuck) == (1, 1)
        await agent.close()


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_nothing_outlives_the_kernel(
    tmp_path: Path, how: signal.Signals, hangs: bool
) -> None:
    source = KERNEL.format(runtime="tests.agents.tests_runtime", private=str(tmp_path))
    kernel = await trio.lowlevel.open_process(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert kernel.stdout is not None
    with trio.fail_after(PATIENCE):
        said = b""
        while b"\n" not in said:
            data = await kernel.stdout.receive_some()
            assert data, "see the captured errors"
            said += data
        pids = msgspec.json.decode(said, type=list[int])
        assert all(alive(pid) for pid in pids)
        if hangs:
            os.kill(pids[0], signal.SIGSTOP)
        kernel.send_signal(how)
        await kernel.wait()
        await gone(*pids)
        await kernel.stdout.aclose()


# --- the ladder


async def test_who_heeds_term_ends_by_itself() -> None:
    async with launcher() as made:
        agent = await launch(made, "polite")
        await agent.heard()
        assert await terminate(agent.child, grace=PATIENCE) == (3, "exit")
        await agent.close()


async def test_who_does_not_is_killed_after_the_grace() -> None:
    async with launcher() as made:
        agent = await launch(made, "deaf")
        await agent.heard()
        assert await terminate(agent.child, grace=0.05) == (137, "signal KILL")
        await agent.close()


async def test_a_ladder_that_is_cancelled_kills() -> None:
    async with launcher() as made:
        agent = await launch(made, "deaf")
        await agent.heard()
        with trio.move_on_after(0.05):
            await terminate(agent.child, grace=PATIENCE)
        assert await agent.child.wait() == (137, "signal KILL")
        await agent.close()


class Bench:
    """A process in a table, to signal."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.table = ProcessTable(MemoryStore(), Tick())

    async def process(self, agent: Agent) -> Process:
        await self.table.open()
        caps, quota = compiled(frozenset()), Quota()
        init = self.table.create(None, Born(name="init", kind="init", caps=caps, quota=quota))
        process = self.table.create(init, Born(name="agent", kind="python", caps=caps, quota=quota))
        self.table.started(process)
        return process

    async def send(self, process: Process, agent: Agent, name: Signal, grace: float = 60) -> None:
        deliver(self.table, process, agent.child, name, grace=grace, nursery=self.nursery)


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def test_stop_and_cont_move_process_and_state() -> None:
    async with launcher() as made, trio.open_nursery() as nursery:
        agent = await launch(made, "linger")
        await agent.heard()
        bench = Bench(nursery)
        process = await bench.process(agent)
        states: list[str] = []
        steps: list[tuple[Signal, bool]] = [("STOP", True), ("CONT", False)]
        for name, is_stopped in steps:
            await bench.send(process, agent, name)
            states.append(process.state)
            while stopped(agent.child.pid) != is_stopped:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert states == ["STOPPED", "READY"]
        with pytest.raises(EINVAL):
            await bench.send(process, agent, "WINCH")  # type: ignore[arg-type]
        await bench.send(process, agent, "KILL")
        assert (await agent.child.wait()).reason == "signal KILL"
        await agent.close()


@pytest.mark.parametrize("program", ["polite", "deaf"])
async def test_term_reaches_even_who_is_stopped(program: str) -> None:
    async with launcher() as made, trio.open_nursery() as nursery:
        agent = await launch(made, program)
        await agent.heard()
        bench = Bench(nursery)
        process = await bench.process(agent)
        await bench.send(process, agent, "STOP")
        grace = PATIENCE if program == "polite" else 0.2
        await bench.send(process, agent, "TERM", grace)
        await bench.send(process, agent, "TERM", grace)
        expected = (3, "exit") if program == "polite" else (137, "signal KILL")
        assert await agent.child.wait() == expected
        await agent.close()
