"""The system as its users meet it: real kernel, real processes, real crash."""

import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syscalls.calls import mem
from syscalls.errors import ESRCH, ETIME, EngramError
from syscalls.shapes import Quota
from tests.harness import BOUND, RunningKernel, processes_of, running
from userland.client import BlockingClient

KEEPER = """
async def main(agent):
    rid = await agent.remember(agent.goal or "nothing yet", segment="semantic")
    async for message in agent.messages():
        if message.body == "end":
            return rid
        if isinstance(message.body, dict) and "look" in message.body:
            try:
                hits = await agent.recall("anything", space=message.body["look"])
                await agent.reply(message, [hit.content for hit in hits])
            except Exception as error:
                await agent.reply(message, getattr(error, "code", repr(error)))
        else:
            await agent.reply(message, {"heard": message.body})
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[RunningKernel]:
    with running(tmp_path / "data") as kernel:
        yield kernel


@pytest.fixture
def keeper(tmp_path: Path) -> str:
    program = tmp_path / "keeper.py"
    program.write_text(textwrap.dedent(KEEPER))
    return str(program)


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait, within a bound, until ``condition`` holds."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ask(client: BlockingClient, apid: int, body: object) -> object:
    """Send a message and take the answer to it."""
    number = client.ipc.send(to=apid, body=body).id
    return client.ipc.recv(sender=apid, reply_to=number, timeout=BOUND).message.body


def test_isolation_then_a_grant_then_none(kernel: RunningKernel, keeper: str) -> None:
    with kernel.client() as client:
        ada = client.proc.spawn(program=keeper, name="ada", goal="the sky is blue").apid
        bob = client.proc.spawn(program=keeper, name="bob", goal="grass is green").apid
        theirs = client.proc.info(target=ada).space
        assert ask(client, bob, {"look": theirs}) == "EPERM"
        client.mem.share(to=bob, space=theirs)
        assert ask(client, bob, {"look": theirs}) == ["the sky is blue"]
        client.mem.revoke(to=bob, space=theirs)
        assert ask(client, bob, {"look": theirs}) == "EPERM"
        calls = client.sys.trace(target=bob, call="mem.search").lines
        assert [line.ok for line in calls] == [False, True, False]
        assert calls[0].result.startswith("EPERM")


def test_nothing_outlives_a_killed_kernel_and_nothing_is_lost(
    kernel: RunningKernel, keeper: str
) -> None:
    written = {}
    with kernel.client() as client:
        apids = [client.proc.spawn(program=keeper, goal=f"fact {n}").apid for n in range(8)]
        assert ask(client, apids[0], "hi") == {"heard": "hi"}
        pids = [client.proc.info(target=apid).pid for apid in apids]
        client.sys.session(space="notes")
        for number in range(300):
            text = f"note {number} about topic{number}"
            written[client.mem.write(segment="episodic", content=text).rid] = text
    kernel.kill()
    eventually(lambda: not any(alive(pid) for pid in pids), "agents outlived their kernel")
    eventually(lambda: not processes_of(kernel.data), "something of the kernel is left")
    kernel.reboot()
    with kernel.client() as client:
        assert client.sys.info().boot == 2
        client.sys.session(space="notes")
        for rid, text in written.items():
            assert client.mem.read(rid=rid).records[0].content == text
        assert client.mem.search(query="topic123").hits[0].content == "note 123 about topic123"
        past = {p.apid: p for p in client.proc.list(all=True).processes}
        for apid in apids:
            ended = past[apid].exit
            assert ended is not None
            assert ended.reason == "kernel died"
        fresh = client.proc.spawn(program=keeper).apid
        assert fresh > max(apids)


def test_kill_nine_while_writing_loses_no_acknowledged_record(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--embedder", "none") as kernel:
        acknowledged: dict[str, str] = {}
        for round_ in range(3):
            with kernel.client() as client:
                client.sys.session(space="log")
                calls = (
                    mem.Write(segment="episodic", content=f"round {round_} line {n}")
                    for n in range(100_000)
                )
                stop = 400 + 300 * round_
                try:
                    for number, answer in enumerate(client.call_many(calls)):
                        assert not isinstance(answer, EngramError)
                        acknowledged[answer.rid] = f"round {round_} line {number}"
                        if number == stop:
                            kernel.process.send_signal(signal.SIGKILL)
                except EngramError as error:
                    assert error.code == "EIO"
            kernel.process.wait(BOUND)
            kernel.reboot()
            with kernel.client() as client:
                for rid, text in acknowledged.items():
                    assert client.mem.read(rid=rid).records[0].content == text
        assert len(acknowledged) > 1500


def test_shutdown_is_orderly(kernel: RunningKernel, keeper: str) -> None:
    with kernel.client() as client:
        apids = [client.proc.spawn(program=keeper).apid for _ in range(5)]
        ask(client, apids[-1], "hi")
        pids = [client.proc.info(target=apid).pid for apid in apids]
    assert kernel.terminate() == 0
    assert not any(alive(pid) for pid in pids)
    assert not processes_of(kernel.data)
    assert not (kernel.data / "run" / "kernel.sock").exists()
    kernel.reboot()
    with kernel.client() as client:
        exits = [p.exit for p in client.proc.list(all=True).processes if p.apid in apids]
        assert {ended.reason for ended in exits if ended} == {"signal TERM"}


def test_a_stubborn_agent_is_killed_after_the_grace(tmp_path: Path) -> None:
    program = tmp_path / "stubborn.py"
    program.write_text(
        "import signal, time\n"
        "async def main(agent):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    await agent.remember('ready')\n"
        "    while True:\n"
        "        time.sleep(1)\n"
    )
    flags = ("--embedder", "none", "--grace", "0.3")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        apid = client.proc.spawn(program=str(program)).apid
        eventually(lambda: client.proc.info(target=apid).calls > 0, "it never started")
        client.proc.signal(target=apid, signal="TERM")
        ended = client.proc.wait(target=apid, timeout=BOUND)
        assert (ended.status, ended.reason) == (137, "signal KILL")


def test_stop_and_continue(kernel: RunningKernel, keeper: str) -> None:
    with kernel.client() as client:
        apid = client.proc.spawn(program=keeper).apid
        assert ask(client, apid, 1) == {"heard": 1}
        client.proc.signal(target=apid, signal="STOP")
        assert client.proc.info(target=apid).state == "STOPPED"
        client.ipc.send(to=apid, body=2)
        with pytest.raises(ETIME):
            client.ipc.recv(sender=apid, timeout=0.3)
        client.proc.signal(target=apid, signal="CONT")
        heard = client.ipc.recv(sender=apid, timeout=BOUND).message.body
        assert heard == {"heard": 2}


def test_exit_status_value_and_reason(kernel: RunningKernel, tmp_path: Path) -> None:
    programs = {
        "value": "async def main(agent):\n    return {'answer': 42}\n",
        "status": "async def main(agent):\n    await agent.proc.exit(status=3, reason='tired')\n",
        "error": "async def main(agent):\n    print('before')\n    raise ValueError('bad luck')\n",
    }
    with kernel.client() as client:
        apids = {}
        for name, source in programs.items():
            (tmp_path / f"{name}.py").write_text(source)
            apids[name] = client.proc.spawn(program=str(tmp_path / f"{name}.py")).apid
        ended = client.proc.wait(target=apids["value"], timeout=BOUND)
        assert (ended.status, ended.value) == (0, {"answer": 42})
        ended = client.proc.wait(target=apids["status"], timeout=BOUND)
        assert (ended.status, ended.reason) == (3, "tired")
        ended = client.proc.wait(target=apids["error"], timeout=BOUND)
        assert ended.status == 1
        assert ended.reason == "exception ValueError: bad luck"
        output = client.proc.output(target=apids["error"]).data.decode()
        assert output.startswith("before\n")
        assert "bad luck" in output
        with pytest.raises(ESRCH):
            client.proc.info(target=apids["error"])
        again = client.proc.wait(target=apids["error"])
        assert again.reason == "exception ValueError: bad luck"


def test_orphans_go_to_init(kernel: RunningKernel, tmp_path: Path, keeper: str) -> None:
    parent = tmp_path / "parent.py"
    parent.write_text(
        "async def main(agent):\n"
        f"    child = await agent.spawn({keeper!r}, name='orphan')\n"
        "    return child.apid\n"
    )
    with kernel.client() as client:
        apid = client.proc.spawn(program=str(parent)).apid
        orphan = client.proc.wait(target=apid, timeout=BOUND).value
        assert client.proc.info(target=orphan).parent == 1
        assert ask(client, orphan, "still there?") == {"heard": "still there?"}


def test_an_agent_cannot_get_more_than_its_parent(kernel: RunningKernel, tmp_path: Path) -> None:
    greedy = tmp_path / "greedy.py"
    greedy.write_text(
        textwrap.dedent("""
        import os, socket
        async def main(agent):
            found = []
            for grant in ("*", "mem.read:*", "sys.shutdown", "proc.signal:*"):
                try:
                    await agent.spawn("echo", caps=[grant])
                    found.append("got " + grant)
                except Exception as error:
                    found.append(error.code)
            for work in (
                lambda: agent.sys.shutdown(),
                lambda: agent.sys.log(),
                lambda: agent.proc.signal(target=1),
                lambda: agent.proc.signal(target=agent.args[0]),
                lambda: agent.spawn("echo", space="someone"),
            ):
                try:
                    await work()
                    found.append("done")
                except Exception as error:
                    found.append(error.code)
            try:
                open(os.path.join(agent.args[1], "store", "data.mdb"), "rb")
                found.append("read the store")
            except OSError as error:
                found.append("OSError")
            try:
                other = socket.socket(socket.AF_UNIX)
                other.connect(os.path.join(agent.args[1], "run", "kernel.sock"))
                found.append("connected" if other.recv(1) else "closed")
            except OSError as error:
                found.append("OSError")
            try:
                os.kill(int(agent.args[2]), 0)
                found.append("signalled")
            except OSError:
                found.append("OSError")
            return found
        """)
    )
    with kernel.client() as client:
        client.sys.session(space="someone")
        apid = client.proc.spawn(
            program=str(greedy),
            args=["init", str(kernel.data), str(kernel.process.pid)],
        ).apid
        found = client.proc.wait(target=apid, timeout=BOUND).value
        confinement = client.sys.stats().stats["spawner"]["confinement"]
    assert found[:9] == ["EPERM"] * 9
    assert found[10] in ("closed", "OSError")
    if "hidden" in confinement:
        assert found[9] == "OSError"
    if "signals" in confinement:
        assert found[11] == "OSError"


def test_sessions_have_their_own_space_unless_one_is_named(kernel: RunningKernel) -> None:
    with kernel.client() as one, kernel.client() as two, kernel.client() as three:
        first, second = one.sys.session(name="first"), two.sys.session(name="second")
        assert first.space != second.space
        one.mem.write(segment="semantic", content="private to the first")
        assert two.mem.search(query="private").hits == []
        with pytest.raises(ESRCH):
            three.proc.info(target="nobody")
        shared = three.sys.session(space=first.space)
        assert shared.space == first.space
        assert three.mem.search(query="private").hits[0].content == "private to the first"
        names = {session.name for session in one.sys.sessions().sessions}
        assert {"first", "second"} <= names


def test_publish_and_subscribe(kernel: RunningKernel) -> None:
    with kernel.client() as one, kernel.client() as two:
        one.ipc.subscribe(topic="news")
        assert two.ipc.publish(topic="news", body="rain").delivered == 1
        message = one.ipc.recv(topic="news", timeout=BOUND).message
        assert (message.body, message.topic) == ("rain", "news")
        one.ipc.unsubscribe(topic="news")
        assert two.ipc.publish(topic="news", body="sun").delivered == 0


def test_a_restricted_child(kernel: RunningKernel, tmp_path: Path) -> None:
    program = tmp_path / "quiet.py"
    program.write_text(
        "async def main(agent):\n"
        "    try:\n"
        "        await agent.remember('x')\n"
        "    except Exception as error:\n"
        "        return error.code\n"
    )
    with kernel.client() as client:
        apid = client.proc.spawn(program=str(program), caps=["proc.exit", "sys.clock"]).apid
        assert client.proc.wait(target=apid, timeout=BOUND).value == "EPERM"


def test_quota_of_records_and_children(kernel: RunningKernel, tmp_path: Path) -> None:
    program = tmp_path / "hoarder.py"
    program.write_text(
        textwrap.dedent("""
        async def main(agent):
            codes = []
            for turn in range(4):
                try:
                    await agent.remember(f"thing {turn}")
                    codes.append("ok")
                except Exception as error:
                    codes.append(error.code)
            for turn in range(3):
                try:
                    await agent.spawn("echo")
                    codes.append("ok")
                except Exception as error:
                    codes.append(error.code)
            return codes
        """)
    )
    with kernel.client() as client:
        quota = Quota(records=3, children=2)
        apid = client.proc.spawn(program=str(program), quota=quota).apid
        codes = client.proc.wait(target=apid, timeout=BOUND).value
        assert codes == ["ok", "ok", "ok", "EDQUOT", "ok", "ok", "EDQUOT"]


def test_capabilities_by_object(kernel: RunningKernel, keeper: str) -> None:
    with kernel.client() as client:
        owner = client.proc.spawn(program=keeper, goal="secret of the owner").apid
        space = client.proc.info(target=owner).space
        ask(client, owner, "hi")
        reader = client.proc.spawn(
            program=keeper,
            caps=["mem.*", "ipc.*", "ipc.send:*", "proc.exit", f"mem.read:space/{space}"],
        ).apid
        assert ask(client, reader, {"look": space}) == ["secret of the owner"]
