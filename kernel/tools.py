"""The tools that are offered, and the calls of them that are under way.

    tool.call ──> process's mailbox (type tool.call) ──> tool.reply ──┐
             └──> mounted MCP server ─────────────────────────────────┴──> Answer

A tool of a process lives as long as the process; its name stays known, so that a caller is
told that the owner has ended, and not that there never was such a tool.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from drivers.mcp import Answer, Server, ServerStatistics
from kernel.arguments import check_schema
from syscalls.calls.tool import ToolInfo
from syscalls.errors import EDQUOT, EEXIST, EINVAL, EIO, ENOENT, ESRCH, ETIME, EngramError
from ums.tools import Episode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.calls import tool

CALLED = "tool.call"
"""Type of the messages that ask for a call."""
PATIENCE = 60.0
"""Seconds that a call may take when its caller does not say."""
EPISODES = 1024
"""Processes whose course of calls is remembered."""
EACH = 256
"""Tools that one process may offer."""


class Tool(msgspec.Struct):
    """One tool on offer."""

    name: str
    description: str
    schema: dict[str, Any]
    owner: int
    fingerprint: str
    """Of the schema: what is remembered of another one does not count."""
    mount: str = ""
    remote: str = ""
    """Its name at the mounted server."""
    alive: bool = True
    calls: int = 0
    failed: int = 0


class ToolsStatistics(msgspec.Struct, frozen=True):
    """Figures since boot."""

    tools: int
    alive: int
    pending: int
    """Calls that wait for an answer."""
    calls: int
    failed: int
    refused: int
    episodes: int
    mounts: list[ServerStatistics]


class _Pending:
    """A call that waits for its owner's answer."""

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.done = trio.Event()
        self.answer: Answer | None = None


class Tools:
    """All tools of the system."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._tools: dict[str, Tool] = {}
        self._pending: dict[int, _Pending] = {}
        self._mounts: dict[str, tuple[Server, trio.CancelScope]] = {}
        self._episodes: OrderedDict[int, Episode] = OrderedDict()
        self._nursery: trio.Nursery | None = None
        self._number = self._calls = self._failed = 0
        self.refused = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the mounted servers; they end with it."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    # --- the tools of processes

    def register(self, owner: Process, call: tool.Register) -> Tool:
        """Offer a tool. Raises EINVAL, EEXIST, EDQUOT."""
        check_schema(call.schema)
        known = self._tools.get(call.name)
        if known is not None and known.alive and known.owner != owner.apid:
            raise EEXIST(f"process {known.owner} offers a tool {call.name!r} already")
        own = sum(each.owner == owner.apid for each in self._tools.values())
        if known is None and own >= EACH:
            raise EDQUOT(f"a process may offer {EACH} tools", quota="tools", limit=EACH, used=own)
        made = _tool(call.name, call.description, call.schema, owner.apid)
        self._tools[call.name] = made
        return made

    def reply(self, owner: Process, call: tool.Reply) -> None:
        """Take an owner's answer. Raises ENOENT."""
        pending = self._pending.get(call.call)
        if pending is None or pending.owner != owner.apid or pending.done.is_set():
            raise ENOENT(f"nobody waits for an answer to call {call.call}")
        pending.answer = Answer(not call.error, call.value, call.error)
        pending.done.set()

    def left(self, apid: int) -> None:
        """A process, or its program, has ended: nobody answers for its tools any more."""
        self._episodes.pop(apid, None)
        for each in self._tools.values():
            if each.owner == apid and not each.mount:
                each.alive = False
        for pending in self._pending.values():
            if pending.owner == apid:
                pending.done.set()

    # --- all tools

    def find(self, name: str) -> Tool:
        """A tool that somebody answers for. Raises ENOENT, ESRCH (its owner has ended)."""
        found = self._tools.get(name)
        if found is None:
            raise ENOENT(f"there is no tool {name!r}", hint="`engram tool list` lists them")
        if not found.alive:
            raise ESRCH(
                f"the program of process {found.owner} that offered the tool {name!r} has ended",
                hint="start it again, or use another tool",
            )
        return found

    def known(self, name: str) -> Tool | None:
        """A tool, whether or not somebody answers for it."""
        return self._tools.get(name)

    def listed(self) -> list[ToolInfo]:
        """All tools, by name."""
        return [
            ToolInfo(
                name=each.name,
                description=each.description,
                schema=each.schema,
                owner=each.owner,
                mount=each.mount,
                alive=each.alive and (not each.mount or self._ready(each.mount)),
                calls=each.calls,
                failed=each.failed,
            )
            for _, each in sorted(self._tools.items())
        ]

    def episode(self, apid: int) -> Episode:
        """What a process has called so far."""
        episode = self._episodes.setdefault(apid, Episode())
        self._episodes.move_to_end(apid)
        while len(self._episodes) > EPISODES:
            self._episodes.popitem(last=False)
        return episode

    async def invoke(
        self, caller: Process, called: Tool, args: dict[str, Any], deadline: float | None
    ) -> Answer:
        """Have a tool called; its answer. Raises ETIME, ESRCH, EAGAIN (mailbox full), EIO."""
        self._calls += 1
        called.calls += 1
        patience = PATIENCE if deadline is None else deadline
        try:
            with trio.move_on_after(patience):
                if called.mount:
                    server, _ = self._mounts[called.mount]
                    answer = await server.call(called.remote, args)
                else:
                    answer = await self._ask(caller, called, args)
                self._count(called, answer.ok)
                return answer
        except EngramError:
            self._count(called, ok=False)
            raise
        self._count(called, ok=False)
        raise ETIME(f"{called.name} did not answer within {patience:g} s", deadline=patience)

    def _count(self, called: Tool, ok: bool) -> None:
        self._failed += not ok
        called.failed += not ok

    async def _ask(self, caller: Process, called: Tool, args: dict[str, Any]) -> Answer:
        """Put the call into the owner's mailbox and wait for its answer."""
        kernel = self._kernel
        self._number += 1
        number = self._number
        owner = kernel.processes.get(called.owner)
        body = {"call": number, "tool": called.name, "args": args}
        pending = self._pending[number] = _Pending(called.owner)
        try:
            await kernel.mailboxes.send(
                owner.apid,
                kernel.message(caller, body, type=CALLED),
                bound=kernel.accounts.limit(owner, "mailbox"),
            )
            await pending.done.wait()
        finally:
            del self._pending[number]
        if pending.answer is None:
            raise ESRCH(f"the program of {called.owner} ended before {called.name} answered")
        return pending.answer

    # --- mounted servers

    async def mount(self, call: tool.Mount) -> list[str]:
        """Start a server and offer its tools. Raises ENOENT, EEXIST, EIO, ETIME."""
        kernel = self._kernel
        name = call.name or _name_of(call.command)
        if name in self._mounts:
            raise EEXIST(f"a server is mounted as {name!r} already", hint="choose another name")
        server = Server(name, call.command, kernel.log, kernel.clock)
        server.changed = partial(self._offer, server)
        assert self._nursery is not None
        scope = trio.CancelScope()
        self._mounts[name] = (server, scope)
        self._nursery.start_soon(self._serve, server, scope)
        ready = False
        try:
            with trio.move_on_after(call.deadline):
                await server.settled.wait()
                ready = server.state == "ready"
        finally:
            if not ready:
                self._unmount(name)
        if not server.settled.is_set():
            raise ETIME(f"{name} was not ready within {call.deadline:g} s: {server.error}")
        if not ready:
            raise EIO(f"{name} cannot be mounted: {server.error}", driver=name, retryable=False)
        return [each.name for each in self._of(name)]

    def unmount(self, name: str) -> None:
        """Take a server down. Raises ENOENT."""
        if name not in self._mounts:
            raise ENOENT(f"no server is mounted as {name!r}")
        self._unmount(name)

    def _unmount(self, name: str) -> None:
        _, scope = self._mounts.pop(name)
        scope.cancel()
        for each in self._of(name):
            del self._tools[each.name]

    async def _serve(self, server: Server, scope: trio.CancelScope) -> None:
        with scope:
            await server.run()

    def _offer(self, server: Server) -> None:
        """Offer what a server lists now. A tool whose schema is none is left out."""
        before = {each.name: each for each in self._of(server.name)}
        for remote in server.tools:
            name = f"{server.name}.{remote.name}"
            try:
                check_schema(remote.input_schema)
            except EINVAL as error:
                self._kernel.log("warning", server.name, f"{name} is left out: {error.message}")
                continue
            made = _tool(name, remote.description, remote.input_schema, self._kernel.init.apid)
            made.mount, made.remote = server.name, remote.name
            if (old := before.pop(name, None)) is not None:
                made.calls, made.failed = old.calls, old.failed
            self._tools[name] = made
        for name in before:
            del self._tools[name]

    def _of(self, mount: str) -> list[Tool]:
        return [each for each in self._tools.values() if each.mount == mount]

    def _ready(self, mount: str) -> bool:
        return self._mounts[mount][0].state == "ready"

    def statistics(self) -> ToolsStatistics:
        """Figures since boot."""
        return ToolsStatistics(
            len(self._tools),
            sum(each.alive for each in self._tools.values()),
            len(self._pending),
            self._calls,
            self._failed,
            self.refused,
            len(self._episodes),
            [server.statistics() for server, _ in self._mounts.values()],
        )


def _tool(name: str, description: str, schema: dict[str, Any], owner: int) -> Tool:
    text = msgspec.json.encode(schema, order="deterministic")
    return Tool(name, description, schema, owner, blake2b(text, digest_size=8).hexdigest())


def _name_of(command: Sequence[str]) -> str:
    """A name for a mount from its command: the last word that is no option, without folders."""
    words = [word for word in command if not word.startswith("-")] or list(command)
    stem = words[-1].rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return "".join(each if each.isalnum() or each in "-_" else "-" for each in stem) or "server"
