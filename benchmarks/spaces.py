"""Many small spaces on one kernel: memory and descriptors, and what opening an idle one costs.

    .venv/bin/python benchmarks/spaces.py --spaces 10000

Each space holds five records. Only so many are open at a time (``open_spaces``); the others
are closed and opened when somebody searches them. ``ours`` is the median of a search in a
space that was closed, ``floor`` that of the same search just after it, when it is open.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

from benchmarks._harness import kernel, percentile, report
from syscalls.records import Note
from userland.client import BlockingClient

RECORDS = 5
PROBES = 300


def resident(pid: int) -> int:
    """Bytes of memory of a process, mapped files included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"process {pid} has no VmRSS")


def descriptors(pid: int) -> int:
    """Open descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def indexes(client: BlockingClient) -> dict[str, Any]:
    """The kernel's figures of its indexes."""
    found: dict[str, Any] = client.sys.stats().stats["memory"]["indexes"]
    return found


def settled(client: BlockingClient) -> dict[str, Any]:
    """The figures once nothing waits to be indexed."""
    while True:
        figures = indexes(client)
        if not (figures["lexical_backlog"] or figures["dense_backlog"] or figures["recovering"]):
            return figures
        time.sleep(0.2)


def fill(client: BlockingClient, count: int) -> None:
    """Make the spaces with their records."""
    for number in range(count):
        client.sys.session(space=f"space-{number}")
        notes = [
            Note("semantic", f"subject{number} keeps object{place} in the {place}th drawer")
            for place in range(RECORDS)
        ]
        client.mem.write_many(notes=notes)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--spaces", type=int, default=10_000)
    count = flags.parse_args().spaces
    with kernel("--embedder", "hash:64") as data, BlockingClient.open(data) as client:
        pid = int((data / "run" / "kernel.pid").read_text())
        fill(client, 2)
        settled(client)
        before = resident(pid), descriptors(pid)
        began = time.perf_counter()
        fill(client, count)
        written = time.perf_counter() - began
        figures = settled(client)
        taken = time.perf_counter() - began
        held = resident(pid) - before[0], descriptors(pid) - before[1]
        closed: list[float] = []
        again: list[float] = []
        most = 0
        for number in random.Random(3).sample(range(count), min(PROBES, count)):
            client.sys.session(space=f"space-{number}")
            for times in (closed, again):
                began = time.perf_counter()
                hits = client.mem.search(query=f"where is object3 of subject{number}").hits
                times.append(time.perf_counter() - began)
                assert hits
            most = max(most, indexes(client)["open"])
    ours, floor = percentile(closed, 0.5), percentile(again, 0.5)
    report(
        "spaces",
        ours,
        floor,
        ours / floor,
        unit="s",
        spaces=count,
        records=RECORDS * count,
        open=figures["open"],
        most_open=most,
        bytes_per_space=held[0] / count,
        descriptors=held[1],
        p95_of_a_closed_one=percentile(closed, 0.95),
        write_seconds=written,
        index_seconds=taken,
    )


if __name__ == "__main__":
    main()
