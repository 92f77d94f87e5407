"""An engine that does what a test tells it: echo, stream, hang, crash."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from syscalls.errors import EINVAL, ENODEV

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivers.engine import Job
    from drivers.protocol import EngineSpec

PLACE = "tests.probe:Probe"


class Order(msgspec.Struct):
    """Arguments of every method."""

    value: Any = None
    marker: str = ""
    """A file that is made by the first call that names it."""


class ProbeInfo(msgspec.Struct):
    """What the probe is."""

    pid: int


class Probe:
    """The engine. ``options``: ``refuse``, ``crash`` (at load), ``window``."""

    window = 2

    def __init__(self, spec: EngineSpec) -> None:
        self.window = int(spec.options.get("window", 2))
        self._spec = spec
        self._streams: deque[tuple[Job, int, int]] = deque()
        self._held: list[Job] = []
        self._cancelled = 0

    def load(self, progress: Callable[[str], None]) -> ProbeInfo:
        if self._spec.options.get("refuse"):
            raise ENODEV("nothing to load", hint="give it something")
        if self._spec.options.get("crash"):
            print("about to crash", file=sys.stderr)
            os._exit(9)
        progress("half way")
        return ProbeInfo(os.getpid())

    def begin(self, job: Job) -> None:
        order = job.arguments(Order)
        match job.method:
            case "echo":
                job.done(order.value)
            case "invalid":
                raise EINVAL("as you wished", hint="wish for something else", wish=order.value)
            case "bug":
                raise RuntimeError("as you wished")
            case "print":
                print(order.value)
                os.write(1, b"from C\n")
                job.done(None)
            case "sleep":
                time.sleep(order.value)
                job.done(None)
            case "die":
                if order.marker and Path(order.marker).exists():
                    job.done(os.getpid())
                    return
                if order.marker:
                    Path(order.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "stream":
                self._streams.append((job, 0, order.value))
            case "hold":
                self._held.append(job)
            case "cancelled":
                job.done(self._cancelled)

    def cancel(self, job: Job) -> None:
        self._cancelled += 1
        self._streams = deque(stream for stream in self._streams if stream[0] is not job)
        self._held = [held for held in self._held if held is not job]
        job.cancelled()

    @property
    def busy(self) -> bool:
        return any(job.credit > 0 for job, _, _ in self._streams)

    def step(self) -> None:
        job, sent, most = self._streams.popleft()
        if job.credit > 0:
            job.chunk(sent)
            sent += 1
        if sent == most:
            job.done(sent)
        else:
            self._streams.append((job, sent, most))

    def close(self) -> None:
        if marker := self._spec.options.get("closed"):
            Path(str(marker)).touch()
