"""From ``python -m kernel`` to the first served call; floor: a Python with the same imports.

The floor imports trio, msgspec, zmq and lmdb and ends. Ours is a fresh data directory, the
default embedder configured (it loads after), and a client that polls for the socket.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._harness import ROOT, percentile, report, start, wait_served

RUNS = 9


def floor() -> float:
    began = time.perf_counter()
    code = "import trio, msgspec, zmq, lmdb"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.perf_counter() - began


def ours() -> float:
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as folder:
        data = Path(folder) / "data"
        began = time.perf_counter()
        process = start(data, "--embedder", "none")
        wait_served(data, process)
        taken = time.perf_counter() - began
        process.terminate()
        process.wait(60)
        return taken


def main() -> None:
    floor(), ours()
    pairs = [(ours(), floor()) for _ in range(RUNS)]
    our, base = percentile([p[0] for p in pairs], 0.5), percentile([p[1] for p in pairs], 0.5)
    report("boot", our, base, our / base, unit="s", runs=RUNS, bound=3.0)


if __name__ == "__main__":
    main()
