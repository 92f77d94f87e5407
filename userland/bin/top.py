"""top: the processes, live."""

import argparse
import time
from typing import Any

from syscalls.calls.proc import ListCall, Processes, UsageCall
from syscalls.calls.sys import Info, SystemInfo
from syscalls.quota import AccountInfo
from syscalls.shapes import ProcessInfo
from userland.context import Context
from userland.screen import duration, short, size


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
    before: dict[int, AccountInfo] = {}
    for number in range(rounds or 1):
        if number:
            time.sleep(options.interval)
        info, found, used = _ask(context)
        if context.json:
            accounts = list(used.values())
            context.value({"info": info, "processes": found.processes, "accounts": accounts})
        else:
            context.screen.line(_heading(info))
            context.screen.table(COLUMNS, _rows(found, used, before, options.interval))
        before = used
    return 0


COLUMNS = (
    "apid", "name", "state", "tok/s", "tokens", "calls/s", "fly", "mail", "records", "stored",
    "kv", "rss",
)  # fmt: skip
"""Together no wider than a hundred characters."""


def _live(context: Context, interval: float, rounds: int | None) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from userland.shell.rich_screen import make_table

    before: dict[int, AccountInfo] = {}

    def picture() -> Any:
        info, found, used = _ask(context)
        rows = _rows(found, used, before, interval)
        before.clear()
        before.update(used)
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


def _ask(context: Context) -> tuple[SystemInfo, Processes, dict[int, AccountInfo]]:
    call = context.client.call
    info, found, accounts = call(Info()), call(ListCall()), call(UsageCall(all=True))
    return info, found, {one.apid: one for one in accounts.all}


def _heading(info: SystemInfo) -> str:
    drivers = "  ".join(f"{driver.name} {driver.state}" for driver in info.drivers)
    return f"up {duration(info.uptime)}, {info.processes} processes   {drivers}"


def _rows(
    found: Processes,
    used: dict[int, AccountInfo],
    before: dict[int, AccountInfo],
    interval: float,
) -> list[list[object]]:
    """Who takes most of the model first, then who calls most."""
    rows: list[tuple[tuple[float, ...], list[object]]] = []
    for one in found.processes:
        account = used.get(one.apid) or AccountInfo("")
        earlier = before.get(one.apid, account)
        tokens = (account.tokens - earlier.tokens) / max(interval, 0.001)
        calls = (account.calls - earlier.calls) / max(interval, 0.001)
        order = (-tokens, -calls, -account.tokens, -one.rss, one.apid)
        rows.append((order, _row(one, account, tokens, calls)))
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


def _row(one: ProcessInfo, account: AccountInfo, tokens: float, calls: float) -> list[object]:
    return [
        one.apid,
        short(one.name or "-", 18),
        one.state,
        f"{tokens:.0f}",
        _count(account.tokens),
        f"{calls:.0f}",
        one.inflight,
        one.mailbox,
        _count(account.records),
        size(account.bytes),
        size(account.kv),
        size(one.rss) if one.rss else "-",
    ]


def _count(number: int) -> str:
    for unit, whole in (("G", 10**9), ("M", 10**6), ("k", 10**4)):
        if number >= whole:
            return f"{number / (1000 if unit == 'k' else whole):.0f}{unit}"
    return str(number)
