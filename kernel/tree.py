"""The tree that ``/proc`` shows: a table of paths, and for each the call that answers it.

    /proc/12/status            what proc.info says of process 12
    /proc/self/trace           the caller's last calls
    /proc/spaces/7/status      what mem.stat says of space 7
    /proc/drivers/llm          state and detail of a driver
    /proc/kernel/store         figures of a part of the kernel

A file is read by making that call as its reader, through the trap's own checks. So the tree
can tell nobody more than the calls do, and is nothing that has to be kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from kernel import trap
from syscalls.calls import kv, lora, mem, proc, sys
from syscalls.calls.tree import TreeEntry
from syscalls.errors import EINVAL, ENOENT, EPERM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.table import Call

ROOT = "proc"
SELF = "self"


class Reader(NamedTuple):
    """Who reads, and what its path says in the place of the names in braces."""

    kernel: Kernel
    caller: Process
    named: dict[str, str]

    async def ask(self, call: Call) -> Any:
        """Make a call as the reader; the reply as plain values."""
        return msgspec.to_builtins(await trap.execute(self.kernel, self.caller, call))

    @property
    def apid(self) -> int:
        """The process that the path names. Raises ENOENT."""
        said = self.named["apid"]
        return self.caller.apid if said == SELF else _number(said, "process")

    @property
    def space(self) -> int:
        """The space that the path names. Raises ENOENT."""
        return _number(self.named["space"], "space")


class File(NamedTuple):
    """One row of the table."""

    path: str
    about: str
    read: Callable[[Reader], Awaitable[Any]]


# --- what the files say


def _of_process(*fields: str) -> Callable[[Reader], Awaitable[Any]]:
    async def read(reader: Reader) -> Any:
        info = await reader.ask(proc.Info(target=reader.apid))
        return {name: info[name] for name in fields} if fields else info

    return read


async def _limits(reader: Reader) -> Any:
    return await reader.ask(proc.Limit(target=reader.apid))


async def _usage(reader: Reader) -> Any:
    found = await reader.ask(proc.UsageCall(target=reader.apid))
    return {whose: found[whose] for whose in ("process", "tree", "user")}


async def _tree(reader: Reader) -> Any:
    info = await reader.ask(proc.Info(target=reader.apid))
    return info["children"]


async def _trace(reader: Reader) -> Any:
    found = await reader.ask(sys.Trace(target=reader.apid, limit=100))
    return found.get("lines", [])


async def _connection(reader: Reader) -> Any:
    await reader.ask(proc.Info(target=reader.apid))  # who may see the process may see this
    connection = reader.kernel.connections.get(reader.apid)
    return None if connection is None else msgspec.to_builtins(connection.statistics())


async def _prefixes(reader: Reader) -> Any:
    return (await reader.ask(kv.ListCall())).get("prefixes", [])


async def _adapters(reader: Reader) -> Any:
    return (await reader.ask(lora.ListCall())).get("adapters", [])


async def _space(reader: Reader) -> Any:
    return await reader.ask(mem.Stat(space=reader.space))


async def _grants(reader: Reader) -> Any:
    return (await reader.ask(mem.Stat(space=reader.space))).get("grants", [])


async def _audit(reader: Reader) -> Any:
    return (await reader.ask(mem.Audit(space=reader.space))).get("lines", [])


async def _driver(reader: Reader) -> Any:
    for driver in (await reader.ask(sys.Info()))["drivers"]:
        if driver["name"] == reader.named["driver"]:
            return driver
    raise ENOENT(f"there is no driver {reader.named['driver']!r}")


async def _part(reader: Reader) -> Any:
    parts = (await reader.ask(sys.StatsCall()))["stats"]
    if reader.named["part"] not in parts:
        raise ENOENT(f"the kernel has no part {reader.named['part']!r}")
    return parts[reader.named["part"]]


async def _log(reader: Reader) -> Any:
    return (await reader.ask(sys.Log())).get("lines", [])


async def _settings(reader: Reader) -> Any:
    await reader.ask(sys.StatsCall())  # who may see the figures may see what they were set to
    return msgspec.to_builtins(reader.kernel.settings)


async def _version(reader: Reader) -> Any:
    info = await reader.ask(sys.Info())
    return {name: info[name] for name in ("version", "boot", "started", "uptime", "data", "pid")}


FILES: tuple[File, ...] = (
    File("{apid}/status", "state, parent, program, goal, space, memory", _of_process()),
    File("{apid}/capabilities", "what it may do", _of_process("caps")),
    File("{apid}/limits", "its quota", _limits),
    File("{apid}/usage", "what it, its subtree and its user have used, and may", _usage),
    File("{apid}/children", "APIDs of its live children", _tree),
    File("{apid}/exit", "how it ended, once it has", _of_process("exit")),
    File("{apid}/connection", "calls, errors and bytes of its descriptor", _connection),
    File("{apid}/trace", "its last syscalls", _trace),
    File("spaces/{space}/status", "records, bytes, layers, how far the indexes are", _space),
    File("spaces/{space}/grants", "who else may use it", _grants),
    File("spaces/{space}/audit", "who used it that does not own it", _audit),
    File("drivers/{driver}", "state and detail", _driver),
    File("kernel/version", "version, boot, uptime", _version),
    File("kernel/settings", "the settings in force", _settings),
    File("kernel/log", "the last lines of the log", _log),
    File("kernel/stats/{part}", "figures of one part", _part),
    File("prefixes", "the reader's pinned prefixes", _prefixes),
    File("adapters", "the reader's adapters", _adapters),
)

FOLDERS = {
    "{apid}": "one process",
    "spaces": "what holds memory",
    "spaces/{space}": "one space",
    "drivers": "stores, models, processes",
    "kernel": "the kernel itself",
    "kernel/stats": "figures of each part",
}


# --- what stands in the place of braces


async def _processes(reader: Reader) -> list[str]:
    found = await reader.ask(proc.ListCall())
    return [str(process["apid"]) for process in found["processes"]] + [SELF]


async def _spaces(reader: Reader) -> list[str]:
    kernel, caller = reader.kernel, reader.caller
    if caller.caps.on("mem.read"):
        numbers = kernel.memory.numbers()
    else:
        own = [caller.space] if caller.space else []
        numbers = sorted({*own, *kernel.memory.shared_with(caller.apid)})
    return [str(number) for number in numbers]


async def _drivers(reader: Reader) -> list[str]:
    return [driver["name"] for driver in (await reader.ask(sys.Info()))["drivers"]]


async def _parts(reader: Reader) -> list[str]:
    return list((await reader.ask(sys.StatsCall()))["stats"])


NAMES: dict[str, Callable[[Reader], Awaitable[list[str]]]] = {
    "{apid}": _processes,
    "{space}": _spaces,
    "{driver}": _drivers,
    "{part}": _parts,
}


# --- walking


async def listing(kernel: Kernel, caller: Process, path: str) -> list[TreeEntry]:
    """The names in a folder that the caller may look at. Raises ENOENT, EINVAL (a file)."""
    parts = _parts_of(path)
    if any(_match(file.path, parts) is not None for file in FILES):
        raise EINVAL(f"{path} is a file", hint=f"engram cat {path}")
    entries: dict[str, TreeEntry] = {}
    found = False
    for file in FILES:
        pattern = file.path.split("/")
        named = _match("/".join(pattern[: len(parts)]), parts)
        if named is None or len(pattern) <= len(parts):
            continue
        found = True
        reader = Reader(kernel, caller, named)
        here, leaf = "/".join(pattern[: len(parts) + 1]), len(pattern) == len(parts) + 1
        for name in await _names(reader, pattern[len(parts)]):
            about = file.about if leaf else FOLDERS[here]
            entries.setdefault(name, TreeEntry(name, not leaf, about))
    if not found:
        raise _missing(path)
    await _check(kernel, caller, parts)
    return list(entries.values())


async def read(kernel: Kernel, caller: Process, path: str) -> Any:
    """What a file says. Raises ENOENT, EINVAL (a folder), and what its call raises."""
    parts = _parts_of(path)
    for file in FILES:
        named = _match(file.path, parts)
        if named is not None:
            return await file.read(Reader(kernel, caller, named))
    if any(_match("/".join(f.path.split("/")[: len(parts)]), parts) is not None for f in FILES):
        raise EINVAL(f"{path} is a folder", hint=f"engram ls {path}")
    raise _missing(path)


async def _names(reader: Reader, segment: str) -> list[str]:
    if segment not in NAMES:
        return [segment]
    try:
        return await NAMES[segment](reader)
    except EPERM:
        return []  # what may not be looked at is not listed


async def _check(kernel: Kernel, caller: Process, parts: Sequence[str]) -> None:
    """That the object a path names is there, and may be looked at."""
    for pattern, file in (("{apid}", "status"), ("spaces/{space}", "status")):
        if _match(pattern, parts) is not None:
            await read(kernel, caller, "/".join([*parts, file]))


def _parts_of(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part and part != "."]
    if ".." in parts:
        raise EINVAL(f"{path} leaves the tree", hint="paths of the tree have no ..")
    return parts[1:] if parts[:1] == [ROOT] else parts


def _match(pattern: str, parts: Sequence[str]) -> dict[str, str] | None:
    """What the braces of a pattern stand for in a path; None where it does not fit.

    A number or ``self`` is a process, so that no folder's name is taken for one.
    """
    segments = pattern.split("/") if pattern else []
    if len(segments) != len(parts):
        return None
    named: dict[str, str] = {}
    for segment, part in zip(segments, parts, strict=True):
        if not segment.startswith("{"):
            if segment != part:
                return None
        elif segment == "{apid}" and part != SELF and not _digits(part):
            return None
        else:
            named[segment[1:-1]] = part
    return named


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str, what: str) -> int:
    if not _digits(text):
        raise ENOENT(f"there is no {what} {text!r}")
    return int(text)


def _missing(path: str) -> ENOENT:
    return ENOENT(f"there is no {path}", hint="engram ls /proc")
