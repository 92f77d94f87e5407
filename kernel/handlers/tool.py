"""``tool.*``: tools, and what is remembered of their use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kernel import monitor, trap
from kernel.arguments import misfit
from kernel.trap import handles
from syscalls.calls import mem, tool
from syscalls.errors import EINVAL, EPERM, EngramError
from syscalls.records import Filter
from syscalls.table import Empty
from ums.traces import KIND, compact

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from kernel.tools import Tool
    from procs.process import Process
    from ums.tools import Episode, Trace, Verdict
    from ums.traces import Book

SCHEMA = "the arguments do not fit"
"""How an error begins that no tool has made: it does not count as the tool's."""
RESULT = 65_536
"""Characters of an answer that are looked through for identifiers."""


@handles(tool.Register)
def register(kernel: Kernel, caller: Process, call: tool.Register) -> Empty:
    """Offer one."""
    kernel.tools.register(caller, call)
    return Empty()


@handles(tool.Reply)
def reply(kernel: Kernel, caller: Process, call: tool.Reply) -> Empty:
    """Answer a call."""
    kernel.tools.reply(caller, call)
    return Empty()


@handles(tool.ListCall)
def list_tools(kernel: Kernel, _caller: Process, _call: tool.ListCall) -> tool.Listed:
    """All of them."""
    return tool.Listed(tools=kernel.tools.listed())


@handles(tool.CallTool, waits=True)
async def call_tool(kernel: Kernel, caller: Process, call: tool.CallTool) -> tool.Outcome:
    """Judge, call, remember."""
    called = kernel.tools.find(call.name)
    monitor.allow_tool(caller, called.name, "tool.call")
    space = await kernel.own_space(caller)
    book = await kernel.traces.book(space)
    episode = kernel.tools.episode(caller.apid)
    trace = episode.begin(called.name, called.fingerprint, compact(call.args))
    verdict = book.experience.judge(trace)
    if verdict.refused and not call.force:
        kernel.tools.refused += 1
        raise EINVAL(
            f"{called.name} is not called: {verdict.refused}",
            hint="change the arguments, or force it if something has changed since",
            refused=True,
            advice=verdict.advice,
            risk=verdict.risk,
        )
    began = kernel.clock.monotonic()
    outcome = tool.Outcome(value=None, advice=verdict.advice, risk=round(verdict.risk, 3))
    failure: EngramError | None = None
    try:
        if wrong := misfit(called.schema, call.args):
            raise EINVAL(f"{SCHEMA} {called.name}: {wrong}", schema=called.schema)
        answer = await kernel.tools.invoke(caller, called, call.args, call.deadline)
        outcome.value, outcome.ok, outcome.error = answer.value, answer.ok, answer.error
    except EngramError as error:
        failure = error
        outcome.ok, outcome.error = False, f"{error.code}: {error.message}"
    outcome.seconds = round(kernel.clock.monotonic() - began, 6)
    outcome.rid = await _remember(kernel, caller, space, trace, outcome)
    if failure is not None:
        failure.detail |= {"advice": verdict.advice, "rid": outcome.rid}
        raise failure
    return outcome


async def _remember(
    kernel: Kernel, caller: Process, space: int, trace: Trace, outcome: tool.Outcome
) -> str:
    """Record a call with those that it mended; its rid, empty where that could not be."""
    text = _text(outcome.value)
    try:
        book = await kernel.traces.book(space)
        async with book.turn:
            await book.follow(kernel.memory.view(space))
            trace = _continued(book, trace)
            trace.happened(outcome.ok, outcome.error, kernel.clock.now(), outcome.seconds)
            mended = _mended(kernel.tools.episode(caller.apid), book, trace, text)
            if kernel.memory.sharing.lent(caller.apid, space):
                monitor.allow_space(kernel, caller, space, "mem.write", "write")
            return await kernel.traces.record(
                space, caller.apid, [trace, *mended], text, kernel.accounts.limit(caller, "records")
            )
    except EngramError as error:
        # The tool has been called, and its caller must have the answer.
        kernel.log("warning", "tools", f"a call of {trace.tool} is not remembered: {error}")
        return ""


def _continued(book: Book, trace: Trace) -> Trace:
    """The trace of the same call, where it was made before, in the present circumstances."""
    known = book.experience.get(trace.digest)
    if known is None:
        return trace
    return msgspec.structs.replace(
        known, unseen=trace.unseen, before=trace.before, after=trace.after
    )


def _mended(episode: Episode, book: Book, trace: Trace, text: str) -> list[Trace]:
    """The failed calls, as they are remembered now, that this one has mended."""
    mended = []
    for digest in dict.fromkeys(each.digest for each in episode.end(trace, text[:RESULT])):
        known = book.experience.get(digest)
        if known is not None and digest != trace.digest:
            mended.append(msgspec.structs.replace(known, cure=trace.args, cured_by=trace.digest))
    return mended


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value, enc_hook=repr).decode()


@handles(tool.Recall, waits=True)
async def recall(kernel: Kernel, caller: Process, call: tool.Recall) -> tool.Recalled:
    """Earlier calls by meaning and words; and the judgement of one that is planned."""
    recalled = tool.Recalled(traces=[])
    query = call.query or _text(call.args) or call.name
    if query:
        look = mem.Search(
            query=f"{call.name} {query}".strip(),
            segments=["procedural"],
            filter=Filter(kind=KIND, tags=[call.name] if call.name else []),
            k=call.k,
        )
        hits = (await trap.execute(kernel, caller, look)).hits
        recalled.traces = [{"rid": hit.rid, "score": hit.score, **hit.meta} for hit in hits]
    if call.name and call.args is not None:
        verdict = await _judged(kernel, caller, kernel.tools.known(call.name), call)
        recalled.risk, recalled.refused = round(verdict.risk, 3), verdict.refused
        recalled.advice = verdict.advice
    return recalled


async def _judged(
    kernel: Kernel, caller: Process, called: Tool | None, call: tool.Recall
) -> Verdict:
    """What is known of a planned call."""
    book = await kernel.traces.book(await kernel.own_space(caller))
    schema = called.fingerprint if called else ""
    trace = kernel.tools.episode(caller.apid).begin(call.name, schema, compact(call.args or {}))
    return book.experience.judge(trace)


@handles(tool.Mount, waits=True)
async def mount(kernel: Kernel, caller: Process, call: tool.Mount) -> tool.Mounted:
    """A server as a device."""
    _allow_mount(caller, call.command[0])
    names = await kernel.tools.mount(call)
    kernel.log("info", "audit", f"apid {caller.apid} mounted {' '.join(call.command)}")
    return tool.Mounted(name=names[0].partition(".")[0] if names else call.name, tools=names)


@handles(tool.Unmount)
def unmount(kernel: Kernel, caller: Process, call: tool.Unmount) -> Empty:
    """Take it down."""
    _allow_mount(caller, call.name)
    kernel.tools.unmount(call.name)
    kernel.log("info", "audit", f"apid {caller.apid} unmounted {call.name}")
    return Empty()


def _allow_mount(caller: Process, program: str) -> None:
    """A server runs outside any agent's confinement: that is for who may start anything."""
    if not caller.caps.on("tool.mount", f"program/{program}"):
        raise EPERM(
            f"apid {caller.apid} may not mount {program}",
            capability="tool.mount",
            object=f"program/{program}",
        )
