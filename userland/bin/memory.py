"""Memory: the records of a space.

Outside a shell each command is a session of its own, so these work in the space ``home``
unless ``--space`` names another; in a shell they work in the shell's space.
"""

import argparse

import msgspec

from syscalls.calls import mem
from syscalls.calls.sys import Session
from syscalls.errors import ENOENT
from syscalls.records import Filter, Record, SpaceInfo
from userland.client import BlockingClient
from userland.context import Context, is_rid, reference, space_argument, space_of, text_or_stdin
from userland.dates import add_times
from userland.screen import clock, short, size

SEGMENTS = ("working", "episodic", "semantic", "procedural")


def _meta(text: str) -> dict[str, object]:
    try:
        found = msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"a JSON object is wanted: {error}") from error
    return found


# --- write, update, delete


def mem_write_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of mem.write."""
    _fields(parser)
    parser.add_argument("-s", "--segment", choices=SEGMENTS, default="semantic")
    parser.add_argument("--key", default="", help="a name; the same key again adds a version")
    parser.add_argument("--idempotency", default="", help="the same word again writes nothing")
    space_argument(parser)
    parser.add_argument("content", nargs="+", help="the text; - reads the standard input")


def _fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", help="a word for what it is, such as preference")
    parser.add_argument("--tag", action="append", metavar="TAG", help="repeat for more")
    parser.add_argument("--meta", type=_meta, metavar="JSON")
    parser.add_argument("--importance", type=float, metavar="0..1")
    parser.add_argument("--ttl", type=float, metavar="S", help="seconds to live")


def mem_write(context: Context, options: argparse.Namespace) -> int:
    """Write a record; a space of a new name is made."""
    if options.space is not None and context.shell is None:
        context.space, options.space = options.space, None
    call = mem.Write(
        segment=options.segment,
        content=text_or_stdin(" ".join(options.content)),
        kind=options.kind or "",
        key=options.key,
        meta=options.meta or {},
        tags=options.tag or [],
        importance=0.5 if options.importance is None else options.importance,
        ttl=options.ttl,
        idempotency=options.idempotency,
        space=space_of(options),
    )
    written = _written(context, call)
    context.value(written, f"{written.rid} version {written.version}")
    return 0


def _written(context: Context, call: mem.Write) -> mem.Written:
    client = context.memory()
    try:
        written: mem.Written = client.call(call)
    except ENOENT:
        if not isinstance(call.space, str):
            raise
        with BlockingClient.open(context.data) as other:  # this session keeps its own space
            other.call(Session(name=context.name, space=call.space))
        written = client.call(call)
    return written


def mem_update_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of mem.update."""
    _fields(parser)
    parser.add_argument("--expect", type=int, metavar="VERSION", help="only if it is this version")
    parser.add_argument("rid")
    parser.add_argument("content", nargs="*", help="new text; - reads the standard input")


def mem_update(context: Context, options: argparse.Namespace) -> int:
    """Add a version."""
    call = mem.Update(
        rid=options.rid,
        content=text_or_stdin(" ".join(options.content)) if options.content else None,
        kind=options.kind,
        tags=options.tag,
        meta=options.meta,
        importance=options.importance,
        ttl=options.ttl,
        expect=options.expect,
    )
    written = context.memory().call(call)
    context.value(written, f"{written.rid} version {written.version}")
    return 0


def mem_delete_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    parser.add_argument("rid")
    parser.add_argument("--expect", type=int, metavar="VERSION", help="only if it is this version")


def mem_delete(context: Context, options: argparse.Namespace) -> int:
    """Erase a record."""
    context.memory().call(mem.Delete(rid=options.rid, expect=options.expect))
    context.value({"deleted": options.rid}, f"{options.rid} erased")
    return 0


# --- search, read, list, history


def mem_search_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of mem.search."""
    parser.add_argument("-k", type=int, default=10, help="most hits")
    parser.add_argument("-s", "--segment", action="append", choices=SEGMENTS)
    parser.add_argument("--kind")
    parser.add_argument("--tag", action="append", metavar="TAG")
    parser.add_argument("--explain", action="store_true", help="what each signal contributed")
    parser.add_argument("--deadline", type=float, metavar="S", help="wait for the embedder")
    add_times(parser)
    space_argument(parser)
    parser.add_argument("query", nargs="+")


def mem_search(context: Context, options: argparse.Namespace) -> int:
    """Find records."""
    narrow = None
    if options.kind is not None or options.tag:
        narrow = Filter(kind=options.kind, tags=options.tag or [])
    call = mem.Search(
        query=" ".join(options.query),
        segments=options.segment,
        k=options.k,
        filter=narrow,
        explain=options.explain,
        space=space_of(options),
        deadline=options.deadline,
        as_of=options.as_of,
        known_at=options.known_at,
    )
    found: mem.Hits = context.memory().call(call)
    show_hits(context, found, explain=options.explain)
    if found.degraded and not context.json:
        context.screen.problem(f"without {', '.join(found.degraded)}: see `engram info`")
    return 0


def show_hits(context: Context, found: mem.Hits, *, explain: bool = False, width: int = 72) -> None:
    """A row a hit, with so many characters of its content."""
    columns = ["score", "rid", "segment", "space", "content"]
    rows: list[list[object]] = [
        [f"{hit.score:.3f}", hit.rid, hit.segment, hit.provenance.space, short(hit.content, width)]
        for hit in found.hits
    ]
    if explain:
        columns.insert(1, "parts")
        for row, hit in zip(rows, found.hits, strict=True):
            parts = msgspec.structs.asdict(hit.parts) if hit.parts else {}
            row.insert(1, " ".join(f"{name} {part:.2f}" for name, part in parts.items() if part))
    context.table(found, columns, rows)


def mem_read_arguments(parser: argparse.ArgumentParser) -> None:
    """By rid or key."""
    parser.add_argument("--version", type=int, help="an older version")
    add_times(parser)
    space_argument(parser)
    parser.add_argument("record", help="rid or key")


def mem_read(context: Context, options: argparse.Namespace) -> int:
    """Read one record, in full."""
    by_rid = is_rid(options.record)
    call = mem.Read(
        rid=options.record if by_rid else None,
        key=None if by_rid else options.record,
        version=options.version,
        as_of=options.as_of,
        known_at=options.known_at,
        space=space_of(options),
    )
    records: list[Record] = context.memory().call(call).records
    if context.json:
        context.value({"records": records})
        return 0
    for record in records:
        context.screen.line(record.content)
        context.screen.line(_about(record))
    return 0


def _about(record: Record) -> str:
    facts = [record.rid, f"version {record.version}", record.segment, f"space {record.space}"]
    facts += [f"by {record.writer}", clock(record.updated or record.created), record.state]
    facts += [f"kind {record.kind}"] if record.kind else []
    facts += [f"key {record.key}"] if record.key else []
    facts += [f"tags {' '.join(record.tags)}"] if record.tags else []
    return "  [" + ", ".join(facts) + "]"


def mem_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    parser.add_argument("-n", "--limit", type=int, default=20)
    parser.add_argument("-s", "--segment", choices=SEGMENTS)
    parser.add_argument("--before", metavar="RID", help="continue a list")
    add_times(parser)
    space_argument(parser)


def mem_list(context: Context, options: argparse.Namespace) -> int:
    """The newest records."""
    call = mem.Read(
        segment=options.segment,
        limit=options.limit,
        before=options.before,
        as_of=options.as_of,
        known_at=options.known_at,
        space=space_of(options),
    )
    show_records(context, context.memory().call(call))
    return 0


def show_records(context: Context, found: mem.Records) -> None:
    """A row a record."""
    context.table(
        found,
        ["rid", "created", "segment", "ver", "kind", "content"],
        [
            [
                *(one.rid, clock(one.created), one.segment, one.version, one.kind or "-"),
                short(one.content),
            ]
            for one in found.records
        ],
    )


def mem_history_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which."""
    parser.add_argument("rid")


def mem_history(context: Context, options: argparse.Namespace) -> int:
    """All versions, oldest first."""
    found: mem.Versions = context.memory().call(mem.History(rid=options.rid))
    context.table(
        found,
        ["version", "at", "writer", "call", "state", "content"],
        [
            [
                *(one.version, clock(one.at), one.writer, one.call, one.state),
                "(erased)" if one.content is None else short(one.content),
            ]
            for one in found.versions
        ],
    )
    return 0


# --- snapshot, attach


def mem_snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which, under what name."""
    space_argument(parser)
    parser.add_argument("name", nargs="?", default="", help="a name for it")


def mem_snapshot(context: Context, options: argparse.Namespace) -> int:
    """Keep a space as it is now."""
    call = mem.Snapshot(name=options.name, space=space_of(options))
    made: mem.Snapshotted = context.memory().call(call)
    context.value(made, f"space {made.space} {options.name}".rstrip())
    return 0


def mem_attach_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    parser.add_argument("--detach", action="store_true", help="take it away again")
    parser.add_argument("other", metavar="space", help="number or name")


def mem_attach(context: Context, options: argparse.Namespace) -> int:
    """Put another space under this one, read-only."""
    call = mem.Attach(space=reference(options.other), detach=options.detach)
    context.memory().call(call)
    done = "detached" if options.detach else "attached"
    context.value({done: options.other}, f"{options.other} {done}")
    return 0


# --- share, revoke, audit, stat


def audit_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which space, by whom, about what."""
    parser.add_argument("--by", type=int, metavar="APID", help="only this process")
    parser.add_argument("--rid", help="only about this record")
    parser.add_argument("-n", "--limit", type=int, default=100)
    parser.add_argument("--before", type=int, metavar="LINE", help="continue a list")
    space_argument(parser)


def audit(context: Context, options: argparse.Namespace) -> int:
    """Who used a space that is not his own."""
    call = mem.Audit(
        space=space_of(options),
        by=options.by,
        rid=options.rid,
        limit=options.limit,
        before=options.before,
    )
    found: mem.AuditLog = context.memory().call(call)
    context.table(
        found,
        ["line", "at", "process", "call", "records", "what"],
        [
            [
                *(line.seq, clock(line.at), line.apid, line.call, line.count),
                line.query or line.about or " ".join(line.rids[:2]),
            ]
            for line in found.lines
        ],
    )
    return 0


def mem_share_arguments(parser: argparse.ArgumentParser) -> None:
    """With whom, and what."""
    parser.add_argument("-w", "--write", action="store_true", help="let it write, too")
    parser.add_argument("--rid", help="only this record")
    parser.add_argument("--kind", help="only records of a kind")
    parser.add_argument("--tag", action="append", metavar="TAG", help="only records with a tag")
    parser.add_argument("--ttl", type=float, metavar="S", help="ends by itself after so long")
    space_argument(parser)
    parser.add_argument("to", help="APID or name")


def mem_share(context: Context, options: argparse.Namespace) -> int:
    """Let another process use a space, a record of it, or what fits."""
    narrow = None
    if options.kind is not None or options.tag:
        narrow = Filter(kind=options.kind, tags=options.tag or [])
    call = mem.Share(
        to=reference(options.to),
        access="write" if options.write else "read",
        space=space_of(options),
        rid=options.rid,
        filter=narrow,
        ttl=options.ttl,
    )
    granted: mem.Granted = context.memory().call(call)
    grant = granted.grant
    what = f"space {grant.space}"
    if grant.rid or grant.filter is not None:
        what = f"{grant.rid or 'what fits'} of {what}"
    ends = f", until {clock(grant.until)}" if grant.until else ""
    said = f"process {grant.apid} may {grant.access} {what}{ends} (grant {grant.id})"
    context.value(granted, said)
    return 0


def mem_revoke_arguments(parser: argparse.ArgumentParser) -> None:
    """From whom."""
    parser.add_argument("--grant", type=int, metavar="N", help="only this one of several")
    space_argument(parser)
    parser.add_argument("to", help="APID or name")


def mem_revoke(context: Context, options: argparse.Namespace) -> int:
    """Take a share back."""
    call = mem.Revoke(to=reference(options.to), space=space_of(options), grant=options.grant)
    context.memory().call(call)
    context.value({"revoked": options.to}, f"{options.to} may no longer")
    return 0


def mem_context_arguments(parser: argparse.ArgumentParser) -> None:
    """How much, for what."""
    parser.add_argument("-b", "--budget", type=int, default=2048, metavar="TOKENS")
    parser.add_argument("query", nargs="*", help="what it is for; recalls what fits")


def mem_context(context: Context, options: argparse.Namespace) -> int:
    """What a model would be shown."""
    call = mem.ContextCall(budget_tokens=options.budget, query=" ".join(options.query))
    made: mem.Context = context.memory().call(call)
    if context.json:
        context.value(made)
        return 0
    for message in made.messages:
        context.screen.line(f"{message.role}: {message.content}")
    counted = "tokens" if made.exact else "tokens, estimated"
    facts = [f"{made.tokens} {counted}", f"{len(made.shown)} records"]
    facts += [f"{len(made.left)} left out"] if made.left else []
    facts += [f"{len(made.paged_out)} paged out"] if made.paged_out else []
    context.screen.line("  [" + ", ".join(facts) + "]")
    return 0


def mem_stat_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which."""
    space_argument(parser)


def mem_stat(context: Context, options: argparse.Namespace) -> int:
    """What a space holds."""
    found: SpaceInfo = context.memory().call(mem.Stat(space=space_of(options)))
    segments = ", ".join(f"{name} {count}" for name, count in found.by_segment.items())
    indexes = ", ".join(f"{name} {at}/{found.seq}" for name, at in found.indexed.items())
    grants = ", ".join(f"{grant.apid} {grant.access}" for grant in found.grants)
    rows: list[list[object]] = [
        ["space", f"{found.space} {found.name}".rstrip()],
        ["owner", found.owner],
        ["created", clock(found.created)],
        ["records", f"{found.records} ({segments})" if segments else found.records],
        ["bytes", size(found.bytes)],
        ["indexes", indexes or "-"],
        ["shared with", grants or "-"],
    ]
    context.table(found, ["what", "value"], rows)
    return 0
