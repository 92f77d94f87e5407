"""reader: recalls from its own space, by meaning.

engram run --space ada-notes reader "when do we launch?"
"""

from userland.agent import Agent


async def main(agent: Agent) -> list[str]:
    """Print and return what comes to mind for each argument."""
    found: list[str] = []
    for question in agent.args or [agent.goal]:
        for hit in await agent.recall(question, k=1):
            agent.print(f"{question} -> {hit.content!r} (score {hit.score:.3f})")
            found.append(hit.content)
    return found
