"""Acknowledged means on disk: a writer is killed at random moments and nothing is missing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from drivers.store.lmdb import open_store

ROOT = Path(__file__).parents[2]

WRITER = """
import os, sys
from pathlib import Path
import trio
from drivers.contracts import Batch
from drivers.store.lmdb import open_store

async def main(folder):
    async with await open_store(folder, map_size=1 << 16) as store, trio.open_nursery() as nursery:
        async def write(task):
            n = 0
            while True:
                key = f"{store.statistics().seq}.{os.getpid()}.{task}.{n}".encode()
                [seq] = await store.commit(
                    Batch(puts=[("records", key, key * 20)], journal=[(task, key)])
                )
                os.write(1, b"%d %d %s\\n" % (seq, task, key))
                n += 1
        for task in range(16):
            nursery.start_soon(write, task)

trio.run(main, Path(sys.argv[1]))
"""


def write_and_kill(folder: Path, lines: int) -> list[tuple[int, int, bytes]]:
    """What a writer acknowledged before it was killed, some time after so many lines."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
        assert process.wait() == -9
    assert all(said[:lines]), "the writer ended by itself"
    acknowledged = []
    for line in said:
        if line.endswith(b"\n"):
            seq, task, key = line.split()
            acknowledged.append((int(seq), int(task), key))
    return acknowledged


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_was_acknowledged_is_there_after_sigkill(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged: list[tuple[int, int, bytes]] = []
    for _ in range(4):
        lines = chance.choice([1, 40, 300, 900])
        with trio.fail_after(60):
            acknowledged += await trio.to_thread.run_sync(write_and_kill, tmp_path / "s", lines)
        async with await open_store(tmp_path / "s") as store:
            journal = {
                seq: (task, key) for task in range(16) for seq, key in store.journal(task, 0, 0)
            }
            for seq, task, key in acknowledged:
                assert store.get("records", key) == key * 20
                assert journal[seq] == (task, key)
            # Whole batches only: each record has its entry, and numbers have no gaps.
            assert sorted(journal) == list(range(1, store.statistics().seq + 1))
            records = {key for key, _ in store.scan("records", b"\0", b"\xff")}
            assert records == {key for _, key in journal.values()}
    assert len(acknowledged) > 4
