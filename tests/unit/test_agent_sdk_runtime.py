"""What a program's name stands for, where a system lives, and the stubs."""

import os
import socket
from pathlib import Path

import pytest

from syscalls.errors import EINVAL, ENOENT, EPERM
from syscalls.table import TABLE
from userland import place, runtime, stubgen, stubs

MAIN = "async def main(agent):\n    return 1\n"


def test_a_bare_name_is_an_example_agent() -> None:
    found = runtime.resolve("scribe", "")
    assert (found.kind, found.program) == ("python", "userland.agents.scribe")


def test_every_example_agent_resolves() -> None:
    assert {"echo", "scribe", "team", "librarian"} <= set(runtime.examples())
    for name in runtime.examples():
        assert runtime.resolve(name, "/").program == f"userland.agents.{name}"


def test_a_file_is_found_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MAIN)
    for name in ("mine.py", "./mine.py", str(tmp_path / "mine.py")):
        assert runtime.resolve(name, str(tmp_path)).program == str(tmp_path / "mine.py")


def test_modules_are_found_without_importing_them(tmp_path: Path) -> None:
    package = tmp_path / "outer" / "inner"
    package.mkdir(parents=True)
    (tmp_path / "outer" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "agent.py").write_text(MAIN)
    (tmp_path / "plain.py").write_text(MAIN)
    assert runtime.resolve("outer.inner.agent", str(tmp_path)).program == "outer.inner.agent"
    assert runtime.resolve("plain", str(tmp_path)).program == "plain"


def test_executables_are_executed(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(EPERM, match="not executable"):
        runtime.resolve("./tool", str(tmp_path))
    program.chmod(0o755)
    found = runtime.resolve("./tool", str(tmp_path))
    assert (found.kind, found.program) == ("exec", str(program))
    assert runtime.resolve("sh", "").kind == "exec"


@pytest.mark.parametrize(
    "name",
    [
        "nosuch", "no.such", "./nosuch.py", "/no/such", "a b", "é", "~nobody-at-all/x.py",
        "~nobody-at-all/x.md", *("a" * 300 + tail for tail in ("", ".b", ".py", ".md", "/x")),
    ],
)  # fmt: skip
def test_what_is_not_there_is_enoent(name: str, tmp_path: Path) -> None:
    with pytest.raises(ENOENT):
        runtime.resolve(name, str(tmp_path))


def test_what_cannot_be_an_agent_is_einval(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(EINVAL, match="no main"):
        runtime.resolve("empty.py", str(tmp_path))
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(EINVAL, match="not a file"):
        runtime.resolve("folder.py", str(tmp_path))
    with pytest.raises(EINVAL, match="zero byte"):
        runtime.resolve("a\0b", str(tmp_path))


@pytest.mark.parametrize("name", ["it.py", "it.md"])
def test_a_file_without_an_end_is_not_waited_for(name: str, tmp_path: Path) -> None:
    ask = runtime.describe if name.endswith(".md") else runtime.resolve
    os.mkfifo(tmp_path / name)
    with pytest.raises(EINVAL, match="not a file"):
        ask(name, str(tmp_path))
    (tmp_path / name).unlink()
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(EINVAL, match="longer than"):
        ask(name, str(tmp_path))


def test_a_program_is_loaded_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(MAIN)
    assert runtime.load(str(tmp_path / "one.py")).__name__ == "main"
    (tmp_path / "two.py").write_text("def main(agent): return 1\n")
    with pytest.raises(EINVAL, match="async def main"):
        runtime.load(str(tmp_path / "two.py"))


# --- place


def test_the_data_directory_is_chosen_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_DATA", "/from/variable")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert place.data_directory("/given") == Path("/given")
    assert place.data_directory() == Path("/from/variable")
    monkeypatch.delenv("ENGRAM_DATA")
    assert place.data_directory() == Path("/xdg/engram")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert place.data_directory() == Path("/home/x/.local/share/engram")


def test_nobody_listening_says_how_to_boot(tmp_path: Path) -> None:
    with pytest.raises(place.NotRunning) as caught:
        place.connect(tmp_path)
    assert "engram --data" in caught.value.hint
    assert caught.value.code == "ENODEV"


@pytest.mark.parametrize("folder", ["short", "l" * 120])
def test_connects_however_long_the_path_is(folder: str, tmp_path: Path) -> None:
    data = tmp_path / folder
    (data / "run").mkdir(parents=True)
    directory = os.open(data / "run", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/{place.SOCKET}")
        listener.listen()
        place.connect(data).close()
    os.close(directory)


# --- stubs


def test_the_types_of_the_stubs_are_fresh() -> None:
    assert stubgen.PATH.read_text() == stubgen.render(), "run: python -m userland.stubgen"


def test_there_is_a_stub_for_every_call() -> None:
    made = stubs.Stubs()
    for entry in TABLE:
        method = getattr(getattr(made, entry.group), stubs.method_name(entry.verb))
        assert method.__doc__ == entry.call.__doc__
