"""``engram tool ...`` and ``engram mem context`` as a person types them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import BOUND, ROOT, RunningKernel, running

SERVER = [sys.executable, str(ROOT / "tests" / "agents" / "mcp_server.py")]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    with running(tmp_path_factory.mktemp("tools") / "data") as started:
        yield started


def engram(kernel: RunningKernel, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), *words],
        capture_output=True,
        text=True,
        timeout=BOUND,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def asked(kernel: RunningKernel, *words: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(engram(kernel, "--json", *words))
    return value


def test_a_server_is_mounted_and_its_tools_are_called(kernel: RunningKernel) -> None:
    assert "dev.add" in engram(kernel, "tool", "mount", "--name", "dev", "--", *SERVER)
    listed = engram(kernel, "tool", "list")
    assert "dev.add" in listed
    assert "Add two integers." in listed
    assert "5" in engram(kernel, "tool", "call", "dev.add", "a=2", "b=3")
    assert asked(kernel, "tool", "call", "dev.add", '{"a": 1, "b": 1}')["value"] == {"sum": 2}
    for _ in range(2):
        said = engram(kernel, "tool", "call", "dev.fail", "why=no such card", status=1)
        assert "failed: Error: no such card" in said
    refused = engram(kernel, "tool", "call", "dev.fail", "why=no such card", status=2)
    assert "2 times in a row" in refused
    said = engram(kernel, "tool", "recall", "-n", "dev.fail", "--args", '{"why": "no such card"}')
    assert "risk 0." in said
    assert "2 times in a row" in said
    forced = engram(kernel, "tool", "call", "--force", "dev.fail", "why=no such card", status=1)
    assert "failed 2 of 2 times" in forced
    assert "names no argument" in engram(kernel, "tool", "call", "dev.add", "2", status=2)
    engram(kernel, "tool", "unmount", "dev")
    assert asked(kernel, "tool", "list")["tools"] == []


def test_the_context_is_shown_with_its_size(kernel: RunningKernel) -> None:
    engram(kernel, "mem", "write", "-s", "working", "the kettle is on")
    said = engram(kernel, "mem", "context", "--budget", "300", "what is on?")
    assert "the kettle is on" in said
    assert "tokens, estimated" in said
    assert asked(kernel, "mem", "context")["shown"]
