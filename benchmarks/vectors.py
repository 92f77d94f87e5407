"""The vector index of one space, alone: recall against exact search, time, memory, building.

    .venv/bin/python benchmarks/vectors.py --records 100000

The vectors are made: unit vectors of 384 dimensions around topics and sub-topics, with a
falling spectrum, so that neighbours are about as near as those of sentences (0.5 to 0.8) and
strangers are not (0.05). A query is a vector with as much noise again. Records are of three
segments (70, 29 and 1 in a hundred), and every hundredth is deleted again.

The index is written in steps, closed, and opened in a process of its own, whose memory is
measured (what is mapped of its files counts); ``floor`` and ``ratio`` are of exact search
(faiss flat, one thread) with the same queries in the same run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import ROOT, percentile, report
from drivers.indexes import DiskIndexes

DIMENSION = 384
QUERIES = 200
BLOCK = 10_000
STEP = 250_000
"""Vectors that come between two builds, at most."""
Rows = NDArray[np.float32]


class World:
    """The vectors, made block by block, the same in every process."""

    def __init__(self, records: int) -> None:
        self.records = records
        random = np.random.default_rng(7)
        self._spectrum = (np.arange(DIMENSION) + 8.0) ** -0.4
        self._mean = random.standard_normal(DIMENSION) * self._spectrum * 0.25
        topics = max(20, records // 400)
        self._topics = random.standard_normal((topics, DIMENSION)) * self._spectrum
        self._popular = random.permutation(topics)

    def block(self, number: int) -> Rows:
        """One block of unit vectors."""
        random = np.random.default_rng([11, number])
        count = min(BLOCK, self.records - number * BLOCK)
        # Some topics are spoken of far more often than others.
        picked = (len(self._topics) * random.random(count) ** 2).astype(np.int64)
        noise = random.standard_normal((count, DIMENSION)) * self._spectrum
        return _unit(self._mean + self._topics[self._popular[picked]] + 0.8 * noise)

    def blocks(self) -> Iterator[tuple[int, Rows]]:
        """Each block with the number of its first vector."""
        for number in range(-(-self.records // BLOCK)):
            yield number * BLOCK, self.block(number)

    def queries(self) -> Rows:
        """What is asked."""
        random = np.random.default_rng(13)
        rows = self.block(0)[random.permutation(min(BLOCK, self.records))[:QUERIES]]
        noise = _unit(random.standard_normal(rows.shape) * self._spectrum)
        return _unit(rows + noise)

    def alive(self) -> NDArray[np.bool_]:
        """Which are not deleted again."""
        alive: NDArray[np.bool_] = np.arange(self.records) % 100 != 0
        return alive


def _unit(rows: NDArray[Any]) -> Rows:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def tag(number: int) -> int:
    """The segment of a record."""
    place = number % 100
    return 1 if place < 70 else 2 if place < 99 else 3


def rid(number: int) -> str:
    """As long as a real one."""
    return f"{number:026d}"


def fill(folder: Path, world: World) -> dict[str, float]:
    """Write the index; seconds of building, of the longest pause, and of applying."""
    index = DiskIndexes(folder).vectors(1, DIMENSION, "made")
    built = [0.0]
    pauses = [0.0]
    applied = 0.0
    since = 0
    for first, rows in world.blocks():
        began = time.perf_counter()
        names = [(rid(first + place), tag(first + place)) for place in range(len(rows))]
        index.apply(first + len(rows), names, rows, [])
        applied += time.perf_counter() - began
        since += len(rows)
        if since >= STEP or first + len(rows) == world.records:
            since = 0
            while index.wants_rebuild:
                began = time.perf_counter()
                work = index.rebuild()
                assert work is not None
                pauses.append(time.perf_counter() - began)
                began = time.perf_counter()
                work.run()
                built.append(time.perf_counter() - began)
                began = time.perf_counter()
                index.adopt(work)
                pauses.append(time.perf_counter() - began)
                print(f"{first + len(rows)}: built in {built[-1]:.1f} s", file=sys.stderr)
    gone = [rid(int(number)) for number in np.flatnonzero(~world.alive())]
    index.apply(index.position + 1, [], np.empty((0, DIMENSION), np.float32), gone)
    index.close()
    return {"build": sum(built), "last": built[-1], "pause": max(pauses), "apply": applied}


def resident() -> int:
    """Bytes of memory of this process, mapped files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmRSS in /proc/self/status")


def measure(folder: Path, records: int) -> None:
    """In a process of its own: open, search; the answers and the figures to stdout."""
    queries = World(records).queries()
    warm = np.zeros((1000, DIMENSION), np.float32)
    faiss.knn(warm[:1], warm, 10)
    before = resident()
    began = time.perf_counter()
    index = DiskIndexes(folder).vectors(1, DIMENSION, "made")
    opened = time.perf_counter() - began
    answers = [[int(hit.rid) for hit in index.search(query, 10, None)] for query in queries]
    times: dict[str, list[float]] = {}
    for name, k, tags in (("ten", 10, None), ("sixty", 60, None), ("rare", 10, frozenset({3}))):
        times[name] = []
        for query in queries:
            began = time.perf_counter()
            hits = index.search(query, k, tags)
            times[name].append(time.perf_counter() - began)
            assert len(hits) == min(k, records // 100), f"{len(hits)} hits"
    held = resident() - before
    figures = index.statistics()
    print(
        json.dumps(
            {
                "answers": answers,
                "times": times,
                "held": held,
                "opened": opened,
                "kind": figures.kind,
                "entries": figures.entries,
                "stated": figures.bytes_memory,
                "disk": figures.bytes_disk,
            }
        )
    )


def exact(world: World) -> tuple[list[list[int]], list[float]]:
    """The true ten nearest, and the seconds that exact search took for each query."""
    rows = np.empty((world.records, DIMENSION), np.float32)
    for first, block in world.blocks():
        rows[first : first + len(block)] = block
    kept = np.flatnonzero(world.alive())
    for start in range(0, len(kept), BLOCK):  # in place: there is memory for it only once
        rows[start : min(start + BLOCK, len(kept))] = rows[kept[start : start + BLOCK]]
    rows = rows[: len(kept)]
    faiss.omp_set_num_threads(1)
    answers, times = [], []
    for query in world.queries():
        began = time.perf_counter()
        _, found = faiss.knn(query[None], rows, 10, metric=faiss.METRIC_INNER_PRODUCT)
        times.append(time.perf_counter() - began)
        answers.append(kept[found[0]].tolist())
    return answers, times


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--records", type=int, default=100_000)
    flags.add_argument("--folder", type=Path)
    given = flags.parse_args()
    if given.folder:
        measure(given.folder, given.records)
        return
    world = World(given.records)
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as name:
        seconds = fill(Path(name), world)
        command = [sys.executable, "-m", "benchmarks.vectors", "--records", str(given.records)]
        done = subprocess.run(
            [*command, "--folder", name], cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
    ours = json.loads(done.stdout)
    truth, floor = exact(world)
    found = sum(
        len(set(mine) & set(true)) for mine, true in zip(ours["answers"], truth, strict=True)
    )
    ten = ours["times"]["ten"]
    p50, base = percentile(ten, 0.5), percentile(floor, 0.5)
    report(
        "vectors",
        p50,
        base,
        p50 / base,
        unit="s",
        records=given.records,
        kind=ours["kind"],
        recall_at_10=found / (10 * len(truth)),
        p50_ms=1000 * p50,
        p95_ms=1000 * percentile(ten, 0.95),
        p50_ms_of_sixty=1000 * percentile(ours["times"]["sixty"], 0.5),
        p50_ms_of_rare_segment=1000 * percentile(ours["times"]["rare"], 0.5),
        exact_p50_ms=1000 * base,
        bytes_per_record=ours["held"] / ours["entries"],
        bytes_per_record_stated=ours["stated"] / ours["entries"],
        disk_bytes_per_record=ours["disk"] / ours["entries"],
        build_seconds=seconds["build"],
        last_build_seconds=seconds["last"],
        longest_pause_seconds=seconds["pause"],
        apply_seconds=seconds["apply"],
        open_seconds=ours["opened"],
    )


if __name__ == "__main__":
    main()
