"""lora: adapters, and the jobs that make them.

An adapter belongs to the space it was trained in. Outside a shell a command is over at once, so
there an adapter is attached to all that work in the space, if no process is named.
"""

import argparse
import time
from pathlib import Path

import msgspec

from syscalls.calls import lora
from syscalls.errors import EINVAL
from syscalls.records import Filter
from userland.context import Context, reference
from userland.screen import clock, short, size

WIDTH = 24
"""Characters of the bar."""


def _name_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="NAME[@VERSION]")


def lora_train_arguments(parser: argparse.ArgumentParser) -> None:
    """On what, and how."""
    parser.add_argument("name")
    parser.add_argument("--rid", action="append", default=[], metavar="RID", help="a record")
    parser.add_argument("--query", help="the records that this finds")
    parser.add_argument("--kind", help="the records of this kind")
    parser.add_argument("--tag", action="append", default=[], help="the records with this tag")
    parser.add_argument("-k", type=int, default=100, metavar="N", help="at most so many records")
    parser.add_argument(
        "--examples", metavar="FILE", help="lines of JSON with prompt and completion or program"
    )
    parser.add_argument("--base", default="", choices=["nano", "model"], help="what to adapt")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=float, default=0.25, metavar="SHARE")
    parser.add_argument("--seconds", type=float, default=1800.0, help="most time it may take")
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait for the end")


def lora_train(context: Context, options: argparse.Namespace) -> int:
    """Train an adapter on records or examples, and follow the job."""
    narrowed = options.kind is not None or bool(options.tag)
    call = lora.Train(
        name=options.name,
        rids=options.rid,
        query=options.query,
        filter=Filter(kind=options.kind, tags=options.tag) if narrowed else None,
        k=options.k,
        examples=[] if options.examples is None else _examples(options.examples),
        base=options.base,
        rank=options.rank,
        epochs=options.epochs,
        steps=options.steps,
        learning_rate=options.rate,
        seed=options.seed,
        held_out=options.held_out,
        seconds=options.seconds,
    )
    begun: lora.Job = context.memory().call(call)
    if options.detach:
        context.value(begun, f"job {begun.job}; follow it with: lora job {begun.job} -f")
        return 0
    return _followed(context, begun.job)


def _examples(name: str) -> list[dict[str, object]]:
    try:
        data = Path(name).read_bytes()
        return msgspec.json.Decoder(dict[str, object]).decode_lines(data)
    except OSError as error:
        raise EINVAL(f"{name}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise EINVAL(f"{name}: {error}", hint="one JSON object a line") from error


def lora_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and whether to stay."""
    parser.add_argument("job", metavar="NAME[@VERSION]")
    parser.add_argument("-f", "--follow", action="store_true", help="until the end")


def lora_job(context: Context, options: argparse.Namespace) -> int:
    """How a job is."""
    if options.follow:
        return _followed(context, options.job)
    return _show_job(context, context.memory().call(lora.JobCall(job=options.job)))


def _followed(context: Context, job: str) -> int:
    """A line that grows, then how it ended."""
    shown = 0.0
    call = lora.JobCall(job=job, follow=True)
    with context.busy(f"training {job}"), context.memory().stream(call) as stream:
        for progress in stream:
            now = time.monotonic()
            if not context.json and (now - shown > 1 or progress.phase != "train"):
                shown = now
                context.screen.line(_bar(progress))
    return _show_job(context, stream.reply)


def _bar(progress: lora.TrainingProgress) -> str:
    if progress.phase != "train" or not progress.of:
        return f"{progress.seconds:6.1f} s  {progress.phase}"
    done = WIDTH * progress.step // progress.of
    bar = "#" * done + "." * (WIDTH - done)
    steps = f"{progress.step}/{progress.of}"
    return f"{progress.seconds:6.1f} s  [{bar}] {steps}  loss {progress.loss:.3f}"


def _show_job(context: Context, info: lora.JobInfo) -> int:
    one = info.adapter
    lines = [f"{info.job}: {info.state}{f' ({one.why})' if one.why else ''}"]
    if one.figures:
        lines.append(_figures(one.figures))
    if info.state == "running" and info.progress is not None:
        lines.append(_bar(info.progress))
    context.value(info, "\n".join(lines))
    return 0 if info.state in ("done", "running", "waiting") else 1


def _figures(figures: dict[str, float]) -> str:
    """What training has brought, and cost."""
    return (
        f"right answers {figures['probes_before']:.0%} -> {figures['probes_after']:.0%} of "
        f"{figures['probes']:.0f} set aside; what is to stay {figures['regression_before']:.1%} "
        f"-> {figures['regression_after']:.1%}; {figures['seconds']:.0f} s"
    )


def lora_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    parser.add_argument("--all", action="store_true", help="also those that are over")
    parser.add_argument("adapter", nargs="?", default="", metavar="NAME")


def lora_list(context: Context, options: argparse.Namespace) -> int:
    """The adapters of the space, version by version."""
    call = lora.ListCall(adapter=options.adapter, all=options.all)
    found: lora.Listed = context.memory().call(call)
    rows: list[list[object]] = []
    for one in found.adapters:
        figures = one.figures
        learnt = "-"
        if figures:
            learnt = f"{figures['probes_before']:.0%}->{figures['probes_after']:.0%}"
        used = ["everyone"] if one.everyone else []
        used += [str(apid) for apid in one.attached]
        rows.append(
            [
                f"{one.name}@{one.version}",
                one.base,
                one.state,
                learnt,
                len(one.sources),
                size(one.bytes),
                ",".join(used) or "-",
                clock(one.created),
                short(one.why or one.doubt),
            ]
        )
    columns = ["adapter", "base", "state", "learnt", "sources", "size", "used by", "made", "why"]
    context.table(found, columns, rows)
    return 0


def lora_attach_arguments(parser: argparse.ArgumentParser) -> None:
    """What, and to whom."""
    _name_argument(parser)
    parser.add_argument("--to", metavar="PROCESS", help="one process, from its next request on")
    parser.add_argument("--all", action="store_true", help="all that work in this space, for good")


def lora_attach(context: Context, options: argparse.Namespace) -> int:
    """Use an adapter."""
    everyone = _everyone(context, options)
    target = None if options.to is None else reference(options.to)
    call = lora.Attach(adapter=options.adapter, target=target, everyone=everyone)
    done = context.memory().call(call)
    whom = "all that work in this space" if everyone else options.to or "this shell"
    context.value(done, f"{options.adapter} is used by {whom} from the next request on")
    return 0


def _everyone(context: Context, options: argparse.Namespace) -> bool:
    return options.all or (options.to is None and context.shell is None)


def lora_detach_arguments(parser: argparse.ArgumentParser) -> None:
    """From whom."""
    parser.add_argument("--to", metavar="PROCESS", help="the process")
    parser.add_argument("--all", action="store_true", help="all that work in this space")
    parser.add_argument("--base", default="", choices=["nano", "model"])


def lora_detach(context: Context, options: argparse.Namespace) -> int:
    """Stop using an adapter."""
    target = None if options.to is None else reference(options.to)
    everyone = _everyone(context, options)
    call = lora.Detach(target=target, base=options.base, everyone=everyone)
    context.value(context.memory().call(call), "detached")
    return 0


def lora_rollback_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, and to which."""
    parser.add_argument("adapter", metavar="NAME")
    parser.add_argument("version", nargs="?", type=int, default=0)


def lora_rollback(context: Context, options: argparse.Namespace) -> int:
    """Make an earlier version the live one."""
    call = lora.Rollback(adapter=options.adapter, version=options.version)
    rolled: lora.Rolled = context.memory().call(call)
    context.value(rolled, f"{rolled.identity} is live")
    return 0


def lora_probe_arguments(parser: argparse.ArgumentParser) -> None:
    """What, and how much."""
    _name_argument(parser)
    parser.add_argument("-n", "--limit", type=int, default=20, help="questions at most")
    parser.add_argument("--no-record", action="store_true", help="do not keep the answers")


def lora_probe(context: Context, options: argparse.Namespace) -> int:
    """Ask an adapter what it still knows of the records it was trained on."""
    call = lora.Probe(adapter=options.adapter, limit=options.limit, record=not options.no_record)
    with context.busy(f"asking {options.adapter}"):
        told: lora.Probes = context.memory().call(call)
    rows: list[list[object]] = [
        ["yes" if one.right else "no", short(one.question), short(one.answer), one.rid or "-"]
        for one in told.probes
    ]
    context.table(told, ["right", "question", "answer", "record"], rows)
    if not context.json:
        context.screen.line(f"{told.identity}: {told.right} of {len(told.probes)} right")
    return 0


def lora_drop_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    _name_argument(parser)


def lora_drop(context: Context, options: argparse.Namespace) -> int:
    """Erase an adapter, or one version of it."""
    done = context.memory().call(lora.Drop(adapter=options.adapter))
    context.value(done, f"{options.adapter} is erased")
    return 0


def lora_cancel_arguments(parser: argparse.ArgumentParser) -> None:
    """Which."""
    parser.add_argument("job", metavar="NAME[@VERSION]")


def lora_cancel(context: Context, options: argparse.Namespace) -> int:
    """End a training job; nothing of it is kept."""
    info: lora.JobInfo = context.memory().call(lora.Cancel(job=options.job))
    context.value(info, f"{info.job}: {info.state}")
    return 0
