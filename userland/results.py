"""Calls and their results as a person reads them."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from syscalls.calls import ipc, kv, llm, lora, mem, proc, supervise, sys, tool
from syscalls.errors import EKERNEL, ERRORS, EngramError, ErrorValue, from_value
from syscalls.table import TABLE, Empty
from userland.bin.kv import show_prefixes
from userland.bin.memory import show_hits, show_records
from userland.bin.process import how, show_process, show_processes
from userland.bin.supervise import show_supervised
from userland.bin.system import show_info, show_stats
from userland.context import Context
from userland.screen import json_line, lines_visible, visible

LONGEST = 300
"""Characters of one argument, or of a result without a form of its own, that are shown."""

WIDTH = 160
"""Characters of a record that are shown."""

_WORD = re.compile(r"[^\W\d_][\w./:@-]*")
_NUMBERS: dict[str, int] = {error.__name__: number for number, error in ERRORS.items()}


def call_text(call: str, args: dict[str, Any], *, whole: bool = False) -> str:
    """A call on one line: ``mem.write segment=semantic content="Ada likes tea"``.

    What a terminal would not show as it is (escapes, reversed writing) is written out, so
    that nobody agrees to something else than is run; ``whole`` cuts nothing.
    """
    shown = [f"{name}={_argument(value, whole)}" for name, value in args.items()]
    return visible(" ".join([call, *shown]))


def _argument(value: Any, whole: bool) -> str:
    text = value if isinstance(value, str) and _WORD.fullmatch(value) else json_line(value)
    if whole or len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}… ({len(text)} characters)"


def show_steps(context: Context, steps: list[llm.Step], reply: str = "") -> None:
    """What came of each call; "done", and a text that is the reply, are left to it."""
    for step in steps:
        if not step.ok:
            context.screen.problem(f"{step.call} failed: {failure(step)}")
            continue
        entry = TABLE.by_name.get(step.call)
        value = step.value
        if entry is not None:
            try:
                value = msgspec.convert(step.value, entry.reply)
            except msgspec.ValidationError:
                entry = None  # shortened for the model, or of another version: as it came
        if isinstance(value, llm.Generated) and value.text.strip() == reply.strip():
            continue
        if isinstance(value, Empty) and reply:
            continue
        shown = _FORMS.get(step.call) if entry is not None else None
        if shown is not None:
            shown(context, value)
        else:
            context.screen.line(_plain(step.call, value))


def unsaid(reply: str, steps: list[llm.Step]) -> str:
    """The reply without the details that the results have shown already.

    Details are indented lines, and those of calls that failed: the kernel's own replies have
    them for those who see no results.
    """
    shown = set(_words(json_line(steps)))
    lines = [
        line
        for line in reply.splitlines()
        if not (line.startswith("  ") or " failed: " in line) or set(_words(line)) - shown
    ]
    return "\n".join(lines)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold().replace(" failed: ", " "))


def failure(step: llm.Step) -> EngramError:
    """The error of a step that failed."""
    value = step.value
    if isinstance(value, str):  # "ESRCH: there is no process 'x'"
        name, _, message = value.partition(": ")
        value = {"name": name, "message": message or value}
    try:
        told = msgspec.convert(value, ErrorValue)
    except msgspec.ValidationError:
        return EKERNEL(json_line(value))
    return from_value(_NUMBERS.get(told.name, EKERNEL.number), told)


def _plain(call: str, value: Any) -> str:
    if isinstance(value, Empty) or not value:
        return f"{call}: done"
    text = value if isinstance(value, str) else json_line(value)
    return visible(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


# --- a form for each call that has one


def _line(text: Callable[[Any], str]) -> Callable[[Context, Any], None]:
    """A form of one line."""
    return lambda context, value: context.screen.line(text(value))


def _list(context: Context, rows: Sequence[object], what: str) -> None:
    for row in rows:
        context.screen.line(json_line(row))
    if not rows:
        context.screen.line(f"there are no {what}")


_FORMS: dict[str, Callable[[Context, Any], None]] = {
    proc.Spawn.NAME: _line(lambda spawned: f"process {spawned.apid}"),
    proc.Fork.NAME: _line(lambda spawned: f"process {spawned.apid}"),
    proc.Wait.NAME: _line(how),
    proc.Info.NAME: show_process,
    proc.ListCall.NAME: show_processes,
    supervise.Supervise.NAME: show_supervised,
    ipc.Send.NAME: _line(lambda sent: f"message {sent.id}"),
    ipc.Publish.NAME: _line(lambda published: f"delivered to {published.delivered}"),
    mem.Write.NAME: _line(lambda written: f"{written.rid} version {written.version}"),
    mem.Search.NAME: lambda context, found: show_hits(context, found, width=WIDTH),
    mem.Read.NAME: show_records,
    mem.Pin.NAME: show_records,
    mem.Unpin.NAME: show_records,
    mem.Forget.NAME: _line(lambda forgotten: f"{len(forgotten.rids)} records forgotten"),
    llm.Generate.NAME: _line(lambda generated: lines_visible(generated.text)),
    kv.ListCall.NAME: show_prefixes,
    lora.ListCall.NAME: lambda context, found: _list(context, found.adapters, "adapters"),
    tool.ListCall.NAME: lambda context, found: _list(context, found.tools, "tools"),
    sys.Info.NAME: show_info,
    sys.StatsCall.NAME: show_stats,
}
