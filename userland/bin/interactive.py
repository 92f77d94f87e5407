"""What takes over the terminal: the shell, and the demonstration."""

import argparse
import sys
from typing import TYPE_CHECKING

from userland.context import Context, reference

if TYPE_CHECKING:
    from userland.shell.shell import Shell


def shell_arguments(parser: argparse.ArgumentParser) -> None:
    """A line, and what to do on errors."""
    parser.add_argument("-c", dest="line", help="run this line and end with its status")
    parser.add_argument("-e", dest="stop", action="store_true", help="stop at the first error")
    parser.add_argument("--space", help="the space to work in; default one of its own")
    parser.add_argument("--name", help="keep the session under this name when the terminal goes")
    parser.add_argument(
        "-y", "--yes", action="store_true", help="do not ask before an intent destroys something"
    )


def shell(context: Context, options: argparse.Namespace) -> int:
    """At a terminal: prompt. Else run the lines of the standard input."""
    context.yes = context.yes or options.yes
    made = make_shell(context, options.space or context.space, options.name)
    return run_shell(made, context, options.line, options.stop)


def attach_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and from whom."""
    parser.add_argument("--take", action="store_true", help="also from the terminal that has it")
    parser.add_argument("-c", dest="line", help="run this line and end with its status")
    parser.add_argument("session", help="name or number, as `engram sessions` shows it")


def attach(context: Context, options: argparse.Namespace) -> int:
    """Go on with a session: its space, its jobs, and what these wrote meanwhile."""
    made = make_shell(context, None, None)
    try:
        made.resume(reference(options.session), take=options.take)
    except BaseException:
        made.close()
        raise
    return run_shell(made, context, options.line, stop=False)


def make_shell(context: Context, space: str | None, name: str | None) -> "Shell":
    """A shell on the context's data directory."""
    from userland.screen import PlainScreen, Screen
    from userland.shell.shell import Shell

    screen: Screen = PlainScreen()
    if context.terminal:
        from userland.shell.rich_screen import RichScreen

        screen = RichScreen()
    return Shell(
        context.data, space=space, name=name, json=context.json, screen=screen, yes=context.yes
    )


def run_shell(made: "Shell", context: Context, line: str | None, stop: bool) -> int:
    """Give a shell the terminal."""
    from userland.shell.repl import interactive, lines_of_stdin, script

    try:
        made.attach()
        if line is not None:
            return script(made, [line], stop_at_error=True)
        if sys.stdin.isatty() and context.terminal:
            return interactive(made)
        return script(made, lines_of_stdin(), stop_at_error=stop)
    finally:
        made.close()


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """What comes after it."""
    parser.add_argument(
        "--auto", action="store_true", help="at a terminal, go on to a shell on your own data"
    )
    parser.add_argument("--shell", action="store_true", help="go on to a shell in any case")
    parser.add_argument("--dir", help="where to run it; default a fresh temporary directory")
    parser.add_argument("--keep", action="store_true", help="keep the demonstration's directory")
    parser.add_argument("--embedder", default="minilm", help="as for boot")


def demo(context: Context, options: argparse.Namespace) -> int:
    """Show it all at work; see ``userland/demo.py``."""
    from userland.demo import demonstrate

    return demonstrate(context, options)
