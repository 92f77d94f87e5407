"""What the benchmarks share: a kernel of their own, percentiles, the last line.

``ratio`` is ours over the floor (or, where more is better, as the file says); the floor is
measured in the same run on the same machine, so a ratio can be compared between machines
and an absolute time cannot.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from syscalls.errors import EIO, ENODEV
from userland.client import BlockingClient

ROOT = Path(__file__).parents[1]


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which ``part`` (0 to 1) of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def timed(work: Callable[[], object], repeat: int) -> list[float]:
    """Seconds of each of ``repeat`` runs of ``work``."""
    clock = time.perf_counter
    taken = []
    for _ in range(repeat):
        began = clock()
        work()
        taken.append(clock() - began)
    return taken


@contextmanager
def kernel(*flags: str) -> Iterator[Path]:
    """A running kernel; yields its data directory."""
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as folder:
        data = Path(folder) / "data"
        process = start(data, *flags)
        try:
            wait_served(data, process)
            yield data
        finally:
            process.terminate()
            process.wait(60)


def start(data: Path, *flags: str) -> "subprocess.Popen[bytes]":
    """Start a kernel and do not wait for it."""
    command = [sys.executable, "-m", "kernel", "--data", str(data), "--log-level", "warning"]
    return subprocess.Popen([*command, *flags], cwd=ROOT, stdin=subprocess.DEVNULL)


def wait_served(data: Path, process: "subprocess.Popen[bytes]", bound: float = 60.0) -> None:
    """Return as soon as the kernel has answered a call."""
    path = data / "run" / "kernel.sock"
    deadline = time.monotonic() + bound
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("the kernel ended before it served")
        if path.exists():
            try:
                with BlockingClient.open(data) as client:
                    client.sys.clock()
                return
            except (OSError, ENODEV, EIO):
                time.sleep(0.001)  # bound but not listening yet
        time.sleep(0.001)
    raise SystemExit("the kernel does not serve")


def report(name: str, ours: float, floor: float, ratio: float, **more: Any) -> None:
    """Print the result: the one JSON object of the last line."""
    figures = {"name": name, "ours": ours, "floor": floor, "ratio": ratio, **more}
    rounded = {key: _rounded(value) for key, value in figures.items()}
    print(json.dumps(rounded, ensure_ascii=False))
    sys.stdout.flush()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def private_bytes(pid: int) -> int:
    """Bytes of memory that only this process has (Private_Clean + Private_Dirty)."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
