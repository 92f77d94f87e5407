"""What init runs: look at it, and change it."""

import argparse

from syscalls.calls.supervise import Service, Supervise, Supervised
from syscalls.errors import EINVAL
from userland.context import Context
from userland.screen import clock, short

ACTIONS = ("status", "reload", "start", "stop")


def init_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with whom."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="status")
    parser.add_argument("name", nargs="?", help="a process or supervisor (start, stop)")


def init(context: Context, options: argparse.Namespace) -> int:
    """Look at the tree, read its file again, start or stop a part of it."""
    named = options.action in ("start", "stop")
    if named and options.name is None:
        raise EINVAL(f"init {options.action} what?", hint="`engram init status` shows the names")
    if not named and options.name is not None:
        raise EINVAL(f"init {options.action} is of everything and takes no name")
    found = context.client.call(Supervise(action=options.action, name=options.name or ""))
    show_supervised(context, found)
    return 0


def show_supervised(context: Context, found: Supervised) -> None:
    """A row for each process and supervisor, then one for each schedule."""
    columns = ["name", "state", "apid", "restart", "restarts", "runs", "last end"]
    depths: dict[str, int] = {}
    rows = []
    for one in found.services:
        depths[one.name] = depths.get(one.supervisor, -1) + 1
        rows.append(_row(one, depths[one.name]))
    context.table(found, columns, rows)
    if context.json:
        return
    if found.schedules:
        context.screen.table(
            ["schedule", "when", "next", "last"],
            [
                [
                    *(one.name, f"{one.cron} {one.zone}", clock(one.next)),
                    clock(one.last) if one.last else "-",
                ]
                for one in found.schedules
            ],
        )
    if found.problem:
        context.screen.problem(found.problem)


def _row(one: Service, depth: int) -> list[object]:
    ended = one.last.reason if one.last is not None else ""
    return [
        "  " * depth + one.name,
        one.state,
        one.apid or "-",
        one.restart,
        one.restarts,
        one.strategy or short(one.program, 40),
        short(one.problem or ended or "-", 60),
    ]
