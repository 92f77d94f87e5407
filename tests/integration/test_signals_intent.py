"""STOP and CONT around intents: decoded by nano or in their calls, they stand still and go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from kernel.mind.seats import nano_weights
from tests.harness import BOUND, running
from tests.integration.test_signals_generation import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import RunningKernel
    from userland.client import BlockingClient

TEXT = "remember that the dentist is at five, then list the processes"
ASKER = """
async def main(agent):
    done = await agent.llm.intent(text=agent.args[0])
    return [step.call for step in done.program], [step.ok for step in done.results], done.reply
"""
DOER = """
from syscalls.calls.llm import Planned

async def main(agent):
    agent.print("ready")
    steps = [
        Planned("ipc.recv", {"timeout": 60}),
        Planned("mem.write", {"segment": "semantic", "content": "it has come"}),
    ]
    done = await agent.llm.intent(text="wait for it, then say so", program=steps)
    return [[step.call, step.ok] for step in done.results]
"""
TRIES = 20


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("intent")
    (folder / "asker.py").write_text(ASKER)
    (folder / "doer.py").write_text(DOER)
    with running(folder / "data", "--embedder", "none") as kernel:
        yield kernel


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as opened:
        yield opened


def program(kernel: RunningKernel, name: str) -> str:
    return str(kernel.data.parent / f"{name}.py")


def asker(kernel: RunningKernel, client: BlockingClient) -> int:
    return client.proc.spawn(program=program(kernel, "asker"), args=[TEXT], name="asker").apid


def value(client: BlockingClient, apid: int) -> Any:
    return client.proc.wait(target=apid, timeout=2 * BOUND).value


def answer(client: BlockingClient, apid: int) -> tuple[list[str], list[bool], str]:
    """What an asker has got, the same for every one of them."""
    calls, done, reply = value(client, apid)
    return calls, done, reply.replace(f"{apid} asker", "asker")


def figures(client: BlockingClient) -> dict[str, Any]:
    found: dict[str, Any] = client.sys.stats().stats["nano_time"]
    return found


def mind(client: BlockingClient) -> dict[str, Any]:
    found: dict[str, Any] = client.sys.stats().stats["mind"]
    return found


def decoding(client: BlockingClient, apid: int) -> bool:
    """Whether a process has a generation in an engine now."""
    return any(one["apid"] == apid and one["running"] for one in figures(client)["processes"])


def stopped_in_decoding(kernel: RunningKernel, client: BlockingClient) -> int:
    """A process that is stopped while its intent is decoded: nano may be done before STOP comes."""
    for _ in range(TRIES):
        apid = asker(kernel, client)
        until(lambda apid=apid: decoding(client, apid) or client.proc.info(target=apid).exit)
        client.proc.signal(target=apid, signal="STOP")
        if figures(client)["parked"]:
            return apid
        client.proc.signal(target=apid, signal="KILL")
        client.proc.wait(target=apid, timeout=BOUND)
    pytest.fail("it is never stopped in time")


@pytest.mark.model
@pytest.mark.skipif(nano_weights() is None, reason="the weights of nano are not installed")
def test_an_intent_that_is_decoded_stands_still_and_goes_on(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    client.llm.intent(text="hello", execute=False, deadline=4 * BOUND)  # nano has started
    alone = answer(client, asker(kernel, client))
    assert alone[0] == ["mem.write", "proc.list"]
    apid = stopped_in_decoding(kernel, client)
    before = mind(client)
    time.sleep(0.5)
    assert client.proc.info(target=apid).state == "STOPPED"
    after = mind(client)
    assert (after["calls"], after["completion_tokens"]) == (
        before["calls"],
        before["completion_tokens"],
    )
    plan = client.llm.intent(text="hello", execute=False, deadline=BOUND)
    assert plan.results == [], "nano is another's meanwhile"
    client.proc.signal(target=apid, signal="CONT")
    assert answer(client, apid) == alone


@pytest.mark.model
@pytest.mark.skipif(nano_weights() is None, reason="the weights of nano are not installed")
def test_kill_ends_an_intent_that_is_stopped(kernel: RunningKernel, client: BlockingClient) -> None:
    client.llm.intent(text="hello", execute=False, deadline=4 * BOUND)
    apid = stopped_in_decoding(kernel, client)
    calls = mind(client)["calls"]
    client.proc.signal(target=apid, signal="KILL")
    assert client.proc.wait(target=apid, timeout=BOUND).reason == "signal KILL"
    until(lambda: not any(figures(client)[one] for one in ("running", "waiting", "parked")))
    assert mind(client)["calls"] == calls


def test_the_next_call_of_a_stopped_intent_waits_for_cont(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = client.proc.spawn(program=program(kernel, "doer")).apid
    calls = mind(client)["calls"]
    until(lambda: mind(client)["calls"] == calls + 1)  # it is in the first
    client.proc.signal(target=apid, signal="STOP")
    client.ipc.send(to=apid, body="go on")  # and that one ends
    until(lambda: mind(client)["calls"] == calls + 2)
    time.sleep(0.5)
    assert client.proc.info(target=apid).state == "STOPPED"
    assert not client.sys.trace(target=apid, call="mem.write").lines
    assert client.sys.trace(target=apid, call="ipc.recv").lines
    client.proc.signal(target=apid, signal="CONT")
    assert value(client, apid) == [["ipc.recv", True], ["mem.write", True]]
