"""What the kernel knows, to look at: ls and cat of its tree, pstree, lsmem."""

import argparse
from typing import Any

from syscalls.calls.proc import ListCall, Processes
from syscalls.calls.tree import Cat, Listing, Ls, Shown
from syscalls.errors import ENOENT, EPERM
from syscalls.shapes import ProcessInfo
from userland.context import Context
from userland.screen import json_line, short, size


def ls_arguments(parser: argparse.ArgumentParser) -> None:
    """Which folder."""
    parser.add_argument("-l", "--long", action="store_true", help="say what each name holds")
    parser.add_argument("path", nargs="?", default="/proc", help="default: /proc")


def ls(context: Context, options: argparse.Namespace) -> int:
    """The names in a folder of the tree."""
    found: Listing = context.client.call(Ls(path=options.path))
    if context.json:
        context.value(found)
    elif options.long:
        rows = [[_name(one.name, folder=one.folder), one.about] for one in found.entries]
        context.screen.table(["name", "holds"], rows)
    else:
        for one in found.entries:
            context.screen.line(_name(one.name, folder=one.folder))
    return 0


def _name(name: str, *, folder: bool) -> str:
    return f"{name}/" if folder else name


def cat_arguments(parser: argparse.ArgumentParser) -> None:
    """Which files."""
    parser.add_argument("path", nargs="+", help="such as /proc/12/status")


def cat(context: Context, options: argparse.Namespace) -> int:
    """What files of the tree say now, a line a figure."""
    for path in options.path:
        shown: Shown = context.client.call(Cat(path=path))
        context.value(shown.value, "\n".join(_lines(shown.value)))
    return 0


def _lines(value: Any, indent: str = "") -> list[str]:
    """A value as lines; what is nested is indented."""
    if isinstance(value, list):
        return [line for item in value for line in _items(item, indent)]
    if not isinstance(value, dict):
        return [f"{indent}{_word(value)}"]
    lines = []
    for key, item in value.items():
        if (isinstance(item, dict) and item) or _long(item):
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {_word(item)}")
    return lines


def _items(item: Any, indent: str) -> list[str]:
    if isinstance(item, dict):
        words = ", ".join(f"{key} {_word(value)}" for key, value in item.items())
        return [f"{indent}{words}"]
    return [f"{indent}{_word(item)}"]


def _long(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _word(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_word(item) for item in value) or "-"
    if isinstance(value, dict):
        return json_line(value) if value else "-"
    return "-" if value is None or value == "" else str(value)


# --- pstree


def pstree_arguments(parser: argparse.ArgumentParser) -> None:
    """From where."""
    parser.add_argument("root", nargs="?", type=int, help="APID to begin with; default: all")


def pstree(context: Context, options: argparse.Namespace) -> int:
    """The processes as a tree of parents and children."""
    found: Processes = context.client.call(ListCall())
    if context.json:
        context.value(found)
        return 0
    known = {one.apid: one for one in found.processes}
    if options.root is not None and options.root not in known:
        raise ENOENT(f"there is no process {options.root}")
    below: dict[int, list[ProcessInfo]] = {}
    for one in found.processes:
        below.setdefault(one.parent, []).append(one)
    if options.root is None:
        tops = [one for one in found.processes if one.parent not in known]
    else:
        tops = [known[options.root]]
    for top in tops:
        for line in branches(top, below):
            context.screen.line(line)
    return 0


def branches(top: ProcessInfo, below: dict[int, list[ProcessInfo]]) -> list[str]:
    """A process and what is below it, a line each."""
    lines = []
    waiting: list[tuple[ProcessInfo, str, str]] = [(top, "", "")]
    while waiting:
        process, lead, mark = waiting.pop()
        goal = f"  {short(process.goal, 50)}" if process.goal else ""
        lines.append(f"{lead}{mark}{process.apid} {process.name} {process.state}{goal}")
        children = below.get(process.apid, [])
        inner = lead + ("" if not mark else "   " if mark.startswith("`") else "|  ")
        for child in reversed(children):
            waiting.append((child, inner, "`- " if child is children[-1] else "|- "))
    return lines


# --- lsmem


def lsmem_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def lsmem(context: Context, options: argparse.Namespace) -> int:
    """The spaces and what they hold: those that this session may look at."""
    found: Listing = context.client.call(Ls(path="/proc/spaces"))
    spaces = []
    for entry in found.entries:
        try:
            spaces.append(context.client.call(Cat(path=f"/proc/spaces/{entry.name}/status")).value)
        except (ENOENT, EPERM):
            continue  # gone, or shared in part only
    rows = [
        [
            *(one["space"], one["name"] or "-", one["owner"], one["records"], size(one["bytes"])),
            *(len(one["layers"]), len(one["grants"]), _behind(one)),
        ]
        for one in spaces
    ]
    columns = ["space", "name", "owner", "records", "bytes", "layers", "grants", "unindexed"]
    context.table(spaces, columns, rows)
    return 0


def _behind(space: dict[str, Any]) -> int:
    """Changes that some index has not reached."""
    reached: list[int] = list(space["indexed"].values())
    return int(space["seq"]) - min(reached, default=int(space["seq"]))
