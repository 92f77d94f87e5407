"""Tools and what is remembered of their use. Numbers 144-159.

A tool is offered by a process, or by an MCP server that was mounted. A call of it arrives in
the owner's mailbox as a message of type ``tool.call`` with the body ``{"call": NUMBER, "tool":
NAME, "args": {...}}``; the owner answers with ``tool.reply`` and that number.
"""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.shapes import Name, Seconds, Shape
from syscalls.table import Call, syscall

ToolName = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=r"^[\w][\w.:/-]*$", description="a tool's name")
]
Query = Annotated[str, Meta(max_length=65536)]


@syscall(144, "tool.register")
class Register(Call, kw_only=True):
    """Offer a tool; calls arrive in the caller's mailbox, until the caller ends.

    ``schema`` is the JSON Schema of the arguments. With another schema than before, nothing
    that is remembered of the tool counts any more. Raises EINVAL (the schema is none), EEXIST
    (another live process offers a tool of that name).
    """

    name: ToolName
    description: Annotated[str, Meta(max_length=8192)] = ""
    schema: dict[str, Any] = {}


class Outcome(Shape, omit_defaults=False):
    """What a tool answered, and advice from earlier calls."""

    value: Any
    ok: bool = True
    """False where the tool itself says that it failed; ``error`` says how."""
    error: str = ""
    advice: str = ""
    """What failed before with such arguments, and what then worked."""
    rid: str = ""
    """The record of this call; empty where it could not be kept."""
    risk: float = 0.0
    """How likely a failure was, 0 to 1, judged before the call was made."""
    seconds: float = 0.0


@syscall(145, "tool.call", reply=Outcome)
class CallTool(Call, kw_only=True):
    """Call a tool; arguments and outcome are remembered in the caller's space.

    A call that failed in the same way twice in a row, and never since worked, is refused with
    EINVAL unless ``force``; errors that may pass are not counted. ``deadline`` is in seconds.
    Raises ENOENT (no such tool), EINVAL (``args`` do not fit the schema, or refused; ``detail``
    has ``advice``), ESRCH (its owner has ended), ETIME, EIO (its server has died).
    """

    name: Name
    args: dict[str, Any] = {}
    force: bool = False
    deadline: Seconds | None = None


class Recalled(Shape, omit_defaults=False):
    """Earlier calls that fit, best first."""

    traces: list[dict[str, Any]]
    """``rid``, ``tool``, ``args``, ``ok``, ``error``, ``failed``, ``worked``, ``cure``, ..."""
    risk: float = 0.0
    """With ``args``: how likely a call with them fails."""
    refused: str = ""
    """With ``args``: why it would be refused."""
    advice: str = ""


@syscall(146, "tool.recall", reply=Recalled)
class Recall(Call, kw_only=True):
    """Find earlier tool calls and what worked; with ``name`` and ``args``, judge a call first."""

    query: Query = ""
    name: Annotated[str, Meta(max_length=200)] = ""
    args: dict[str, Any] | None = None
    k: Annotated[int, Meta(ge=1, le=100)] = 10


class ToolInfo(Shape, omit_defaults=False):
    """A tool as ``tool.list`` shows it."""

    name: str
    description: str
    schema: dict[str, Any]
    owner: int
    """APID of the process that offers it; 1 for a mounted server's."""
    mount: str = ""
    """Name of the mounted server; empty for a process's tool."""
    alive: bool = True
    """Whether somebody would answer."""
    calls: int = 0
    """Since it was registered."""
    failed: int = 0


class Listed(Shape):
    """Tools with their schemas."""

    tools: list[ToolInfo]


@syscall(147, "tool.list", reply=Listed)
class ListCall(Call, kw_only=True):
    """List the tools."""


class Mounted(Shape):
    """What a server offers."""

    name: str
    tools: list[str]


@syscall(148, "tool.mount", reply=Mounted)
class Mount(Call, kw_only=True):
    """Mount an MCP server (stdio) as a tool device; its tools are called ``NAME.TOOL``.

    It runs as a child of the kernel, started again when it dies, until it is unmounted or the
    kernel stops. Needs the capability on the program (``tool.mount:*``), which agents do not
    have by default. Raises ENOENT (no such program), EEXIST, EIO (it does not speak MCP),
    ETIME.
    """

    command: Annotated[list[str], Meta(min_length=1, max_length=256)]
    name: Annotated[str, Meta(max_length=100, pattern=r"^[\w-]*$")] = ""
    deadline: Seconds = 30.0


@syscall(149, "tool.reply", capability="tool.register")
class Reply(Call, kw_only=True):
    """Answer a call of a tool that the caller offers: with a value, or with an error's text.

    Raises ENOENT where nobody waits for it any more (answered, cancelled, over its deadline).
    """

    call: Annotated[int, Meta(ge=1)]
    value: Any = None
    error: Annotated[str, Meta(max_length=65536)] = ""


@syscall(150, "tool.unmount", capability="tool.mount")
class Unmount(Call, kw_only=True):
    """Take a mounted server down, and its tools with it. Raises ENOENT."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
