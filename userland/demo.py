"""The demonstration: a real system, in a fresh directory, from boot to recovery.

Every line after a prompt is what the real command answered; each step is also checked, and
the first one that does not hold ends the demonstration with a failure.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from syscalls.calls.llm import Intent
from syscalls.calls.proc import ListCall
from syscalls.calls.sys import Info
from syscalls.errors import EngramError
from userland.bin.boot import alive, running, start_kernel
from userland.bin.interactive import make_shell, run_shell
from userland.context import Context
from userland.screen import PlainScreen, Rows, Screen
from userland.shell.shell import Shell

PATIENCE = 20.0

LAUNCH = "We open the new observatory to the public on the ninth of May."
NOTES = {
    "ada": [LAUNCH, "The dome's motor squeaks below zero degrees."],
    "ben": ["Tickets cost eight euros, children come in free.", "The car park holds forty cars."],
    "chen": ["喜欢简洁代码风格", "Chen is on call for the telescope every Thursday."],
}
QUESTION = "when can visitors come for the first time?"

INTENTS = [
    ("remember that the telescope mirror was cleaned in April", "mem.write", "April"),
    ("what did I say about the mirror?", "mem.search", "was cleaned in April"),
    ("记住：周四下午有一个班的学生来参观", "mem.write", "学生来参观"),
    ("list the running processes", "proc.list", "librarian|scribe"),
    ("tell ben that a school class comes on Thursday", "ipc.send", "to=ben"),
    ("intent --plan please kill chen", "proc.signal", "target=chen"),
]
"""What is said, the call that it must become, and a pattern of what must be shown."""

MIND, MIND_PATIENCE = "nano", 90.0
"""The driver of the model that understands intents, and seconds for its start."""


class Failure(Exception):
    """A step of the demonstration did not hold."""


class _Recorder:
    """Shows what a command shows, and keeps its text for the checks."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.text = ""

    def table(self, columns: Sequence[str], rows: Rows) -> None:
        self.text += "\n".join(" ".join(map(str, row)) for row in rows) + "\n"
        self._screen.table(columns, rows)

    def line(self, text: str) -> None:
        self.text += text + "\n"
        self._screen.line(text)

    def raw(self, data: bytes) -> None:
        self.text += data.decode("utf-8", "replace")
        self._screen.raw(data)

    def problem(self, text: str) -> None:
        self.text += text + "\n"
        self._screen.problem(text)


class Demonstration:
    """One run of it."""

    def __init__(self, data: Path, screen: Screen, embedder: str) -> None:
        self._data = data
        self._screen = _Recorder(screen)
        self._settings = ["--embedder", embedder, "--log-level", "warning"]
        self._kernel: subprocess.Popen[bytes] | None = None
        self._shell: Shell | None = None

    def run(self) -> None:
        """All of it. Raises Failure."""
        began = time.monotonic()
        self._make_model()
        self._say("Boot: one kernel process, storage first; models load behind it.")
        self._boot()
        self._type("ready --timeout 120")
        self._wake_mind()
        self._say("Three agents, each an operating-system process with a memory of its own.")
        self._spawn_agents()
        self._say("They answer messages from what they remember.")
        answer = self._type(f'send --reply {PATIENCE:g} ada \'{{"ask": "{QUESTION}"}}\'')
        self._check(LAUNCH in answer, "ada did not find what it had written")
        answer = self._type(f'send --reply {PATIENCE:g} chen \'{{"ask": "代码风格偏好"}}\'')
        self._check("喜欢简洁代码风格" in answer, "chen did not find the preference")
        self._say("Nobody reads another's memory, until its owner shares it.")
        answer = self._type(f'run --name lib librarian ada "{QUESTION}"')
        self._check("EPERM" in answer, "the refusal was not shown")
        self._check(f"found '{LAUNCH}'" in answer, "the librarian did not find the record")
        self._speak()
        self._say("What the processes are, and the calls that they made.")
        pids = self._list_processes()
        answer = self._type("strace -n 6 -e mem.search")
        self._check("EPERM" in answer, "the trace does not show the refusal")
        self._type("strace -n 5 ben")
        self._say("A model reads a long manual once; what it computed is pinned, and outlives it.")
        before = self._attend("computed")
        self._come_back(pids, before)
        self._type("halt")
        self._gone(self._kernel)
        self._say(f"Done in {time.monotonic() - began:.0f} seconds. Every line above was real.")

    def _come_back(self, pids: list[int], before: float) -> None:
        """Kill the kernel, boot again, and find everything; ``before`` is what computing took."""
        self._say("Now the power goes: SIGKILL to the kernel.")
        self._kill(pids)
        self._say("Boot again, and ask a new process, in other words than were written.")
        self._boot()
        self._type("ready --timeout 120")
        answer = self._type(f'run --space ada-notes reader "{QUESTION}"')
        self._check(LAUNCH in answer, "what was written before the kill was not found")
        self._say(
            "The manual is there too: a new engine takes it from disk, and computes the rest."
        )
        after = self._attend("brought back")
        self._screen.line(
            f"# Time to the first token: {before:.2f} s computed, {after:.2f} s brought back"
        )
        self._check(after < before, "bringing the context back took longer than computing it")

    def close(self) -> None:
        """Leave nothing behind: no process, whatever happened."""
        if self._shell is not None:
            self._shell.close()
        if self._kernel is not None and self._kernel.poll() is None:
            self._kernel.terminate()
            try:
                self._kernel.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._kernel.kill()
                self._kernel.wait()

    # --- steps

    def _boot(self) -> None:
        settings = " ".join(self._settings)
        self._screen.line(f"$ engram --data {self._data} boot --detach {settings}")
        found, self._kernel = start_kernel(self._data, self._settings)
        self._screen.line(f"kernel {found.version} serves {found.data} (pid {found.pid})")
        if self._shell is not None:
            self._shell.close()
        self._shell = Shell(self._data, screen=self._screen)

    def _make_model(self) -> None:
        """A model with random weights: what it says is nonsense, what it computes takes time."""
        self._say("A language model to attach: random weights, real computing.")
        folder = self._data / "random-model"
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "drivers.llm.random_model", str(folder)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        self._check(made.returncode == 0, f"no model could be made: {made.stderr[-2000:]}")
        self._screen.line(made.stdout.strip())
        self._settings += ["--model", str(folder), "--engine", "transformers"]

    def _attend(self, how: str) -> float:
        """Ask the attendant; the seconds to its model's first token."""
        answer = self._type("run --space desk attendant")
        found = re.search(
            r"context was (.+): first token after ([0-9.]+) s, (\d+) of (\d+)", answer
        )
        self._check(found is not None and found[1] == how, f"the context was not {how}")
        assert found is not None
        known, whole = int(found[3]), int(found[4])
        enough = known == 0 if how == "computed" else known > 0.9 * whole
        self._check(enough, f"{known} of {whole} tokens were known")
        return float(found[2])

    def _spawn_agents(self) -> None:
        for name, texts in NOTES.items():
            words = " ".join(f'"{text}"' for text in texts)
            self._type(f"spawn --name {name} --space {name}-notes scribe {words}")
        for name, texts in NOTES.items():
            written = partial(self._has_written, name, len(texts))
            self._until(written, f"{name} did not write its notes down")
            self._type(f"logs {name}")

    def _has_written(self, name: str, notes: int) -> bool:
        assert self._shell is not None
        data: bytes = self._shell.client.proc.output(target=name).data
        return data.count(b"remembered") >= notes

    def _wake_mind(self) -> None:
        """Have the model of intents load while other things are shown."""
        assert self._shell is not None
        self._shell.client.post(Intent(text="hello", execute=False, deadline=MIND_PATIENCE))

    def _speak(self) -> None:
        """Say things in words, where this kernel has a model that understands them."""
        assert self._shell is not None
        if self._mind() == "absent":
            self._say("(No model of intents is installed, so nothing is said in words here.)")
            return
        end = time.monotonic() + MIND_PATIENCE
        while (state := self._mind()) in ("starting", "stopped"):
            self._check(time.monotonic() < end, f"the model of intents is still {state}")
            time.sleep(0.05)
        self._say("In words: a small model of our own turns them into calls, shown before they")
        self._screen.line("# run. What destroys something would ask first; --plan only shows it.")
        for line, call, pattern in INTENTS:
            answer = self._type(line)
            self._check(f"-> {call}" in answer, f"{line!r} did not become {call}")
            self._check(re.search(pattern, answer) is not None, f"{line!r} did not show {pattern}")

    def _mind(self) -> str:
        assert self._shell is not None
        drivers = self._shell.client.call(Info()).drivers
        return next((one.state for one in drivers if one.name == MIND), "absent")

    def _list_processes(self) -> list[int]:
        self._type("ps")
        assert self._shell is not None
        listed = self._shell.client.call(ListCall()).processes
        pids = [one.pid for one in listed if one.kind == "python" and one.name in NOTES]
        self._check(len(set(pids)) == len(NOTES), "the agents are not processes of their own")
        self._check(all(map(alive, pids)), "the system does not know the agents' processes")
        return pids

    def _kill(self, pids: list[int]) -> None:
        assert self._kernel is not None
        kernel = self._kernel.pid
        self._screen.line(f"$ kill -9 {kernel}")
        os.kill(kernel, signal.SIGKILL)
        self._kernel.wait(PATIENCE)
        self._until(lambda: not any(map(alive, pids)), f"agents outlived the kernel: {pids}")
        self._screen.line(f"kernel {kernel} is gone, and so are its agents {pids}")

    def _gone(self, kernel: "subprocess.Popen[bytes] | None") -> None:
        assert kernel is not None
        kernel.wait(PATIENCE)
        self._check(not running(self._data), "the kernel still serves after halt")

    # --- tools

    def _say(self, text: str) -> None:
        self._screen.line(f"\n# {text}")

    def _type(self, line: str) -> str:
        """Run a line in the shell, as if it was typed; returns what it showed."""
        assert self._shell is not None
        self._screen.line(f"engram> {line}")
        self._screen.text = ""
        status = self._shell.run(line)
        self._check(status == 0, f"`{line}` ended with status {status}")
        return self._screen.text

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Failure(otherwise)

    def _until(self, holds: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            self._check(time.monotonic() < end, otherwise)
            time.sleep(0.02)


def demonstrate(context: Context, options: argparse.Namespace) -> int:
    """Run the demonstration; then, where it was asked for, a shell on the user's data."""
    screen: Screen = PlainScreen()
    if context.terminal:
        from userland.shell.rich_screen import RichScreen

        screen = RichScreen()
    data = Path(options.dir or tempfile.mkdtemp(prefix="engram-demo-"))
    demonstration = Demonstration(data, screen, options.embedder)
    try:
        demonstration.run()
    except Failure as failure:
        screen.problem(f"the demonstration failed: {failure}")
        return 1
    except EngramError as error:
        screen.problem(f"the demonstration failed: {error}")
        return 1
    finally:
        demonstration.close()
        if options.dir is None and not options.keep:
            shutil.rmtree(data)
    terminal = context.terminal and sys.stdin.isatty()
    if options.shell or (options.auto and terminal):
        return _shell(context, screen)
    return 0


def _shell(context: Context, screen: Screen) -> int:
    if not running(context.data):
        found, process = start_kernel(context.data, [])
        process.returncode = 0  # it outlives this program: nobody here will wait for it
        screen.line(f"\nYour own system: kernel {found.pid} serves {found.data}.")
    status = run_shell(make_shell(context, context.space, None), context, None, False)
    screen.line(f"The kernel goes on; `engram --data {context.data} halt` stops it.")
    return status
