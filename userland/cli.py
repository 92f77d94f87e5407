"""The ``engram`` command.

    engram [--data DIR] [--space NAME] [--json] COMMAND ...

Exit status: that of the command; for an error 2 (the caller's), 3 (load), 4 (machine) or 5
(a bug of ours); 130 when interrupted. With ``--json`` errors are ``{"error": {...}}``.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from syscalls.errors import EngramError
from userland.commands import COMMANDS, HelpShown, Parser, Usage, closest, execute, find
from userland.context import Context
from userland.place import data_directory
from userland.screen import error_object, exit_code, json_line

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_json = "--json" in words
    context: Context | None = None
    try:
        options, rest = _global_options(words)
        context = Context(data_directory(options.data), space=options.space, json=options.json)
        return _run(rest, context)
    except HelpShown:
        return 0
    except EngramError as error:
        if wants_json or (context is not None and context.json):
            print(json_line(error_object(error)))
        else:
            print(f"engram: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    finally:
        if context is not None:
            context.close()


def _global_options(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="engram",
        description="EngramOS: agents as processes with memory",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--data")
    parser.add_argument("--space")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    end = 0  # options before the command are ours, those after it the command's
    while end < len(words) and words[end].startswith("-"):
        end += 2 if words[end] in ("--data", "--space") else 1
    options = parser.parse_args(words[:end])
    rest = words[end:]
    if options.help:
        print(overview())
        raise HelpShown
    if not rest:
        raise Usage("no command was given", hint="engram --help lists them")
    return options, rest


def _run(words: list[str], context: Context) -> int:
    found = find(words)
    if found is None:
        near = closest(words[0], [command.name for command in COMMANDS])
        raise Usage(
            f"there is no command {words[0]!r}",
            hint=f"did you mean {near!r}?" if near else "engram --help lists them",
        )
    command, rest = found
    context.name = f"engram {command.name}"
    return execute(command, rest, context, prefix="engram ")


def overview() -> str:
    """What ``engram --help`` prints."""
    lines = [
        "usage: engram [--data DIR] [--space NAME] [--json] COMMAND ...",
        "",
        "  --data DIR     data directory (else ENGRAM_DATA, else the user's data folder)",
        "  --space NAME   the space to work in, by name or number",
        "  --json         results and errors as JSON",
        "",
        "commands (each has --help):",
    ]
    width = max(len(command.name) for command in COMMANDS)
    lines += [f"  {command.name.ljust(width)}  {command.summary}" for command in COMMANDS]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
