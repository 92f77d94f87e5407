"""A small MCP server without a library: a line a message on standard input and output.

add(a, b)      their sum, structured
fail(why)      an error, as the tool's
slow()         never answers
die()          ends the process
grow()         offers one more tool, and says so
"""

import json
import os
import sys
from typing import Any

TOOLS: list[dict[str, Any]] = [
    {
        "name": "add",
        "description": "Add two integers.",
        "inputSchema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
    {"name": "fail", "inputSchema": {"type": "object", "properties": {"why": {"type": "string"}}}},
    {"name": "slow", "inputSchema": {"type": "object"}},
    {"name": "die", "inputSchema": {"type": "object"}},
    {"name": "grow", "inputSchema": {"type": "object"}},
    {"name": "broken", "inputSchema": {"type": "nothing"}},
]


def send(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **more}


def call(name: str, args: dict[str, Any]) -> dict[str, Any] | None:
    if name == "add":
        total = args["a"] + args["b"]
        return text(str(total), structuredContent={"sum": total})
    if name == "fail":
        return text(f"Error: {args['why']}", isError=True)
    if name == "die":
        os._exit(3)
    if name == "grow":
        TOOLS.append({"name": "more", "inputSchema": {"type": "object"}})
        send({"method": "notifications/tools/list_changed"})
        return text("grown")
    return None


def main() -> None:
    if sys.argv[1:] == ["mute"]:
        sys.stdin.read()
        return
    if sys.argv[1:] == ["refuse"]:
        print("no such licence", file=sys.stderr, flush=True)
        sys.exit(1)
    print("a line that is no message", flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        number, method, params = message.get("id"), message.get("method"), message.get("params", {})
        if method == "initialize":
            send({"id": "p1", "method": "ping"})
            send({"id": "p2", "method": "sampling/createMessage", "params": {}})
            info = {"name": "small", "version": "1"}
            capabilities = {"tools": {"listChanged": True}}
            version = params["protocolVersion"]
            result = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
            send({"id": number, "result": result})
        elif method == "tools/list":
            at = int(params.get("cursor", 0))
            page: dict[str, Any] = {"tools": TOOLS[at : at + 2]}
            if at + 2 < len(TOOLS):
                page["nextCursor"] = str(at + 2)
            send({"id": number, "result": page})
        elif method == "tools/call":
            if params["name"] not in [tool["name"] for tool in TOOLS]:
                send({"id": number, "error": {"code": -32602, "message": "unknown tool"}})
                continue
            answer = call(params["name"], params["arguments"])
            if answer is not None:
                send({"id": number, "result": answer})
        elif method is not None and number is not None:
            send({"id": number, "error": {"code": -32601, "message": "no such method"}})


main()
