"""Documents and capsules: ingest, mount, original, export, import."""

import argparse
from functools import partial
from pathlib import Path

import msgspec

from syscalls.calls.capsule import Export, Exported, Import, Imported, Redact
from syscalls.calls.proc import ListCall, Spawn
from syscalls.errors import ECONFLICT, EINVAL, ENOENT
from userland.client import BlockingClient
from userland.context import Context, here, reference, space_argument
from userland.documents.original import Fresh, download, name_of, upload
from userland.documents.progress import Bar, bar
from userland.documents.sync import Options, Outcome, Sync
from userland.documents.tree import Rules
from userland.screen import short, size


def _space(context: Context, options: argparse.Namespace) -> int | str | None:
    """The space that is named; outside a shell it becomes the session's own."""
    if options.space is None:
        return None
    if context.shell is None:
        context.space = options.space
        return None
    return reference(options.space)


# --- ingest, mount


def mem_ingest_arguments(parser: argparse.ArgumentParser) -> None:
    """Which files, and how."""
    _document_options(parser)
    parser.add_argument("--keep", action="store_true", help="leave documents of gone files alone")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file or folder")


def _document_options(parser: argparse.ArgumentParser) -> None:
    space_argument(parser)
    parser.add_argument("--largest", type=int, default=Rules().largest, metavar="BYTES")
    parser.add_argument("--hidden", action="store_true", help="also what begins with a dot")
    parser.add_argument("--no-original", action="store_true", help="keep the text only")


def mem_ingest(context: Context, options: argparse.Namespace) -> int:
    """Bring the records of documents to what the files say. Status 1 when some could not."""
    if _space(context, options) is not None:
        raise EINVAL("in a shell documents go to the shell's space", hint="leave out --space")
    client = context.memory()
    rules = Rules(hidden=options.hidden, largest=options.largest)
    kept = Options(rules=rules, original=not options.no_original, archive=not options.keep)
    sync = Sync(client.call, kept)
    outcomes: list[Outcome] = []
    for path in options.paths:
        with bar(context, str(path)) as show:
            told = partial(_told, show)
            try:
                outcomes += sync.run(path, told)
            except ENOENT as error:
                outcomes.append(Outcome(str(path), "failed", note=error.message))
    counts: dict[str, int] = {}
    for one in outcomes:
        counts[one.what] = counts.get(one.what, 0) + 1
    rows: list[list[object]] = [
        [one.what, one.chunks, one.path, short(one.note, 100)]
        for one in outcomes
        if one.what != "unchanged" or one.note
    ]
    if rows or context.json:
        value = {"counts": counts, "files": outcomes}
        context.table(value, ["what", "chunks", "file", "note"], rows)
    if not context.json:
        context.screen.line(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts.get("failed") else 0


def _told(show: Bar, outcome: Outcome, place: int, count: int) -> None:
    show(place, count, outcome.path)


def mem_mount_arguments(parser: argparse.ArgumentParser) -> None:
    """Which folder."""
    _document_options(parser)
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="between two looks")
    parser.add_argument("folder", type=Path)


def mem_mount(context: Context, options: argparse.Namespace) -> int:
    """Start an agent that keeps a folder indexed, in the space of this command."""
    folder = options.folder.absolute()
    if not folder.is_dir():
        raise ENOENT(f"{folder} is not a folder")
    space = options.space or (None if context.shell else context.space or "home")
    args = ["--every", str(options.every), "--largest", str(options.largest)]
    args += ["--hidden"] if options.hidden else []
    args += ["--no-original"] if options.no_original else []
    client = context.memory()
    goal = f"keep {folder} indexed"
    known = [one for one in client.call(ListCall()).processes if one.goal == goal and not one.exit]
    if known:
        context.value(
            {"apid": known[0].apid, "folder": str(folder)},
            f"process {known[0].apid} keeps {folder} indexed already",
        )
        return 0
    call = Spawn(
        program="folder",
        name=f"mount {folder}"[-60:],
        goal=goal,
        args=[*args, str(folder)],
        space=reference(space) if isinstance(space, str) else client.sys.session().space,
        restart="permanent",
        cwd=here(),
    )
    apid = client.call(call).apid
    text = f"process {apid} keeps {folder} indexed; `engram init stop {apid}` ends that"
    context.value({"apid": apid, "folder": str(folder)}, text)
    return 0


def mem_original_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which record, and where to."""
    parser.add_argument("rid", help="of a document")
    parser.add_argument("file", type=Path, help="a new file")


def mem_original(context: Context, options: argparse.Namespace) -> int:
    """Write the original file of a document."""
    written = download(context.memory().call, options.rid, options.file)
    context.value({"file": str(options.file), "bytes": written}, f"{size(written)} written")
    return 0


# --- export, import


def mem_export_arguments(parser: argparse.ArgumentParser) -> None:
    """What, and where to."""
    space_argument(parser)
    parser.add_argument(
        "--redact",
        action="append",
        type=_rule,
        default=[],
        metavar="RULE",
        help="leave out: tag=X, kind=X, taint=X or meta.KEY=X; joined by commas all must hold",
    )
    parser.add_argument("file", type=Path, help="a new file; FILE.part is gone on with")


def _rule(text: str) -> Redact:
    rule = Redact()
    for item in text.split(","):
        name, sign, value = item.partition("=")
        if name == "tag" and value:
            rule.tags = [*rule.tags, value]
        elif name.startswith("meta.") and sign:
            rule.meta = {**rule.meta, name[5:]: value}
        elif name in ("kind", "taint") and value:
            setattr(rule, name, value)
        else:
            raise argparse.ArgumentTypeError(f"{item!r} is no rule: tag=X, kind=X, taint=X")
    return msgspec.convert(msgspec.to_builtins(rule), Redact)


def mem_export(context: Context, options: argparse.Namespace) -> int:
    """Write a space to a capsule; what was interrupted is gone on with."""
    target = None if options.space is None else reference(options.space)
    client = context.memory()
    with Fresh(options.file, resume=True) as file, bar(context, "export", size=True) as show:
        done, digest = file.digest()
        call = Export(space=target, redact=options.redact, at=done, digest=digest if done else "")
        try:
            told = _receive(client, call, file, show)
        except ECONFLICT:
            if not done:
                raise
            context.screen.problem("the space has changed since: begun again")
            file.restart()
            told = _receive(client, Export(space=target, redact=options.redact), file, show)
    text = f"{told.records} records, {told.blobs} originals, {size(told.bytes)}; seal {told.seal}"
    context.value(told, text)
    if not context.json:
        for one in told.left:
            gone = f"left out {one.records} records by {one.rule}"
            context.screen.line(f"{gone}, and {one.derived} made from them or quoting them")
        for name in told.missing:
            context.screen.problem(f"an original is missing or altered: {name}")
    return 0


def _receive(client: BlockingClient, call: Export, file: Fresh, show: Bar) -> Exported:
    with client.stream(call) as stream:
        for piece in stream:
            file.write(piece.data)
            show(piece.at + len(piece.data), 0)
        told: Exported = stream.reply
    return told


def mem_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and where to."""
    parser.add_argument("--space", help="another space, by number or name; a new name makes one")
    parser.add_argument("--seal", default="", help="what the capsule's seal must be")
    parser.add_argument("--taint", choices=("user", "tool", "recalled", "model"))
    parser.add_argument("file", type=Path)


def mem_import(context: Context, options: argparse.Namespace) -> int:
    """Take a capsule into a space. All of it is checked before anything is taken."""
    target = _space(context, options)
    client = context.memory()
    try:
        name, length = name_of(options.file)
    except OSError as error:
        raise ENOENT(f"{options.file} cannot be read: {error.strerror}") from error
    with bar(context, "upload", size=True) as show:
        upload(client.call, options.file, name, length, space=target, step=show)
    call = Import(capsule=name, seal=options.seal, taint=options.taint, space=target)
    with context.busy("checking and taking"):
        done: Imported = client.call(call)
    text = f"{done.records} records taken, {done.known} were known, {done.blobs} originals"
    text += f"; {done.unnamed} came without their key" if done.unnamed else ""
    context.value(done, text)
    return 0
