"""librarian: looks something up in the memory of another agent, asking for leave first.

    engram run librarian ada "when is the launch?"

The other agent must be a ``scribe``. The librarian tries the door before it knocks: what an
agent has not shared is refused by the kernel with EPERM, whatever the agent says.
"""

from syscalls.errors import EPERM
from userland.agent import Agent

PATIENCE = 30.0


async def main(agent: Agent) -> list[str]:
    """Find out where the owner keeps its records, read them, and return what was found."""
    owner, question = agent.args[0], " ".join(agent.args[1:])
    space = (await agent.request(owner, {"where": True}, PATIENCE)).body["space"]
    agent.print(f"{owner}'s records are in space {space}")
    try:
        hits = await agent.recall(question, k=1, space=space)
    except EPERM as refusal:
        agent.print(f"refused: {refusal}")
        answer = await agent.request(owner, {"grant": "read"}, PATIENCE)
        agent.print(f"asked {owner} for leave: {answer.body}")
        hits = await agent.recall(question, k=1, space=space)
    for hit in hits:
        agent.print(f"found {hit.content!r} (score {hit.score:.3f})")
    return [hit.content for hit in hits]
