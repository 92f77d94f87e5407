"""Tables with colour, and a spinner when something takes long, for a terminal."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from userland.screen import PlainScreen, Rows, lines_visible, visible

WIDE = 1000
"""Columns that are enough for any table."""
PATIENCE = 0.4
"""Seconds before a spinner appears."""

STYLES = {
    "RUNNING": "green",
    "READY": "green",
    "ready": "green",
    "WAITING": "cyan",
    "STOPPED": "yellow",
    "starting": "yellow",
    "ZOMBIE": "dim",
    "absent": "dim",
    "failed": "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


class RichScreen:
    """A ``Screen`` on a terminal."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=False)
        self._errors = Console(stderr=True, highlight=False)
        self._lock = threading.Lock()
        self._status: Status | None = None

    def table(self, columns: Sequence[str], rows: Rows) -> None:
        """A table with a heading."""
        self._calm()
        table = make_table(columns, rows)
        wide = self.console.options.update(width=WIDE)
        if self.console.measure(table, options=wide).minimum > self.console.width:
            PlainScreen().table(columns, rows)  # the terminal wraps it; rich would cut columns
        else:
            self.console.print(table)

    def line(self, text: str) -> None:
        """A line of text."""
        self._calm()
        self.console.print(Text(lines_visible(text)), soft_wrap=True)

    def raw(self, data: bytes) -> None:
        """Bytes as a process wrote them."""
        self._calm()
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()

    def problem(self, text: str) -> None:
        """An error, in red."""
        self._calm()
        self._errors.print(Text(lines_visible(text), style="red"), soft_wrap=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Show a spinner when the block takes long and shows nothing itself."""
        timer = threading.Timer(PATIENCE, self._spin, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._calm()

    def _spin(self, text: str) -> None:
        with self._lock:
            self._status = Status(Text(f"{text} ..."), console=self.console)
            self._status.start()

    def _calm(self) -> None:
        with self._lock:
            status, self._status = self._status, None
        if status is not None:
            status.stop()


def make_table(columns: Sequence[str], rows: Rows) -> Table:
    """A rich table; known words of state are coloured, only the last column may fold."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    texts = [[visible(str(cell)) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        widest = max([len(column), *(cell_len(row[index]) for row in texts)])
        least = len(column) if last else widest
        table.add_column(Text(column.upper()), overflow="fold", no_wrap=not last, min_width=least)
    for cells in texts:
        table.add_row(*(Text(cell, style=STYLES.get(cell.split(" ")[0], "")) for cell in cells))
    return table
