"""STOP and CONT around generations of real engines: kept, not paid again, the same text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import BOUND, running
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syscalls.shapes import Signal
    from tests.harness import RunningKernel
    from userland.client import BlockingClient

LONG = {"transformers": 1200, "vllm": 1500}
"""Tokens that take seconds."""
ENDS: tuple[Signal, ...] = ("INT", "TERM", "KILL")
WRITER = """
STORY = "the kernel answers and the model speaks to the user; " * 20

async def main(agent):
    agent.print("ready")
    made = await agent.llm.generate(prompt=STORY, max_tokens=int(agent.args[0]))
    usage = made.usage
    return [made.text, usage.prompt, usage.cached, usage.completion]
"""
READER = """
STORY = "the kernel answers and the model speaks to the user; " * 20

async def main(agent):
    pieces = agent.stream(STORY, max_tokens=int(agent.args[0]))
    return "".join([piece async for piece in pieces])
"""


@pytest.fixture(
    scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.slow)]
)
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningKernel]:
    engine = str(request.param)
    folder = tmp_path_factory.mktemp(engine)
    model = tiny_llm(folder / "model", context=4096)
    (folder / "writer.py").write_text(WRITER)
    (folder / "reader.py").write_text(READER)
    flags = ("--embedder", "none", "--engine", engine, "--model", str(model), "--mind", "none")
    with running(folder / "data", *flags, "--llm-slots", "1", "--adapters", "0") as kernel:
        with kernel.client() as client:
            client.llm.generate(prompt="the", max_tokens=1, deadline=4 * BOUND)
        yield kernel


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as opened:
        yield opened


def until(met: Callable[..., Any], *arguments: Any) -> None:
    deadline = time.monotonic() + BOUND
    while not met(*arguments):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def figures(client: BlockingClient) -> dict[str, Any]:
    found: dict[str, Any] = client.sys.stats().stats["llm_time"]
    return found


def served(client: BlockingClient, apid: int) -> dict[str, Any]:
    found = [each for each in figures(client)["processes"] if each["apid"] == apid]
    return found[0] if found else {"completion": 0, "prompt": 0, "waiting": 0, "running": 0}


def wrote(client: BlockingClient, apid: int, tokens: int) -> bool:
    return bool(served(client, apid)["completion"] > tokens)


def spawn(client: BlockingClient, kernel: RunningKernel, program: str = "writer") -> int:
    engine = kernel.flags[kernel.flags.index("--engine") + 1]
    path = kernel.data.parent / f"{program}.py"
    return client.proc.spawn(program=str(path), args=[str(LONG[engine])]).apid


def value(client: BlockingClient, apid: int) -> Any:
    return client.proc.wait(target=apid, timeout=2 * BOUND).value


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_stopped_generation_stands_still_and_goes_on_as_if_nothing_had_been(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    alone = value(client, spawn(client, kernel))
    host = client.sys.stats().stats["llm"]["host"]["pid"]
    apid = spawn(client, kernel)
    for times in (1, 2):
        until(wrote, client, apid, 100 * times)
        client.proc.signal(target=apid, signal="STOP")
        assert client.proc.info(target=apid).state == "STOPPED"
        until(lambda: figures(client)["parked"] == 1)
        made = client.llm.generate(prompt="hello", max_tokens=5, deadline=BOUND)
        assert made.usage.completion, "its slot is another's meanwhile"
        time.sleep(0.3)  # what was on its way has come
        before, used = served(client, apid), cpu(host)
        time.sleep(0.5)
        assert served(client, apid)["completion"] == before["completion"] < alone[3]
        assert cpu(host) - used < 0.25
        client.proc.signal(target=apid, signal="CONT")
    assert value(client, apid) == alone, "text, and prompt, cached and completion tokens"


def test_a_stream_goes_on_after_cont(kernel: RunningKernel, client: BlockingClient) -> None:
    alone = value(client, spawn(client, kernel))
    apid = spawn(client, kernel, "reader")
    until(lambda: served(client, apid)["completion"] > 50)
    client.proc.signal(target=apid, signal="STOP")
    time.sleep(0.3)
    client.proc.signal(target=apid, signal="CONT")
    assert value(client, apid) == alone[0]


def test_what_a_stopped_process_asked_for_is_held_in_the_queue(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    first = spawn(client, kernel)
    until(lambda: served(client, first)["running"])
    second = spawn(client, kernel)
    until(lambda: served(client, second)["waiting"])
    client.proc.signal(target=second, signal="STOP")
    whole = value(client, first)
    time.sleep(0.3)
    assert served(client, second)["waiting"] == 1
    assert not figures(client)["running"], "there is room, and it is not its turn"
    client.proc.signal(target=second, signal="CONT")
    assert value(client, second)[0] == whole[0]


def test_int_and_kill_reach_who_is_stopped_in_a_generation(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    for signal in ENDS:
        apid = spawn(client, kernel)
        until(wrote, client, apid, 0)
        client.proc.signal(target=apid, signal="STOP")
        client.proc.signal(target=apid, signal=signal)
        assert client.proc.wait(target=apid, timeout=BOUND).reason == f"signal {signal}"
        until(lambda: not any(figures(client)[each] for each in ("running", "waiting", "parked")))
