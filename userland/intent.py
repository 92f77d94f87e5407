"""From words to deeds: the program is shown, agreed to, run, and its results are shown.

    words -> llm.intent(execute=False) -> program, shown
          -> destructive? asked about, or refused where nobody can be asked
          -> llm.intent(program=...)   -> results and reply, shown

What runs is what was shown: the second call carries the program and nothing is planned anew.
"""

from typing import NamedTuple

import msgspec

from syscalls.calls import llm
from syscalls.errors import EPERM, EngramError
from syscalls.table import TABLE
from userland.context import Context
from userland.results import call_text, failure, show_steps, unsaid
from userland.screen import EXIT_CODES, json_line, lines_visible

DECLINED = 1
"""Exit status when a person said no, or when the words asked for nothing."""

STEPS, MOST_STEPS = 8, 64
"""Steps of a program that are run: at least so many, at most so many."""

ENDING = {"TERM", "KILL", "INT"}


class Words(NamedTuple):
    """What was said, and how to take it."""

    text: str
    plan: bool = False
    """Show the program and run nothing."""
    yes: bool = False
    """Do not ask before a destructive call."""
    deadline: float | None = None
    """Seconds for each of the two calls."""


class Unconfirmed(EPERM):
    """The program destroys something, and there was nobody to agree to it."""

    default_hint = "look at it with --plan; --yes runs it all the same"


def follow(context: Context, words: Words) -> int:
    """Understand the words and act on them. Returns the exit status.

    Raises Unconfirmed, and what llm.intent raises: ENODEV, ETIME, EIO, ...
    """
    planned = _ask(context, llm.Intent(text=words.text, execute=False, deadline=words.deadline))
    program = planned.program
    if not context.json:
        for step in program:
            context.screen.line(f"-> {call_text(step.call, step.args, whole=destroys(step))}")
    if words.plan or not program:
        return _end(context, planned, 0 if program or planned.reply else DECLINED)
    if not (words.yes or context.yes) and not _agreed(context, program):
        context.screen.line("nothing was run")
        return DECLINED
    done = _run(context, words, program)
    return _end(context, done, _status(done.results))


def destroys(step: llm.Planned) -> bool:
    """Whether a call ends or erases something. What the table does not know may."""
    entry = TABLE.by_name.get(step.call)
    if entry is None:
        return True
    if step.call == "proc.signal":
        return step.args.get("signal", "TERM") in ENDING
    return entry.destructive and not step.args.get("dry_run", False)


def _run(context: Context, words: Words, program: list[llm.Planned]) -> llm.Understood:
    call = llm.Intent(
        text=words.text,
        program=program,
        max_steps=min(max(STEPS, len(program)), MOST_STEPS),
        deadline=words.deadline,
    )
    try:
        done = _ask(context, call)
    except EngramError as error:
        if not context.json:
            _show_partial(context, error)
        raise
    if not context.json:
        show_steps(context, done.results, done.reply)
    return done


def _ask(context: Context, call: llm.Intent) -> llm.Understood:
    with context.busy("thinking" if call.program is None else "running"):
        understood: llm.Understood = context.client.call(call)
    return understood


def _agreed(context: Context, program: list[llm.Planned]) -> bool:
    """Whether the program may run: nothing is destroyed, or a person says so."""
    names = ", ".join(dict.fromkeys(step.call for step in program if destroys(step)))
    if not names:
        return True
    if not context.answers:
        raise Unconfirmed(
            f"{names} ends or erases something, and nobody is here to agree to it",
            program=msgspec.to_builtins(program),
        )
    try:
        answer = input(f"{names} ends or erases something. Run it? [y/N] ")
    except EOFError:
        context.screen.line("")
        return False
    return answer.strip().lower() in ("y", "yes")


def _end(context: Context, understood: llm.Understood, status: int) -> int:
    if context.json:
        context.screen.line(json_line(understood))
    elif understood.reply:
        rest = unsaid(understood.reply, understood.results)
        if rest:
            context.screen.line(lines_visible(rest))
    elif not understood.program:
        context.screen.problem("these words ask for nothing that can be done here")
    return status


def _status(results: list[llm.Step]) -> int:
    """0, or the status for the first step that failed."""
    for step in results:
        if not step.ok:
            return EXIT_CODES.get(failure(step).fault, 5)
    return 0


class Account(msgspec.Struct):
    """What an error's detail says of an intent that did not come to its end."""

    done: list[llm.Step] = []
    interrupted: llm.Planned | None = None


def _show_partial(context: Context, error: EngramError) -> None:
    """Show the steps that had been made when it failed, and the one under way."""
    try:
        account = msgspec.convert(error.detail, Account)
    except msgspec.ValidationError:  # an error of another kind, which speaks for itself
        return
    show_steps(context, account.done)
    if account.interrupted is not None:
        call = call_text(account.interrupted.call, account.interrupted.args)
        context.screen.problem(f"under way when it ended, perhaps done: {call}")
