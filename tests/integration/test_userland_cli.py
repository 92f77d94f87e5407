"""The ``engram`` command against a real kernel, as a person or a script uses it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syscalls.calls.proc import ListCall
from syscalls.shapes import ProcessInfo
from tests.harness import BOUND, ROOT, RunningKernel, running
from userland.bin.boot import alive

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    with running(tmp_path_factory.mktemp("cli") / "data") as started:
        yield started


def command(data: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "userland.cli", "--data", str(data), *words]


def engram(kernel: RunningKernel, *words: str, stdin: str = "", check: bool = True) -> Done:
    done = subprocess.run(
        command(kernel.data, *words),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=BOUND,
        cwd=ROOT,
        check=False,
    )
    assert "Traceback" not in done.stderr or not check, done.stderr
    assert not check or done.returncode == 0, done.stderr
    return done


def asked(kernel: RunningKernel, *words: str) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    out = engram(kernel, "--json", *words).stdout
    assert out.count("\n") == 1, out
    value: dict[str, Any] = json.loads(out)
    return value


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_run_passes_output_and_status_on(kernel: RunningKernel, tmp_path: Path) -> None:
    (tmp_path / "three.py").write_text(
        "import sys\n"
        "async def main(agent):\n"
        "    agent.print('words', *agent.args)\n"
        "    sys.exit(3)\n"
    )
    done = engram(kernel, "run", str(tmp_path / "three.py"), "a", "--b", check=False)
    assert done.returncode == 3
    assert done.stdout == "words a --b\n"
    assert "status 3" in done.stderr
    done = engram(kernel, "--json", "run", str(tmp_path / "three.py"), check=False)
    told = json.loads(done.stdout)
    assert (told["exit"]["status"], told["output"]) == (3, "words\n")


def test_an_exception_is_shown_with_its_traceback(kernel: RunningKernel, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("async def main(agent):\n    raise ValueError('ouch')\n")
    done = engram(kernel, "run", str(tmp_path / "bad.py"), check=False)
    assert done.returncode == 1
    assert 'bad.py", line 2' in done.stdout
    assert "exception ValueError: ouch" in done.stderr


def test_a_program_that_is_not_there(kernel: RunningKernel) -> None:
    done = engram(kernel, "run", "nosuch", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("engram: ENOENT: there is no program 'nosuch'")


def test_memory_round_trip(kernel: RunningKernel) -> None:
    rid = asked(kernel, "mem", "write", "--tag", "t", "--key", "k", "The", "otter", "swims")["rid"]
    assert asked(kernel, "mem", "search", "otter")["hits"][0]["rid"] == rid
    assert asked(kernel, "mem", "read", rid)["records"][0]["tags"] == ["t"]
    assert asked(kernel, "mem", "read", "k")["records"][0]["rid"] == rid
    assert asked(kernel, "mem", "update", "--expect", "1", rid, "It", "dives")["version"] == 2
    stale = engram(kernel, "mem", "update", "--expect", "1", rid, "x", check=False)
    assert (stale.returncode, "ECONFLICT" in stale.stderr) == (2, True)
    versions = asked(kernel, "mem", "history", rid)["versions"]
    assert [one["content"] for one in versions] == ["The otter swims", "It dives"]
    assert rid in [one["rid"] for one in asked(kernel, "mem", "list")["records"]]
    assert asked(kernel, "mem", "stat")["name"] == "home"
    assert asked(kernel, "mem", "delete", rid) == {"deleted": rid}
    assert engram(kernel, "mem", "read", rid, check=False).returncode == 2
    piped = engram(kernel, "mem", "write", "-", stdin="from a pipe").stdout.split()[0]
    assert engram(kernel, "mem", "read", piped).stdout.startswith("from a pipe\n")


def test_spaces_are_apart_and_can_be_shared(kernel: RunningKernel) -> None:
    engram(kernel, "--space", "apart", "mem", "write", "a secret heron")
    assert "heron" not in engram(kernel, "mem", "search", "heron").stdout
    assert "heron" in engram(kernel, "--space", "apart", "mem", "search", "heron").stdout
    apid = asked(kernel, "spawn", "--name", "friend", "echo")["apid"]
    granted = asked(kernel, "--space", "apart", "mem", "share", "-w", "friend")["grant"]
    assert (granted["apid"], granted["access"]) == (apid, "write")
    assert "shared with" in engram(kernel, "--space", "apart", "mem", "stat").stdout
    engram(kernel, "--space", "apart", "mem", "revoke", "friend")
    again = engram(kernel, "--space", "apart", "mem", "revoke", "friend", check=False)
    assert "ENOENT" in again.stderr
    engram(kernel, "kill", "-s", "KILL", str(apid))


def test_processes_messages_and_traces(kernel: RunningKernel) -> None:
    apid = asked(kernel, "spawn", "--name", "parrot", "echo")["apid"]
    listed = {one["apid"]: one for one in asked(kernel, "ps")["processes"]}
    assert listed[apid]["name"] == "parrot"
    assert "parrot" in engram(kernel, "ps").stdout
    assert engram(kernel, "send", "--reply", "30", "parrot", "hello").stdout == "hello\n"
    answer = asked(kernel, "send", "--reply", "30", "parrot", '{"n": [1]}')
    assert answer["body"] == {"n": [1]}
    assert "said 'hello'" in engram(kernel, "logs", "parrot").stdout
    assert asked(kernel, "output", "parrot")["apid"] == apid
    traced = asked(kernel, "strace", "parrot")["lines"]
    assert "ipc.recv" in {line["call"] for line in traced}
    assert "ipc.send(" in engram(kernel, "strace", "-e", "ipc.send", "parrot").stdout
    assert f"[{apid}]" in engram(kernel, "strace", "parrot").stdout
    assert asked(kernel, "ps", "parrot")["apid"] == apid
    engram(kernel, "kill", "parrot")
    ended = json.loads(engram(kernel, "wait", str(apid), "--json", check=False).stdout)
    assert (ended["status"], ended["reason"]) == (143, "signal TERM")
    assert engram(kernel, "kill", "parrot", check=False).returncode == 2


@pytest.mark.parametrize(
    "words", [["info"], ["stats"], ["sessions"], ["dmesg"], ["top", "--once"], ["ready"]]
)
def test_each_shows_one_object_or_a_table(kernel: RunningKernel, words: list[str]) -> None:
    assert asked(kernel, *words)
    assert engram(kernel, *words).stdout.strip()


def test_any_syscall_by_name(kernel: RunningKernel) -> None:
    shown = engram(kernel, "call", "proc.list", '{"all": true}').stdout
    assert json.loads(shown)["processes"][0]["apid"] == 1
    assert engram(kernel, "call", "proc.lst", check=False).returncode == 2
    assert "wrong" not in engram(kernel, "call", "mem.read", '{"limit": 0}', check=False).stdout


def test_without_a_model_it_says_how_to_attach_one(kernel: RunningKernel) -> None:
    for words in (["llm", "generate", "hi"], ["llm", "count", "hi"]):
        done = engram(kernel, *words, check=False)
        assert (done.returncode, "ENODEV" in done.stderr) == (4, True)


def test_embedding_shows_similarities(kernel: RunningKernel) -> None:
    vectors = asked(kernel, "llm", "embed", "one", "two")["vectors"]
    assert [len(vector) for vector in vectors] == [128, 128]
    assert engram(kernel, "llm", "embed", "one", "one").stdout.count("1.000") == 2


def test_interrupting_run_interrupts_the_program(kernel: RunningKernel, tmp_path: Path) -> None:
    (tmp_path / "patient.py").write_text(
        "import trio\n"
        "async def main(agent):\n"
        "    agent.print('waiting')\n"
        "    try:\n"
        "        await trio.sleep_forever()\n"
        "    finally:\n"
        "        agent.print('cleaned up')\n"
    )
    process = subprocess.Popen(
        command(kernel.data, "run", "--name", "patient", str(tmp_path / "patient.py")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=BOUND)
    assert out == "cleaned up\n"
    assert process.returncode == 130, errors
    assert "signal INT" in errors


def following(processes: list[ProcessInfo]) -> bool:
    return any(one.inflight for one in processes if one.kind == "session")


def test_following_streams_until_interrupted(kernel: RunningKernel) -> None:
    process = subprocess.Popen(
        command(kernel.data, "strace", "-f", "-e", "sys.clock", "--json"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    with kernel.client() as client:
        until(lambda: following(client.call(ListCall()).processes))
        client.sys.clock()
    assert json.loads(process.stdout.readline())["call"] == "sys.clock"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=BOUND)
    assert process.returncode == 130


def test_a_session_ends_and_its_jobs_go_on(kernel: RunningKernel) -> None:
    apid = asked(kernel, "run", "-d", "--name", "stays", "echo")["apid"]
    with kernel.client() as client:
        until(lambda: client.proc.info(target=apid).parent == 1)
    engram(kernel, "kill", "stays")


def test_boot_detached_and_halt(tmp_path: Path) -> None:
    data = tmp_path / "data"
    words = ["boot", "--detach", "--embedder", "none"]
    first = subprocess.run(
        command(data, *words), capture_output=True, text=True, timeout=BOUND, cwd=ROOT, check=True
    )
    assert f"serves {data}" in first.stdout
    second = subprocess.run(
        command(data, *words), capture_output=True, text=True, timeout=BOUND, cwd=ROOT, check=False
    )
    assert second.returncode in (2, 3, 4)
    assert second.stderr.startswith("engram: ")
    pid = int((data / "run" / "kernel.pid").read_text())
    stopped = subprocess.run(
        command(data, "halt"), capture_output=True, text=True, timeout=BOUND, cwd=ROOT, check=True
    )
    assert f"kernel {pid} stopped" in stopped.stdout
    assert not alive(pid)


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    done = subprocess.run(
        command(tmp_path / "data", "boot", "--detach"),
        capture_output=True,
        text=True,
        timeout=BOUND,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr.startswith("engram: EIO: cannot use the data directory")


def test_a_kernel_that_cannot_start_says_why(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "data", "boot", "--detach", "--nosuch-setting"),
        capture_output=True,
        text=True,
        timeout=BOUND,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 4
    assert "nosuch-setting" in done.stderr
