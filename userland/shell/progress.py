"""Progress bars for drivers that are starting and indexes that are being rebuilt."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from syscalls.shapes import DriverInfo


class DriverBars:
    """One bar a driver; call it with what ``sys.info`` says."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, drivers: list[DriverInfo]) -> None:
        """Show how they are now."""
        for driver in drivers:
            if driver.name not in self._tasks:
                if driver.state != "starting":
                    continue
                self._tasks[driver.name] = self._progress.add_task(
                    Text(driver.name).plain, total=None, state=driver.state
                )
            total, done = driver.detail.get("total"), driver.detail.get("done")
            if driver.state != "starting":
                total = done = 1
            self._progress.update(
                self._tasks[driver.name],
                total=total if isinstance(total, (int, float)) else None,
                completed=done if isinstance(done, (int, float)) else 0,
                state=driver.state,
            )
