"""A fork costs the same whatever the parent's space holds.

The floor is the fork of a process whose space holds one record, in the same run: an operating
system process, and the few keys of the store that make a view of a space.

``ratio``        p50 of ``proc.fork`` at 100,000 records, over the floor (<= 1.5)
``small_ratio``  the same at 1,000 records
"""

import tempfile
from pathlib import Path

from benchmarks._harness import kernel, percentile, report, timed
from syscalls.records import Note
from userland.client import BlockingClient

ROUNDS = 15
SIZES = (1, 1_000, 100_000)
PAGE = 10_000
PROGRAM = """
async def main(agent):
    if not agent.forked:
        await agent.recv()
"""


def main() -> None:
    """Measure and report."""
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    with (
        tempfile.TemporaryDirectory() as folder,
        kernel("--embedder", "none") as data,
        BlockingClient.open(data) as client,
    ):
        program = Path(folder, "parent.py")
        program.write_text(PROGRAM)
        parents = {}
        for size in SIZES:
            parent = client.proc.spawn(program=str(program), space=f"s{size}").apid
            parents[size] = parent
            space = client.proc.info(target=parent).space
            for start in range(0, size, PAGE):
                notes = [
                    Note("episodic", f"record {number} of {size}")
                    for number in range(start, min(start + PAGE, size))
                ]
                client.mem.write_many(notes=notes, space=space)
        for turn in range(ROUNDS):
            for size, parent in parents.items():
                space = client.proc.info(target=parent).space
                client.mem.write(segment="episodic", content=f"turn {turn}", space=space)
                children: list[int] = []

                def fork(parent: int = parent, children: list[int] = children) -> None:
                    children.append(client.proc.fork(target=parent).apid)

                taken[size] += timed(fork, 1)
                child = client.proc.info(target=children[0])
                held = client.mem.stat(space=child.space).records
                assert held == size + turn + 1, (held, size, turn)
                client.proc.wait(target=children[0], timeout=60.0)
    middle = {size: percentile(values, 0.5) for size, values in taken.items()}
    report(
        "fork",
        middle[100_000],
        middle[1],
        middle[100_000] / middle[1],
        unit="s",
        bound=1.5,
        small=middle[1_000],
        small_ratio=middle[1_000] / middle[1],
    )


if __name__ == "__main__":
    main()
