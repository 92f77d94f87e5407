"""LLM time in a real kernel, with a real engine on a tiny model."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from syscalls.errors import EIO
from tests.harness import BOUND, running
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import RunningKernel
    from userland.client import BlockingClient

LONG = 3000
"""Tokens that take seconds."""
STORY = "the agent remembers what the user said"
WRITER = f"""
async def main(agent):
    made = await agent.llm.generate(prompt="{STORY}", max_tokens={LONG})
    return [made.text, made.usage.completion]
"""
CROWD = """
import trio
from syscalls.errors import EAGAIN

async def main(agent):
    ends = []

    async def one(number):
        try:
            made = await agent.llm.generate(prompt=f"the kernel {number}", max_tokens=400)
            ends.append("done")
        except EAGAIN as error:
            assert error.retry_after > 0
            ends.append("EAGAIN")

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, number)
    return sorted(ends)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("scheduled")
    model = tiny_llm(folder / "model", context=4096)
    (folder / "writer.py").write_text(WRITER)
    (folder / "crowd.py").write_text(CROWD)
    flags = ("--embedder", "none", "--engine", "transformers", "--model", str(model))
    limits = ("--llm-slots", "1", "--llm-queue", "3", "--adapters", "0", "--mind", "none")
    with running(folder / "data", *flags, *limits) as kernel:
        with kernel.client() as client:
            client.llm.generate(prompt="the", max_tokens=1, deadline=BOUND)
        yield kernel


def figures(client: BlockingClient) -> dict[str, Any]:
    found: dict[str, Any] = client.sys.stats().stats["llm_time"]
    return found


def until(client: BlockingClient, what: str, least: int) -> None:
    deadline = time.monotonic() + BOUND
    while figures(client)[what] < least:
        assert time.monotonic() < deadline, figures(client)
        time.sleep(0.01)


def spawn(client: BlockingClient, kernel: RunningKernel, program: str) -> int:
    path = kernel.data.parent / f"{program}.py"
    return client.proc.spawn(program=str(path)).apid


def value(client: BlockingClient, apid: int) -> Any:
    return client.proc.wait(target=apid, timeout=BOUND).value


def test_a_shell_is_answered_while_an_agent_writes_and_the_text_is_the_same(
    kernel: RunningKernel,
) -> None:
    with kernel.client() as client:
        alone = value(client, spawn(client, kernel, "writer"))
        before = figures(client)
        writer = spawn(client, kernel, "writer")
        until(client, "running", 1)
        made = client.llm.generate(prompt="hello", max_tokens=5, deadline=BOUND)
        assert made.usage.completion
        now = figures(client)
        assert now["running"] + now["waiting"] == 1, "the agent is still writing"
        assert now["preemptions"] == before["preemptions"] + 1
        assert value(client, writer) == alone
        assert figures(client)["slots"] == 1


def test_too_many_are_refused_and_the_others_served(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        ends = value(client, spawn(client, kernel, "crowd"))
        assert ends.count("EAGAIN") >= 1
        assert ends.count("done") >= 4, "one at work and three that wait"
        assert len(ends) == 8
        assert figures(client)["refusals"] >= ends.count("EAGAIN")


def test_the_end_of_a_process_takes_what_it_waits_for(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        writers = [spawn(client, kernel, "writer") for _ in range(3)]
        until(client, "waiting", 2)
        for apid in writers:
            client.proc.signal(target=apid, signal="KILL")
            client.proc.wait(target=apid, timeout=BOUND)
        deadline = time.monotonic() + BOUND
        while any(figures(client)[what] for what in ("running", "waiting", "parked")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        known = {each["apid"] for each in figures(client)["processes"]}
        assert not known & set(writers)


def test_the_death_of_the_host_is_told_and_what_waits_is_served_by_the_next(
    kernel: RunningKernel,
) -> None:
    ends: list[str] = []

    def one() -> None:
        with kernel.client() as client:
            try:
                client.llm.generate(prompt=STORY, max_tokens=LONG, deadline=BOUND)
                ends.append("done")
            except EIO as error:
                ends.append(error.code)

    with kernel.client() as client:
        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(client, "waiting", 1)
        host = client.sys.stats().stats["llm"]["host"]["pid"]
        os.kill(host, signal.SIGKILL)
        for thread in threads:
            thread.join(BOUND)
        assert "EIO" in ends and len(ends) == 2
        made = client.llm.generate(prompt=STORY, max_tokens=4, deadline=BOUND)
        assert made.usage.completion
