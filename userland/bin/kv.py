"""Activation memory: beginnings of prompts whose model state is kept."""

import argparse

from syscalls.calls import kv
from syscalls.shapes import ChatMessage
from userland.context import Context, is_rid, reference, text_or_stdin
from userland.screen import clock, short


def kv_list_arguments(_parser: argparse.ArgumentParser) -> None:
    """None."""


def kv_list(context: Context, _options: argparse.Namespace) -> int:
    """Those of this session's space."""
    show_prefixes(context, context.memory().call(kv.ListCall()))
    return 0


def show_prefixes(context: Context, found: kv.Listed) -> None:
    """The prefixes as a table, and the sums."""
    rows: list[list[object]] = [
        [
            one.handle,
            one.made_by,
            one.state,
            one.tier,
            one.tokens,
            f"{one.bytes / 2**20:.1f}",
            one.hits,
            f"{one.saved:.1f}",
            clock(one.used) if one.used else "-",
            ",".join(map(str, one.attached)) or "-",
            len(one.sources),
            short(one.text),
        ]
        for one in found.prefixes
    ]
    columns = [
        "handle", "made by", "state", "where", "tokens", "MiB", "hits", "saved s", "last used",
        "attached", "sources", "begins",
    ]  # fmt: skip
    context.table(found, columns, rows)
    if not context.json:
        limit = f" of {found.limit / 2**20:.0f}" if found.limit else ""
        promote = "on" if found.promote else "off"
        context.screen.line(
            f"{found.bytes / 2**20:.1f}{limit} MiB, {found.saved:.1f} s of computing saved; "
            f"promotion is {promote}"
        )


def kv_pin_arguments(parser: argparse.ArgumentParser) -> None:
    """What."""
    parser.add_argument("--name", default="", help="what it is to be called; default pin-N")
    parser.add_argument("--adapter", help="the adapter under which it is computed")
    parser.add_argument(
        "--text", action="store_true", help="pin these words (- reads the standard input)"
    )
    parser.add_argument("what", nargs="+", metavar="RID|WORDS", help="rids, or words to search for")


def kv_pin(context: Context, options: argparse.Namespace) -> int:
    """Records by rid, what a query finds, or a text as a system message."""
    words = " ".join(options.what)
    call = kv.Pin(name=options.name, adapter=options.adapter)
    if options.text:
        call.messages = [ChatMessage("system", text_or_stdin(words))]
    elif all(is_rid(one) for one in options.what):
        call.rids = options.what
    else:
        call.query = words
    made: kv.Handle = context.memory().call(call)
    context.value(
        made,
        f"{made.handle}: {made.tokens} tokens, {made.bytes / 2**20:.1f} MiB, "
        f"{made.cached} of them known, in {made.seconds:.2f} s",
    )
    return 0


def _target_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", metavar="APID|NAME", help="another process than this session, in the same space"
    )


def _handle_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("handle")


def kv_attach_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, to whom."""
    _target_argument(parser)
    _handle_argument(parser)


def kv_attach(context: Context, options: argparse.Namespace) -> int:
    """Put it before what the process asks the model from now on."""
    target = reference(options.to) if options.to else None
    context.memory().call(kv.Attach(handle=options.handle, target=target))
    ends = options.to is None and context.shell is None
    until = " until this command ends: name a process with --to, or use `engram shell`"
    context.value({}, f"{options.handle} is attached{until if ends else ''}")
    return 0


def kv_detach_arguments(parser: argparse.ArgumentParser) -> None:
    """From whom."""
    _target_argument(parser)


def kv_detach(context: Context, options: argparse.Namespace) -> int:
    """Put nothing before it any more."""
    context.memory().call(kv.Detach(target=reference(options.to) if options.to else None))
    context.value({}, "detached")
    return 0


def kv_drop_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    _handle_argument(parser)


def kv_drop(context: Context, options: argparse.Namespace) -> int:
    """Detach it everywhere and erase its state."""
    context.memory().call(kv.Drop(handle=options.handle))
    context.value({}, f"{options.handle} is dropped")
    return 0


def kv_cool_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    _handle_argument(parser)


def kv_cool(context: Context, options: argparse.Namespace) -> int:
    """Back to text: a record with its words and sources."""
    cooled: kv.Cooled = context.memory().call(kv.Cool(handle=options.handle))
    context.value(cooled, f"{options.handle} is now record {cooled.rid}")
    return 0
