"""A kernel that is killed while it makes snapshots: each is there whole, or is not there."""

import threading
import time
from pathlib import Path

from syscalls.calls.sys import Session
from syscalls.errors import EAGAIN, EngramError
from tests.harness import RunningKernel
from userland.client import BlockingClient

ROUNDS = 3


def made(client: BlockingClient, name: str) -> bool:
    """Make a snapshot; False where it has to wait."""
    try:
        client.mem.snapshot(name=name)
    except EAGAIN:
        return False
    return True


def snapshots(kernel: RunningKernel, acknowledged: list[int], first: int) -> None:
    """Count up in one record, with a snapshot of each number, until the kernel is gone."""
    try:
        with kernel.client() as client:
            client.call(Session(name="maker", space="home"))
            for number in range(first, first + 10_000):
                client.mem.write(segment="semantic", content=f"number {number}", key="n")
                while not made(client, f"s{number}"):
                    time.sleep(0.05)  # too deep: it is being folded
                acknowledged.append(number)
    except (OSError, EngramError):
        return


def test_kill_9_leaves_the_old_stack_or_the_new_one(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    kernel = RunningKernel(tmp_path / "data", "--embedder", "none", "--log-level", "error")
    try:
        for _ in range(ROUNDS):
            kernel.wait_until_served()
            before = len(acknowledged)
            first = max(acknowledged, default=0) + 2  # what was not acknowledged may be there
            thread = threading.Thread(target=snapshots, args=(kernel, acknowledged, first))
            thread.start()
            deadline = time.monotonic() + 60
            while len(acknowledged) < before + 7 and time.monotonic() < deadline:
                time.sleep(0.001)
            kernel.process.kill()
            kernel.process.wait(60)
            thread.join(60)
            assert len(acknowledged) >= before + 7
            kernel.process = kernel._start()
        kernel.wait_until_served()
        with kernel.client() as client:
            client.call(Session(name="checker", space="home"))
            last = max(acknowledged)
            record = client.mem.read(key="n").records[0]
            assert int(record.content.split()[1]) in (last, last + 1)
            assert client.mem.stat().records == 1
            for number in acknowledged:
                found = client.mem.read(key="n", space=f"s{number}").records[0]
                assert found.content == f"number {number}"
                assert client.mem.stat(space=f"s{number}").records == 1
                history = client.mem.history(rid=found.rid, space=f"s{number}").versions
                assert len(history) == found.version
    finally:
        kernel.process.kill()
        kernel.process.wait(60)
