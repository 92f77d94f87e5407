"""Completion: commands, their options, processes by APID and name, programs."""

import time
from collections.abc import Callable, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from syscalls.calls.proc import ListCall
from syscalls.errors import EngramError
from userland.commands import COMMANDS, Command
from userland.runtime import examples
from userland.shell.shell import BUILTINS, Shell

FRESH = 1.0
"""Seconds for which a list of processes is good enough."""

TARGETS = {"kill", "wait", "logs", "output", "strace", "send", "ps", "mem share", "mem revoke"}
PROGRAMS = {"run", "spawn"}


class ShellCompleter(Completer):
    """Completes the last word of a line by what the words before it call for."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._names: list[tuple[str, str]] = []
        self._asked = 0.0
        self._paths = PathCompleter(expanduser=True)
        self._sources: list[tuple[set[str], Callable[[], list[tuple[str, str]]]]] = [
            (TARGETS, self._processes),
            (PROGRAMS, lambda: [(name, "example") for name in examples()]),
        ]

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Candidates for the word before the cursor."""
        before = document.text_before_cursor
        words = before.split()
        word = "" if not words or before[-1:].isspace() else words.pop()
        command = _command(words)
        if command is None:
            yield from _fitting(_next_words(words), word)
            return
        if word.startswith("-"):
            yield from _fitting([(option, "") for option in options_of(command)], word)
            return
        for commands, source in self._sources:
            if command.name in commands:
                yield from _fitting(source(), word)
        if command.name in PROGRAMS:
            yield from self._paths.get_completions(Document(word), complete_event)

    def _processes(self) -> list[tuple[str, str]]:
        """APIDs and names; an old list while the kernel cannot be asked."""
        now = time.monotonic()
        if now - self._asked > FRESH and self._shell.session is not None:
            self._asked = now
            try:
                found = self._shell.client.call(ListCall()).processes
            except EngramError:
                return self._names
            self._names = [(one.name, f"{one.apid} {one.state}") for one in found if one.name]
            self._names += [(str(one.apid), one.name) for one in found]
        return self._names


def _command(words: list[str]) -> Command | None:
    for command in COMMANDS:
        parts = command.name.split()
        if command.shell and words[: len(parts)] == parts:
            return command
    return None


def _next_words(words: list[str]) -> list[tuple[str, str]]:
    """What may follow the beginning of a command's name."""
    found: dict[str, str] = {}
    for command in COMMANDS:
        parts = command.name.split()
        if command.shell and len(parts) > len(words) and parts[: len(words)] == words:
            last = len(parts) == len(words) + 1
            found.setdefault(parts[len(words)], command.summary if last else "...")
    if not words:
        found.update({name: builtin.summary for name, builtin in BUILTINS.items()})
    elif words == ["help"]:
        found.update({command.name: command.summary for command in COMMANDS if command.shell})
    return list(found.items())


def options_of(command: Command) -> list[str]:
    """The long options of a command."""
    import importlib

    from userland.commands import Parser

    parser = Parser(prog=command.name)
    module = importlib.import_module(f"userland.bin.{command.module}")
    getattr(module, f"{command.name.replace(' ', '_')}_arguments")(parser)
    return sorted(name for name in parser._option_string_actions if name.startswith("--"))


def _fitting(candidates: Iterable[tuple[str, str]], word: str) -> Iterable[Completion]:
    for text, about in candidates:
        if text.startswith(word):
            yield Completion(text, start_position=-len(word), display_meta=about)
