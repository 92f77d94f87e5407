"""The job table of one shell."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from syscalls.calls.proc import ListCall, SignalCall, Wait
from syscalls.errors import ENOENT, ESRCH
from syscalls.shapes import Exit
from userland.client import BlockingClient

JobState = Literal["running", "stopped", "done"]


class Job(msgspec.Struct):
    """One program that this shell started and that is not in the foreground."""

    number: int
    apid: int
    text: str
    """The line as it was typed."""
    state: JobState = "running"
    shown: int = 0
    """Offset up to which its output was shown."""
    exit: Exit | None = None

    def line(self) -> str:
        """As ``jobs`` shows it."""
        ending = "" if self.exit is None else f" ({self.exit.reason}, status {self.exit.status})"
        return f"[{self.number}] {self.apid:<6} {self.state}{ending}  {self.text}"


class Jobs:
    """Numbered from 1; the lowest free number is used next."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(sorted(self._jobs.values(), key=lambda job: job.number))

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, apid: int, text: str, *, state: JobState = "running", shown: int = 0) -> Job:
        """A new job."""
        number = next(n for n in range(1, len(self._jobs) + 2) if n not in self._jobs)
        job = self._jobs[number] = Job(number, apid, text, state, shown)
        return job

    def remove(self, job: Job) -> None:
        """Forget a job."""
        self._jobs.pop(job.number, None)

    def clear(self) -> None:
        """Forget all: the session that they belonged to has gone."""
        self._jobs.clear()

    def pick(self, text: str | None) -> Job:
        """A job by its number (``2`` or ``%2``), or the latest. Raises ENOENT."""
        if not self._jobs:
            raise ENOENT("there are no jobs", hint="run PROGRAM & starts one")
        if text is None:
            return max(self._jobs.values(), key=lambda job: job.apid)
        digits = text.removeprefix("%")
        job = self._jobs.get(int(digits)) if digits.isascii() and digits.isdigit() else None
        if job is None:
            raise ENOENT(f"there is no job {text}", hint="jobs lists them")
        return job

    def look(self, client: BlockingClient, session: int) -> list[Job]:
        """Ask how the jobs are, reap those that ended, and return the ones that changed."""
        if not self._jobs:
            return []
        listed = client.call(ListCall(session=session)).processes
        states = {process.apid: process.state for process in listed}
        changed: list[Job] = []
        for job in self:
            before = job.state
            state = states.get(job.apid)
            if state is None or state == "ZOMBIE":
                job.state, job.exit = "done", _reap(client, job.apid)
                self.remove(job)
            else:
                job.state = "stopped" if state == "STOPPED" else "running"
            if job.state != before:
                changed.append(job)
        return changed

    def go_on(self, client: BlockingClient, job: Job) -> None:
        """Resume a stopped job."""
        client.call(SignalCall(target=job.apid, signal="CONT", group=True))
        job.state = "running"


def _reap(client: BlockingClient, apid: int) -> Exit | None:
    try:
        ended: Exit = client.call(Wait(target=apid, timeout=5))
    except ESRCH:  # reaped by another wait
        return None
    return ended
