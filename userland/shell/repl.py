"""The loop around a shell: at a terminal with a prompt, else over the lines of a script."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from syscalls.calls.sys import Info, SystemInfo
from userland.shell.shell import Leave, Shell

if TYPE_CHECKING:
    from prompt_toolkit.history import FileHistory

HISTORY = "shell_history"


def interactive(shell: Shell) -> int:
    """Prompt until the end; returns 0. History is kept in the data directory."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory

    from userland.shell.complete import ShellCompleter

    session: PromptSession[str] = PromptSession(
        history=_history(shell.data),
        completer=ShellCompleter(shell),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
    )
    greet(shell)
    while True:
        shell.notice()
        try:
            line = session.prompt(_prompt(shell))
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        try:
            shell.run(line)
        except Leave:
            break
    if len(shell.jobs):
        shell.screen.line(f"{len(shell.jobs)} jobs go on; `engram ps` lists them")
    if shell.name is not None:
        shell.screen.line(f"detached; `engram attach {shell.name}` comes back")
    return 0


def script(shell: Shell, lines: Iterable[str], *, stop_at_error: bool) -> int:
    """Run lines; returns the status of the last, or with ``stop_at_error`` of the failing one."""
    status = 0
    for line in lines:
        try:
            status = shell.run(line)
        except Leave:
            break
        if status and stop_at_error:
            return status
    return status


def greet(shell: Shell) -> None:
    """One line about the system, and what is not ready yet."""
    session = shell.attach()
    found: SystemInfo = shell.client.call(Info())
    shell.screen.line(
        f"EngramOS {found.version} on {found.data}: session {session.session}, "
        f"{found.processes} processes. `help` lists the commands; other lines are intents."
    )
    starting = [driver.name for driver in found.drivers if driver.state == "starting"]
    if starting:
        shell.screen.line(f"still starting: {', '.join(starting)} (`ready` waits and shows it)")


def _prompt(shell: Shell) -> str:
    space = shell.session.space if shell.session is not None else 0
    return f"engram:{space}> " if space else "engram> "


def _history(data: Path) -> "FileHistory":
    from prompt_toolkit.history import FileHistory

    path = data / HISTORY
    path.touch(mode=0o600, exist_ok=True)
    os.chmod(path, 0o600)
    return FileHistory(str(path))


def lines_of_stdin() -> Iterable[str]:
    """The lines of a piped script, as they come."""
    return iter(sys.stdin.readline, "")
