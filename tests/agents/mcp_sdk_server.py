"""An MCP server made with the protocol's own library."""

from mcp.server import MCPServer

server = MCPServer("library")


@server.tool()
def shout(text: str) -> str:
    """The text, louder."""
    return text.upper()


@server.tool()
def refuse(text: str) -> str:
    """Never works."""
    raise ValueError(f"not {text}")


server.run("stdio")
