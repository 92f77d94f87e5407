"""The command table: what can be typed after ``engram`` and in the shell.

One source for both. A command is a row here and, in its module under ``userland/bin``, two
functions: ``NAME_arguments(parser)`` and ``NAME(context, options) -> status``; in a name of
two words the blank is an underscore. Modules are imported when a command of theirs is used,
so that ``engram ps`` loads no more than it needs.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, cast

from syscalls.errors import EINVAL
from userland.context import Context


class Command(NamedTuple):
    """One row."""

    name: str
    module: str
    summary: str
    shell: bool = True
    """Whether it can be typed in the shell too."""
    passes: bool = False
    """Whether options it does not know are passed on (``options.rest``)."""


COMMANDS: tuple[Command, ...] = (
    Command(
        "boot", "boot", "start the kernel (--detach: in the background)", shell=False, passes=True
    ),
    Command("halt", "boot", "end every process and stop the kernel"),
    Command("shell", "interactive", "an interactive shell", shell=False),
    Command("attach", "interactive", "go on with a session that was detached", shell=False),
    Command("detach", "system", "take the terminal from a session (--end: end it)", shell=False),
    Command("demo", "interactive", "show it all at work, in a fresh directory", shell=False),
    Command("doctor", "doctor", "check this machine and say what to do"),
    Command("run", "process", "start a program or a declared agent (tutor.md); wait for its end"),
    Command("spawn", "process", "start a program in the background"),
    Command("fork", "process", "a child with another's memory and context as they are now"),
    Command("checkpoint", "image", "write an image of a process: memory, messages, context"),
    Command("restore", "image", "start a process from an image"),
    Command("ps", "process", "list the processes"),
    Command("kill", "process", "send a signal"),
    Command("wait", "process", "wait for a process to end"),
    Command("logs", "process", "what a process wrote"),
    Command("output", "process", "the same as logs"),
    Command("init", "supervise", "what init runs: status, reload, start NAME, stop NAME"),
    Command("strace", "trace", "the syscalls that were made (-f: those to come)"),
    Command("dmesg", "trace", "the kernel's log (-w: follow)"),
    Command("top", "top", "the processes and what they use, live"),
    Command("quota", "quota", "what a process and its user have used, and limits (NAME=VALUE)"),
    Command("ls", "tree", "list a folder of /proc: processes, spaces, drivers, the kernel"),
    Command("cat", "tree", "show a file of /proc, such as /proc/12/status"),
    Command("pstree", "tree", "the processes as a tree"),
    Command("lsmem", "tree", "the spaces and what they hold"),
    Command("metrics", "observe", "every figure in Prometheus' format (--serve: for scrapes)"),
    Command("traces", "observe", "send the syscalls to come as OpenTelemetry spans"),
    Command("mem write", "memory", "write a record"),
    Command("mem search", "memory", "find records by meaning and words"),
    Command("mem read", "memory", "read a record"),
    Command("mem list", "memory", "list the newest records"),
    Command("mem history", "memory", "all versions of a record"),
    Command("mem update", "memory", "add a version to a record"),
    Command("mem delete", "memory", "erase a record"),
    Command("mem pin", "life", "keep records from being archived or forgotten"),
    Command("mem unpin", "life", "undo a pin"),
    Command("mem forget", "life", "erase records; mem undo brings them back for a while"),
    Command("mem archive", "life", "compress a record, out of the indexes; --restore: back"),
    Command("mem undo", "life", "take back a pin, merge, archive or forget"),
    Command("mem consolidate", "learn", "turn episodes into facts (-n: only say which)"),
    Command("mem tidy", "life", "merge and archive what nobody needs (-n: only say what)"),
    Command("mem why", "life", "what became of a record and why; or of what a query finds"),
    Command("mem ingest", "documents", "files and folders to records, and kept in step"),
    Command("mem mount", "documents", "keep a folder indexed"),
    Command("mem original", "documents", "the file that a document was made from"),
    Command("mem export", "documents", "a space to a checksummed file (--redact leaves out)"),
    Command("mem import", "documents", "take such a file into a space"),
    Command("mem share", "memory", "let another process use a space"),
    Command("mem revoke", "memory", "take a share back"),
    Command("mem snapshot", "memory", "keep a space as it is now"),
    Command("mem attach", "memory", "put another space under this one, read-only"),
    Command("audit", "memory", "who used a space that is not his own"),
    Command("mem context", "memory", "the working context for a model, within a budget"),
    Command("mem stat", "memory", "size, indexes and grants of a space"),
    Command("mem link", "graph", "relate two entities by a fact"),
    Command("facts", "graph", "the facts about an entity (--as-of, --known-at: in the past)"),
    Command("graph", "graph", "what is around an entity, or the paths between two"),
    Command("send", "message", "send a message to a process"),
    Command("recv", "message", "take a message from this session's mailbox"),
    Command("publish", "message", "send to the subscribers of a topic"),
    Command("llm generate", "model", "generate text"),
    Command("llm count", "model", "count tokens"),
    Command("llm embed", "model", "embed texts"),
    Command("lora train", "lora", "teach a model from records or examples: an adapter"),
    Command("lora job", "lora", "how a training job is (-f: until its end)"),
    Command("lora cancel", "lora", "end a training job"),
    Command("lora list", "lora", "the adapters of this space, their versions and figures"),
    Command("lora attach", "lora", "use an adapter from the next request on"),
    Command("lora detach", "lora", "stop using an adapter"),
    Command("lora rollback", "lora", "make an earlier version the live one"),
    Command("lora probe", "lora", "ask an adapter what it still knows, and record it"),
    Command("lora drop", "lora", "erase an adapter"),
    Command("kv list", "kv", "the pinned prefixes: where they are, hits, seconds saved"),
    Command("kv pin", "kv", "keep the model state of records, of what a query finds, of a text"),
    Command("kv attach", "kv", "put a pinned prefix before what a process asks the model"),
    Command("kv detach", "kv", "put nothing before it any more"),
    Command("kv drop", "kv", "give a pinned prefix back and erase its state"),
    Command("kv cool", "kv", "turn a pinned prefix back into a record of text"),
    Command("tool list", "tools", "the tools that are offered"),
    Command("tool call", "tools", "call a tool"),
    Command("tool recall", "tools", "earlier calls of tools, and what worked"),
    Command("tool mount", "tools", "mount an MCP server as a tool device"),
    Command("tool unmount", "tools", "take a mounted server down"),
    Command("intent", "intent", "say it in words, in English or Chinese"),
    Command("sessions", "system", "the shells and clients, and what was detached"),
    Command("info", "system", "version, uptime, drivers"),
    Command("stats", "system", "figures of every part"),
    Command("ready", "system", "wait until the drivers are ready"),
    Command("call", "system", "any syscall, with its arguments as JSON"),
)

BY_NAME = {command.name: command for command in COMMANDS}
GROUPS = {command.name.split()[0] for command in COMMANDS if " " in command.name}

Arguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[Context, argparse.Namespace], int]


class Usage(EINVAL):
    """A command line that does not fit; the message holds the usage."""


class HelpShown(Exception):
    """The help was asked for and printed; there is nothing to run."""


class Parser(argparse.ArgumentParser):
    """Raises instead of leaving the program: the shell goes on."""

    def error(self, message: str) -> NoReturn:
        """A wrong command line."""
        raise Usage(message, hint=self.usage_line())

    def usage_line(self) -> str:
        """The usage on one line."""
        return " ".join(self.format_usage().split())

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """After ``--help``."""
        raise HelpShown(message or "")


def find(words: Sequence[str]) -> tuple[Command, list[str]] | None:
    """The command that the words begin with, and the words after it; None for none."""
    for length in (2, 1):
        command = BY_NAME.get(" ".join(words[:length])) if len(words) >= length else None
        if command is not None:
            return command, list(words[length:])
    if words and words[0] in GROUPS:
        verbs = [name.split()[1] for name in BY_NAME if name.startswith(f"{words[0]} ")]
        raise Usage(
            f"{words[0]} what?" if len(words) == 1 else f"{words[0]} has no {words[1]!r}",
            hint=f"{words[0]} {'|'.join(verbs)}",
        )
    return None


def execute(command: Command, words: list[str], context: Context, prefix: str = "") -> int:
    """Parse the words after a command and run it. Raises what the command raises."""
    module = importlib.import_module(f"userland.bin.{command.module}")
    function = command.name.replace(" ", "_")
    parser = Parser(prog=f"{prefix}{command.name}", description=command.summary, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    cast("Arguments", getattr(module, f"{function}_arguments"))(parser)
    options, rest = parser.parse_known_args(words)
    if rest and not command.passes:
        raise Usage(f"unrecognized: {' '.join(rest)}", hint=parser.usage_line())
    options.rest = rest
    before = context.json
    context.json = before or options.json
    try:
        return cast("Run", getattr(module, function))(context, options)
    finally:
        context.json = before if context.shell is not None else context.json


def closest(word: str, among: Sequence[str]) -> str | None:
    """The most similar of some words, for a suggestion."""
    import difflib

    found = difflib.get_close_matches(word, among, n=1, cutoff=0.6)
    return typo(word, among) or (found[0] if found else None)


def typo(word: str, among: Sequence[str]) -> str | None:
    """The word that was probably meant: one slip of the fingers away, two in a long word."""
    slips, near = min(((_slips(word, known), known) for known in among), default=(99, ""))
    return near if slips <= (1 if len(word) < 6 else 2) else None


def _slips(typed: str, meant: str) -> int:
    """Letters left out, added, changed, or swapped with their neighbour (Damerau 1964)."""
    rows = [list(range(len(meant) + 1))]
    for i, a in enumerate(typed, 1):
        row = [i]
        for j, b in enumerate(meant, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and (a, typed[i - 2]) == (meant[j - 2], b):
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]
