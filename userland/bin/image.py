"""Images of processes: checkpoint, restore."""

import argparse
import os

from syscalls.calls.proc import Checkpoint, Checkpointed, Restore, Restored
from userland.context import Context, reference


def checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Of whom, and where to."""
    parser.add_argument("target", help="APID or name")
    parser.add_argument("file", nargs="?", default="", help="a name, or a path with a slash")


def checkpoint(context: Context, options: argparse.Namespace) -> int:
    """Write an image of a process."""
    call = Checkpoint(target=reference(options.target), path=_path(options.file))
    done: Checkpointed = context.client.call(call)
    held = f"{done.records} records, {done.messages} messages, {done.bytes} bytes"
    context.value(done, "\n".join([f"image {done.path}: {held}", *_without(done.missing)]))
    return 0


def restore_arguments(parser: argparse.ArgumentParser) -> None:
    """From what, and under which number and name."""
    parser.add_argument("file", help="a name, or a path with a slash")
    parser.add_argument("--same-apid", action="store_true", help="under its old number")
    parser.add_argument("--name", default="", help="another name")
    parser.add_argument("--space", help="a space to take its records into and work in")


def restore(context: Context, options: argparse.Namespace) -> int:
    """Start a process from an image."""
    call = Restore(
        path=_path(options.file),
        apid="same" if options.same_apid else "new",
        name=options.name,
        space=None if options.space is None else reference(options.space),
    )
    done: Restored = context.client.call(call)
    held = f"{done.records} records, {done.messages} messages"
    context.value(done, "\n".join([f"process {done.apid}: {held}", *_without(done.missing)]))
    return 0


def _path(text: str) -> str:
    return os.path.abspath(text) if "/" in text else text


def _without(missing: list[str]) -> list[str]:
    return [f"  without {one}" for one in missing]
