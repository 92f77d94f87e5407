"""Tools and what is remembered of their use. Numbers 144-159."""

from typing import Any

from syscalls.shapes import Shape
from syscalls.table import Call, syscall


@syscall(144, "tool.register")
class Register(Call, kw_only=True):
    """Offer a tool with a JSON Schema; calls arrive in the caller's mailbox."""

    name: str
    description: str = ""
    schema: dict[str, Any] = {}


class Outcome(Shape):
    """What a tool answered, and advice from earlier calls."""

    value: Any
    advice: str = ""


@syscall(145, "tool.call", reply=Outcome)
class CallTool(Call, kw_only=True):
    """Call a tool; arguments and outcome are remembered."""

    name: str
    args: dict[str, Any] = {}
    force: bool = False


class Recalled(Shape):
    """Earlier calls that fit."""

    traces: list[dict[str, Any]]


@syscall(146, "tool.recall", reply=Recalled)
class Recall(Call, kw_only=True):
    """Find earlier tool calls and what worked."""

    query: str


class Listed(Shape):
    """Tools with their schemas."""

    tools: list[dict[str, Any]]


@syscall(147, "tool.list", reply=Listed)
class ListCall(Call, kw_only=True):
    """List the tools."""


@syscall(148, "tool.mount")
class Mount(Call, kw_only=True):
    """Mount an MCP server as a tool device."""

    command: list[str]
    name: str = ""
