"""echo: answers every message with the same words.

engram spawn echo --name echo
engram send echo "hello"
"""

from userland.agent import Agent


async def main(agent: Agent) -> None:
    """Answer until told to end (`engram kill echo`)."""
    async for message in agent.messages():
        agent.print(f"{message.name or message.sender} said {message.body!r}")
        await agent.reply(message, message.body)
