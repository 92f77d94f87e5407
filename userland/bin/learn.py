"""Learning: facts from what happened, with the words that say so."""

import argparse

from syscalls.calls import learn
from userland.context import Context, space_argument, space_of
from userland.screen import short


def mem_consolidate_arguments(parser: argparse.ArgumentParser) -> None:
    """How much, and where."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be made")
    parser.add_argument("--budget", type=int, default=1000, metavar="N", help="records to read")
    parser.add_argument(
        "--no-model", action="store_true", help="only what is said in so many words"
    )
    parser.add_argument("--refused", action="store_true", help="also what was refused, and why")
    space_argument(parser)


def mem_consolidate(context: Context, options: argparse.Namespace) -> int:
    """Turn what episodes say into facts."""
    call = learn.Consolidate(
        dry_run=options.dry_run,
        budget=options.budget,
        model=not options.no_model,
        space=space_of(options),
    )
    done: learn.Consolidated = context.memory().call(call)
    rows: list[list[object]] = [
        [fact.rid or "-", fact.content, short(fact.evidence[0].quote)] for fact in done.made
    ]
    if options.refused:
        rows += [["refused", short(one.quote), one.why] for one in done.refused]
    context.table(done, ["would make" if done.dry_run else "made", "what", "because"], rows)
    if not context.json:
        more = "" if done.done else "; the budget ended before the episodes"
        known = f", {len(done.supported)} known ones have more evidence" if done.supported else ""
        context.screen.line(
            f"{done.read} read, {len(done.made)} facts{known}, {len(done.refused)} refused{more}"
        )
    return 0
