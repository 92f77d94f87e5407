"""p50 of ``mem.search`` (k=10) with 10k and 100k records in one space; 50 other spaces exist.

Floor: faiss flat inner product alone, the same number of vectors of the same dimension, one
query. The query's embedding is excluded: every query is asked once before (the embedder
keeps the vectors of recent queries). The vectors come from the hashing embedder, since
their values do not change the work; words, fusion, records and the system call are real.
"""

import itertools
import random
import time

import faiss
import numpy

from benchmarks._harness import kernel, percentile, report, timed
from syscalls.calls import mem
from syscalls.records import Note
from userland.client import BlockingClient

DIMENSION = 384
SIZES = (10_000, 100_000)
OTHERS = 50
QUERIES = 60
SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "ne",
    "ru",
    "sa",
    "ti",
    "vo",
    "xe",
    "zu",
    "ba",
    "do",
    "fi",
    "ge",
    "hu",
    "jo",
]


def vocabulary(generator: random.Random) -> list[str]:
    """20,000 made-up words; they are drawn below by rank, as words of a language are."""
    words = {"".join(generator.choices(SYLLABLES, k=generator.randint(2, 4))) for _ in range(26000)}
    return sorted(words)[:20_000]


def sentence(generator: random.Random, words: list[str], length: int) -> str:
    """Words by Zipf's law: rank is about uniform in the logarithm."""
    ranks = [int(len(words) ** generator.random()) - 1 for _ in range(length)]
    return " ".join(words[rank] for rank in ranks)


def faiss_floor(count: int) -> float:
    """Seconds of one query of a bare faiss flat index, p50; with one thread or the default
    number, whichever is faster (on few cores that is one)."""
    generator = numpy.random.default_rng(0)
    vectors = generator.standard_normal((count, DIMENSION), dtype=numpy.float32)
    faiss.normalize_L2(vectors)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    queries = itertools.cycle(vectors[:QUERIES])
    best = float("inf")
    for threads in (1, faiss.omp_get_max_threads()):
        faiss.omp_set_num_threads(threads)
        timed(lambda: index.search(next(queries)[None], 10), QUERIES)
        taken = timed(lambda: index.search(next(queries)[None], 10), QUERIES)
        best = min(best, percentile(taken, 0.5))
    return best


def wait_indexed(client: BlockingClient) -> None:
    """Return when both indexes have reached the last change."""
    while True:
        stat = client.mem.stat()
        if all(position >= stat.seq for position in stat.indexed.values()):
            return
        time.sleep(0.1)


def fill(client: BlockingClient, count: int, words: list[str], generator: random.Random) -> None:
    """Write ``count`` notes of 8 to 30 words."""
    while count > 0:
        page = min(count, 2000)
        notes = [
            Note(segment="episodic", content=sentence(generator, words, generator.randint(8, 30)))
            for _ in range(page)
        ]
        client.mem.write_many(notes=notes)
        count -= page
    wait_indexed(client)


def search_times(client: BlockingClient, queries: list[str]) -> list[float]:
    """Seconds of each search, when each query has been asked before."""
    for query in queries:
        hits = client.mem.search(query=query)
        assert hits.hits, query
        assert not hits.degraded, hits.degraded
    source = iter(queries * 3)
    return timed(lambda: client.call(mem.Search(query=next(source))), len(queries) * 3)


def main() -> None:
    generator = random.Random(1)
    words = vocabulary(generator)
    figures: dict[str, dict[str, float]] = {}
    with kernel("--embedder", f"hash:{DIMENSION}") as data:
        for number in range(OTHERS):
            with BlockingClient.open(data) as other:
                other.sys.session(space=f"other-{number}")
                fill(other, 100, words, generator)
        with BlockingClient.open(data) as client:
            client.sys.session(space="large")
            held = 0
            for size in SIZES:
                fill(client, size - held, words, generator)
                held = size
                queries = [sentence(generator, words, length % 7 + 3) for length in range(QUERIES)]
                ours = search_times(client, queries)
                floor = faiss_floor(size)
                figures[str(size)] = {
                    "ours": percentile(ours, 0.5),
                    "p95": percentile(ours, 0.95),
                    "floor": floor,
                    "ratio": percentile(ours, 0.5) / floor,
                }
    last = figures[str(SIZES[-1])]
    report(
        "search",
        last["ours"],
        last["floor"],
        last["ratio"],
        unit="s",
        bound=2.0,
        records=SIZES[-1],
        spaces=OTHERS + 1,
        sizes=figures,
    )


if __name__ == "__main__":
    main()
