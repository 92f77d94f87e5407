"""A program on a pseudo-terminal, typed into and read like a person would."""

import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.harness import BOUND, ROOT

INSIST = 3.0
"""Seconds after which somebody presses a key again."""


class Terminal:
    """What is typed and what is shown."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = ""

    def type(self, text: str) -> None:
        """Press these keys; Enter is ``\\r``."""
        os.write(self._descriptor, text.encode())

    def until(self, pattern: str, *, insist: str = "") -> str:
        """Read on until the pattern has come since the last one; returns its match.

        ``insist`` is typed again every few seconds: Ctrl-C in the instant between a prompt and
        the read that follows it is noticed only with the next key, as every person knows.
        """
        end = time.monotonic() + BOUND
        again = time.monotonic() + INSIST
        while True:
            if insist and time.monotonic() > again:
                again += INSIST
                self.type(insist)
            found = re.search(pattern, self._seen)
            if found is not None:
                self._seen = self._seen[found.end() :]
                return found.group()
            readable, _, _ = select.select([self._descriptor], [], [], 0.5)
            if readable:
                data = os.read(self._descriptor, 65536).decode("utf-8", "replace")
                self._seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data)
                if "\x1b[6n" in data:  # prompt_toolkit asks where the cursor is
                    os.write(self._descriptor, b"\x1b[1;1R")
            assert time.monotonic() < end, f"no {pattern!r} in {self._seen!r}"


@contextmanager
def terminal(command: Sequence[str]) -> Iterator[Terminal]:
    """Run a Python command on a terminal; hang up at the end."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ["TERM"] = "xterm"
        os.environ["COLUMNS"] = "200"
        os.execv(sys.executable, list(command))
    try:
        yield Terminal(descriptor)
    finally:
        os.close(descriptor)
        os.waitpid(pid, 0)
