"""intent: say it in words."""

import argparse
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

import msgspec

from syscalls.calls import llm
from syscalls.errors import EINVAL, ENODEV, ENOENT, ENOSYS, EngramError
from userland.commands import Usage
from userland.context import Context, text_or_stdin
from userland.intent import Words, follow
from userland.place import Disconnected
from userland.screen import json_line


def intent_arguments(parser: argparse.ArgumentParser) -> None:
    """The words, or a file of them."""
    parser.add_argument("--plan", action="store_true", help="show the program, run nothing")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask before it destroys")
    parser.add_argument("--deadline", type=float, metavar="S", help="seconds for each answer")
    parser.add_argument(
        "--jsonl",
        metavar="FILE",
        help="with --plan: lines with id and intent (- reads standard input); "
        "prints lines with id, program and ms",
    )
    parser.add_argument("words", nargs="*", help="- reads the standard input")


def intent(context: Context, options: argparse.Namespace) -> int:
    """Have the kernel understand a person's words and act on them."""
    if options.jsonl is not None:
        if options.words or not options.plan:
            raise Usage("--jsonl FILE goes with --plan and without words", hint=USAGE)
        with _opened(options.jsonl) as lines:
            context.memory()  # as without a file: what is attached there is used
            return plan_lines(context, lines, options.deadline)
    if not options.words:
        raise Usage("there are no words", hint=USAGE)
    text = text_or_stdin(" ".join(options.words))
    context.memory()  # connect to a space that outlives this command
    return follow(context, Words(text, options.plan, options.yes, options.deadline))


USAGE = "intent [--plan] [--yes] WORDS, or intent --plan --jsonl FILE"


# --- many at once


class Asked(msgspec.Struct):
    """One line of the file."""

    id: int | str
    intent: str


class Answered(msgspec.Struct, omit_defaults=True):
    """One line of the answer."""

    id: int | str | None
    program: list[llm.Planned]
    ms: float
    """Milliseconds from the call to its answer."""
    error: str = ""


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise ENOENT(f"{name}: {error.strerror}") from error


def plan_lines(context: Context, lines: Iterable[bytes], deadline: float | None) -> int:
    """Plan line after line on one connection, and print each answer as it comes.

    A line that fails is answered with the empty program and its error. Raises Disconnected,
    and ENODEV or ENOSYS when it is the first line that finds nobody who understands.
    """
    failed = 0
    for number, line in enumerate(line for line in lines if line.strip()):
        answer = _planned(context, line, deadline, first=not number)
        failed += bool(answer.error)
        context.screen.line(json_line(answer))
    if failed:
        context.screen.problem(f"{failed} lines could not be planned; their `error` says why")
    return 0


def _planned(context: Context, line: bytes, deadline: float | None, *, first: bool) -> Answered:
    asked: Asked | None = None
    began = time.perf_counter()
    try:
        asked = _asked(line)
        call = llm.Intent(text=asked.intent, execute=False, deadline=deadline)
        began = time.perf_counter()
        program, problem = context.client.call(call).program, ""
    except Disconnected:
        raise
    except EngramError as error:
        if first and isinstance(error, (ENODEV, ENOSYS)):
            raise
        program, problem = [], str(error)
    took = (time.perf_counter() - began) * 1e3
    return Answered(asked.id if asked else None, program, round(took, 3), problem)


def _asked(line: bytes) -> Asked:
    try:
        return msgspec.json.decode(line, type=Asked)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EINVAL(f"not a line with id and intent: {error}") from error
