"""What a command shows: tables and lines for people, or one JSON object for programs."""

import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

import msgspec

from syscalls.errors import EngramError

EXIT_CODES = {"caller": 2, "load": 3, "machine": 4, "ours": 5}
"""Exit status of a command that failed, by whose fault it is."""

Rows = Sequence[Sequence[object]]


class Screen(Protocol):
    """Where results go."""

    def table(self, columns: Sequence[str], rows: Rows) -> None:
        """A table with a heading."""

    def line(self, text: str) -> None:
        """A line of text."""

    def raw(self, data: bytes) -> None:
        """Bytes as a process wrote them."""

    def problem(self, text: str) -> None:
        """An error, apart from the results."""


class PlainScreen:
    """Aligned columns of plain text.

    A terminal gets no text that could steer it: what a record or a message holds was written
    by others. A pipe or a file gets every character as it is.
    """

    def __init__(self, out: TextIO | None = None, errors: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._errors = errors or sys.stderr
        self._terminal = self._out.isatty()

    def table(self, columns: Sequence[str], rows: Rows) -> None:
        """A table with a heading; the last column is not padded."""
        cells = [[column.upper() for column in columns]]
        cells += [[str(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
        for row in cells:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            self.line("  ".join([*padded, row[-1]]).rstrip())

    def line(self, text: str) -> None:
        """A line of text, at once."""
        self._out.write((lines_visible(text) if self._terminal else text) + "\n")
        self._out.flush()

    def raw(self, data: bytes) -> None:
        """Bytes as a process wrote them."""
        self._out.write(data.decode("utf-8", "replace"))
        self._out.flush()

    def problem(self, text: str) -> None:
        """An error, on the standard error."""
        self._out.flush()
        self._errors.write(lines_visible(text) + "\n")
        self._errors.flush()


def json_line(value: object) -> str:
    """A struct or plain value as one line of JSON; bytes that are text as text."""
    return msgspec.json.encode(_plain(value)).decode()


def _plain(value: object) -> object:
    built = msgspec.to_builtins(value, builtin_types=(bytes,), str_keys=True)
    return _texts(built)


def _texts(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {key: _texts(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_texts(one) for one in value]
    return value


def error_object(error: EngramError) -> dict[str, Any]:
    """The error as ``--json`` shows it."""
    return {
        "error": {
            "name": error.code,
            "fault": error.fault,
            "message": error.message,
            "hint": error.hint,
            "detail": error.detail,
        }
    }


def exit_code(error: EngramError) -> int:
    """The exit status for an error."""
    return EXIT_CODES.get(error.fault, 5)


# --- small words


def clock(at: float) -> str:
    """A time of day, with the date when it is not today's."""
    local = time.localtime(at)
    today = time.localtime()
    if local[:3] == today[:3]:
        return time.strftime("%H:%M:%S", local)
    return time.strftime("%Y-%m-%d %H:%M", local)


def size(count: float) -> str:
    """Bytes, readable."""
    for unit in ("B", "K", "M", "G"):
        if count < 1024 or unit == "G":
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """A stretch of time, readable."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def lines_visible(text: str) -> str:
    """Text of several lines, in which nothing but its lines steers a terminal."""
    return "\n".join(visible(line) for line in text.split("\n"))


def visible(text: str) -> str:
    """Text on one line with what cannot be seen (escapes, reversed writing) written out."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in HARMLESS else _code(one) for one in text)


HARMLESS = "\t\u00a0\u2002\u2003\u200c\u200d\u202f\u3000"
"""Spaces, and what joins letters and emoji: part of ordinary writing."""


def _code(one: str) -> str:
    return f"\\u{ord(one):04x}" if ord(one) < 0x10000 else f"\\U{ord(one):08x}"


def short(text: str, limit: int = 72) -> str:
    """Text on one line, cut."""
    one = " ".join(text.split())
    return one if len(one) <= limit else one[: limit - 1] + "…"
