"""The system as a whole: info, stats, sessions, ready, and any syscall by name."""

import argparse
import time
from typing import Any

import msgspec

from syscalls.calls.sys import Detach, Info, SessionsCall, Stats, StatsCall, SystemInfo
from syscalls.errors import EINVAL, EIO, ETIME
from syscalls.shapes import DriverInfo
from syscalls.table import TABLE
from userland.commands import closest
from userland.context import Context, reference
from userland.screen import clock, duration, json_line, short


def info_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def info(context: Context, options: argparse.Namespace) -> int:
    """Version, uptime, drivers."""
    found: SystemInfo = context.client.call(Info())
    if context.json:
        context.value(found)
        return 0
    show_info(context, found)
    return 0


def show_info(context: Context, found: SystemInfo) -> None:
    """The system, and a row a driver."""
    context.screen.line(
        f"EngramOS {found.version}, pid {found.pid}, boot {found.boot}, "
        f"up {duration(found.uptime)}, {found.processes} processes, "
        f"{len(found.served)} of {len(TABLE)} calls served, data in {found.data}"
    )
    context.screen.table(
        ["driver", "kind", "state", "detail"],
        [[one.name, one.kind, one.state, details(one)] for one in found.drivers],
    )


def details(driver: DriverInfo) -> str:
    """What a driver says of itself, on one line."""
    return short(", ".join(f"{key} {value}" for key, value in driver.detail.items()), 100)


def stats_arguments(parser: argparse.ArgumentParser) -> None:
    """Which part."""
    parser.add_argument("part", nargs="?", help="only this part")


def stats(context: Context, options: argparse.Namespace) -> int:
    """Figures of every long-lived part."""
    tree: dict[str, Any] = context.client.call(StatsCall()).stats
    if options.part is not None:
        if options.part not in tree:
            raise EINVAL(f"no part {options.part!r}", hint="one of: " + ", ".join(sorted(tree)))
        tree = {options.part: tree[options.part]}
    show_stats(context, Stats(tree))
    return 0


def show_stats(context: Context, found: Stats) -> None:
    """A row a figure."""
    context.table(found, ["figure", "value"], _flat(found.stats, ""))


def _flat(tree: dict[str, Any], prefix: str) -> list[list[object]]:
    rows: list[list[object]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{name}.")
        else:
            rows.append([name, value if isinstance(value, (int, float, str)) else json_line(value)])
    return rows


def sessions_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def sessions(context: Context, options: argparse.Namespace) -> int:
    """The sessions, attached and detached."""
    found = context.client.call(SessionsCall())
    context.table(
        found,
        ["session", "name", "state", "uid", "pid", "space", "started", "jobs"],
        [
            [
                *(one.session, one.name, "attached" if one.attached else "detached"),
                *(one.uid, one.pid or "-", one.space, clock(one.started)),
                " ".join(map(str, one.jobs)) or "-",
            ]
            for one in found.sessions
        ],
    )
    return 0


def detach_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and whether it ends."""
    parser.add_argument("--end", action="store_true", help="end the session and all its jobs")
    parser.add_argument("session", help="name or number of a session that is kept")


def detach(context: Context, options: argparse.Namespace) -> int:
    """Take the terminal from a session, which goes on; or end it."""
    context.client.call(Detach(session=reference(options.session), end=options.end))
    state = "ended" if options.end else "detached"
    context.value({"session": options.session, "state": state}, f"{options.session} is {state}")
    return 0


def call_arguments(parser: argparse.ArgumentParser) -> None:
    """Name and arguments."""
    parser.add_argument("call", help="as in docs/syscalls.md, such as mem.stat")
    parser.add_argument("arguments", nargs="?", default="{}", help="JSON object")


def call(context: Context, options: argparse.Namespace) -> int:
    """Any syscall: the reply is printed as JSON in either form; chunks on a line each."""
    entry = TABLE.by_name.get(options.call)
    if entry is None:
        near = closest(options.call, list(TABLE.by_name))
        raise EINVAL(
            f"there is no syscall {options.call!r}", hint=f"did you mean {near}?" if near else ""
        )
    try:
        made = msgspec.json.decode(options.arguments, type=entry.call)
    except msgspec.DecodeError as error:
        raise EINVAL(f"arguments of {entry.name}: {error}") from error
    with context.client.stream(made) as stream:
        for chunk in stream:
            context.screen.line(json_line(chunk))
        context.screen.line(json_line(stream.reply))
    return 0


# --- waiting for drivers


def ready_arguments(parser: argparse.ArgumentParser) -> None:
    """How long."""
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S")


def ready(context: Context, options: argparse.Namespace) -> int:
    """Wait until no driver is starting any more. Raises ETIME; EIO when one failed."""
    end = time.monotonic() + options.timeout
    with _progress(context) as show:
        while True:
            drivers: list[DriverInfo] = context.client.call(Info()).drivers
            show(drivers)
            starting = [one.name for one in drivers if one.state == "starting"]
            if not starting:
                break
            if time.monotonic() > end:
                raise ETIME(f"not ready in {options.timeout:g}s: {', '.join(starting)}")
            time.sleep(0.1)
    failed = [one for one in drivers if one.state == "failed"]
    if failed:
        raise EIO(
            "; ".join(f"{one.name} failed: {details(one)}" for one in failed),
            driver=failed[0].name,
        )
    context.value({"drivers": drivers}, "ready")
    return 0


class _Silent:
    def __enter__(self) -> Any:
        return lambda drivers: None

    def __exit__(self, *_: object) -> None:
        return None


def _progress(context: Context) -> Any:
    if not context.terminal:
        return _Silent()
    from userland.shell.progress import DriverBars

    return DriverBars()
