"""A snapshot costs the same whatever the space holds.

The floor is the snapshot of a space that holds nothing but one record, in the same run: the
same few keys of the store, made durable. Before each snapshot one record is written, so that
there is a new layer to freeze each time.

``ratio``        p50 of ``mem.snapshot`` at 100,000 records, over the floor (<= 1.5)
``small_ratio``  the same at 1,000 records
``read_ratio``   p50 of ``mem.read`` by rid through the layers of ten snapshots, over the same
                 without any
"""

from benchmarks._harness import kernel, percentile, report, timed
from syscalls.calls.sys import Session
from syscalls.records import Note
from userland.client import BlockingClient

ROUNDS = 10
SPACES = 3
"""Spaces of each size, taken in turn."""
SIZES = (0, 1_000, 100_000)
PAGE = 10_000


def fill(client: BlockingClient, space: str, count: int) -> None:
    """Make a space with so many records."""
    client.call(Session(name="bench", space=space))
    for start in range(0, count, PAGE):
        notes = [
            Note("episodic", f"record {number} of {count}")
            for number in range(start, min(start + PAGE, count))
        ]
        client.mem.write_many(notes=notes)


def main() -> None:
    """Measure and report."""
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    reads: dict[str, list[float]] = {}
    with kernel("--embedder", "none") as data, BlockingClient.open(data) as client:
        for size in SIZES:
            for copy in range(SPACES if size < PAGE else 1):
                fill(client, f"s{size}.{copy}", size)
        first = client.mem.write(segment="episodic", content="the first", space="s1000.0").rid

        def read() -> object:
            return client.mem.read(rid=first, space="s1000.0")

        reads["flat"] = timed(read, 300)
        for turn in range(ROUNDS):
            for size in SIZES:
                for copy in range(SPACES if size < PAGE else 1):
                    space = f"s{size}.{copy}"
                    client.mem.write(segment="episodic", content=f"turn {turn}", space=space)
                    name = f"{space}@{turn}"
                    taken[size] += timed(
                        lambda space=space, name=name: client.mem.snapshot(name=name, space=space),  # type: ignore[misc]
                        1,
                    )
        reads["deep"] = timed(read, 300)
        held = client.mem.stat(space="s100000.0@0").records
        assert held == 100_001, held
    middle = {size: percentile(values, 0.5) for size, values in taken.items()}
    report(
        "snapshot",
        middle[100_000],
        middle[0],
        middle[100_000] / middle[0],
        unit="s",
        bound=1.5,
        small=middle[1_000],
        small_ratio=middle[1_000] / middle[0],
        read_ratio=percentile(reads["deep"], 0.5) / percentile(reads["flat"], 0.5),
    )


if __name__ == "__main__":
    main()
