"""top: the processes, live."""

import argparse
import time
from typing import Any

from syscalls.calls.proc import ListCall, Processes
from syscalls.calls.sys import Info, SystemInfo
from userland.bin.process import PS_COLUMNS, ps_row
from userland.context import Context
from userland.screen import duration


def top_arguments(parser: argparse.ArgumentParser) -> None:
    """How often."""
    parser.add_argument("--once", action="store_true", help="show it once and end")
    parser.add_argument("-i", "--interval", type=float, default=1.0, metavar="S")
    parser.add_argument("-n", "--rounds", type=int, help="end after so many")


def top(context: Context, options: argparse.Namespace) -> int:
    """Redraw until Ctrl-C at a terminal; elsewhere one table (or object) a round."""
    rounds = 1 if options.once or not (context.terminal or options.rounds) else options.rounds
    if context.terminal and rounds != 1:
        return _live(context, options.interval, rounds)
    before: dict[int, int] = {}
    for number in range(rounds or 1):
        if number:
            time.sleep(options.interval)
        info, found = _ask(context)
        if context.json:
            context.value({"info": info, "processes": found.processes})
        else:
            context.screen.line(_heading(info))
            context.screen.table(COLUMNS, _rows(found, before, options.interval))
        before = {one.apid: one.calls for one in found.processes}
    return 0


COLUMNS = ("calls/s", *PS_COLUMNS)


def _live(context: Context, interval: float, rounds: int | None) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from userland.shell.rich_screen import make_table

    before: dict[int, int] = {}

    def picture() -> Any:
        info, found = _ask(context)
        rows = _rows(found, before, interval)
        before.clear()
        before.update({one.apid: one.calls for one in found.processes})
        return Group(Text(_heading(info), style="bold"), make_table(COLUMNS, rows))

    drawn = 0
    try:
        with Live(picture(), screen=True, auto_refresh=False) as live:
            while rounds is None or drawn < rounds:
                time.sleep(interval)
                live.update(picture(), refresh=True)
                drawn += 1
    except KeyboardInterrupt:
        return 0
    return 0


def _ask(context: Context) -> tuple[SystemInfo, Processes]:
    return context.client.call(Info()), context.client.call(ListCall())


def _heading(info: SystemInfo) -> str:
    drivers = "  ".join(f"{driver.name} {driver.state}" for driver in info.drivers)
    return f"up {duration(info.uptime)}, {info.processes} processes   {drivers}"


def _rows(found: Processes, before: dict[int, int], interval: float) -> list[list[object]]:
    """Busiest first."""
    rates = {
        one.apid: (one.calls - before.get(one.apid, one.calls)) / max(interval, 0.001)
        for one in found.processes
    }
    ordered = sorted(found.processes, key=lambda one: (-rates[one.apid], -one.rss, one.apid))
    return [[f"{rates[one.apid]:.0f}", *ps_row(one)] for one in ordered]
