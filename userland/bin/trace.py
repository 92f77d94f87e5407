"""What happened: strace (the syscalls) and dmesg (the kernel's log)."""

import argparse

from syscalls.calls.sys import Log, Trace
from syscalls.shapes import LogLine, TraceLine
from userland.context import Context, reference
from userland.screen import clock, short


def strace_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose, and which."""
    parser.add_argument("-f", "--follow", action="store_true", help="those to come")
    parser.add_argument("-p", "--attach", metavar="APID", help="those to come of this process")
    parser.add_argument("-e", "--call", help="only this call, such as mem.write")
    parser.add_argument("-n", "--limit", type=int, default=100, help="most lines")
    parser.add_argument("-l", "--long", action="store_true", help="do not cut lines")
    parser.add_argument("target", nargs="?", help="APID or name; default: every process")


def strace(context: Context, options: argparse.Namespace) -> int:
    """The syscalls, one a line."""
    named = options.attach or options.target
    call = Trace(
        target=None if named is None else reference(named),
        call=options.call,
        limit=options.limit,
        follow=options.follow or options.attach is not None,
    )
    if not call.follow:
        found = context.client.call(call)
        if context.json:
            context.value(found)
            return 0
        for line in found.lines:
            context.screen.line(trace_text(line, WIDE if options.long else NARROW))
        return 0
    gaps = Gaps(context, counted=named is None and options.call is None)
    with context.client.stream(call) as stream:
        for line in stream:
            gaps.before(line.seq)
            context.value(line, trace_text(line, WIDE if options.long else NARROW))
        gaps.report(stream.reply.lost)
    return 0


class Gaps:
    """Says how many lines a reader lost by being slow.

    Where every line is wanted (``counted``) a gap in their numbers tells at once; where some
    are left out on purpose only the kernel knows, and says so when the stream ends.
    """

    def __init__(self, context: Context, *, counted: bool) -> None:
        self._context = context
        self._counted = counted
        self._next = 0
        self._lost = 0

    def before(self, seq: int) -> None:
        """A line of this number came."""
        if self._counted and self._next and seq > self._next:
            self.report(self._lost + seq - self._next)
        self._next = seq + 1

    def report(self, lost: int) -> None:
        """So many were lost in all; what was said before is not said again."""
        if lost > self._lost:
            self._context.value({"lost": lost - self._lost}, f"[{lost - self._lost} lines lost]")
            self._lost = lost


NARROW, WIDE = 72, 4096


def trace_text(line: TraceLine, limit: int) -> str:
    """One call as strace writes it; arguments and result cut to so many characters each."""
    said, result = short(line.arguments, limit), short(line.result, limit)
    at = f"{clock(line.at)}.{int(line.at % 1 * 1000):03}"
    return f"{at} [{line.apid}] {line.call}({said}) = {result} <{line.micros:.0f}us>"


def dmesg_arguments(parser: argparse.ArgumentParser) -> None:
    """How much."""
    parser.add_argument("-w", "--follow", action="store_true", help="lines to come, too")
    parser.add_argument("-n", "--limit", type=int, default=200, help="most lines")
    parser.add_argument("-l", "--level", choices=("debug", "info", "warning", "error"))


def dmesg(context: Context, options: argparse.Namespace) -> int:
    """The kernel's log."""
    call = Log(limit=options.limit, level=options.level or "debug", follow=options.follow)
    if not options.follow:
        found = context.client.call(call)
        if context.json:
            context.value(found)
            return 0
        for line in found.lines:
            context.screen.line(log_text(line))
        return 0
    gaps = Gaps(context, counted=options.level in (None, "debug"))
    with context.client.stream(call) as stream:
        for line in stream:
            gaps.before(line.seq)
            context.value(line, log_text(line))
        gaps.report(stream.reply.lost)
    return 0


def log_text(line: LogLine) -> str:
    """One line of the log."""
    mark = "" if line.level == "info" else f"{line.level}: "
    return f"{clock(line.at)}.{int(line.at % 1 * 1000):03} {line.source}: {mark}{line.text}"
