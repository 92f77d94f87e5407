"""From ``proc.spawn`` to the child's first served call; floor: fork, ``trio.run``, exit.

The child is a Python agent of its own process, confined and limited as every agent is. The
end of the measure is the kernel's own record of the child's first call. Also the private
memory of an idle agent (bytes that no other process shares) with 500 of them alive.
"""

import os
import tempfile
import time
from pathlib import Path

import trio

from benchmarks._harness import kernel, percentile, private_bytes, report, timed
from userland.client import BlockingClient

SPAWNS = 100
IDLE = 500
PROGRAM = """
async def main(agent):
    await agent.sys.clock()
    await agent.recv()
"""


def floor_once() -> None:
    child = os.fork()
    if child == 0:
        trio.run(trio.lowlevel.checkpoint)
        os._exit(0)
    os.waitpid(child, 0)


def spawn_once(client: BlockingClient, program: str) -> float:
    began = time.time()
    apid = client.proc.spawn(program=program).apid
    while True:
        lines = client.sys.trace(target=apid, limit=10_000).lines
        if lines:
            break
        time.sleep(0.002)
    client.proc.signal(target=apid, signal="KILL")
    client.proc.wait(target=apid)
    return float(lines[0].at - began)


def idle_memory(client: BlockingClient, program: str) -> tuple[float, int]:
    """Mean private bytes of an idle agent, and how many were alive and answered."""
    apids = [client.proc.spawn(program=program).apid for _ in range(IDLE)]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        listed = {p.apid: p for p in client.proc.list().processes}
        if all(listed[apid].calls >= 2 for apid in apids):  # the second is its recv
            break
        time.sleep(0.2)
    alive = [listed[apid] for apid in apids if listed[apid].state == "WAITING"]
    mean = sum(private_bytes(process.pid) for process in alive) / len(alive)
    for apid in apids:
        client.proc.signal(target=apid, signal="KILL")
    for apid in apids:
        client.proc.wait(target=apid)
    return mean, len(alive)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        kernel("--embedder", "none") as data,
        BlockingClient.open(data) as client,
    ):
        program = Path(folder) / "idle.py"
        program.write_text(PROGRAM)
        for _ in range(5):
            spawn_once(client, str(program))
            floor_once()
        ours, floors = [], []
        for _ in range(SPAWNS):
            ours.append(spawn_once(client, str(program)))
            floors += timed(floor_once, 1)
        memory, alive = idle_memory(client, str(program))
    our, base = percentile(ours, 0.5), percentile(floors, 0.5)
    report(
        "spawn",
        our,
        base,
        our / base,
        unit="s",
        bound=3.0,
        p99=percentile(ours, 0.99),
        idle_agents=alive,
        idle_private_mb=memory / 1e6,
        idle_bound_mb=6.0,
    )


if __name__ == "__main__":
    main()
