"""team: a leader and workers, each its own process, that share one memory.

    engram run team "what do the notes say?" note1.txt note2.txt note3.txt

                 leader ── spawns, shares its space for writing, sends tasks
                /      \\
          worker 1    worker 2 ── each reads its files, writes findings into the leader's
                \\      /          space, and reports
                 leader ── recalls what fits the question, from all of them

Arguments: a question, then files; without files the workers take the texts below.
"""

import trio

from userland.agent import Agent, Proc

WORKERS = 3
PATIENCE = 60.0
TEXTS = [
    "The bridge was opened in 1932 and carries eight lanes.",
    "Maintenance of the bridge costs four million a year, mostly paint.",
    "Trains crossed the bridge until 1958.",
    "The toll is paid southbound only.",
    "From the eastern pylon one sees the whole harbour.",
    "Painting the arch once takes eighty thousand litres.",
]


async def main(agent: Agent) -> list[str]:
    """Be the leader; or a worker, where the leader's APID is the goal."""
    if agent.goal.startswith("work for "):
        await work(agent, int(agent.goal.removeprefix("work for ")))
        return []
    return await lead(agent)


async def lead(agent: Agent) -> list[str]:
    """Divide the texts among workers, wait for all, and recall what fits the question."""
    question = agent.args[0] if agent.args else "how much does painting the bridge cost?"
    texts = [await trio.Path(name).read_text() for name in agent.args[1:]] or TEXTS
    goal = f"work for {agent.apid}"
    workers: list[Proc] = []
    for number in range(WORKERS):
        worker = await agent.spawn(
            "userland.agents.team", name=f"{agent.name}-{number + 1}", goal=goal
        )
        await agent.share(worker.apid, "write")
        workers.append(worker)

    async def task(worker: Proc, share: list[str]) -> None:
        done = await agent.request(
            worker.apid, {"space": agent.space, "texts": share}, PATIENCE, type="task"
        )
        ended = await worker.wait(PATIENCE)
        agent.print(f"worker {worker.apid} wrote {done.body['written']} findings: {ended.reason}")

    async with trio.open_nursery() as nursery:
        for number, worker in enumerate(workers):
            nursery.start_soon(task, worker, texts[number::WORKERS])
    hits = await agent.recall(question, k=2)
    agent.print(f"question: {question}")
    for hit in hits:
        agent.print(f"found by worker {hit.provenance.writer}: {hit.content}")
    return [hit.content for hit in hits]


async def work(agent: Agent, leader: int) -> None:
    """Take one task, write each finding into the leader's space, and report."""
    message = await agent.recv(PATIENCE, sender=leader, type="task")
    texts = message.body["texts"]
    for text in texts:
        await agent.remember(text, segment="semantic", space=message.body["space"])
    agent.print(f"wrote {len(texts)} findings")
    await agent.reply(message, {"written": len(texts)})
