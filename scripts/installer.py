"""Install what EngramOS needs into ``.venv``, by steps that can be interrupted.

Each step looks into the environment and installs only what is missing there, so a set-up
that was cut off goes on where it stopped, and a changed ``pyproject.toml`` costs seconds.
It runs before anything is installed: the standard library is all there is.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

UNFIT_ON_CPU = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Their builds need not match a CPU torch, and then ``import transformers`` fails."""

ADVICE = {
    "No space left on device": "The disk is full: a CPU set-up needs 4 GB, a CUDA one 15 GB.",
    "CERTIFICATE_VERIFY_FAILED": "The package index's certificate is not trusted: set PIP_CERT.",
    "Read timed out": "The package index is slow: set PIP_DEFAULT_TIMEOUT=180.",
    "connection broken by": "The package index cannot be reached: see `pip config list`.",
    "No matching distribution": "The package index has no build of that for this machine.",
    "ResolutionImpossible": "pyproject.toml and constraints.txt ask for versions that clash.",
    "Permission denied": "This folder must be writable for you.",
}
"""What a word in pip's output means for the user; causes stand before their effects."""


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def normal(name: str) -> str:
    """The one spelling of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    """The distribution that a requirement is about: ``torch`` of ``torch==2.13.0``."""
    return normal(re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0])


def pins(text: str) -> dict[str, str]:
    """Name and version of each ``name==version`` line of a constraints file."""
    found = {}
    for line in text.splitlines():
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals:
            found[normal(name)] = version
    return found


def choose_variant(env: Mapping[str, str], *, control: str = "/dev/nvidiactl") -> str:
    """``cuda`` where an NVIDIA driver answers, else ``cpu``; the caller may insist."""
    asked = env.get("ENGRAM_VARIANT", "")
    if asked in ("cpu", "cuda"):
        return asked
    if asked:
        raise SetupError(f"ENGRAM_VARIANT is {asked!r}; it can be cpu or cuda.")
    if os.path.exists(control):
        return "cuda"
    tool = shutil.which("nvidia-smi", path=env.get("PATH"))
    if tool is None:
        return "cpu"
    try:
        probe = subprocess.run([tool, "-L"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if probe.returncode == 0 and b"GPU" in probe.stdout else "cpu"


def reachable(index: str) -> bool:
    """Whether an index answers at all; pip would try for minutes before it gave up."""
    if "://" not in index or index.startswith("file:"):
        return True
    try:
        urllib.request.urlopen(index, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500  # it answered; whether it has the build is for pip to find out
    except urllib.error.URLError as error:
        return "CERTIFICATE" in str(error.reason)  # pip may know a certificate that we do not
    except (OSError, ValueError):
        return False
    return True


class Console:
    """One line a step: what it is, what it is doing (on a terminal), how long it took."""

    WIDTH = 34

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.number = 0
        self.live = sys.stdout.isatty()
        self.head = ""
        self.open = False
        self.started = 0.0

    def begin(self, title: str) -> None:
        """Open the line of the next step."""
        self.number += 1
        self.started = time.monotonic()
        self.head = f"  [{self.number}/{self.steps}] {title:<{self.WIDTH}}"
        print(self.head, end="", flush=True)
        self.open = True

    def tick(self, doing: str) -> None:
        """Show what the step is doing now; for terminals."""
        room = max(0, shutil.get_terminal_size().columns - len(self.head) - 10)
        seconds = time.monotonic() - self.started
        print(f"\r{self.head}{seconds:5.0f} s  {doing[:room]}\x1b[K", end="", flush=True)

    def end(self, result: str = "") -> None:
        """Close the line with the seconds that it took, or with a word in their place."""
        shown = result or f"{time.monotonic() - self.started:5.0f} s"
        line = f"\r{self.head}{shown}\x1b[K" if self.live else shown
        print(line if self.open or self.live else self.head + shown, flush=True)
        self.open = False

    def note(self, text: str) -> None:
        """Say something that the user should know now; an open line is written again later."""
        if self.open:
            print()
            self.open = False
        print(f"        {text}", flush=True)


class Setup:
    """The set-up of one checkout for one variant."""

    def __init__(self, root: Path, env: Mapping[str, str], key: str) -> None:
        self.root = root
        self.env = env
        self.key = key
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self.stamp = self.venv / "setup.stamp"
        self.log = self.venv / "setup.log"
        self.console = Console(steps=6)
        self.variant = "cpu"
        self.lock = -1

    # What is wanted, and what is there

    def stamped(self) -> list[str]:
        """The lines of the stamp: key, root, variant. Empty if there is none."""
        try:
            return self.stamp.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []

    def infos(self) -> Iterator[Path]:
        """The ``dist-info`` folders of the environment."""
        return self.venv.glob("lib/*/site-packages/*.dist-info")

    def installed(self) -> dict[str, str]:
        """Distributions in the environment and their versions, read off folder names."""
        split = (info.name[: -len(".dist-info")].rpartition("-") for info in self.infos())
        return {normal(name): version for name, _, version in split}

    def missing(self, requirements: Iterable[str]) -> list[str]:
        """Those requirements that are absent, or there in another version than pinned."""
        there = self.installed()
        pinned = pins((self.root / "constraints.txt").read_text(encoding="utf-8"))
        absent = []
        for requirement in requirements:
            name = name_of(requirement)
            version = there.get(name, "").partition("+")[0]
            if not version or version != (pinned | pins(requirement)).get(name, version):
                absent.append(requirement)
        return absent

    def requirements(self) -> tuple[list[str], dict[str, list[str]]]:
        """The dependencies and the extras that pyproject.toml declares."""
        with (self.root / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)["project"]
        return project["dependencies"], project["optional-dependencies"]

    # Running things

    def execute(self, command: list[str]) -> int:
        """Run a command with its output in the log and its latest line on the terminal."""
        env = {key: self.env[key] for key in self.env if key not in ("PYTHONPATH", "PYTHONHOME")}
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            child = subprocess.Popen(
                command,
                cwd=self.root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self.lock] if self.lock >= 0 else [],  # see alone()
            )
            try:
                while True:
                    try:
                        return child.wait(timeout=0.5)
                    except subprocess.TimeoutExpired:
                        if self.console.live:
                            self.console.tick(self.tail(1))
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other set-ups of this checkout out, while this process or its pip lives."""
        self.lock = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("Another set-up of this checkout is running; waiting for it.", flush=True)
                fcntl.flock(self.lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(self.lock)
            self.lock = -1

    def tail(self, lines: int) -> str:
        """The last lines of the log."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 8000))
            text = log.read().decode(errors="replace").rstrip()
        return "\n".join(text.splitlines()[-lines:]).strip()

    def pip(self, *arguments: str) -> int:
        """Run the environment's own pip."""
        quiet = ("--no-input", "--disable-pip-version-check", "--no-color")
        return self.execute([str(self.python), "-I", "-m", "pip", *quiet, *arguments])

    def install(self, *arguments: str) -> int:
        """``pip install`` of the versions in constraints.txt."""
        common = ("--progress-bar", "off", "--prefer-binary", "-c", "constraints.txt")
        return self.pip("install", *common, *arguments)

    def check(self, status: int) -> None:
        """Turn a failed command into an error with the end of its log and some advice."""
        if status == 0:
            return
        self.console.end("failed")
        advice = next((ADVICE[sign] for sign in ADVICE if sign in self.tail(40)), "A step failed.")
        raise SetupError(
            f"{advice}\n\n{self.tail(15)}\n\n"
            f"All of it is in {self.log}.\nThe same command again goes on from here."
        )

    def write_stamp(self, key: str) -> None:
        """Say for which key, place and variant the environment is complete."""
        draft = self.stamp.with_suffix(".new")
        draft.write_text(f"{key}\n{self.root}\n{self.variant}\n", encoding="utf-8")
        draft.replace(self.stamp)

    # The steps

    def environment(self) -> None:
        """Make the virtual environment, unless a usable one of this Python is there."""
        wanted = ".".join(map(str, sys.version_info[:2]))
        self.console.begin(f"virtual environment, Python {wanted}")
        stale = self.stale(wanted)
        if stale:
            self.stamp.unlink(missing_ok=True)
            made = subprocess.run(
                [sys.executable, "-I", "-m", "venv", "--clear", str(self.venv)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            self.venv.mkdir(exist_ok=True)
            self.log.write_bytes(made.stdout)
            self.check(made.returncode)
        self.write_stamp("unfinished")
        for info in self.infos():
            if not (info / "RECORD").exists():  # an install that was cut off half way
                shutil.rmtree(info)
        self.console.end("" if stale else "there")

    def stale(self, wanted: str) -> bool:
        """Whether the environment is absent, broken, moved, or made for something else."""
        try:
            text = (self.venv / "pyvenv.cfg").read_text(encoding="utf-8")
        except OSError:
            return True
        version = re.search(r"^version\s*=\s*(\d+\.\d+)", text, re.MULTILINE)
        if version is None or version[1] != wanted:
            return True
        stamped = self.stamped()
        if stamped and stamped[1:] != [str(self.root), self.variant]:
            return True
        if self.variant == "cuda" and self.installed().get("torch", "").endswith("+cpu"):
            return True
        try:
            pip = [str(self.python), "-I", "-m", "pip", "--version"]
            return subprocess.run(pip, capture_output=True, check=False).returncode != 0
        except OSError:
            return True

    def torch(self, requirement: str) -> None:
        """Install torch first, so that nothing else decides which build of it comes."""
        self.console.begin(f"{requirement}, {self.variant} build")
        cpu_builds_apart = self.variant == "cpu" and sys.platform == "linux"
        index = self.env.get("TORCH_INDEX", "") if cpu_builds_apart else ""
        there = self.installed().get("torch", "")
        if not self.missing([requirement]) and (not index or there.endswith("+cpu")):
            self.console.end("there")
            return
        status = self.install(f"{requirement}+cpu" if cpu_builds_apart else requirement)
        if status and index:
            if reachable(index):
                status = self.install(f"{requirement}+cpu", "--extra-index-url", index)
            else:
                self.console.note("TORCH_INDEX cannot be reached.")
        if status and cpu_builds_apart and "No matching distribution" in self.tail(10):
            self.console.note("The package index has no CPU build of torch, so the default build")
            self.console.note("comes, with several GB of CUDA that stay unused. To avoid that, set")
            self.console.note("TORCH_INDEX to PyTorch's own CPU wheel index and run this again.")
            status = self.install(requirement)
        self.check(status)
        self.console.end()

    def packages(self, title: str, requirements: list[str]) -> None:
        """Install those of the requirements that are missing, in one resolution."""
        self.console.begin(title)
        missing = self.missing(requirements)
        if missing:
            self.check(self.install(*missing))
        self.console.end("" if missing else "there")

    def remove_unfit(self) -> None:
        """Take out what came along and does not fit a CPU torch (or is dead weight there)."""
        self.console.begin("unfit builds removed")
        present = [name for name in UNFIT_ON_CPU if name in self.installed()]
        unfit = present if self.variant == "cpu" else []
        if unfit:
            self.check(self.pip("uninstall", "--yes", *unfit))
        self.console.end("" if unfit else "none")

    def engram(self) -> None:
        """Install this checkout in place: a path entry and the ``engram`` command."""
        self.console.begin("engram itself, in place")
        self.check(self.install("--no-deps", "--no-build-isolation", "--editable", "."))
        self.console.end()

    def run(self) -> None:
        """All steps, unless a set-up that we waited for has done them."""
        with self.alone():
            if self.stamped()[:1] != [self.key]:
                self.steps()

    def steps(self) -> None:
        """All steps, then the stamp."""
        started = time.monotonic()
        self.variant = choose_variant(self.env)
        print(f"Setting EngramOS up in {self.venv} ({self.variant})", flush=True)
        core, extras = self.requirements()
        self.environment()
        self.torch(next(item for item in core if name_of(item) == "torch"))
        readers = extras.get("documents", [])
        self.packages("engine and libraries", core + readers + self.engine(extras))
        self.packages("development tools", extras["dev"])
        self.remove_unfit()
        self.engram()
        self.write_stamp(self.key)
        print(f"Ready in {time.monotonic() - started:.0f} s.", flush=True)

    def engine(self, extras: Mapping[str, list[str]]) -> list[str]:
        """vLLM in the build that fits the machine; none where its torch is not to be had."""
        fits = self.installed()["torch"].endswith("+cpu")
        if self.variant == "cpu" and sys.platform == "linux" and not fits:
            self.console.note("vLLM needs the CPU build of torch and is left out; models run")
            self.console.note("on transformers.")
            return []
        return extras[self.variant]


def check_interpreter() -> None:
    """Say clearly what this Python lacks."""
    try:
        import ensurepip
        import venv
    except ImportError as error:
        raise SetupError(
            f"{sys.executable} cannot make virtual environments ({error}).\n"
            "On Debian and Ubuntu: apt install python3-venv"
        ) from None
    del ensurepip, venv


def interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM end a set-up the way control-C does, with its pip."""
    raise KeyboardInterrupt


def install(root: Path, env: Mapping[str, str], key: str) -> int:
    """Set the checkout up and stamp it with the key; the exit status."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        check_interpreter()
        Setup(root, env, key).run()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0
