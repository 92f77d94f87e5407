"""Signals in a real kernel: to calls, handlers, groups, and to who is stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import BOUND, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syscalls.shapes import Exit, ProcessInfo, Signal
    from tests.harness import RunningKernel
    from userland.client import BlockingClient

EARLY: tuple[Signal, ...] = ("USR1", "USR2", "STOP", "CONT")
LATE: tuple[Signal, ...] = ("TERM", "INT", "STOP", "CONT", "KILL", "USR1")
GRACE = "2"
"""Seconds of grace: long enough to tell who is killed after it from who is not."""

PROGRAMS = {
    "waiter": """
async def main(agent):
    agent.print("ready")
    await agent.recv()
""",
    "several": """
import trio

async def main(agent):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.recv)
        nursery.start_soon(agent.recv)
        agent.print("ready")
""",
    "survivor": """
from syscalls.errors import ECANCELED

async def main(agent):
    agent.print("ready")
    try:
        await agent.recv()
    except ECANCELED as error:
        agent.print(f"cancelled by {error.detail['signal']}")
    message = await agent.recv(type="go")
    return message.body
""",
    "stubborn": """
from syscalls.errors import ECANCELED

async def main(agent):
    agent.print("ready")
    while True:
        try:
            await agent.recv()
        except ECANCELED:
            agent.print("again")
""",
    "busy": """
import time

async def main(agent):
    agent.print("ready")
    while True:
        time.sleep(0.01)
""",
    "handler": """
import trio

async def main(agent):
    seen = []

    async def later(name):
        await trio.sleep(0)
        seen.append(name)
        agent.print("async", name)

    def now(name):
        seen.append(name)
        agent.print("sync", name)

    agent.on("USR1", now)
    agent.on("USR2", later)
    agent.on("INT", now)
    agent.on("CONT", now)
    agent.print("ready")
    await agent.recv(type="go")
    return seen
""",
    "cleaner": """
import trio

async def main(agent):
    async def clean(name):
        rid = await agent.remember("the last words", key="words")
        agent.print("cleaned up on", name)

    agent.on("TERM", clean)
    agent.print("ready")
    await trio.sleep_forever()
""",
    "faulty": """
import trio

async def main(agent):
    def fail(name):
        raise ValueError("in a handler")

    agent.on("USR1", fail)
    agent.print("ready")
    await trio.sleep_forever()
""",
    "family": """
async def main(agent):
    child = await agent.spawn("./ticking.py", cwd=agent.args[0])
    other = await agent.spawn("./ticking.py", cwd=agent.args[0], group="new")
    agent.print("ready", child.apid, other.apid)
    await child.wait()
""",
    "ticking": """
import trio

async def main(agent):
    while True:
        agent.print("tick")
        await trio.sleep(0.02)
""",
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("signals")
    for name, source in PROGRAMS.items():
        (folder / f"{name}.py").write_text(source)
    with running(folder / "data", "--embedder", "none", "--grace", GRACE) as started:
        yield started


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as opened:
        yield opened


def until(met: Callable[..., Any], *arguments: Any) -> None:
    deadline = time.monotonic() + BOUND
    while not met(*arguments):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def written(client: BlockingClient, apid: int) -> str:
    return str(client.proc.output(target=apid).data.decode())


def said(client: BlockingClient, apid: int, text: str, times: int = 1) -> bool:
    return written(client, apid).count(text) >= times


def info(client: BlockingClient, apid: int) -> ProcessInfo:
    return client.proc.info(target=apid)


def start(client: BlockingClient, kernel: RunningKernel, name: str, *args: str) -> int:
    folder = kernel.data.parent
    apid = client.proc.spawn(program=str(folder / f"{name}.py"), args=list(args)).apid
    until(lambda: "ready" in written(client, apid))
    return apid


def waits(client: BlockingClient, apid: int) -> None:
    until(lambda: info(client, apid).inflight)


def end(client: BlockingClient, apid: int) -> Exit:
    return client.proc.wait(target=apid, timeout=BOUND)


def frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# --- INT


@pytest.mark.parametrize("program", ["waiter", "several"])
def test_int_in_a_call_that_nothing_catches_ends_the_agent(
    kernel: RunningKernel, client: BlockingClient, program: str
) -> None:
    apid = start(client, kernel, program)
    waits(client, apid)
    client.proc.signal(target=apid, signal="INT")
    ended = end(client, apid)
    assert (ended.status, ended.reason) == (130, "signal INT")
    assert "Traceback" not in written(client, apid)


def test_who_catches_it_lives_on_past_the_grace(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = start(client, kernel, "survivor")
    waits(client, apid)
    client.proc.signal(target=apid, signal="INT")
    until(lambda: "cancelled by INT" in written(client, apid))
    time.sleep(float(GRACE) + 0.5)
    client.ipc.send(to=apid, body="still here", type="go")
    assert end(client, apid).value == "still here"


def test_a_second_int_within_the_grace_ends_even_who_catches(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = start(client, kernel, "stubborn")
    for number in range(1, 10):  # two are enough where the machine is not slower than the grace
        waits(client, apid)
        client.proc.signal(target=apid, signal="INT")
        until(lambda: info(client, apid).exit or said(client, apid, "again", number))  # noqa: B023
        if info(client, apid).exit:
            break
    assert number > 1, "the first one only cancels"
    assert end(client, apid).reason == "signal INT"


def test_int_to_one_that_computes_has_the_ladder(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = start(client, kernel, "busy")
    client.proc.signal(target=apid, signal="INT")
    assert end(client, apid).reason == "signal KILL", "it never looks at signals"


def test_an_executable_gets_real_signals_and_may_catch_int(client: BlockingClient) -> None:
    script = "trap 'echo caught' INT; trap 'echo one' USR1; echo ready; while :; do sleep .02; done"
    apid = client.proc.spawn(program="/bin/sh", args=["-c", script]).apid
    until(lambda: "ready" in written(client, apid))
    for _ in range(2):
        before = written(client, apid).count("caught")
        client.proc.signal(target=apid, signal="INT")
        until(said, client, apid, "caught", before + 1)
    client.proc.signal(target=apid, signal="USR1")
    until(lambda: "one" in written(client, apid))
    time.sleep(float(GRACE) + 0.5)
    assert info(client, apid).exit is None
    client.proc.signal(target=apid, signal="KILL")
    assert end(client, apid).reason == "signal KILL"


# --- handlers


def test_handlers_are_called_and_the_agent_goes_on(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = start(client, kernel, "handler")
    waits(client, apid)
    steps: list[tuple[Signal, str]] = [
        ("USR1", "sync USR1"),
        ("USR2", "async USR2"),
        ("INT", "sync INT"),
        ("STOP", ""),
        ("CONT", "sync CONT"),
    ]
    for name, words in steps:
        client.proc.signal(target=apid, signal=name)
        until(said, client, apid, words)
    client.proc.signal(target=apid, signal="INT")
    until(said, client, apid, "sync INT", 2)
    client.ipc.send(to=apid, body="", type="go")
    assert end(client, apid).value == ["USR1", "USR2", "INT", "CONT", "INT"]


def test_term_lets_a_handler_clean_up_with_calls(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = start(client, kernel, "cleaner")
    client.proc.signal(target=apid, signal="TERM")
    ended = end(client, apid)
    assert (ended.status, ended.reason) == (143, "signal TERM")
    assert "cleaned up on TERM" in written(client, apid)


def test_a_handler_that_fails_ends_the_agent(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = start(client, kernel, "faulty")
    client.proc.signal(target=apid, signal="USR1")
    ended = end(client, apid)
    assert (ended.status, ended.reason) == (1, "exception ValueError: in a handler")


# --- STOP, groups, trees


def test_a_stopped_process_gets_its_replies_when_it_goes_on(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = start(client, kernel, "survivor")
    waits(client, apid)
    client.proc.signal(target=apid, signal="STOP")
    assert info(client, apid).state == "STOPPED"
    assert info(client, apid).inflight == 1, "what waits, waits on"
    until(lambda: frozen(info(client, apid).pid))
    client.ipc.send(to=apid, body="first")
    client.ipc.send(to=apid, body="second", type="go")
    time.sleep(0.2)
    assert info(client, apid).state == "STOPPED"
    client.proc.signal(target=apid, signal="CONT")
    assert end(client, apid).value == "second"


def test_a_group_is_stopped_and_a_new_group_is_not(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    leader = start(client, kernel, "family", str(kernel.data.parent))
    child, other = map(int, written(client, leader).split()[1:3])
    groups = [info(client, apid).group for apid in (leader, child, other)]
    assert groups == [leader, leader, other]
    client.proc.signal(target=child, signal="STOP", group=True)
    states = [info(client, apid).state for apid in (leader, child)]
    assert states == ["STOPPED", "STOPPED"]
    assert info(client, other).state != "STOPPED"
    until(lambda: frozen(info(client, child).pid))
    before = len(written(client, other))
    until(lambda: len(written(client, other)) > before)
    client.proc.signal(target=leader, signal="STOP", tree=True)
    assert info(client, other).state == "STOPPED"
    client.proc.signal(target=leader, signal="TERM", tree=True)
    assert end(client, leader).status == 143, "the ladder resumes it"
    for apid in (child, other):
        until(gone, client, apid)


def gone(client: BlockingClient, apid: int) -> bool:
    return apid not in [each.apid for each in client.proc.list().processes]


def test_kill_reaches_who_is_stopped(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = start(client, kernel, "waiter")
    client.proc.signal(target=apid, signal="STOP")
    client.proc.signal(target=apid, signal="KILL")
    assert end(client, apid).reason == "signal KILL"


def test_a_signal_just_after_the_spawn_is_not_an_end(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    for _ in range(5):
        apid = client.proc.spawn(program=str(kernel.data.parent / "survivor.py")).apid
        for name in EARLY:
            client.proc.signal(target=apid, signal=name)
        until(said, client, apid, "ready")
        client.proc.signal(target=apid, signal="TERM")
        assert end(client, apid).reason == "signal TERM"


def test_a_zombie_takes_signals_and_nothing_happens(client: BlockingClient) -> None:
    apid = client.proc.spawn(program="/bin/true").apid
    until(lambda: info(client, apid).state == "ZOMBIE")
    for name in LATE:
        client.proc.signal(target=apid, signal=name, group=True)
    assert end(client, apid).status == 0
