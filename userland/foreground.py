"""A process in the foreground: its output here, and the terminal's signals to it.

While one is attended, Ctrl-C does not interrupt this program: it sends INT to the process
and its group, and KILL when pressed again within a few seconds. Ctrl-Z (where there is job
control) sends STOP and gives the terminal back; the processes stay where they are.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from syscalls.calls.proc import OutputCall, SignalCall, Wait
from syscalls.shapes import Exit, Output
from syscalls.shapes import Signal as SignalName
from userland.client import BlockingClient

INSIST = 5.0
"""Seconds within which a second Ctrl-C means that the first was not enough."""


class Left(NamedTuple):
    """How the attention ended."""

    exit: Exit | None
    """None when the process was stopped and is still there."""
    shown: int
    """Offset up to which its output was shown."""


class _Keys:
    """What was pressed while a process is attended."""

    def __init__(self, client: BlockingClient, apid: int) -> None:
        self._client = client
        self._apid = apid
        self._interrupted = 0.0
        self.stopped = False

    def interrupt(self, number: int, at: FrameType | None) -> None:
        """Ctrl-C."""
        before, self._interrupted = self._interrupted, time.monotonic()
        again = before and self._interrupted - before < INSIST
        self._send("KILL" if again else "INT")

    def stop(self, number: int, at: FrameType | None) -> None:
        """Ctrl-Z."""
        self.stopped = True
        self._send("STOP")

    def _send(self, name: SignalName) -> None:
        # Only ever runs while the main program waits for bytes, so frames do not interleave.
        self._client.post(SignalCall(target=self._apid, signal=name, group=True))


def attend(
    client: BlockingClient,
    apid: int,
    write: Callable[[bytes], None],
    *,
    since: int = 0,
    job_control: bool = False,
) -> Left:
    """Pass a process's output to ``write`` until it ends, or is stopped from here.

    A child is reaped. Must be used from the main thread to catch the terminal's keys.
    """
    keys = _Keys(client, apid)
    shown = since
    with (
        client.stream(OutputCall(target=apid, since=since, follow=True)) as stream,
        _hands_on(keys, job_control),
    ):
        while not stream.done and not keys.stopped:
            piece = stream.poll()
            if piece is not None:
                write(missing(shown, piece) + piece.data)
                shown = piece.at + len(piece.data)
        ended = stream.done
    if not ended:
        return Left(None, shown)
    return Left(client.call(Wait(target=apid)), shown)


def show_since(
    client: BlockingClient, write: Callable[[bytes], None], apid: int, since: int
) -> int:
    """Pass what a process wrote from an offset on to ``write``; the offset where that ends."""
    piece: Output = client.call(OutputCall(target=apid, since=since))
    if piece.data:
        write(missing(since, piece) + piece.data)
    return piece.at + len(piece.data)


def missing(shown: int, piece: Output) -> bytes:
    """A line that says how much output the kernel no longer had; nothing where it had all."""
    lost = piece.at - shown
    return f"[{lost} bytes of output lost]\n".encode() if lost > 0 else b""


@contextmanager
def _hands_on(keys: _Keys, job_control: bool) -> Iterator[None]:
    """Handlers for the terminal's keys, for as long as the block lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(signal.SIGINT, signal.signal(signal.SIGINT, keys.interrupt))]
    if job_control:
        before.append((signal.SIGTSTP, signal.signal(signal.SIGTSTP, keys.stop)))
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
