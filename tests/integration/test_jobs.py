"""Jobs and sessions at real terminals: stopped, resumed, left and come back to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from syscalls.errors import EBUSY, EEXIST, EINVAL, EIO, EPERM, ESRCH
from tests.harness import BOUND, ROOT, running
from tests.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from syscalls.shapes import SessionInfo
    from tests.harness import RunningKernel
    from userland.client import BlockingClient

PROMPT = r"engram(:\d+)?>"
FAMILY = """
async def main(agent):
    child = await agent.spawn("ticker", "0.05")
    agent.print("child", child.apid)
    await child.wait()
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "family.py").write_text(FAMILY)
    with running(folder / "data", "--embedder", "none") as started:
        yield started


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as opened:
        yield opened


def until(met: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + BOUND
    while not (found := met()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)
    return found


def command(kernel: RunningKernel, *words: str) -> list[str]:
    return [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), *words]


def engram(kernel: RunningKernel, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(kernel, *words),
        capture_output=True,
        text=True,
        timeout=BOUND,
        cwd=ROOT,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def session(client: BlockingClient, name: str) -> SessionInfo | None:
    found = [each for each in client.sys.sessions().sessions if each.name == name]
    return found[0] if found else None


def detached(client: BlockingClient, name: str) -> bool:
    found = session(client, name)
    return found is not None and not found.attached


# --- at terminals


def test_a_session_is_left_and_taken_up_at_another_terminal(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    with terminal(command(kernel, "shell", "--name", "work")) as first:
        first.until(PROMPT)
        first.type("mem write the tea is green\r")
        first.until(PROMPT)
        first.type("run --name bee ticker 0.05 &\r")
        bee = int(first.until(r"\[1\] bee is process \d+").split()[-1])
        first.until(PROMPT)
        until(lambda: b"tick 3 " in client.proc.output(target=bee).data)
        first.type("detach\r")
        first.until("engram attach work")
    until(lambda: detached(client, "work"))
    left = session(client, "work")
    assert left is not None and left.detached and left.pid == 0
    assert left.jobs == [bee]
    since = len(client.proc.output(target=bee).data)
    until(lambda: len(client.proc.output(target=bee).data) > since + 100)
    assert "detached" in engram(kernel, "sessions").stdout
    with terminal(command(kernel, "attach", "work")) as second:
        second.until(rf"\[1\] {bee} +running")
        tick = second.until(r"tick \d+ ")
        assert int(tick.split()[1]) > 3, "what was written before the detach is not shown"
        second.until(PROMPT)
        second.type("mem search tea\r")
        second.until("the tea is green")
        second.until(PROMPT)
        second.type("fg\r")
        second.until(r"tick \d+ ")
        second.type("\x1a")
        second.until(r"\[1\] \d+ +stopped")
        second.until(PROMPT)
        assert client.proc.info(target=bee).state == "STOPPED"
    until(lambda: detached(client, "work"))  # the terminal hung up
    with terminal(command(kernel, "attach", "work")) as third:
        third.until(rf"\[1\] {bee} +stopped")
        third.until(PROMPT)
        third.type("bg\r")
        until(lambda: client.proc.info(target=bee).state != "STOPPED")
        third.until(PROMPT)
        third.type("kill bee\r")
        third.until(PROMPT)
        third.type("wait bee\r")
        third.until("signal TERM")
        third.until(PROMPT)
        third.type("exit\r")
        until(lambda: session(client, "work") is None)


def test_ctrl_z_stops_the_children_of_a_job_too_and_ctrl_c_ends_all(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    with terminal(command(kernel, "shell")) as shell:
        shell.until(PROMPT)
        shell.type(f"run {kernel.data.parent / 'family.py'}\r")
        child = int(shell.until(r"child \d+").split()[1])
        shell.type("\x1a")
        shell.until(r"\[1\] \d+ +stopped")
        shell.until(PROMPT)
        assert client.proc.info(target=child).state == "STOPPED"
        shell.type("fg\r")
        until(lambda: client.proc.info(target=child).state != "STOPPED")
        shell.type("\x03")
        shell.until("signal INT")
        shell.until(PROMPT)
        until(lambda: child not in [each.apid for each in client.proc.list().processes])
        shell.type("exit\r")


def test_a_job_that_ended_meanwhile_is_told(kernel: RunningKernel, client: BlockingClient) -> None:
    done = engram(kernel, "shell", "--name", "brief", "-c", "run -d /bin/echo the last words")
    assert done.returncode == 0, done.stderr
    until(lambda: detached(client, "brief"))
    found = session(client, "brief")
    assert found is not None
    until(lambda: client.proc.list(session=found.session).processes[-1].state == "ZOMBIE")
    back = engram(kernel, "attach", "brief", "-c", "jobs")
    assert back.returncode == 0
    assert re.search(r"\[1\] \d+ +done \(exit, status 0\)", back.stdout), back.stdout
    assert engram(kernel, "detach", "--end", "brief").returncode == 0
    until(lambda: session(client, "brief") is None)


def test_ending_a_session_ends_its_jobs(kernel: RunningKernel, client: BlockingClient) -> None:
    assert engram(kernel, "shell", "--name", "over", "-c", "run -d ticker 0.1").returncode == 0
    until(lambda: detached(client, "over"))
    found = session(client, "over")
    assert found is not None
    job = found.jobs[0]
    told = json.loads(engram(kernel, "--json", "detach", "--end", "over").stdout)
    assert told["state"] == "ended"
    until(lambda: session(client, "over") is None)
    until(lambda: job not in [each.apid for each in client.proc.list().processes])


# --- the calls


def kept(kernel: RunningKernel, name: str) -> tuple[BlockingClient, SessionInfo]:
    made = kernel.client()
    return made, made.sys.session(name=name, keep=True)


def test_what_cannot_be_attached_to_is_said(kernel: RunningKernel, client: BlockingClient) -> None:
    owner, mine = kept(kernel, "owned")
    with pytest.raises(EEXIST):
        client.sys.session(name="owned", keep=True)
    with pytest.raises(EBUSY, match="is attached"):
        client.sys.attach(session="owned")
    with pytest.raises(ESRCH):
        client.sys.attach(session="nobody's")
    with kernel.client() as other:
        plain = other.sys.session(name="plain")
        with pytest.raises(EINVAL, match="ends with its terminal"):
            client.sys.attach(session=plain.session)
    with kernel.client() as busy:
        busy.proc.spawn(program="/bin/sleep", args=["100"])
        with pytest.raises(EBUSY, match="in use"):
            busy.sys.attach(session="owned", take=True)
    with pytest.raises(EINVAL, match="itself"):
        owner.sys.attach(session=mine.session)
    owner.sys.detach(end=True)
    owner.close()
    until(lambda: session(client, "owned") is None)


def test_a_session_is_taken_from_its_terminal_with_mailbox_and_children(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    owner, mine = kept(kernel, "moving")
    job = owner.proc.spawn(program="/bin/sleep", args=["100"]).apid
    client.ipc.send(to=mine.session, body="for you")
    with kernel.client() as taker:
        taken = taker.sys.attach(session="moving", take=True)
        assert taken.session.session == mine.session == taker.sys.info().apid
        assert [each.process.apid for each in taken.jobs] == [job]
        assert taker.ipc.recv(timeout=BOUND).message.body == "for you"
        assert taker.sys.session().space == mine.space
        with pytest.raises(EIO):
            until(lambda: owner.sys.clock() is None)
        taker.proc.signal(target=job, signal="KILL")
        assert taker.proc.wait(target=job, timeout=BOUND).reason == "signal KILL"
        taker.sys.session(keep=False)
    until(lambda: session(client, "moving") is None)
    owner.close()


def test_an_agent_neither_attaches_nor_detaches(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    owner, _mine = kept(kernel, "safe")
    program = kernel.data.parent / "thief.py"
    program.write_text(
        "from syscalls.errors import EINVAL, EPERM\n"
        "async def main(agent):\n"
        "    told = []\n"
        "    for call in (agent.sys.attach, agent.sys.detach):\n"
        "        try:\n"
        "            await call(session='safe')\n"
        "        except (EINVAL, EPERM) as error:\n"
        "            told.append(error.code)\n"
        "    return told\n"
    )
    for caps, code in ((None, EPERM), (["*"], EINVAL)):
        apid = client.proc.spawn(program=str(program), caps=caps).apid
        ended = client.proc.wait(target=apid, timeout=BOUND)
        assert ended.value == [code.__name__] * 2, ended
    owner.sys.detach(end=True)
    owner.close()


def test_a_detached_session_without_jobs_ends_after_the_time_that_is_set(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("timeout") / "data"
    with running(data, "--embedder", "none", "--session-timeout", "0.4") as kernel:
        busy, held = kept(kernel, "busy")
        job = busy.proc.spawn(program="/bin/sleep", args=["100"]).apid
        idle, _ = kept(kernel, "idle")
        busy.close()
        idle.close()
        with kernel.client() as client:
            until(lambda: session(client, "idle") is None)
            time.sleep(0.5)
            assert detached(client, "busy"), "it has a job"
            client.proc.signal(target=job, signal="KILL")
            until(lambda: session(client, "busy") is None)
            until(lambda: held.session not in [one.apid for one in client.proc.list().processes])
