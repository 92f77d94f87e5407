"""The life of records: pin, forget, archive, undo, tidy, why.

A record is named by its rid, or by words that are in it. What is done can be undone with the
rid, or with the number of the run.
"""

import argparse

from syscalls.calls import life, mem
from userland.context import Context, is_rid, space_argument, space_of
from userland.reasons import show_reasons
from userland.screen import clock, short

TASKS = ("merge", "cool", "archive", "forget")


def _what_argument(parser: argparse.ArgumentParser) -> None:
    space_argument(parser)
    parser.add_argument("what", nargs="+", metavar="RID|WORDS", help="a rid, or words in it")


def _named(options: argparse.Namespace) -> tuple[str | None, str | None]:
    """Rid and query of what was typed; one of them is None."""
    text = " ".join(options.what)
    return (text, None) if is_rid(text) else (None, text)


def mem_pin_arguments(parser: argparse.ArgumentParser) -> None:
    """What."""
    _what_argument(parser)


def mem_pin(context: Context, options: argparse.Namespace) -> int:
    """Keep records from being archived and forgotten."""
    rid, query = _named(options)
    call = mem.Pin(rid=rid, query=query, space=space_of(options))
    return _show(context, call, "pinned", "nothing was pinned")


def _show(context: Context, call: mem.Pin | mem.Unpin, done: str, nothing: str) -> int:
    found: mem.Records = context.memory().call(call)
    lines = [f"{done} {one.rid}  {short(one.content)}" for one in found.records]
    context.value(found, "\n".join(lines) or nothing)
    return 0


def mem_unpin_arguments(parser: argparse.ArgumentParser) -> None:
    """What."""
    _what_argument(parser)


def mem_unpin(context: Context, options: argparse.Namespace) -> int:
    """Undo a pin."""
    rid, query = _named(options)
    call = mem.Unpin(rid=rid, query=query, space=space_of(options))
    return _show(context, call, "unpinned", "none of these was pinned")


def mem_forget_arguments(parser: argparse.ArgumentParser) -> None:
    """What, and whether only to say it."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would go")
    _what_argument(parser)


def mem_forget(context: Context, options: argparse.Namespace) -> int:
    """Erase records; `mem undo` brings them back for a while."""
    rid, query = _named(options)
    call = mem.Forget(rid=rid, query=query, dry_run=options.dry_run, space=space_of(options))
    found: mem.Forgotten = context.memory().call(call)
    verb = "would forget" if options.dry_run else "forgotten:"
    lines = [f"{verb} {one}" for one in found.rids]
    lines += [f"kept, it is pinned: {one}" for one in found.kept]
    if found.action and found.rids:
        lines.append(f"undo with: mem undo {found.action}")
    context.value(found, "\n".join(lines))
    return 0


def mem_archive_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and which way."""
    parser.add_argument("--restore", action="store_true", help="have it back")
    space_argument(parser)
    parser.add_argument("rid")


def mem_archive(context: Context, options: argparse.Namespace) -> int:
    """Compress a record and take it out of the indexes, or have it back."""
    call = life.Archive(rid=options.rid, restore=options.restore, space=space_of(options))
    _show_acts(context, context.memory().call(call))
    return 0


def mem_undo_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what."""
    space_argument(parser)
    parser.add_argument("what", metavar="RID|RUN", help="a record, or the number of a run")


def mem_undo(context: Context, options: argparse.Namespace) -> int:
    """Take the last pin, merge, archive or forget back."""
    by_rid = is_rid(options.what)
    if not by_rid and not options.what.isdigit():
        context.screen.problem(f"{options.what!r} is neither a rid nor the number of a run")
        return 2
    call = life.Undo(
        rid=options.what if by_rid else None,
        action=None if by_rid else int(options.what),
        space=space_of(options),
    )
    _show_acts(context, context.memory().call(call))
    return 0


def _show_acts(context: Context, acts: life.Acts) -> None:
    said = "\n".join(f"{act.rid}: {act.before} to {act.after}" for act in acts.acts)
    context.value(acts, said)


def mem_tidy_arguments(parser: argparse.ArgumentParser) -> None:
    """What, how much, how long."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--room", type=int, metavar="N", help="archive until N records are left")
    parser.add_argument("--task", action="append", choices=TASKS, help="repeat for more")
    parser.add_argument("--records", type=int, default=20_000, help="most records looked at")
    parser.add_argument("--seconds", type=float, default=60.0, help="most time it may take")
    space_argument(parser)


def mem_tidy(context: Context, options: argparse.Namespace) -> int:
    """Merge near duplicates, archive what nobody needs."""
    call = life.Tidy(
        tasks=options.task or [],
        room=options.room,
        dry_run=options.dry_run,
        records=options.records,
        seconds=options.seconds,
        space=space_of(options),
    )
    done: life.Tidied = context.memory().call(call)
    rows: list[list[object]] = [[act.event, act.rid, short(act.why)] for act in done.acts]
    context.table(done, ["would" if options.dry_run else "did", "rid", "because"], rows)
    if not context.json:
        end = "" if done.complete else "; the budget ended before the work"
        undo = f"; undo with: mem undo {done.action}" if done.acts and done.action else ""
        context.screen.line(f"{done.read} records looked at{end}{undo}")
    return 0


def mem_why_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what."""
    space_argument(parser)
    parser.add_argument(
        "what",
        nargs="*",
        metavar="RID|WORDS",
        help="a record's life; or why a query finds what it finds; or what happened lately",
    )


def mem_why(context: Context, options: argparse.Namespace) -> int:
    """What became of a record and why; or why a query finds what it finds."""
    rid, query = _named(options) if options.what else (None, None)
    if query is not None:
        search = mem.Search(query=query, explain=True, space=space_of(options))
        show_reasons(context, context.memory().call(search), query)
        return 0
    told: life.Story = context.memory().call(life.Why(rid=rid, space=space_of(options)))
    rows: list[list[object]] = [[clock(line.at), line.said] for line in told.lines]
    context.table(told, ["at", "what happened"], rows)
    if rid is not None and not context.json:
        now = f"now it is {told.state}, {told.tier}, activation {told.activation:.1f}"
        made = f"; made from {', '.join(told.sources)}" if told.sources else ""
        context.screen.line(now + made)
    return 0
