"""The shell's own part: lines, jobs, completion. The rest needs a kernel."""

import io
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from syscalls.errors import EINVAL, ENOENT
from userland.commands import Usage
from userland.screen import PlainScreen
from userland.shell import shell as shell_module
from userland.shell.complete import ShellCompleter
from userland.shell.jobs import Jobs
from userland.shell.repl import script
from userland.shell.shell import Leave, Shell


def make(tmp_path: Path) -> tuple[Shell, io.StringIO, io.StringIO]:
    out, errors = io.StringIO(), io.StringIO()
    return Shell(tmp_path, screen=PlainScreen(out, errors)), out, errors


def test_words_and_the_ampersand() -> None:
    assert shell_module._split("run x 'a b'&") == ["run", "x", "a b", "&"]
    assert shell_module._background(["run", "x", "&"]) == ["run", "-d", "x"]
    assert shell_module._background(["run", "-d", "x", "&"]) == ["run", "-d", "x"]
    assert shell_module._background(["ps"]) == ["ps"]
    with pytest.raises(EINVAL, match="background"):
        shell_module._background(["ps", "&"])
    with pytest.raises(Usage):
        shell_module._split("run 'x")


def test_without_a_kernel_lines_fail_readably(tmp_path: Path) -> None:
    shell, _, errors = make(tmp_path)
    assert shell.run("ps") == 4
    assert "boot" in errors.getvalue()
    assert shell.run("run 'x") == 2
    assert "Traceback" not in errors.getvalue()


def test_builtins_work_without_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    shell, out, _ = make(tmp_path)
    assert shell.run("help") == 0
    assert "mem search" in out.getvalue()
    assert shell.run("cd sub") == 0
    assert shell.run("pwd") == 0
    assert out.getvalue().rstrip().endswith("sub")
    assert shell.run("cd nosuch") == 2
    assert shell.run("jobs") == 0
    assert shell.run("fg") == 2
    with pytest.raises(Leave):
        shell.run("exit")


def test_comments_and_blank_lines_keep_the_status(tmp_path: Path) -> None:
    shell, _, _ = make(tmp_path)
    assert shell.run("cd nosuch") == 2
    assert shell.run("") == 2
    assert shell.run("# words") == 2


def test_a_script_stops_at_the_first_error_only_when_asked(tmp_path: Path) -> None:
    shell, out, _ = make(tmp_path)
    assert script(shell, ["cd nosuch", "pwd"], stop_at_error=True) == 2
    assert out.getvalue() == ""
    assert script(shell, ["cd nosuch", "pwd", "exit", "cd nosuch"], stop_at_error=False) == 0
    assert out.getvalue() != ""


def test_jobs_are_numbered_from_the_lowest_free() -> None:
    jobs = Jobs()
    first, second = jobs.add(10, "run a"), jobs.add(11, "run b")
    assert [job.number for job in jobs] == [1, 2]
    assert jobs.pick(None) is second
    assert jobs.pick("%1") is first
    jobs.remove(first)
    assert jobs.add(12, "run c").number == 1
    with pytest.raises(ENOENT):
        jobs.pick("7")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("st", {"stats", "strace"}),
        ("mem s", {"search", "share", "snapshot", "stat"}),
        ("run ec", {"echo"}),
        ("mem write --t", {"--tag", "--ttl"}),
        ("help strac", {"strace"}),
        ("fg", {"fg"}),
    ],
)
def test_completion(line: str, wanted: set[str], tmp_path: Path) -> None:
    shell, _, _ = make(tmp_path)
    found = ShellCompleter(shell).get_completions(Document(line), CompleteEvent())
    assert {completion.text for completion in found} == wanted
