"""Declared agents: a Markdown file with TOML front matter is a program.

    +++
    goal = "Teach fractions"
    tools = ["calculator", "notes.*"]
    [quota]
    records = 1000
    +++
    You are a patient tutor. Ask one question at a time.

The front matter says what the agent wants; the kernel gives it that and no more. The text below
is what its model is told. ``userland/thinking.py`` is the loop that it runs.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from syscalls.errors import EINVAL
from syscalls.launch import Wants
from syscalls.shapes import Quota
from userland.source import contents

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from userland.agent import Agent

FENCE = "+++"
LONGEST = 1 << 20
"""Bytes of a file."""
ALWAYS = (
    "mem.*", "llm.generate", "llm.count", "tool.list", "tool.recall", "ipc.recv", "ipc.send:*",
    "proc.exit", "proc.info", "sys.info", "sys.clock",
)  # fmt: skip
"""What every declared agent may do, where it does not say: think, remember, answer."""

Steps = Annotated[int, Meta(ge=1, le=1000)]
Tokens = Annotated[int, Meta(ge=16, le=1_000_000)]


class Declaration(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The front matter of a file, and its text."""

    name: str = ""
    """Of the process; by default the file's."""
    goal: str = ""
    """What it is to do; ``--goal`` goes before it."""
    model: str = ""
    """Name of the model that it wants; any attached one where it does not say."""
    tools: list[str] = []
    """Names of the tools it may call; ``notes.*`` for all that begin so."""
    capabilities: list[str] | None = None
    """What it may do, instead of what follows from the rest."""
    space: str = ""
    """Name of its space, so that the next run remembers; else it gets a new one."""
    serve: bool = False
    """Whether it answers messages until it is ended, or works on its goal and ends."""
    steps: Steps = 12
    """Steps for one task: thoughts with a call, a memory or an answer."""
    tokens: Tokens = 512
    """Tokens of one step."""
    memory: Tokens = 1024
    """Tokens of its memory that are shown with each task."""
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.0
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    quota: Quota = Quota()
    text: str = ""
    """Below the front matter: what the model is told."""


def read(path: Path) -> Declaration:
    """The declaration in a file. Raises ENOENT, EPERM, EINVAL (with the line, where known)."""
    data = contents(path, LONGEST)
    try:
        return parse(data.decode(), path.stem)
    except UnicodeDecodeError as error:
        raise EINVAL(f"{path} is not UTF-8: {error}") from error
    except EINVAL as error:
        raise EINVAL(f"{path}: {error.message}", hint=error.hint) from error


def parse(source: str, name: str) -> Declaration:
    """A declaration from its text; ``name`` is for one that has none. Raises EINVAL."""
    lines = source.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != FENCE:
        raise EINVAL(
            f"a declared agent begins with a line {FENCE}",
            hint=f"{FENCE}, lines such as goal = 'Teach fractions', {FENCE}, then instructions",
        )
    ends = [place for place, line in enumerate(lines[1:], 1) if line.strip() == FENCE]
    if not ends:
        raise EINVAL(f"the front matter has no closing line {FENCE}")
    try:
        front = tomllib.loads("\n" + "\n".join(lines[1 : ends[0]]))  # so that lines count
    except tomllib.TOMLDecodeError as error:
        raise EINVAL(f"the front matter is not TOML: {error}") from error
    try:
        found = msgspec.convert(front, Declaration)
    except msgspec.ValidationError as error:
        known = ", ".join(field for field in Declaration.__struct_fields__ if field != "text")
        raise EINVAL(f"the front matter: {error}", hint=f"its fields are {known}") from error
    if found.text:
        raise EINVAL("`text` is what stands below the front matter, not in it")
    text = "\n".join(lines[ends[0] + 1 :]).strip()
    if not (text or found.goal):
        raise EINVAL("there is neither a goal nor a text that says what to do")
    return msgspec.structs.replace(found, text=text, name=found.name or name)


def wants(found: Declaration) -> Wants:
    """What the kernel is asked for."""
    return Wants(
        name=found.name,
        goal=found.goal,
        caps=capabilities(found),
        quota=found.quota,
        nice=found.nice,
        space=found.space,
    )


def capabilities(found: Declaration) -> list[str]:
    """What it says, else the least that its tools and its loop need."""
    if found.capabilities is not None:
        return found.capabilities
    calls = {
        "tool.call" if "*" in tool else f"tool.call:tool/{tool}"
        for tool in found.tools
    }  # fmt: skip
    return sorted({*ALWAYS, *calls})


def load(path: Path) -> Callable[[Agent], Awaitable[Any]]:
    """The ``main`` of a declared agent."""
    found = read(path)

    async def main(agent: Agent) -> Any:
        from userland.thinking import Thinker

        return await Thinker(agent, found).run()

    return main
