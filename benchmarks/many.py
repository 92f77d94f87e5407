"""Many agents at once on one machine: who answers, what each costs, how long a call takes.

``--agents`` processes live at the same time, each with a space and a mailbox. In each round
every agent gets a message; it remembers something, passes a message on to its neighbour, and
answers. The floor of a call is the same call with one agent alive, in the same run.

``agents``       agents that answered every round
``least, most``  answers of the agent that got the fewest and the most of the rounds
``memory``       mean private bytes of an agent
``p50, p99``     seconds of a call (``mem.write`` and ``ipc.send``), as its agent measured it
``ratio``        p50 over the floor's
``shutdown``     seconds until the kernel and every agent had gone, after TERM
"""

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._harness import percentile, private_bytes, report, start, wait_served
from userland.client import BlockingClient

if TYPE_CHECKING:
    import subprocess

AGENTS = 2000
ROUNDS = 3
SESSIONS = 8
"""Sessions that the agents belong to."""
SAMPLE = 50
"""Agents whose memory is measured."""
WINDOW = 64
"""Agents that are waited for at once: so many work at the same time."""
PATIENCE = 600.0
PROGRAM = """
from time import perf_counter


async def main(agent):
    async for message in agent.messages():
        if message.body is None:
            continue  # the neighbour's
        began = perf_counter()
        await agent.remember(f"{agent.name} was asked in round {message.body['round']}")
        if message.body["next"] != agent.apid:
            await agent.send(message.body["next"], None)
        await agent.reply(message, (perf_counter() - began) / 2)
"""


def spawned(clients: list[BlockingClient], program: str, count: int) -> list[int]:
    """So many agents, divided among the sessions."""
    return [
        clients[number % len(clients)].proc.spawn(program=program, name=f"m{number}").apid
        for number in range(count)
    ]


def rounds(clients: list[BlockingClient], apids: list[int], count: int) -> dict[int, list[float]]:
    """Ask everybody in each round; the seconds of a call of each agent, a figure a round."""
    taken: dict[int, list[float]] = {apid: [] for apid in apids}
    client = clients[0]
    for turn in range(count):
        for first in range(0, len(apids), WINDOW):
            asked = {}
            for place in range(first, min(first + WINDOW, len(apids))):
                body = {"round": turn, "next": apids[(place + 1) % len(apids)]}
                number = client.ipc.send(to=apids[place], body=body).id
                asked[apids[place]] = number
            for apid, number in asked.items():
                answer = client.ipc.recv(sender=apid, reply_to=number, timeout=PATIENCE)
                taken[apid].append(float(answer.message.body))
    return taken


def processes(pid: int) -> list[int]:
    """The descendants of a process."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += below.get(one, [])
    return found[1:]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shut_down(process: "subprocess.Popen[bytes]") -> float:
    """End the kernel; seconds until it and all its descendants are gone."""
    family = processes(process.pid)
    began = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    while any(map(alive, family)):
        time.sleep(0.01)
        if time.perf_counter() - began > PATIENCE:
            raise SystemExit("some agents outlived the kernel")
    return time.perf_counter() - began


def measure(data: Path, program: str, count: int) -> dict[str, Any]:
    """Everything with so many agents."""
    process = start(data, "--embedder", "none", "--agent-children", str(count + 10))
    try:
        wait_served(data, process)
        clients = [BlockingClient.open(data) for _ in range(min(SESSIONS, count))]
        try:
            began = time.perf_counter()
            apids = spawned(clients, program, count)
            taken = rounds(clients, apids, ROUNDS)
            seconds = time.perf_counter() - began
            infos = {one.apid: one for one in clients[0].proc.list().processes}
            step = max(1, count // SAMPLE)
            memory = [private_bytes(infos[apid].pid) for apid in apids[::step]]
            kernel_memory = private_bytes(process.pid)
        finally:
            for client in clients:
                client.close()
        calls = [seconds for each in taken.values() for seconds in each]
        answered = [len(each) for each in taken.values()]
        return {
            "agents": sum(each == ROUNDS for each in answered),
            "least": min(answered),
            "most": max(answered),
            "memory": sum(memory) / len(memory),
            "kernel_memory": float(kernel_memory),
            "p50": percentile(calls, 0.5),
            "p99": percentile(calls, 0.99),
            "seconds": seconds,
            "shutdown": shut_down(process),
        }
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=AGENTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="engram-many-") as folder:
        program = Path(folder, "member.py")
        program.write_text(PROGRAM)
        alone = measure(Path(folder, "one"), str(program), 1)
        many = measure(Path(folder, "many"), str(program), options.agents)
    report(
        "many",
        many["p50"],
        alone["p50"],
        many["p50"] / alone["p50"],
        unit="s",
        asked=options.agents,
        **many,
    )


if __name__ == "__main__":
    main()
