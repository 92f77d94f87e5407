"""scribe: remembers what it is told and answers questions from what it remembers.

    engram spawn scribe --name ada "The launch is on the ninth of May."

It writes down each argument (or its goal), then serves messages:

    {"remember": TEXT}   writes it down; answers {"rid": RID}
    {"ask": QUESTION}    answers {"found": [TEXT, ...]}, the best first
    {"where": true}      answers {"space": N}, the number of its space
    {"grant": ACCESS}    lets the sender "read" or "write" its space; answers {"granted": ACCESS}
"""

from typing import Any

from syscalls.errors import EngramError
from syscalls.shapes import Message
from userland.agent import Agent


async def main(agent: Agent) -> None:
    """Write down, then serve until told to end."""
    for text in agent.args or [agent.goal]:
        if text:
            rid = await agent.remember(text)
            agent.print(f"remembered {rid}: {text}")
    async for message in agent.messages():
        try:
            answer = await serve(agent, message)
        except EngramError as error:
            answer = {"error": str(error)}
        agent.print(f"{message.name or message.sender} asked {message.body}: {answer}")
        await agent.reply(message, answer)


async def serve(agent: Agent, message: Message) -> dict[str, Any]:
    """Do what one message asks for and return the answer."""
    match message.body:
        case {"remember": str(text)}:
            return {"rid": await agent.remember(text)}
        case {"ask": str(question)}:
            return {"found": [hit.content for hit in await agent.recall(question, k=3)]}
        case {"where": _}:
            return {"space": agent.space}
        case {"grant": "read" | "write" as access}:
            await agent.share(message.sender, access)
            return {"granted": access}
    return {"error": "I know: remember, ask, where, grant"}
