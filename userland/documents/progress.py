"""A bar for people who wait; nothing where nobody looks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from userland.context import Context


class Bar(Protocol):
    """Told how far the work is."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """So much of so much, and what is being done."""


@contextmanager
def bar(context: Context, title: str, *, size: bool = False) -> Iterator[Bar]:
    """A bar, on a terminal only; ``size`` counts bytes."""
    if not context.terminal:
        yield _silent
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

    count = DownloadColumn() if size else MofNCompleteColumn()
    name = TextColumn("{task.description}", markup=False)
    with Progress(name, BarColumn(bar_width=30), count, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def show(done: int, total: int, text: str = "") -> None:
            description = (text or title)[-50:]
            progress.update(task, completed=done, total=total or None, description=description)

        yield show


def _silent(done: int, total: int, text: str = "") -> None:
    """Nobody looks."""
