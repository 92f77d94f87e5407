"""What a crash leaves of the life of records, on a real kernel, and the commands for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from syscalls.errors import ENOENT
from tests.harness import BOUND, ROOT, RunningKernel, running


def engram(kernel: RunningKernel, *words: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "userland.cli", *words],
        cwd=ROOT,
        env=os.environ | {"ENGRAM_DATA": str(kernel.data)},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_states_survive_kill_minus_9(tmp_path: Path) -> None:
    with running(tmp_path / "data") as kernel:
        with kernel.client() as client:
            client.sys.session(space="life")
            rids = [
                client.mem.write(segment="semantic", content=f"note {n} " * 30).rid
                for n in range(5)
            ]
            client.mem.pin(rid=rids[0])
            client.mem.archive(rid=rids[1])
            client.mem.forget(rid=rids[2])
            client.mem.search(query="note 3")
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            client.sys.session(space="life")
            assert client.mem.read(rid=rids[0]).records[0].state == "frozen"
            assert client.mem.read(rid=rids[1]).records[0].state == "archived"
            with pytest.raises(ENOENT):
                client.mem.read(rid=rids[2])
            assert client.mem.stat().records == 3
            client.mem.undo(rid=rids[1])
            client.mem.undo(rid=rids[2])
            for number, rid in enumerate(rids):
                assert client.mem.read(rid=rid).records[0].content == f"note {number} " * 30
            assert client.mem.stat().records == 5
            found = {hit.rid for hit in client.mem.search(query="note", k=10).hits}
            assert found == set(rids)


def test_the_commands(tmp_path: Path) -> None:
    with running(tmp_path / "data") as kernel:
        rid = json.loads(engram(kernel, "--json", "mem", "write", "Ann likes green tea"))["rid"]
        engram(kernel, "mem", "write", "Ann has a cat named Pixel")
        assert rid in engram(kernel, "mem", "pin", "green", "tea")
        assert f"kept, it is pinned: {rid}" in engram(kernel, "mem", "forget", "-n", "Ann")
        assert rid in engram(kernel, "mem", "unpin", rid)
        said = engram(kernel, "mem", "forget", rid)
        run = said.strip().split()[-1]
        assert "forgotten" in engram(kernel, "mem", "why", rid)
        assert rid in engram(kernel, "mem", "undo", run)
        assert "archived" in engram(kernel, "mem", "archive", rid)
        engram(kernel, "mem", "undo", rid)
        assert "0 records" not in engram(kernel, "mem", "tidy", "-n", "--room", "1")
        assert "put back" in engram(kernel, "mem", "why", rid)
        assert "Pixel" in engram(kernel, "mem", "why", "a cat named Pixel")
