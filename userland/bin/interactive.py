"""What takes over the terminal: the shell, and the demonstration."""

import argparse
import sys

from userland.context import Context


def shell_arguments(parser: argparse.ArgumentParser) -> None:
    """A line, and what to do on errors."""
    parser.add_argument("-c", dest="line", help="run this line and end with its status")
    parser.add_argument("-e", dest="stop", action="store_true", help="stop at the first error")
    parser.add_argument("--space", help="the space to work in; default one of its own")
    parser.add_argument(
        "-y", "--yes", action="store_true", help="do not ask before an intent destroys something"
    )


def shell(context: Context, options: argparse.Namespace) -> int:
    """At a terminal: prompt. Else run the lines of the standard input."""
    context.yes = context.yes or options.yes
    return run_shell(context, options.space or context.space, options.line, options.stop)


def run_shell(context: Context, space: str | None, line: str | None, stop: bool) -> int:
    """Make a shell on the context's data directory and give it the terminal."""
    from userland.screen import PlainScreen, Screen
    from userland.shell.repl import interactive, lines_of_stdin, script
    from userland.shell.shell import Shell

    screen: Screen = PlainScreen()
    if context.terminal:
        from userland.shell.rich_screen import RichScreen

        screen = RichScreen()
    made = Shell(context.data, space=space, json=context.json, screen=screen, yes=context.yes)
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
