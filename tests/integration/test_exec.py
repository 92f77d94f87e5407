"""proc.exec: another program under the same number, with all that the kernel keeps of a process."""

import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from syscalls.calls.proc import Exec
from syscalls.errors import EINVAL, ESRCH, ETIME
from syscalls.shapes import Exit, Signal
from tests.harness import BOUND, RunningKernel, processes_of, running
from userland.client import BlockingClient

OLD = """
import os
from syscalls.errors import EngramError

async def main(agent):
    await agent.declare({"old": True})
    await agent.remember("a fact of the old program")
    await agent.ipc.subscribe(topic="news")
    await agent.tool.register(name=f"t{agent.apid}", description="x", schema={"type": "object"})
    agent.on("USR1", lambda signal: None)
    await agent.sys.alarm(after=0, message="rang")
    await agent.sys.alarm(after=1.5, message="rings")
    print("old", os.getpid(), flush=True)
    async for message in agent.messages(type="exec"):
        try:
            await agent.exec(*message.body)
        except EngramError as error:
            await agent.reply(message, [type(error).__name__, os.getpid()])
"""
NEW = """
import os

async def main(agent):
    print("new", os.getpid(), flush=True)
    if "wait" in agent.args:
        await agent.recv(type="go")
    facts = [hit.content for hit in await agent.recall("a fact", k=10)]
    info = await agent.proc.info()
    found = [(await agent.recv()).body for _ in range(info.mailbox)]
    return [agent.apid, agent.args, agent.goal, agent.state, agent.forked, facts, found]
"""
CHAIN = """
import os

async def main(agent):
    print(os.getpid(), flush=True)
    left = int(agent.args[0])
    if left:
        await agent.exec(__file__, str(left - 1))
    return "done"
"""
TOGETHER = """
import trio
from syscalls.calls.proc import Exec, ExitCall, SignalCall
from syscalls.errors import EngramError

async def main(agent):
    refused = []
    async def make(call):
        try:
            await agent.call(call)
        except EngramError as error:
            refused.append(type(error).__name__)
    first = Exec(program=agent.args[1], args=["wait"])
    what = agent.args[0]
    second = {"exec": first, "exit": ExitCall(status=9)}.get(what)
    second = second or SignalCall(target=agent.apid, signal=what)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, first)
        await trio.sleep(0)
        nursery.start_soon(make, second)
    return refused
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("exec")
    for name, text in (("old", OLD), ("new", NEW), ("chain", CHAIN), ("together", TOGETHER)):
        (folder / f"{name}.py").write_text(text)
    with running(folder / "data", "--embedder", "none", "--mind", "none") as kernel:
        yield kernel


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as client:
        client.sys.clock()  # now its connection is among the kernel's descriptors
        yield client


def path(kernel: RunningKernel, name: str) -> str:
    return str(kernel.data.parent / f"{name}.py")


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def order(client: BlockingClient, apid: int, *words: str) -> None:
    client.ipc.send(to=apid, body=list(words), type="exec")


def runs(client: BlockingClient, apid: int, program: str) -> Callable[[], bool]:
    return lambda: client.proc.info(target=apid).program == program


def waited(kernel: RunningKernel, apid: int) -> Exit:
    with kernel.client() as other:
        return other.proc.wait(target=apid, timeout=BOUND)


def quiet(kernel: RunningKernel, client: BlockingClient, descriptors: int) -> None:
    """No process is left, no zombie, no descriptor."""

    def gone() -> bool:
        alive = client.sys.stats().stats["spawner"]["alive"]
        return not alive and fds(kernel) <= descriptors

    eventually(gone, "something is left")
    zygote = client.sys.stats().stats["spawner"]["zygote"]
    eventually(lambda: not children(zygote), "the zygote has children")


def fds(kernel: RunningKernel) -> int:
    """The sockets and pipes of the kernel: what a process has of descriptors is of these."""
    found = 0
    for entry in Path(f"/proc/{kernel.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += os.readlink(entry).startswith(("socket:", "pipe:"))
    return found


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def test_all_that_the_kernel_knows_it_by_stays(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    old, new = path(kernel, "old"), path(kernel, "new")
    apid = client.proc.spawn(program=old, name="same", goal="to go on", nice=3).apid
    client.proc.monitor(target=apid)
    eventually(lambda: client.proc.info(target=apid).mailbox == 1, "it does not start")
    client.ipc.send(to=apid, body="one", type="note")
    before = client.proc.info(target=apid)
    with ThreadPoolExecutor() as threads:
        ended = threads.submit(waited, kernel, apid)
        order(client, apid, new, "wait", "b")
        eventually(runs(client, apid, new), "it is not replaced")
        assert client.ipc.publish(topic="news", body="two").delivered == 1
        after = client.proc.info(target=apid)
        assert after.pid != before.pid
        for field in ("name", "goal", "space", "caps", "nice", "parent", "session", "created"):
            assert getattr(after, field) == getattr(before, field), field
        assert [one.alive for one in client.tool.list().tools if one.owner == apid] == [False]
        with pytest.raises(ETIME):
            client.ipc.recv(type="down", timeout=0)
        assert not ended.done()
        eventually(lambda: client.proc.info(target=apid).mailbox == 4, "the alarm does not ring")
        client.ipc.send(to=apid, body=None, type="go")
        facts, found = ["a fact of the old program"], ["rang", "one", "two", "rings"]
        value = [apid, ["wait", "b"], "to go on", None, 0, facts, found]
        assert ended.result(BOUND).value == value
    down = client.ipc.recv(type="down", timeout=BOUND).message
    assert (down.sender, down.body["value"]) == (1, value)
    lines = client.proc.output(target=apid).data.decode().splitlines()
    assert lines == [f"old {before.pid}", f"new {after.pid}"]
    with pytest.raises(ETIME):
        client.ipc.recv(type="down", timeout=0)


def test_a_failure_comes_back_and_changes_nothing(
    kernel: RunningKernel, client: BlockingClient, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("no program")
    (tmp_path / "noexec").write_text("no program")
    (tmp_path / "noexec").chmod(0o755)
    (tmp_path / "idle.py").write_text("x = 1")
    (tmp_path / "bad.md").write_text("+++\nnonsense = 1\n+++\n")
    old = path(kernel, "old")
    apid = client.proc.spawn(program=old, name="stays").apid
    eventually(lambda: client.proc.info(target=apid).mailbox == 1, "it does not start")
    before, descriptors = client.proc.info(target=apid), fds(kernel)
    programs = {
        "/nowhere/at/all": "ENOENT", str(tmp_path / "plain"): "EPERM",
        str(tmp_path / "noexec"): "EINVAL", str(tmp_path / "idle.py"): "EINVAL",
        str(tmp_path / "bad.md"): "EINVAL", str(tmp_path / "no.md"): "ENOENT",
    }  # fmt: skip
    for program, code in programs.items():
        number = client.ipc.send(to=apid, body=[program], type="exec").id
        answer = client.ipc.recv(reply_to=number, timeout=BOUND).message.body
        assert answer == [code, before.pid], program
    after = client.proc.info(target=apid)
    assert (after.pid, after.program) == (before.pid, old)
    assert [one.alive for one in client.tool.list().tools if one.owner == apid] == [True]
    assert fds(kernel) <= descriptors
    order(client, apid, path(kernel, "new"))
    assert client.proc.wait(target=apid, timeout=BOUND).reason == "returned"
    quiet(kernel, client, descriptors)


def test_an_executable_has_the_directory_and_environment_and_may_be_replaced_by_one(
    kernel: RunningKernel, client: BlockingClient, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\necho "$1 $ENGRAM_APID $GREETING $(pwd)"\nexit 7\n')
    script.chmod(0o755)
    env, old = {"GREETING": "hello"}, path(kernel, "old")
    apid = client.proc.spawn(program=old, cwd=str(tmp_path), env=env).apid
    order(client, apid, "./script", "first")
    ended = client.proc.wait(target=apid, timeout=BOUND)
    assert (ended.status, ended.reason) == (7, "exit")
    said = client.proc.output(target=apid).data.decode().splitlines()
    assert said[0].startswith("old ")
    assert said[1:] == [f"first {apid} hello {tmp_path}"]


def test_thirty_in_a_row_leave_no_descriptor_and_no_process(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    def chain(times: int) -> None:
        apid = client.proc.spawn(program=path(kernel, "chain"), args=[str(times)]).apid
        ended = client.proc.wait(target=apid, timeout=BOUND)
        assert ended.value == "done", client.proc.output(target=apid).data.decode()
        pids = client.proc.output(target=apid).data.split()
        assert len(set(pids)) == len(pids) == times + 1

    chain(1)
    quiet(kernel, client, fds(kernel))
    descriptors = fds(kernel)
    chain(30)
    quiet(kernel, client, descriptors)


@pytest.mark.parametrize("what", ["exec", "exit", "STOP", "KILL", "TERM", "INT"])
def test_something_else_happens_meanwhile(
    kernel: RunningKernel, client: BlockingClient, what: str
) -> None:
    new, together = path(kernel, "new"), path(kernel, "together")
    statuses = {"exit": 9, "KILL": 137, "TERM": 143, "INT": 130}
    descriptors = fds(kernel)
    for _ in range(5):
        apid = client.proc.spawn(program=together, args=[what, new]).apid
        client.ipc.send(to=apid, body=None, type="go")  # where the exec is the first, or alone
        if what == "STOP":
            eventually(runs(client, apid, new), "it is not replaced")
            with suppress(ETIME):
                client.proc.wait(target=apid, timeout=0.2)
                continue  # it was replaced before it asked for that
            assert client.proc.info(target=apid).state == "STOPPED"
            client.proc.signal(target=apid, signal="CONT")
        ended = client.proc.wait(target=apid, timeout=BOUND)
        replaced = ended.status == 0 and ended.value[0] == apid
        cancelled = what in ("TERM", "INT") and ended.value == ["ECANCELED"]
        assert replaced or cancelled or ended.status == statuses[what], ended
    quiet(kernel, client, descriptors)


def test_kills_at_any_moment_of_a_row(kernel: RunningKernel, client: BlockingClient) -> None:
    dice, descriptors = random.Random(5), fds(kernel)
    signals: tuple[Signal, ...] = ("KILL", "TERM", "STOP")
    for _ in range(25):
        apid = client.proc.spawn(program=path(kernel, "chain"), args=["1000"]).apid
        time.sleep(dice.random() * 0.06)
        signal = dice.choice(signals)
        client.proc.signal(target=apid, signal=signal)
        if signal == "STOP":
            client.proc.signal(target=apid, signal="KILL")
        ended = client.proc.wait(target=apid, timeout=BOUND)
        refused = signal == "TERM" and ended.reason.startswith("exception ECANCELED")
        assert ended.status == (143 if signal == "TERM" else 137) or refused, ended
    quiet(kernel, client, descriptors)


def test_a_session_has_no_program(client: BlockingClient) -> None:
    with pytest.raises(EINVAL, match="runs no program"):
        client.call(Exec(program="echo"))


def test_a_supervisor_starts_its_own_program_again(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    old, new = path(kernel, "old"), path(kernel, "new")
    apid = client.proc.spawn(program=old, name="kept", restart="permanent").apid
    order(client, apid, new, "wait")
    eventually(runs(client, apid, new), "it is not replaced")
    # Now it asks for its next message: it is done with the order.
    eventually(lambda: client.proc.info(target=apid).state == "WAITING", "it does not start")
    client.proc.signal(target=apid, signal="KILL")

    def again() -> bool:
        with suppress(ESRCH):
            found = client.proc.info(target="kept")
            return found.apid != apid and found.program == old and found.restarts == 1
        return False

    eventually(again, "it is not started again")
    found = client.proc.info(target="kept")
    order(client, found.apid, new, "wait")
    eventually(runs(client, found.apid, new), "the second one is not replaced")
    client.proc.supervise(action="stop", name="kept")


def test_it_is_the_new_program_that_is_remembered_and_forked(tmp_path: Path) -> None:
    for name, text in (("old", OLD), ("new", NEW), ("chain", CHAIN)):
        (tmp_path / f"{name}.py").write_text(text)
    new = str(tmp_path / "new.py")
    with running(tmp_path / "data", "--embedder", "none", "--mind", "none") as kernel:
        with kernel.client() as client:
            apid = client.proc.spawn(program=str(tmp_path / "old.py")).apid
            order(client, apid, new, "wait")
            eventually(runs(client, apid, new), "it is not replaced")
            fork = client.proc.fork(target=apid).apid
            assert client.proc.info(target=fork).program == new
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            past = {one.apid: one for one in client.proc.list(all=True).processes}
            assert past[apid].program == new
            client.proc.spawn(
                program=str(tmp_path / "chain.py"), args=["1000"], restart="permanent"
            )
        assert kernel.terminate() == 0
        assert not processes_of(kernel.data)
