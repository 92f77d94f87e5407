"""``engram checkpoint`` and ``engram restore``, as a person or a script uses them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import BOUND, ROOT, RunningKernel, running

KEEPER = """
async def main(agent):
    if agent.state is None:
        await agent.remember("a fact")
        await agent.declare("kept")
        await agent.ready()
    async for message in agent.messages():
        if message.body == "go on":
            return
        await agent.reply(message, agent.state)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("images")
    (folder / "keeper.py").write_text(KEEPER)
    with running(folder / "data", "--embedder", "none") as started:
        yield started


def engram(
    kernel: RunningKernel, *words: str, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), *words],
        capture_output=True,
        text=True,
        timeout=BOUND,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def asked(kernel: RunningKernel, *words: str, cwd: Path = ROOT) -> dict[str, Any]:
    done = engram(kernel, "--json", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture
def keeper(kernel: RunningKernel) -> Iterator[int]:
    program = str(kernel.data.parent / "keeper.py")
    with kernel.client() as client:
        apid = client.proc.spawn(program=program, name="keeper").apid
        number = client.ipc.send(to=apid, body="state").id
        assert client.ipc.recv(reply_to=number, timeout=BOUND).message.body == "kept"
        yield apid
        for one in client.proc.list().processes:
            if one.program == program:
                client.proc.signal(target=one.apid, signal="KILL")
                client.proc.wait(target=one.apid, timeout=BOUND)


def test_by_a_name(kernel: RunningKernel, keeper: int) -> None:
    done = engram(kernel, "checkpoint", "keeper")
    assert done.stdout.startswith(f"image {keeper}: 1 records, 0 messages, ")
    assert asked(kernel, "checkpoint", str(keeper), "named")["path"] == "named"
    with kernel.client() as client:
        done = engram(kernel, "restore", "named", "--name", "again")
        assert done.returncode == 0, done.stderr
        again = client.proc.info(target="again")
        assert done.stdout == f"process {again.apid}: 1 records, 0 messages\n"
        number = client.ipc.send(to="again", body="state").id
        assert client.ipc.recv(reply_to=number, timeout=BOUND).message.body == "kept"
    written = client_figures(kernel)
    assert (written["written"], written["restored"]) == (2, 1)


def client_figures(kernel: RunningKernel) -> dict[str, Any]:
    with kernel.client() as client:
        figures: dict[str, Any] = client.sys.stats().stats["images"]
        return figures


def test_by_a_path_and_under_the_old_number(
    kernel: RunningKernel, keeper: int, tmp_path: Path
) -> None:
    done = asked(kernel, "checkpoint", "keeper", "./mine.image", cwd=tmp_path)
    image = tmp_path / "mine.image"
    assert done["path"] == str(image)
    assert image.stat().st_size == done["bytes"]
    refused = engram(kernel, "restore", str(image), "--same-apid")
    assert (refused.returncode, "EEXIST" in refused.stderr) == (2, True)
    with kernel.client() as client:
        client.proc.signal(target=keeper, signal="KILL")
        client.proc.wait(target=keeper, timeout=BOUND)
    assert asked(kernel, "restore", "./mine.image", "--same-apid", cwd=tmp_path)["apid"] == keeper


def test_into_a_space(kernel: RunningKernel, keeper: int) -> None:
    engram(kernel, "checkpoint", "keeper", "poured")
    engram(kernel, "--space", "basin", "mem", "write", "another fact")
    assert asked(kernel, "restore", "poured", "--space", "basin")["records"] == 1
    found = asked(kernel, "--space", "basin", "mem", "list")["records"]
    assert sorted(one["content"] for one in found) == ["a fact", "another fact"]


def test_mistakes(kernel: RunningKernel, keeper: int, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    for words, said in (
        (("restore", "nosuch"), "ENOENT"),
        (("restore", str(letter)), "EINVAL"),
        (("checkpoint", "nosuch"), "ESRCH"),
        (("checkpoint", "keeper", str(letter)), "EEXIST"),
        (("checkpoint", "1"), "EINVAL"),
    ):
        done = engram(kernel, *words)
        assert (done.returncode, said in done.stderr) == (2, True), (words, done.stderr)
    assert letter.read_text() == "dear"
