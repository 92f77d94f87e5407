"""Real kernels for tests: started as a user would, in a folder of the test's own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syscalls.errors import EIO, ENODEV
from userland.client import BlockingClient

ROOT = Path(__file__).parents[1]
BOUND = 60.0
"""Seconds that anything may take before the test gives up."""


class RunningKernel:
    """A kernel process and its data directory."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.data = data
        self.flags = flags
        self.errors = data.parent / f"{data.name}.stderr"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.errors.open("ab") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "kernel", "--data", str(self.data), *self.flags],
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
            )

    def wait_until_served(self) -> None:
        """Return when the kernel answers; fail with its own words when it does not."""
        deadline = time.monotonic() + BOUND
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"the kernel ended: {self.stderr()}")
            try:
                with self.client() as client:
                    client.sys.clock()
                    return
            except (OSError, ENODEV, EIO) as error:
                last = error
            if time.monotonic() > deadline:
                raise AssertionError(f"the kernel does not serve: {self.stderr()}") from last
            time.sleep(0.02)

    def client(self) -> BlockingClient:
        """A new session."""
        return BlockingClient.open(self.data)

    def stderr(self) -> str:
        """What the kernel has said so far."""
        return self.errors.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        self.process.wait(BOUND)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(BOUND)

    def reboot(self) -> None:
        """Start again on the same data."""
        self.process = self._start()
        self.wait_until_served()


@contextmanager
def running(data: Path, *flags: str) -> Iterator[RunningKernel]:
    """A kernel that serves; stopped at the end, whatever happened."""
    kernel = RunningKernel(data, *(flags or ("--embedder", "local-hash:128")))
    try:
        kernel.wait_until_served()
        yield kernel
    finally:
        if kernel.process.poll() is None:
            kernel.terminate()


def processes_of(data: Path) -> list[int]:
    """Ids of the processes whose command line or environment names the data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(data) in text:
            found.append(int(entry.name))
    return found
