"""Processes: run, spawn, ps, kill, wait, logs."""

import argparse
from typing import Any

from syscalls.calls.proc import (
    Fork,
    Info,
    ListCall,
    OutputCall,
    Processes,
    SignalCall,
    Spawn,
    Spawned,
    Wait,
)
from syscalls.shapes import Exit, ProcessInfo, Quota
from userland.context import Context, here, reference, space_of
from userland.foreground import attend, missing
from userland.screen import clock, short, size

SIGNALS = ("TERM", "KILL", "INT", "STOP", "CONT", "USR1", "USR2")
STOPPED = 148
"""Exit status of `run` when its program was suspended: 128 + SIGTSTP, as shells have it."""


def spawn_arguments(parser: argparse.ArgumentParser) -> None:
    """What of ``proc.spawn`` can be typed."""
    parser.add_argument("--name", default="", help="a name to address it by")
    parser.add_argument("--goal", default="")
    parser.add_argument("--space", help="use this space as its own, instead of a new one")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument(
        "--cap", action="append", metavar="GRANT", help="grant this (repeat; default: standard)"
    )
    parser.add_argument("--memory", type=int, metavar="BYTES", help="most private memory")
    parser.add_argument(
        "--restart", choices=("permanent", "transient", "temporary"), default="temporary"
    )
    parser.add_argument("program", help="file, module, executable, or example agent's name")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its arguments")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of spawn, and -d."""
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait (as spawn)")
    spawn_arguments(parser)


def start(context: Context, options: argparse.Namespace) -> int:
    """Make the spawn call that the options describe; returns the APID."""
    call = Spawn(
        program=options.program,
        name=options.name,
        goal=options.goal,
        args=options.args,
        caps=options.cap,
        quota=Quota(memory=options.memory) if options.memory else None,
        nice=options.nice,
        restart=options.restart,
        space=space_of(options),
        cwd=here(),
    )
    return int(context.client.call(call).apid)


def spawn(context: Context, options: argparse.Namespace) -> int:
    """Start it and say its APID."""
    apid = start(context, options)
    text = f"{options.name or options.program} is process {apid}"
    if context.shell is not None:
        text = f"[{context.shell.in_background(apid).number}] {text}"
    context.value({"apid": apid}, text)
    return 0


def run(context: Context, options: argparse.Namespace) -> int:
    """Start it, pass its output on, and end as it ends. Ctrl-C sends it INT."""
    if options.detach:
        return spawn(context, options)
    apid = start(context, options)
    if context.shell is not None and not context.json:
        return int(context.shell.in_foreground(apid, context.shell.line))
    pieces: list[bytes] = []
    write = pieces.append if context.json else context.screen.raw
    left = attend(context.client, apid, write)
    ended = left.exit
    if context.json:
        output = b"".join(pieces).decode("utf-8", "replace")
        context.value({"apid": apid, "exit": ended, "output": output})
    elif ended is not None and ended.status != 0:
        context.screen.problem(how(ended))
    return ended.status if ended is not None else STOPPED


def how(ended: Exit) -> str:
    """How a process ended, on one line."""
    return f"process {ended.apid} ended: {ended.reason} (status {ended.status})"


# --- ps


def fork_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and what for."""
    parser.add_argument("--goal", default="", help="what the child is to do; default: the same")
    parser.add_argument("--name", default="", help="default: the same name")
    parser.add_argument("target", help="APID or name")


def fork(context: Context, options: argparse.Namespace) -> int:
    """Make a child with another's memory and context as they are now."""
    call = Fork(target=reference(options.target), goal=options.goal, name=options.name)
    forked: Spawned = context.client.call(call)
    context.value(forked, f"{options.name or options.target} is forked: process {forked.apid}")
    return 0


def ps_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    parser.add_argument("-a", "--all", action="store_true", help="also those of the past")
    parser.add_argument("-l", "--long", action="store_true", help="more columns")
    parser.add_argument("target", nargs="?", help="only this one, in full")


def ps(context: Context, options: argparse.Namespace) -> int:
    """A row for each process; everything about one, if one is named."""
    if options.target is not None:
        show_process(context, context.client.call(Info(target=reference(options.target))))
        return 0
    found = context.client.call(ListCall(all=options.all))
    show_processes(context, found, long=options.long)
    return 0


def show_process(context: Context, one: ProcessInfo) -> None:
    """Everything about one process."""
    names = one.__struct_fields__
    rows: list[list[object]] = [[name, _cell(getattr(one, name))] for name in names]
    context.table(one, ["field", "value"], rows)


def show_processes(context: Context, found: Processes, *, long: bool = False) -> None:
    """A row a process."""
    columns = LONG_COLUMNS if long else PS_COLUMNS
    context.table(found, columns, [ps_row(one, long=long) for one in found.processes])


PS_COLUMNS = ("apid", "name", "state", "pid", "parent", "space", "calls", "mail", "rss", "program")
LONG_COLUMNS = (*PS_COLUMNS[:-1], "kind", "nice", "session", "group", "started", "program")


def ps_row(one: ProcessInfo, *, long: bool = False) -> list[object]:
    """One process as a row."""
    state = one.state if one.exit is None else f"{one.state} ({one.exit.reason})"
    resident = size(one.rss) if one.rss else "-"
    row: list[object] = [one.apid, one.name or "-", short(state, 40), one.pid or "-"]
    row += [one.parent or "-", one.space or "-", one.calls, one.mailbox, resident]
    if long:
        row += [one.kind, one.nice, one.session, one.group, clock(one.created)]
    return [*row, short(one.program or "-", 48)]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, Exit):
        return how(value)
    return str(value) if value not in ("", None) else "-"


# --- kill, wait, logs


def kill_arguments(parser: argparse.ArgumentParser) -> None:
    """Signal and targets."""
    parser.add_argument("-s", "--signal", default="TERM", type=_signal, metavar="SIG")
    parser.add_argument("--tree", action="store_true", help="its descendants too")
    parser.add_argument("--group", action="store_true", help="its whole process group (job)")
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="APID or name")


def _signal(text: str) -> str:
    name = text.upper().removeprefix("SIG")
    if name not in SIGNALS:
        raise argparse.ArgumentTypeError(f"{text}: one of {', '.join(SIGNALS)}")
    return name


def kill(context: Context, options: argparse.Namespace) -> int:
    """Send a signal to each."""
    for target in options.targets:
        context.client.call(
            SignalCall(
                target=reference(target),
                signal=options.signal,
                tree=options.tree,
                group=options.group,
            )
        )
    context.value({"signal": options.signal, "targets": options.targets})
    return 0


def wait_arguments(parser: argparse.ArgumentParser) -> None:
    """For whom and how long."""
    parser.add_argument("target", nargs="?", help="APID or name; default: the next child to end")
    parser.add_argument("--timeout", type=float, metavar="S")


def wait(context: Context, options: argparse.Namespace) -> int:
    """Wait, show how it ended, and end with its status."""
    target = None if options.target is None else reference(options.target)
    ended: Exit = context.client.call(Wait(target=target, timeout=options.timeout))
    lasted = f" at {clock(ended.ended)}" if ended.ended else ""
    context.value(ended, how(ended) + lasted)
    return ended.status


def logs_arguments(parser: argparse.ArgumentParser) -> None:
    """Of whom."""
    parser.add_argument("target", help="APID or name")
    parser.add_argument("-f", "--follow", action="store_true", help="until it ends")
    parser.add_argument("--since", type=int, default=0, metavar="BYTES")


def logs(context: Context, options: argparse.Namespace) -> int:
    """What it wrote to its standard output and error."""
    call = OutputCall(target=reference(options.target), since=options.since, follow=options.follow)
    if not options.follow:
        piece = context.client.call(call)
        if context.json:
            context.value(piece)
        elif piece.data:
            context.screen.raw(piece.data if piece.data.endswith(b"\n") else piece.data + b"\n")
        return 0
    shown = options.since
    with context.client.stream(call) as stream:
        for piece in stream:
            if context.json:
                context.value(piece)
            else:
                context.screen.raw(missing(shown, piece) + piece.data)
            shown = piece.at + len(piece.data)
    return 0


output_arguments = logs_arguments
output = logs
