"""Tools: what is offered, calling it, and what is remembered of its use."""

import argparse
from typing import Any

import msgspec

from syscalls.calls import tool
from syscalls.errors import EINVAL
from userland.context import Context
from userland.screen import short

MEANT = 'KEY=VALUE words, or one JSON object, such as {"city": "Paris"}'


def tool_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing."""


def tool_list(context: Context, options: argparse.Namespace) -> int:
    """What is offered, by whom."""
    found: tool.Listed = context.memory().call(tool.ListCall())
    context.table(
        found,
        ["tool", "by", "alive", "calls", "failed", "arguments", "description"],
        [
            [
                *(one.name, one.mount or one.owner, "yes" if one.alive else "no"),
                *(one.calls, one.failed, _described(one.schema)),
                short(one.description.partition("\n")[0], 48),
            ]
            for one in found.tools
        ],
    )
    return 0


def _described(schema: dict[str, Any]) -> str:
    """Names of the arguments, those that may be left out in brackets."""
    required = schema.get("required", [])
    names = schema.get("properties", {})
    return " ".join(name if name in required else f"[{name}]" for name in names) or "-"


def tool_call_arguments(parser: argparse.ArgumentParser) -> None:
    """What is called, with what."""
    parser.add_argument("--force", action="store_true", help="also where it is known to fail")
    parser.add_argument("--deadline", type=float, metavar="S")
    parser.add_argument("name")
    parser.add_argument("args", nargs="*", help=MEANT)


def tool_call(context: Context, options: argparse.Namespace) -> int:
    """Call a tool; exit status 1 where it says that it failed."""
    call = tool.CallTool(
        name=options.name,
        args=_given(options.args),
        force=options.force,
        deadline=options.deadline,
    )
    outcome: tool.Outcome = context.memory().call(call)
    context.value(outcome, _text(outcome.value) if outcome.ok else f"failed: {outcome.error}")
    if outcome.advice and not context.json:
        context.screen.line(f"  [{outcome.advice}]")
    return 0 if outcome.ok else 1


def _given(words: list[str]) -> dict[str, Any]:
    """Arguments of a tool from words. Raises EINVAL."""
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        try:
            return msgspec.json.decode(words[0], type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise EINVAL(f"the arguments are not JSON: {error}", hint=MEANT) from error
    args: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise EINVAL(f"{word!r} names no argument", hint=MEANT)
        try:
            args[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            args[name] = value
    return args


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def tool_recall_arguments(parser: argparse.ArgumentParser) -> None:
    """About what."""
    parser.add_argument("-n", "--name", default="", help="of this tool only")
    parser.add_argument("--args", metavar="JSON", help="judge a call with these arguments")
    parser.add_argument("-k", type=int, default=10, help="most traces")
    parser.add_argument("query", nargs="*")


def tool_recall(context: Context, options: argparse.Namespace) -> int:
    """Earlier calls, and what then worked."""
    call = tool.Recall(
        query=" ".join(options.query),
        name=options.name,
        args=None if options.args is None else _given([options.args]),
        k=options.k,
    )
    found: tool.Recalled = context.memory().call(call)
    rows: list[list[object]] = [
        [
            *(one["rid"], one["tool"], "yes" if one.get("ok", True) else "no"),
            *(one.get("failed", 0), one.get("worked", 0), short(_text(one["args"]), 36)),
            short(str(one.get("error", "")), 36) or "-",
        ]
        for one in found.traces
    ]
    columns = ["rid", "tool", "ok", "failed", "worked", "arguments", "last error"]
    context.table(found, columns, rows)
    if call.args is not None and not context.json:
        context.screen.line(f"risk {found.risk:.2f}")
        for line in (found.refused, found.advice):
            if line:
                context.screen.line(line)
    return 0


def tool_mount_arguments(parser: argparse.ArgumentParser) -> None:
    """What is mounted as what."""
    parser.add_argument("-n", "--name", default="", help="else from the command")
    parser.add_argument("--deadline", type=float, default=30.0, metavar="S")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="program and its arguments")


def tool_mount(context: Context, options: argparse.Namespace) -> int:
    """Mount an MCP server."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise EINVAL("which program is to be mounted?", hint="engram tool mount -- PROGRAM ...")
    call = tool.Mount(command=command, name=options.name, deadline=options.deadline)
    mounted: tool.Mounted = context.memory().call(call)
    context.value(mounted, f"{mounted.name}: {', '.join(mounted.tools) or 'no tools'}")
    return 0


def tool_unmount_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    parser.add_argument("name")


def tool_unmount(context: Context, options: argparse.Namespace) -> int:
    """Take a server down."""
    context.memory().call(tool.Unmount(name=options.name))
    context.value({"unmounted": options.name}, f"{options.name} unmounted")
    return 0
