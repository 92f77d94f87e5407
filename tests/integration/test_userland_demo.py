"""The demonstration, as `make run` gives it to whoever has no terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, processes_of


def demo(*words: str, data: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "userland.cli", "demo", "--dir", str(data), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.model
def test_the_demonstration_holds(tmp_path: Path) -> None:
    done = demo("--auto", data=tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in ("EPERM", "kill -9", "is gone", "喜欢简洁代码风格", "s brought back", "was real"):
        assert shown in done.stdout
    assert processes_of(tmp_path / "demo") == []


def test_a_demonstration_that_fails_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo("--embedder", str(tmp_path / "no-such-model"), data=tmp_path / "demo")
    assert done.returncode != 0
    assert "the demonstration failed" in done.stderr
    assert processes_of(tmp_path / "demo") == []
