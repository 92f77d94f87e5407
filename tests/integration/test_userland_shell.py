"""The shell against a real kernel: piped, at a terminal, and several at once."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import BOUND, ROOT, RunningKernel, running
from tests.terminal import terminal

PROMPT = r"engram(:\d+)?>"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    with running(tmp_path_factory.mktemp("shell") / "data") as started:
        yield started


def command(kernel: RunningKernel, *words: str) -> list[str]:
    data = str(kernel.data)
    return [sys.executable, "-m", "userland.cli", "--data", data, "shell", *words]


def piped(kernel: RunningKernel, script: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(kernel, *words),
        input=script,
        capture_output=True,
        text=True,
        timeout=BOUND,
        cwd=ROOT,
        check=False,
    )


def test_lines_from_a_pipe_run_and_the_last_status_counts(kernel: RunningKernel) -> None:
    done = piped(kernel, "session\nmem write the tea is green\nmem search tea\n")
    assert done.returncode == 0, done.stderr
    assert "the tea is green" in done.stdout
    done = piped(kernel, "kill 999999\npwd\n")
    assert (done.returncode, "ESRCH" in done.stderr) == (0, True)
    done = piped(kernel, "kill 999999\npwd\n", "-e")
    assert (done.returncode, done.stdout) == (2, "")
    assert piped(kernel, "", "-c", "ps").stdout.startswith("APID")


def test_words_that_are_no_command_are_answered_readably(kernel: RunningKernel) -> None:
    done = piped(kernel, "strce -n 5\n")
    assert done.returncode != 0
    assert "did you mean 'strace'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_shell_is_a_session_with_its_own_space(kernel: RunningKernel) -> None:
    first = piped(kernel, "mem write a private plover\nsessions\n")
    assert "shell-" in first.stdout
    second = piped(kernel, "mem search plover\nsessions\n")
    assert "a private plover" not in second.stdout
    named = piped(kernel, "mem write a public plover\n", "--space", "birds")
    assert named.returncode == 0
    assert "a public plover" in piped(kernel, "mem search plover\n", "--space", "birds").stdout


def test_a_shell_writes_into_a_new_space_and_keeps_its_own(kernel: RunningKernel) -> None:
    done = piped(
        kernel,
        "mem write at home\nmem write --space attic an old lamp\n"
        "mem write --space attic a chair\nmem list --space attic\nmem list\n"
        "mem write --space 999999 nowhere\n",
    )
    listed = done.stdout.split("CONTENT\n")[1:]
    assert ("an old lamp" in listed[0], "a chair" in listed[0]) == (True, True), done
    assert ("at home" in listed[1], "lamp" in listed[1]) == (True, False)
    assert (done.returncode, "ENOENT" in done.stderr) == (2, True)


def test_jobs_from_a_script(kernel: RunningKernel) -> None:
    done = piped(
        kernel,
        "run --name bee ticker 0.05 &\njobs\nps bee\nkill bee\nwait bee\njobs\n",
    )
    assert re.search(r"^\[1\] bee is process \d+$", done.stdout, re.M)
    assert re.search(r"^\[1\] \d+ +running +run --name bee ticker 0.05$", done.stdout, re.M)
    assert re.search(r"^\[1\] \d+ +done .*TERM", done.stdout, re.M)


def test_job_control_at_a_terminal(kernel: RunningKernel) -> None:
    with terminal(command(kernel)) as shell:
        shell.until(PROMPT)
        shell.type("run ticker 0.1\r")
        shell.until("tick 2 ")
        shell.type("\x1a")
        shell.until(r"\[1\] \d+ +stopped")
        shell.until(PROMPT)
        shell.type("jobs\r")
        shell.until(r"\[1\] \d+ +stopped")
        shell.type("fg\r")
        shell.until(r"tick [3-9] ")
        shell.type("\x03")
        shell.until("signal INT")
        shell.until(PROMPT)
        shell.type("jobs\r")
        shell.until(PROMPT)
        shell.type("exit\r")


def test_a_terminal_shows_tables_and_survives_a_reboot(tmp_path: Path) -> None:
    with running(tmp_path / "data") as kernel, terminal(command(kernel)) as shell:
        shell.until(PROMPT)
        shell.type("ps\r")
        shell.until(r"1 +init +READY")
        shell.until(PROMPT)
        kernel.kill()
        shell.type("ps\r")
        shell.until("EIO")
        shell.until(PROMPT)
        shell.type("ps\r")
        shell.until("ENODEV")
        shell.until(PROMPT)
        kernel.reboot()
        shell.type("ps\r")
        shell.until(r"1 +init +READY")
        shell.until(PROMPT)
        shell.type("\x04")
    assert (tmp_path / "data" / "shell_history").stat().st_mode & 0o777 == 0o600


def test_completion_at_a_terminal(kernel: RunningKernel) -> None:
    with terminal(command(kernel)) as shell:
        shell.until(PROMPT)
        shell.type("sess\t\r")
        shell.until(r"session")
        shell.type("exit\r")
