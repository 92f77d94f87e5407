"""Entities: what relates them, and the facts about them, now and then."""

import argparse

from syscalls.calls import mem
from syscalls.records import Record
from userland.context import Context, space_argument, space_of
from userland.dates import add_times, moment, shown
from userland.screen import short


def graph_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of mem.graph."""
    parser.add_argument("--hops", type=int, metavar="1..6", help="how far (default 1; paths 6)")
    parser.add_argument("--relation", default="", help="only these edges")
    parser.add_argument("-m", "--mentions", action="store_true", help="also what is named with it")
    parser.add_argument("-n", "--limit", type=int, default=100, help="most edges")
    parser.add_argument("--deadline", type=float, metavar="S", help="wait while it is built")
    add_times(parser)
    space_argument(parser)
    parser.add_argument("entity", help="any of its names")
    parser.add_argument("to", nargs="?", help="show the shortest paths to this one")


def graph(context: Context, options: argparse.Namespace) -> int:
    """What is around an entity, or between two."""
    call = mem.GraphCall(
        entity=options.entity,
        to=options.to,
        hops=options.hops,
        relation=options.relation,
        as_of=options.as_of,
        known_at=options.known_at,
        mentions=options.mentions,
        limit=options.limit,
        space=space_of(options),
        deadline=options.deadline,
    )
    found: mem.Graph = context.memory().call(call)
    rows: list[list[object]] = [
        [
            edge.subject,
            edge.relation,
            short(edge.object, 40),
            shown(edge.since),
            shown(edge.until),
            edge.count,
            edge.rids[0],
        ]
        for edge in found.edges
    ]
    columns = ["subject", "relation", "object", "since", "until", "records", "newest"]
    context.table(found, columns, rows)
    if context.json:
        return 0
    for path in found.paths:
        context.screen.line(" - ".join(path))
    if options.to is not None and not found.paths:
        context.screen.problem(f"no path from {options.entity} to {options.to}")
    if found.more:
        context.screen.problem("there is more: raise --limit")
    if found.behind:
        context.screen.problem(f"the graph is being built: {found.behind} changes are missing")
    return 0


def facts_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of mem.facts."""
    parser.add_argument("-a", "--all", action="store_true", help="superseded and ended ones too")
    add_times(parser)
    space_argument(parser)
    parser.add_argument("entity", help="any of its names")
    parser.add_argument("relation", nargs="?", default="", help="only these")


def facts(context: Context, options: argparse.Namespace) -> int:
    """The facts about an entity."""
    call = mem.Facts(
        entity=options.entity,
        relation=options.relation,
        as_of=options.as_of,
        known_at=options.known_at,
        all=options.all,
        space=space_of(options),
    )
    found: mem.Records = context.memory().call(call)
    context.table(
        found,
        ["since", "until", "subject", "relation", "object", "rid", "superseded by"],
        [_row(record) for record in found.records],
    )
    return 0


def _row(record: Record) -> list[object]:
    fact = record.fact
    what = ["", "", record.content] if fact is None else [fact.subject, fact.relation, fact.object]
    since = record.created if record.valid_from is None else record.valid_from
    times = [shown(since), shown(record.valid_to)]
    return [*times, *what[:2], short(what[2], 40), record.rid, record.superseded_by or "-"]


def mem_link_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of mem.link."""
    parser.add_argument("--from", dest="valid_from", type=moment, metavar="DATE")
    parser.add_argument("--to", dest="valid_to", type=moment, metavar="DATE")
    parser.add_argument("--source", action="append", metavar="RID", help="repeat for more")
    parser.add_argument("--one", action="store_true", help="one object at a time: supersede")
    space_argument(parser)
    parser.add_argument("subject")
    parser.add_argument("relation", help="such as works_at; also_known_as for another name")
    parser.add_argument("object")


def mem_link(context: Context, options: argparse.Namespace) -> int:
    """Relate two entities."""
    call = mem.Link(
        subject=options.subject,
        relation=options.relation,
        object=options.object,
        valid_from=options.valid_from,
        valid_to=options.valid_to,
        sources=options.source or [],
        functional=True if options.one else None,
        space=space_of(options),
    )
    written: mem.Written = context.memory().call(call)
    context.value(written, f"{written.rid} version {written.version}")
    return 0
