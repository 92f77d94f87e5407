"""The SDK from inside real agents, the example agents, and how agents end."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syscalls.errors import ETIME
from syscalls.shapes import Exit
from tests.harness import BOUND, RunningKernel, running
from userland.client import BlockingClient

EVERYTHING = """
import pytest
from syscalls.errors import ECONFLICT, ENODEV, ENOENT, EPERM, ESRCH, ETIME

async def main(agent):
    assert (agent.name, agent.goal, agent.args) == ("all", "g", ["one", "two"])
    assert (await agent.proc.info()).apid == agent.apid

    rid = await agent.remember("The kettle is red", tags=["kitchen"], key="kettle")
    assert (await agent.recall("kettle", k=1))[0].rid == rid
    assert (await agent.read(rid))[0].tags == ["kitchen"]
    assert (await agent.read(key="kettle"))[0].segment == "episodic"
    assert await agent.update(rid, content="The kettle is blue", expect=1) == 2
    with pytest.raises(ECONFLICT):
        await agent.update(rid, content="x", expect=1)
    assert [v.content for v in await agent.history(rid)][-1] == "The kettle is blue"
    await agent.delete(rid)
    with pytest.raises(ENOENT):
        await agent.read(rid)

    echo = await agent.spawn("echo", name="all-echo")
    assert (await agent.request(echo.apid, {"x": [1, 2]}, 30)).body == {"x": [1, 2]}
    assert (await agent.share(echo.apid)).access == "read"
    await agent.revoke(echo.apid)
    with pytest.raises(ENOENT):
        await agent.revoke(echo.apid)
    assert (await echo.info()).name == "all-echo"
    with pytest.raises(ETIME):
        await echo.wait(0.05)
    await echo.signal("TERM")
    assert (await echo.wait(30)).reason == "signal TERM"
    with pytest.raises(ESRCH):
        await agent.send(echo.apid, "anyone?")

    ticker = await agent.spawn("ticker", "0", "3", name="all-ticker")
    output = b"".join([piece async for piece in ticker.output()])
    assert output.count(b"tick") == 3
    assert (await ticker.wait(30)).value == 3

    news = await agent.subscribe("news")
    assert await agent.publish("news", "extra") == 1
    message = await anext(news)
    assert (message.body, message.topic) == ("extra", "news")
    await agent.unsubscribe("news")
    with pytest.raises(ETIME):
        await agent.recv(0)

    for call in (agent.generate("hi"), anext(agent.stream("hi"))):
        with pytest.raises(ENODEV):
            await call
    with pytest.raises(ENODEV):
        await agent.intent("do something")
    return {"done": True}
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("agents")
    flags = ("--embedder", "local-hash:128", "--grace", "1", "--mind", "none")
    with running(folder / "data", *flags) as started:
        yield started


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as made:
        yield made


def finish(client: BlockingClient, apid: int) -> tuple[Exit, str]:
    """How it ended, and what it wrote."""
    ended = client.proc.wait(target=apid, timeout=BOUND)
    return ended, client.proc.output(target=apid).data.decode()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def write(tmp_path: Path, body: str) -> str:
    path = tmp_path / "agent.py"
    path.write_text(body)
    return str(path)


def test_every_method_of_the_sdk(client: BlockingClient, tmp_path: Path) -> None:
    program = write(tmp_path, EVERYTHING)
    apid = client.proc.spawn(program=program, name="all", goal="g", args=["one", "two"]).apid
    ended, output = finish(client, apid)
    assert (ended.status, ended.value) == (0, {"done": True}), output


def test_without_proc_exit_an_agent_ends_by_its_status(
    client: BlockingClient, tmp_path: Path
) -> None:
    program = write(tmp_path, "async def main(agent):\n    raise SystemExit(int(agent.args[0]))\n")
    for status in (0, 3):
        apid = client.proc.spawn(program=program, caps=["ipc.*"], args=[str(status)]).apid
        ended, output = finish(client, apid)
        assert (ended.status, ended.reason, output) == (status, "exit", "")


@pytest.mark.parametrize("program", ["echo", "scribe"])
def test_an_agent_outlives_who_does_not_wait_for_its_answer(
    program: str, kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = client.proc.spawn(program=program).apid
    with kernel.client() as other:
        other.proc.signal(target=apid, signal="STOP")
        other.ipc.send(to=apid, body={"ask": "anything"})
    client.proc.signal(target=apid, signal="CONT")
    until(lambda: b"anything" in client.proc.output(target=apid).data)
    sent = client.ipc.send(to=apid, body={"ask": "again"})
    assert client.ipc.recv(sender=apid, reply_to=sent.id, timeout=BOUND).message.sender == apid
    client.proc.signal(target=apid, signal="KILL")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("return 5", 0, "returned"),
        ("raise KeyError('k')", 1, "exception KeyError: 'k'"),
        ("raise ExceptionGroup('g', [ValueError('v')])", 1, "exception ValueError: v"),
        ("raise SystemExit(7)", 7, "exit"),
        ("raise SystemExit('words')", 1, "exit"),
        ("await agent.send(999999, 1)", 1, "exception ESRCH: there is no process 999999"),
        ("return object()", 0, "returned"),
        ("return 'x' * (17 << 20)", 0, "returned"),
        ("await agent.proc.exit(status=4, reason='enough')", 4, "enough"),
    ],
)
def test_how_an_agent_ends(
    body: str, status: int, reason: str, client: BlockingClient, tmp_path: Path
) -> None:
    program = write(tmp_path, f"async def main(agent):\n    {body}\n")
    ended, output = finish(client, client.proc.spawn(program=program).apid)
    assert ended.status == status, output
    assert ended.reason.startswith(reason), output


def test_a_program_that_cannot_be_imported(client: BlockingClient, tmp_path: Path) -> None:
    program = write(tmp_path, "import nosuch_module\nasync def main(agent): pass\n")
    ended, output = finish(client, client.proc.spawn(program=program).apid)
    assert (ended.status, "ModuleNotFoundError" in ended.reason) == (1, True)
    assert 'agent.py", line 1' in output


def test_term_cancels_main_which_may_clean_up(client: BlockingClient, tmp_path: Path) -> None:
    program = write(
        tmp_path,
        "import trio\n"
        "async def main(agent):\n"
        "    agent.print('ready')\n"
        "    try:\n"
        "        await trio.sleep_forever()\n"
        "    finally:\n"
        "        with trio.CancelScope(shield=True):\n"
        "            await agent.remember('last words', key='last', space=agent.space)\n",
    )
    apid = client.proc.spawn(program=program, space="cleaned").apid
    until(lambda: client.proc.output(target=apid).data)
    client.proc.signal(target=apid)
    ended, _ = finish(client, apid)
    assert (ended.status, ended.reason) == (143, "signal TERM")
    assert client.mem.read(key="last", space="cleaned").records[0].content == "last words"


def test_user_signals_reach_who_listens_and_harm_nobody_else(
    client: BlockingClient, tmp_path: Path
) -> None:
    program = write(
        tmp_path,
        "async def main(agent):\n"
        "    agent.print('ready')\n"
        "    await agent.recv()\n"
        "    agent.print('listening')\n"
        "    async for name in agent.signals():\n"
        "        return name\n",
    )
    apid = client.proc.spawn(program=program).apid
    until(lambda: b"ready" in client.proc.output(target=apid).data)
    client.proc.signal(target=apid, signal="USR1")
    with pytest.raises(ETIME):
        client.proc.wait(target=apid, timeout=0.2)
    client.ipc.send(to=apid, body="listen")
    until(lambda: b"listening" in client.proc.output(target=apid).data)
    end = time.monotonic() + BOUND
    while True:
        client.proc.signal(target=apid, signal="USR2")
        try:
            assert client.proc.wait(target=apid, timeout=0.5).value == "USR2"
            return
        except ETIME:
            assert time.monotonic() < end


def test_a_team_shares_one_memory(client: BlockingClient) -> None:
    apid = client.proc.spawn(program="team", name="crew").apid
    ended, output = finish(client, apid)
    assert ended.status == 0, output
    assert output.count("wrote 2 findings") == 3
    assert any("paint" in found.lower() for found in ended.value)
    space = next(one for one in client.proc.list(all=True).processes if one.apid == apid).space
    records = client.mem.read(space=space).records
    assert len(records) == 6
    assert len({record.writer for record in records}) == 3


def test_a_librarian_is_refused_and_then_let_in(client: BlockingClient) -> None:
    scribe = client.proc.spawn(program="scribe", name="zoe", args=["The key is under the mat"]).apid
    reader = client.proc.spawn(program="librarian", args=["zoe", "where is the key?"]).apid
    ended, output = finish(client, reader)
    assert "refused: EPERM" in output
    assert ended.value == ["The key is under the mat"], output
    for body, key in (({"remember": "more"}, "rid"), ({"ask": "key"}, "found"), ("?", "error")):
        sent = client.ipc.send(to=scribe, body=body).id
        answer = client.ipc.recv(sender=scribe, reply_to=sent, timeout=BOUND).message
        assert key in answer.body
    client.proc.signal(target=scribe)


def test_a_reader_recalls_from_a_named_space(client: BlockingClient) -> None:
    client.sys.session(space="harbour")
    client.mem.write(segment="semantic", content="The ferry leaves at noon")
    apid = client.proc.spawn(
        program="reader", space="harbour", args=["when leaves the ferry?"]
    ).apid
    ended, output = finish(client, apid)
    assert ended.value == ["The ferry leaves at noon"], output
