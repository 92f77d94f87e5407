"""Durable writes. Every figure ends with the data fsynced.

The floor is a bare LMDB that commits each write by itself: the same record, its journal entry
and the counter, the same bytes.

``ratio``             writes a second of the store with 64 in flight, over the floor (>= 10)
``syscall_ratio``     the same for ``mem.write`` through the kernel, 64 in flight on one
                      connection; ``syscall_gain`` over ``mem.write`` one at a time
``single_ratio``      p50 of one writer that waits for each ``mem.write``, over the p50 of the
                      floor's commit (<= 2)
``embedding_ratio``   texts a second written *and* searchable by meaning, over the embedder's own
                      batched throughput on the same texts (>= 0.9)
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import msgspec
import trio

from benchmarks._harness import kernel, percentile, report, timed
from drivers.contracts import Batch
from drivers.store.lmdb import open_store
from kernel.machine import Threads
from syscalls.calls import mem
from userland.client import BlockingClient

INFLIGHT = 64
WRITES = 20_000
SINGLES = 1000
TEXTS = 2000
VERBS = ("likes", "hates", "bought", "sold", "found", "lost", "painted", "wrote", "read", "saw")
THINGS = [
    "tea",
    "coffee",
    "books",
    "bicycles",
    "maps",
    "stones",
    "clocks",
    "poems",
    "songs",
    "ships",
]


def text(number: int) -> str:
    """A short sentence, each one different."""
    verb, thing = VERBS[number % 10], THINGS[number // 10 % 10]
    return f"Person {number} {verb} {thing} on day {number * 7 % 365} in town {number % 1013}"


def paragraph(number: int) -> str:
    """Three sentences of 12 words, as a note of a meeting or a day has."""
    return ". ".join(text(number + step) for step in (0, 5_003, 70_001))


def bare_commits(folder: Path, value: bytes, count: int) -> list[float]:
    """Seconds of each durable commit of one write, one after the other."""
    with lmdb.open(str(folder), map_size=1 << 30, max_dbs=2) as env:
        records, journal = env.open_db(b"records"), env.open_db(b"journal")
        with env.begin(write=True) as txn:  # as large a store as ours is at that time
            before = txn.stat(journal)["entries"]
            for number in range(before, before + WRITES):
                txn.put(number.to_bytes(24, "big"), value, db=records)
                txn.put(number.to_bytes(16, "big"), b"x" * 24, db=journal)
        numbers = iter(range(before + WRITES, before + WRITES + count))

        def once() -> None:
            key = next(numbers).to_bytes(24, "big")
            with env.begin(write=True) as txn:
                txn.put(key, value, db=records)
                txn.put(key[8:], key, db=journal)
                txn.put(b"seq", key)

        return timed(once, count)


async def store_rate(folder: Path, value: bytes) -> float:
    """Batches a second of the store alone, 64 tasks that each wait for their own."""
    store = await open_store(folder, offload=Threads())
    numbers = iter(range(1, WRITES + 1))  # keys follow each other, as record ids do

    async def writer() -> None:
        for number in numbers:
            key = number.to_bytes(24, "big")
            await store.commit(Batch(puts=[("records", key, value)], journal=[(1, key)]))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(INFLIGHT):
            nursery.start_soon(writer)
    taken = time.perf_counter() - began
    await store.aclose()
    return WRITES / taken


def writes(count: int, start: int = 0) -> Iterator[mem.Write]:
    return (mem.Write(segment="episodic", content=text(start + n)) for n in range(count))


def wait_indexed(client: BlockingClient, kind: str) -> None:
    """Return when an index has reached the last change."""
    while True:
        stat = client.mem.stat()
        if stat.indexed.get(kind, 0) >= stat.seq:
            return
        time.sleep(0.05)


def kernel_rates(data: Path) -> tuple[float, list[float]]:
    """Writes a second with 64 in flight; seconds of each single write."""
    with BlockingClient.open(data) as client:
        for answer in client.call_many(writes(2000), inflight=INFLIGHT):
            assert isinstance(answer, mem.Written), answer
        began = time.perf_counter()
        for answer in client.call_many(writes(WRITES, 2000), inflight=INFLIGHT):
            assert isinstance(answer, mem.Written), answer
        rate = WRITES / (time.perf_counter() - began)
        wait_indexed(client, "lexical")
        source = writes(SINGLES, 100_000)
        singles = timed(lambda: client.call(next(source)), SINGLES)
    return rate, singles


def embedded_rates() -> tuple[float, float]:
    """Texts a second written and indexed by meaning; and of the embedder alone."""
    with kernel() as data, BlockingClient.open(data) as client:
        client.llm.embed(texts=["it has loaded"])

        def alone(lead: str) -> float:
            texts = [lead + paragraph(number) for number in range(TEXTS // 2)]
            began = time.perf_counter()
            for at in range(0, len(texts), 500):
                client.llm.embed(texts=texts[at : at + 500])
            return time.perf_counter() - began

        taken = alone("first ")  # before and after, so that a drift of the machine meets both
        notes = [mem.Write(segment="semantic", content=paragraph(n)) for n in range(TEXTS)]
        began = time.perf_counter()
        for answer in client.call_many(notes, inflight=INFLIGHT):
            assert isinstance(answer, mem.Written), answer
        wait_indexed(client, "dense")
        ours = TEXTS / (time.perf_counter() - began)
        taken += alone("then ")
    return ours, TEXTS / taken


def main() -> None:
    value = msgspec.msgpack.encode(["x" * 60, text(0), 1.0, 2.0, [], {}, 17])
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as name:
        folder = Path(name)
        floors = bare_commits(folder / "bare", value, SINGLES)
        store = trio.run(store_rate, folder / "store", value)
        with kernel("--embedder", "none") as data:
            rate, singles = kernel_rates(data)
        floors += bare_commits(folder / "bare", value, SINGLES)
    embedded, alone = embedded_rates()
    floor_rate = len(floors) / sum(floors)
    single, commit = percentile(singles, 0.5), percentile(floors, 0.5)
    report(
        "write",
        store,
        floor_rate,
        store / floor_rate,
        unit="writes/s",
        bound_at_least=10.0,
        inflight=INFLIGHT,
        syscall=rate,
        syscall_ratio=rate / floor_rate,
        syscall_gain=rate * sum(singles) / len(singles),
        single_p50=single,
        commit_p50=commit,
        single_ratio=single / commit,
        single_bound=2.0,
        embedded=embedded,
        embedder_alone=alone,
        embedding_ratio=embedded / alone,
        embedding_bound_at_least=0.9,
    )


if __name__ == "__main__":
    main()
