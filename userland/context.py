"""What a command is given: the connection, where to show things, and in which form."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from syscalls.calls.sys import Session
from syscalls.errors import EINVAL
from userland.client import BlockingClient
from userland.screen import PlainScreen, Rows, Screen, json_line

HOME = "home"
"""The space of `engram mem ...` outside a shell, where each command is a session of its own."""
YES_VARIABLE = "ENGRAM_YES"
"""Set to 1: destructive calls of an intent run without being asked about."""

_RID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


class Context:
    """One command's surroundings. The shell keeps one for all its commands."""

    def __init__(
        self,
        data: Path,
        *,
        space: str | None = None,
        json: bool = False,
        screen: Screen | None = None,
        client: BlockingClient | None = None,
    ) -> None:
        self.data = data
        self.space = space
        self.json = json
        self.screen: Screen = screen or PlainScreen()
        self.shell: Any = None
        """The shell that the command was typed in; None outside one."""
        self.yes = os.environ.get(YES_VARIABLE, "") not in ("", "0")
        """Whether destructive calls of an intent run without being asked about."""
        self._client = client
        self.name = "engram"

    @property
    def client(self) -> BlockingClient:
        """The connection, made when first asked for. Raises NotRunning."""
        if self._client is None:
            self._client = BlockingClient.open(self.data)
            if self.space is not None:
                self._client.call(Session(name=self.name, space=reference(self.space)))
        return self._client

    def memory(self) -> BlockingClient:
        """The connection, on a space that outlives a single command."""
        if self._client is None and self.space is None:
            self.space = HOME
        return self.client

    def close(self) -> None:
        """Close the connection, where one was made."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def terminal(self) -> bool:
        """Whether a person looks at the output."""
        return not self.json and sys.stdout.isatty()

    @property
    def answers(self) -> bool:
        """Whether a person can be asked something."""
        return self.terminal and sys.stdin.isatty()

    def busy(self, text: str) -> AbstractContextManager[None]:
        """Show, where the screen can, that something takes a while."""
        busy = None if self.json else getattr(self.screen, "busy", None)
        return nullcontext() if busy is None else busy(text)

    # --- results: each command ends in one of these

    def value(self, value: object, text: str | None = None) -> None:
        """A result: as JSON, or as a line of text (none: nothing to say)."""
        if self.json:
            self.screen.line(json_line(value))
        elif text:
            self.screen.line(text)

    def table(self, value: object, columns: Sequence[str], rows: Rows) -> None:
        """A result: as JSON, or as a table."""
        if self.json:
            self.screen.line(json_line(value))
        else:
            self.screen.table(columns, rows)


def reference(text: str) -> int | str:
    """A process or space as it is typed: a number, or a name."""
    return int(text) if text.isascii() and text.isdigit() else text


def space_argument(parser: argparse.ArgumentParser) -> None:
    """``--space``: where a command works, if not in its own."""
    parser.add_argument("--space", help="another space, by number or name")


def space_of(options: argparse.Namespace) -> int | str | None:
    """What ``--space`` names; None where it was left out."""
    return None if options.space is None else reference(options.space)


def is_rid(text: str) -> bool:
    """Whether a text has the form of a record's id."""
    return _RID.fullmatch(text) is not None


def text_or_stdin(text: str) -> str:
    """``-`` means the standard input."""
    if text != "-":
        return text
    read = sys.stdin.read()
    if not read.strip():
        raise EINVAL("the standard input is empty")
    return read


def here() -> str:
    """The working directory, for programs named by a relative path."""
    return os.getcwd()
