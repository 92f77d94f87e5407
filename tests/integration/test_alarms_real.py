"""Durable alarms and schedules on a real kernel: the times come, whatever becomes of it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

from syscalls.errors import ENOENT
from tests.harness import BOUND, ROOT, RunningKernel, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from userland.client import BlockingClient

FLAGS = ("--embedder", "none", "--mind", "none")
SLEEPER = """
    async def main(agent):
        written = (await agent.mem.read(limit=100)).records
        if not written:
            await agent.sys.alarm(after=1, message="wake up", durable=True)
            await agent.remember("set")
        async for message in agent.messages():
            await agent.remember(f"{message.type}: {message.body}")
"""
TICKER = """
    async def main(agent):
        await agent.remember(f"tick {agent.apid}")
"""
HURRIED = """
import sys, time
from kernel import boot, machine
from kernel.supervision import alarms

began = time.time()
machine.SystemClock.now = staticmethod(lambda: began + 60 * (time.time() - began))
alarms.STRIDE = 0.1
sys.exit(boot.main(sys.argv[1:]))
"""
"""A kernel on a clock by which a minute goes by in a second; cron knows minutes only."""


class HurriedKernel(RunningKernel):
    """A kernel whose computer's clock is too fast."""

    def _start(self) -> subprocess.Popen[bytes]:
        with self.errors.open("ab") as stderr:
            return subprocess.Popen(
                [sys.executable, "-c", HURRIED, "--data", str(self.data), *self.flags],
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
            )


def until(condition: Callable[[], object], what: str) -> None:
    """Wait, within a bound, until ``condition`` holds."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def contents(client: BlockingClient, space: str) -> list[str]:
    """What is written in a space, the oldest first; nothing before there is one."""
    try:
        records = client.mem.read(space=space, limit=100).records
    except ENOENT:
        return []
    return [one.content for one in reversed(records)]


def program(folder: Path, name: str, text: str) -> Path:
    place = folder / f"{name}.py"
    place.write_text(textwrap.dedent(text))
    return place


def test_a_durable_alarm_rings_after_the_kernel_was_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    place = program(tmp_path, "sleeper", SLEEPER)
    (data / "init.toml").write_text(f'[[child]]\nname = "sleeper"\nprogram = "{place}"\n')
    with running(data, *FLAGS) as kernel:
        with kernel.client() as client:
            until(lambda: contents(client, "sleeper"), "the alarm is not set")
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            rung = ["set", "alarm: wake up"]
            until(lambda: contents(client, "sleeper") == rung, "it does not ring")
            until(lambda: client.proc.info(target="sleeper").state == "WAITING", "it does not wait")
            assert client.sys.stats().stats["alarms"]["waiting"] == 0
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            until(lambda: client.proc.supervise().services[-1].state == "up", "it is not back")
            assert contents(client, "sleeper") == rung, "it rings once"


def test_a_schedule_starts_its_program_again_and_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    place = program(tmp_path, "ticker", TICKER)
    (data / "init.toml").write_text(
        f'[[schedule]]\nname = "job"\ncron = "* * * * *"\nprogram = "{place}"\nspace = "ticks"\n'
    )
    kernel = HurriedKernel(data, *FLAGS)
    try:
        kernel.wait_until_served()
        with kernel.client() as client:
            until(lambda: len(contents(client, "ticks")) >= 2, "it does not run twice")
            planned = client.proc.supervise().schedules[0]
            assert 0 < planned.last < planned.next
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            before = contents(client, "ticks")
            until(lambda: len(contents(client, "ticks")) > len(before), "nor after a reboot")
            ticks = contents(client, "ticks")
            assert len(set(ticks)) == len(ticks), "each is another process"
    finally:
        if kernel.process.poll() is None:
            kernel.terminate()
