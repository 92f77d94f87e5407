"""Supervision as its users meet it: real processes that crash, and a kernel that is killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syscalls.calls.supervise import Service
from syscalls.errors import EngramError
from tests.harness import BOUND, ROOT, RunningKernel, processes_of, running
from userland.client import BlockingClient

WORKER = """
    async def main(agent):
        await agent.remember(f"born {agent.apid}", key=f"born {agent.apid}")
        if agent.goal == "ready":
            await agent.ready()
        async for message in agent.messages():
            if message.body == "fail":
                raise ValueError("as told")
            await agent.remember(f"heard {message.body}")
"""
FLAGS = ("--embedder", "none", "--mind", "none")


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait, within a bound, until ``condition`` holds."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def table(name: str, program: Path, **fields: object) -> str:
    lines = [f"name = {name!r}", f"program = {str(program)!r}"]
    return "\n".join(["[[child]]", *lines, *(f"{k} = {v!r}" for k, v in fields.items()), ""])


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    program = tmp_path / "worker.py"
    program.write_text(textwrap.dedent(WORKER))
    return program


@pytest.fixture
def kernel(tmp_path: Path, worker: Path) -> Iterator[RunningKernel]:
    data = tmp_path / "data"
    data.mkdir()
    group = '[[child]]\nname = "pair"\nstrategy = "rest_for_one"\n'
    pair = [table("left", worker, goal="ready", ready="ready"), table("right", worker)]
    text = table("keeper", worker) + group + "".join(pair).replace("[[child]]", "[[child.child]]")
    (data / "init.toml").write_text(text)
    with running(data, *FLAGS) as kernel:
        yield kernel


def rows(client: BlockingClient) -> dict[str, Service]:
    return {one.name: one for one in client.proc.supervise().services}


def up(client: BlockingClient, *names: str) -> None:
    def there() -> bool:
        found = rows(client)
        return all(name in found and found[name].state == "up" for name in names)

    eventually(there, f"{names} are not up")


def contents(client: BlockingClient, space: int | str) -> list[str]:
    records = client.mem.read(space=space, limit=1000).records
    return [record.content for record in reversed(records)]


def heard(client: BlockingClient, space: int | str) -> list[str]:
    return [text[6:] for text in contents(client, space) if text.startswith("heard ")]


def idle(client: BlockingClient, apid: int) -> None:
    eventually(lambda: client.proc.info(target=apid).state == "WAITING", "it does not wait")


def gone(data: Path) -> bool:
    return not processes_of(data)


def test_after_a_kill_of_the_kernel_all_is_back_with_space_and_messages(
    kernel: RunningKernel, worker: Path
) -> None:
    with kernel.client() as client:
        up(client, "keeper", "left", "right")
        spawned = client.proc.spawn(program=str(worker), name="extra", restart="permanent")
        passing = client.proc.spawn(program=str(worker), name="passing")
        extra = client.proc.info(target=spawned.apid)
        keeper = client.proc.info(target="keeper")
        assert (keeper.supervisor, extra.supervisor) == ("init", "spawned")
        for name in ("keeper", "extra"):
            client.ipc.send(to=name, body="before")
        eventually(lambda: heard(client, "keeper") == ["before"], "it does not hear")
        eventually(lambda: heard(client, extra.space) == ["before"], "it does not hear")
        for apid in (keeper.apid, extra.apid):
            idle(client, apid)  # it has asked for the next message: this one is done with
            client.proc.signal(target=apid, signal="STOP")
        for number in range(5):
            client.ipc.send(to="keeper", body=f"{number}")
            client.ipc.send(to="extra", body=f"{number}")
    kernel.kill()
    eventually(lambda: gone(kernel.data), "processes outlive the kernel")
    kernel.reboot()
    with kernel.client() as client:
        up(client, "keeper", "left", "right")
        wanted = ["before", *map(str, range(5))]
        eventually(lambda: heard(client, "keeper") == wanted, "messages are lost")
        eventually(lambda: heard(client, extra.space) == wanted, "messages are lost")
        again, more = client.proc.info(target="keeper"), client.proc.info(target="extra")
        assert (again.space, more.space) == (keeper.space, extra.space)
        assert again.apid > passing.apid and more.caps == extra.caps
        lost = client.proc.wait(target=keeper.apid)
        assert lost.cause is not None and lost.cause.kind == "lost"
        names = [one.name for one in client.proc.list().processes]
        assert "passing" not in names
        idle(client, again.apid)
    kernel.kill()
    kernel.reboot()
    with kernel.client() as client:
        up(client, "keeper")
        eventually(lambda: len(contents(client, "keeper")) == 9, "it is not born again")
        idle(client, client.proc.info(target="keeper").apid)
        assert heard(client, "keeper") == wanted, "a message came twice"


def test_a_group_goes_down_and_comes_up_in_order(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        up(client, "left", "right", "keeper")
        before = rows(client)
        os.kill(client.proc.info(target="left").pid, signal.SIGKILL)
        eventually(lambda: rows(client)["right"].apid > before["right"].apid, "right stays")
        up(client, "left", "right")
        after = rows(client)
        assert after["left"].last is not None and after["left"].last.cause is not None
        assert after["left"].last.cause.kind == "killed"
        assert after["right"].apid > after["left"].apid > before["right"].apid
        assert after["keeper"].apid == before["keeper"].apid
        client.ipc.send(to="right", body="fail")
        eventually(lambda: rows(client)["right"].apid > after["right"].apid, "right stays down")
        up(client, "right")  # stopped before it began, it would have no end to tell of
        assert rows(client)["left"].apid == after["left"].apid
    assert kernel.terminate() == 0
    ends = [line.split(" init: ")[1] for line in kernel.stderr().splitlines() if " init: " in line]
    stopped = [line.split(" ")[0] for line in ends if "stays down" in line]
    assert stopped == ["right", "left", "keeper"]
    assert gone(kernel.data)


def test_a_crash_loop_ends_and_leaves_nothing_behind(kernel: RunningKernel, tmp_path: Path) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text("async def main(agent):\n    raise SystemExit(7)\n")
    with kernel.client() as client:
        up(client, "keeper")
        spawned = [
            client.proc.spawn(program=str(crash), name=f"loop{n}", restart="permanent").apid
            for n in range(5)
        ]
        mine = {f"loop{n}#" for n in range(5)}

        def failed() -> bool:
            found = [one for one in rows(client).values() if one.name[:6] in mine]
            return len(found) == 5 and all(one.state == "failed" for one in found)

        eventually(failed, "the loops go on")
        descriptors = len(os.listdir(f"/proc/{kernel.process.pid}/fd"))
        for name in [name for name in rows(client) if name[:6] in mine]:
            client.proc.supervise(action="start", name=name)
        eventually(failed, "the loops go on")
        for one in rows(client).values():
            if one.name[:6] in mine:
                assert one.restarts == 11
                assert one.last is not None and one.last.cause is not None
                assert (one.last.cause.kind, one.last.cause.detail) == ("exit", "7")
        for apid in spawned:
            assert client.proc.wait(target=apid).status == 7
        known = [one.name for one in client.proc.list().processes]
        assert not [name for name in known if name.startswith("loop")]
        assert len(os.listdir(f"/proc/{kernel.process.pid}/fd")) <= descriptors + 2
        assert rows(client)["keeper"].state == "up"


def test_kills_at_any_moment_lose_nothing_and_repeat_what_was_in_hand_at_most(
    kernel: RunningKernel,
) -> None:
    total = 150
    killed: set[int] = set()
    with kernel.client() as client, kernel.client() as killer:
        up(client, "keeper")
        for number in range(total):
            client.ipc.send(to="keeper", body=number)
            if number % 50 == 25:
                try:
                    pid = killer.proc.info(target="keeper").pid
                    if not pid:
                        continue  # it has its number and no process yet: 0 would be all of us
                    os.kill(pid, signal.SIGKILL)
                except (EngramError, ProcessLookupError):
                    continue  # it is being started again
                killed.add(pid)  # the same one twice where its end was not seen yet: one end
        client.ipc.send(to="keeper", body="last")
        eventually(lambda: heard(client, "keeper")[-1:] == ["last"], "it does not hear the last")
        got = [int(text) for text in heard(client, "keeper")[:-1]]
        assert got == sorted(got), "a message came before its time"
        assert set(got) == set(range(total)), "a message is lost"
        assert len(got) <= total + len(killed), "more came twice than was in hand"
        assert killed
        assert rows(client)["keeper"].restarts == len(killed)


def test_the_file_can_be_mended_while_it_runs(kernel: RunningKernel, worker: Path) -> None:
    def engram(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=BOUND, cwd=ROOT, check=False
        )

    file = kernel.data / "init.toml"
    with kernel.client() as client:
        up(client, "keeper", "right")
        before = client.proc.info(target="keeper").apid
        file.write_text(table("keeper", worker) + "[[child]]\nname = 3\n")
        refused = engram("init", "reload")
        assert refused.returncode == 2
        assert "child 2, name: Expected `str`, got `int`" in refused.stderr
        file.write_text(table("keeper", worker) + table("new", worker))
        assert engram("init", "reload").returncode == 0
        up(client, "new")
        eventually(lambda: set(rows(client)) == {"init", "keeper", "new", "spawned"}, "left stays")
        assert client.proc.info(target="keeper").apid == before
        shown = engram("init")
        assert shown.returncode == 0
        assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == [
            "init", "keeper", "new", "spawned",
        ]  # fmt: skip
        assert engram("init", "stop", "new").returncode == 0
        eventually(lambda: rows(client)["new"].state == "down", "it is not stopped")
        assert engram("init", "start", "new").returncode == 0
        up(client, "new")
        assert engram("init", "start", "nobody").returncode == 2
        found = json.loads(engram("init", "status", "--json").stdout)
        assert found["file"] == str(file)
    file.write_text("strategy = 7\n")
    kernel.terminate()
    kernel.reboot()
    with kernel.client() as client:
        assert "strategy: Expected `str`, got `int`" in client.proc.supervise().problem
        assert set(rows(client)) == {"init", "spawned"}
        file.write_text(table("keeper", worker))
        client.proc.supervise(action="reload")
        up(client, "keeper")
        assert not client.proc.supervise().problem


def test_what_links_and_monitors_say_of_real_ends(kernel: RunningKernel, tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        textwrap.dedent(
            """
            async def main(agent):
                if agent.args == ["linked"]:
                    await agent.recv()
                child = await agent.spawn(__file__, "linked")
                await child.link(trap=True)
                await child.monitor()
                other = await agent.spawn(__file__, "linked")
                await agent.process(other.apid).link()
                await child.signal("KILL")
                exited = await agent.recv(60, type="exit")
                down = await agent.recv(60, type="down")
                agent.print(exited.body["cause"]["kind"], down.body["apid"] == child.apid)
                await agent.send(agent.apid, "done")
                await other.signal("KILL")
                await agent.recv(60, type="never")
            """
        )
    )
    with kernel.client() as client:
        apid = client.proc.spawn(program=str(program), args=[]).apid
        ended = client.proc.wait(target=apid, timeout=BOUND)
        assert (ended.status, ended.reason) == (143, "signal TERM")
        assert ended.cause is not None and ended.cause.kind == "linked"
        assert client.proc.output(target=apid).data == b"killed True\n"
