"""A null call: ``sys.clock`` there and back; floor: a blocking unix-socket echo of its bytes.

Client and server are two processes in both. ``ratio`` is p50 of the blocking client over
the floor's p50; ``trio_ratio`` the same for the trio client; ``calls_per_second`` with eight
agent processes that call as fast as they can.
"""

import os
import socket
import time
from pathlib import Path

import trio

from benchmarks._harness import kernel, percentile, report, timed
from syscalls import wire
from syscalls.calls import sys as calls
from userland.channel import Channel
from userland.client import BlockingClient

ROUNDS = 20_000
AGENTS = 8
SPINNER = """
import time
async def main(agent):
    await agent.recv()
    until, calls = time.monotonic() + 3.0, 0
    while time.monotonic() < until:
        await agent.sys.clock()
        calls += 1
    return calls
"""


def echo_floor(request: bytes, reply: bytes) -> list[float]:
    """Round trips of a bare echo server that answers with as many bytes as the kernel does."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        while theirs.recv(65536):
            theirs.sendall(reply)
        os._exit(0)
    theirs.close()

    def once() -> None:
        ours.sendall(request)
        ours.recv(65536)

    timed(once, 2000)
    taken = timed(once, ROUNDS)
    ours.close()
    os.waitpid(child, 0)
    return taken


async def trio_rounds(data: Path) -> list[float]:
    clock = time.perf_counter
    async with Channel.open(data) as channel:
        call = calls.ClockCall()
        taken = []
        for _ in range(ROUNDS // 2):
            began = clock()
            await channel.call(call)
            taken.append(clock() - began)
        return taken[1000:]


def throughput(client: BlockingClient, folder: Path) -> float:
    """Calls a second of eight agents together."""
    program = folder / "spinner.py"
    program.write_text(SPINNER)
    apids = [client.proc.spawn(program=str(program)).apid for _ in range(AGENTS)]
    time.sleep(1.0)
    for apid in apids:
        client.ipc.send(to=apid, body="go")
    made: list[int] = [client.proc.wait(target=apid).value for apid in apids]
    return sum(made) / 3.0


def main() -> None:
    request = wire.frame((1, calls.ClockCall.NUMBER, calls.ClockCall()))
    reply = wire.frame((1, wire.DONE, calls.Clock(now=time.time(), monotonic=time.monotonic())))
    with kernel("--embedder", "none") as data, BlockingClient.open(data) as client:
        call = calls.ClockCall()
        timed(lambda: client.call(call), 2000)
        floors, ours = [], []
        for _ in range(3):  # in turn, so that a drift of the machine meets both
            floors += echo_floor(request, reply)
            ours += timed(lambda: client.call(call), ROUNDS)
        trio_taken = trio.run(trio_rounds, data)
        rate = throughput(client, data.parent)
    base, our = percentile(floors, 0.5), percentile(ours, 0.5)
    trio_p50 = percentile(trio_taken, 0.5)
    report(
        "trap",
        our,
        base,
        our / base,
        unit="s",
        bound=4.0,
        p99=percentile(ours, 0.99),
        trio=trio_p50,
        trio_ratio=trio_p50 / base,
        trio_bound=8.0,
        agents=AGENTS,
        calls_per_second=rate,
    )


if __name__ == "__main__":
    main()
