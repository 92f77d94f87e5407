"""The tools that an agent offers: functions whose arguments have types.

    @agent.offer
    async def weather(city: str, days: int = 1) -> str:
        "The weather in a city."
        ...

    await agent.serve()

The schema is made from the signature; arguments are converted by it before the function sees
them. Whatever the function raises is told to the caller as the tool's error.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
import trio

from syscalls.calls import tool
from syscalls.errors import EINVAL, ENOENT, EngramError

if TYPE_CHECKING:
    from collections.abc import Callable

    from syscalls.shapes import Message
    from userland.agent import Agent

CALLED = "tool.call"
"""Type of the messages that ask for a call."""


class Wanted(msgspec.Struct):
    """The body of such a message."""

    call: int
    tool: str
    args: dict[str, Any]


class Offer:
    """One function that is offered."""

    def __init__(self, run: Callable[..., Any], name: str = "", description: str = "") -> None:
        """Raises EINVAL for a function whose arguments have no names or no JSON types."""
        self.run = run
        self.name = name or run.__name__
        self.description = description or inspect.getdoc(run) or ""
        self._form = _form(run)
        self.schema = _schema(self._form)

    async def __call__(self, args: dict[str, Any]) -> Any:
        """Run it with the arguments of a call. Raises ValidationError, and what it raises."""
        given = msgspec.convert(args, self._form)
        value = self.run(**msgspec.structs.asdict(given))
        return await value if inspect.isawaitable(value) else value


def _form(run: Callable[..., Any]) -> type[msgspec.Struct]:
    """The arguments of a function as a struct."""
    hints = get_type_hints(run, include_extras=True)
    fields: list[Any] = []
    for each in inspect.signature(run).parameters.values():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY):
            raise EINVAL(f"{run.__name__}: a tool's arguments have names, {each} has none")
        kind = hints.get(each.name, Any)
        if each.default is each.empty:
            fields.append((each.name, kind))
        else:
            fields.append((each.name, kind, each.default))
    try:
        return msgspec.defstruct(run.__name__, fields, kw_only=True, forbid_unknown_fields=True)
    except TypeError as error:
        raise EINVAL(f"{run.__name__}: {error}") from error


def _schema(form: type[msgspec.Struct]) -> dict[str, Any]:
    """Its JSON Schema, with what it refers to inside."""
    try:
        (ref,), parts = msgspec.json.schema_components([form], ref_template="#/$defs/{name}")
    except TypeError as error:
        raise EINVAL(f"{form.__name__}: {error}") from error
    own = parts.pop(ref["$ref"].rpartition("/")[2])
    own.pop("title", None)
    return {**own, "$defs": parts} if parts else own


class Offers:
    """All tools of one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._by_name: dict[str, Offer] = {}

    def add(self, offer: Offer) -> None:
        """One more; it is registered by ``serve``."""
        self._by_name[offer.name] = offer

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register them and answer calls, several at a time, until cancelled."""
        for offer in self._by_name.values():
            await self._agent.call(
                tool.Register(name=offer.name, description=offer.description, schema=offer.schema)
            )
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                message = await self._agent.recv(type=CALLED)
                nursery.start_soon(self._answer, message)

    async def _answer(self, message: Message) -> None:
        """Run one call and answer it. An error is the tool's, not the agent's."""
        try:
            wanted = msgspec.convert(message.body, Wanted)
        except msgspec.ValidationError as error:
            self._agent.log(f"a message of apid {message.sender} is no call: {error}")
            return
        reply = tool.Reply(call=wanted.call)
        try:
            offer = self._by_name[wanted.tool]
            reply.value = msgspec.to_builtins(await offer(wanted.args))
        except EngramError as error:
            reply.error = f"{error.code}: {error.message}"
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller is told
            reply.error = f"{type(error).__name__}: {error}"
        try:
            await self._agent.call(reply)
        except ENOENT:
            self._agent.log(f"nobody waits for {wanted.tool} any more")
