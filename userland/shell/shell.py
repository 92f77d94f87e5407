"""The shell: takes lines and runs them. What draws a prompt and completes is ``repl.py``."""

import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from syscalls.calls.sys import Attach, Attached, Session
from syscalls.errors import EINVAL, ENODEV, ENOENT, ENOSYS, ESRCH, EngramError
from syscalls.shapes import SessionInfo
from userland.bin.process import STOPPED, how
from userland.client import BlockingClient
from userland.commands import (
    BY_NAME,
    COMMANDS,
    HelpShown,
    Usage,
    closest,
    execute,
    find,
    typo,
)
from userland.context import Context, reference
from userland.foreground import attend, show_since
from userland.intent import Words, follow
from userland.place import Disconnected, NotRunning
from userland.screen import PlainScreen, Screen, error_object, exit_code, json_line
from userland.shell.jobs import Job, Jobs, JobState

INTERRUPTED = 130


class Leave(Exception):
    """The shell is to end."""


class Builtin(NamedTuple):
    """A command that only makes sense inside a shell."""

    summary: str
    run: Callable[["Shell", list[str]], int]


class Shell:
    """One session with the kernel, its jobs, and the lines typed into it."""

    def __init__(
        self,
        data: Path,
        *,
        space: str | None = None,
        name: str | None = None,
        json: bool = False,
        screen: Screen | None = None,
        yes: bool = False,
    ) -> None:
        """``name``: that of a session which is kept when the terminal goes; without one it ends.

        ``yes``: do not ask before a destructive call of an intent.
        """
        self.screen: Screen = screen or PlainScreen()
        self.jobs = Jobs()
        self.session: SessionInfo | None = None
        self.name = name
        self._space = space
        self._line = ""
        self._last = 0
        self._context = Context(data, json=json, screen=self.screen)
        self._context.shell = self
        self._context.yes = self._context.yes or yes

    @property
    def data(self) -> Path:
        """The data directory."""
        return self._context.data

    @property
    def client(self) -> BlockingClient:
        """The session's connection. Raises NotRunning."""
        self.attach()
        return self._context.client

    def attach(self) -> SessionInfo:
        """Make this shell's session, where it has none. Raises NotRunning, ENOENT, EPERM."""
        if self.session is None:
            space = None if self._space is None else reference(self._space)
            keep = True if self.name else None
            call = Session(name=self.name or f"shell-{os.getpid()}", space=space, keep=keep)
            self.session = self._context.client.call(call)
        return self.session

    def resume(self, ref: int | str, *, take: bool) -> None:
        """Go on with a kept session, and show what its jobs wrote meanwhile.

        Raises ESRCH, EBUSY, EPERM, EINVAL.
        """
        attached: Attached = self._context.client.call(Attach(session=ref, take=take))
        self.session, self.name = attached.session, attached.session.name
        for found in attached.jobs:
            process = found.process
            state: JobState = "stopped" if process.state == "STOPPED" else "running"
            text = f"run {process.program}"
            job = self.jobs.add(process.apid, text, state=state, shown=found.since)
            self.screen.line(job.line())
            with suppress(ESRCH):  # it ended long ago
                job.shown = show_since(self.client, self.screen.raw, job.apid, found.since)

    def keep(self, name: str) -> None:
        """Have the session outlive this terminal under a name. Raises EEXIST."""
        self.attach()
        self.session = self.client.call(Session(name=name, keep=True))
        self.name = name

    def leave(self) -> None:
        """Let the session end with this terminal, though it was to be kept."""
        if self.name is not None and self.session is not None:
            self.client.call(Session(keep=False))
            self.name = None

    def close(self) -> None:
        """Leave the session: it is kept, or ends and its jobs go on."""
        self._context.close()
        self.session = None

    # --- lines

    def run(self, line: str) -> int:
        """Run one line; returns its status. Errors are shown, not raised; Leave is raised."""
        try:
            self._last = self._run(line.strip())
        except HelpShown:
            self._last = 0
        except Disconnected as error:
            self._detach()
            self._last = self._show(error)
        except EngramError as error:
            self._last = self._show(error)
        except KeyboardInterrupt:
            self.screen.problem("interrupted")
            self._last = INTERRUPTED
        return self._last

    def notice(self) -> None:
        """Say which jobs ended or stopped since the last look."""
        if not len(self.jobs) or self.session is None:
            return
        try:
            for job in self.jobs.look(self.client, self.session.session):
                self.screen.line(job.line())
        except Disconnected as error:
            self._detach()
            self._show(error)
        except EngramError as error:
            self._show(error)

    def _run(self, line: str) -> int:
        if not line or line.startswith("#"):
            return self._last
        self._line = line
        said = SAID.fullmatch(line)
        if said is not None:
            return execute(BY_NAME["intent"], [*said[1].split(), "--", said[2]], self._context)
        typed = line.split()
        if typed[0].rstrip("&") not in KNOWN:
            return self._intent(line, typed)
        try:
            return self._command(line)
        except (ENOENT, ESRCH, Usage) as error:
            if len(typed) > 2 and not any(word.startswith("-") for word in typed):
                words = f"if it is no command but words: intent {line}"
                error.hint = f"{error.hint}; {words}" if error.hint else words
            raise

    def _command(self, line: str) -> int:
        words = _split(line)
        builtin = BUILTINS.get(words[0])
        if builtin is not None:
            return builtin.run(self, words[1:])
        self.attach()
        words = _background(words)
        found = find(words)
        if found is None:
            raise Usage(f"there is no command {words[0]!r}", hint="help lists the commands")
        command, rest = found
        if not command.shell:
            raise EINVAL(f"{command.name} is not for the shell", hint=f"engram {command.name}")
        with self._busy(command.name):
            return execute(command, rest, self._context)

    def _intent(self, line: str, words: list[str]) -> int:
        """A line that is no command: words that the kernel may understand."""
        meant = typo(words[0], KNOWN)
        if meant and (len(words) == 1 or any(word.startswith("-") for word in words)):
            raise Usage(
                f"there is no command {words[0]!r}",
                hint=f"did you mean {meant!r}? If not: intent {line}",
            )
        self.attach()
        try:
            return follow(self._context, Words(line))
        except (ENODEV, ENOSYS) as error:
            near = closest(words[0], KNOWN)
            guess = f"did you mean the command {near!r}?" if near else "help lists the commands"
            raise type(error)(
                f"{words[0]!r} is no command, and {error.message}",
                hint=f"{guess} {error.hint}".strip(),
                **error.detail,
            ) from error

    def _show(self, error: EngramError) -> int:
        if self._context.json:
            self.screen.line(json_line(error_object(error)))
        else:
            self.screen.problem(str(error))
        return exit_code(error)

    def _detach(self) -> None:
        """The session is gone with the connection; the next command makes a new one."""
        self.close()
        self.jobs.clear()

    def _busy(self, name: str) -> AbstractContextManager[None]:
        return self._context.busy(name) if name in SLOW else nullcontext()

    # --- jobs

    def in_background(self, apid: int) -> Job:
        """Make a job of what was just started."""
        return self.jobs.add(apid, self._line.rstrip("& "))

    def in_foreground(self, apid: int, text: str, since: int = 0) -> int:
        """Attend a process; it becomes a job when Ctrl-Z stops it. Returns its status."""
        left = attend(
            self.client,
            apid,
            self.screen.raw,
            since=since,
            job_control=sys.stdin.isatty(),
        )
        if left.exit is None:
            job = self.jobs.add(apid, text, state="stopped", shown=left.shown)
            self.screen.line("")
            self.screen.line(job.line())
            return STOPPED
        if left.exit.status:
            self.screen.problem(how(left.exit))
        return left.exit.status

    @property
    def line(self) -> str:
        """The line that is being run."""
        return self._line


def _split(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Usage(f"cannot read the line: {error}", hint="quote ' and \" in pairs") from error
    if words and words[-1] != "&" and words[-1].endswith("&") and line.endswith("&"):
        words[-1] = words[-1][:-1]
        words.append("&")
    if not words or words == ["&"]:
        raise Usage("there is nothing to run")
    return words


def _background(words: list[str]) -> list[str]:
    """``run x &`` is ``run -d x``."""
    if words[-1] != "&":
        return words
    if words[0] not in ("run", "spawn"):
        raise EINVAL(f"{words[0]} cannot go into the background", hint="run PROGRAM &")
    rest = words[1:-1]
    return ["run", *(rest if "-d" in rest else ["-d", *rest])]


SLOW = {"mem search", "llm count", "llm embed", "halt"}
"""Commands that may take a while without showing anything."""


# --- built-in commands


def _help(shell: Shell, words: list[str]) -> int:
    if words:
        found = find(words)
        if found is None:
            builtin = BUILTINS.get(words[0])
            if builtin is None:
                raise ENOENT(f"there is no command {' '.join(words)!r}")
            shell.screen.line(f"{words[0]}: {builtin.summary}")
            return 0
        return execute(found[0], ["--help"], Context(shell.data))
    rows = [[command.name, command.summary] for command in COMMANDS if command.shell]
    rows += [[name, builtin.summary] for name, builtin in BUILTINS.items()]
    shell.screen.table(["command", "what it does"], rows)
    shell.screen.line("Ctrl-C interrupts, Ctrl-Z stops, `run x &` starts in the background.")
    shell.screen.line("Anything else is an intent: say it in words, in English or Chinese.")
    return 0


def _jobs(shell: Shell, words: list[str]) -> int:
    shell.notice()
    for job in shell.jobs:
        shell.screen.line(job.line())
    return 0


def _fg(shell: Shell, words: list[str]) -> int:
    job = shell.jobs.pick(words[0] if words else None)
    shell.screen.line(job.text)
    shell.jobs.remove(job)
    if job.state == "stopped":
        shell.jobs.go_on(shell.client, job)
    return shell.in_foreground(job.apid, job.text, job.shown)


def _bg(shell: Shell, words: list[str]) -> int:
    job = shell.jobs.pick(words[0] if words else None)
    shell.jobs.go_on(shell.client, job)
    shell.screen.line(job.line())
    return 0


def _cd(shell: Shell, words: list[str]) -> int:
    folder = Path(words[0] if words else "~").expanduser()
    try:
        os.chdir(folder)
    except OSError as error:
        raise ENOENT(f"{folder}: {error.strerror}") from error
    return 0


def _pwd(shell: Shell, words: list[str]) -> int:
    shell.screen.line(os.getcwd())
    return 0


def _session(shell: Shell, words: list[str]) -> int:
    found = shell.attach()
    space = found.space or "its own, made when first written to"
    shell.screen.line(f"session {found.session} ({found.name}), space {space}")
    return 0


def _detach(shell: Shell, words: list[str]) -> int:
    if words:
        shell.keep(words[0])
    elif shell.name is None:
        raise Usage("this session has no name", hint="detach NAME keeps it under that name")
    raise Leave


def _exit(shell: Shell, words: list[str]) -> int:
    shell.leave()
    raise Leave


BUILTINS: dict[str, Builtin] = {
    "help": Builtin("this list, or about one command", _help),
    "jobs": Builtin("list the jobs of this shell", _jobs),
    "fg": Builtin("bring a job into the foreground (fg [N])", _fg),
    "bg": Builtin("let a stopped job go on (bg [N])", _bg),
    "cd": Builtin("change the folder that programs are looked for in", _cd),
    "pwd": Builtin("print that folder", _pwd),
    "session": Builtin("this session and its space", _session),
    "detach": Builtin("leave and keep the session (detach NAME: under a name)", _detach),
    "exit": Builtin("leave and end the session (also Ctrl-D, if not named); jobs go on", _exit),
    "quit": Builtin("the same as exit", _exit),
}

SAID = re.compile(r"intent((?:\s+(?:--plan|--yes|-y|--json))*)\s+([^-\s].*)")
"""Words after ``intent``: taken as they stand, because their quotation marks mean something."""

KNOWN = sorted({*(name.split()[0] for name in BY_NAME), *BUILTINS})
"""What a command line can begin with; a line that begins otherwise is an intent."""

__all__ = ["BUILTINS", "INTERRUPTED", "Leave", "NotRunning", "Shell"]
