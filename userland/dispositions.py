"""What a Python agent does on signals.

    signal ── Python's handler, at once ──> queue ── the runtime's task ──> what is set for it

    TERM         a handler may clean up; then ``main`` is cancelled: status 143
    INT          a handler instead of: the kernel cancels the calls in flight (ECANCELED), or
                 ``main`` is cancelled where there are none: status 130
    USR1, USR2   a handler; nothing without one
    CONT         a handler, when the process goes on after a STOP

A handler is a function or an async function, called with the signal's name. Those of one signal
run one after the other; an exception out of one ends the agent like one out of ``main``. As
everywhere, several signals of one kind that come close together may be taken for one.
"""

import inspect
import math
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import trio

from syscalls.calls.proc import Catch
from syscalls.errors import EINVAL
from syscalls.shapes import Signal
from userland.channel import Channel

NUMBERS: dict[Signal, signal.Signals] = {
    "TERM": signal.SIGTERM,
    "INT": signal.SIGINT,
    "USR1": signal.SIGUSR1,
    "USR2": signal.SIGUSR2,
    "CONT": signal.SIGCONT,
}
NAMES: dict[int, Signal] = {number: name for name, number in NUMBERS.items()}
ENDING: tuple[Signal, ...] = ("TERM", "INT")
WITHOUT = {"USR1": signal.SIG_IGN, "USR2": signal.SIG_IGN, "CONT": signal.SIG_DFL}
"""What is done with the others where the agent has no handler."""

Handler = Callable[[Signal], Awaitable[None] | None]


class Dispositions:
    """The handlers of one agent, and the task that calls them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._handlers: dict[Signal, Handler] = {}
        self._queues: dict[Signal, trio.MemorySendChannel[Signal]] = {}
        self._send, self._receive = trio.open_memory_channel[Signal](math.inf)
        self._token: trio.lowlevel.TrioToken | None = None
        self.ending: Signal | None = None
        """The signal that ends the agent, once one does."""
        self.failure: Exception | None = None
        """What came out of a handler, and ends the agent."""

    def on(self, name: Signal, handler: Handler | None) -> None:
        """Have a handler called for a signal; None: do as without one. Raises EINVAL."""
        if name not in NUMBERS:
            raise EINVAL(f"a process cannot handle {name}", hint=f"one of {', '.join(NUMBERS)}")
        if handler is None:
            self._handlers.pop(name, None)
        else:
            self._handlers[name] = handler
        if self._token is not None:
            self._install(name)
        if name == "INT":
            self._channel.post(Catch(signals=["INT"] if handler is not None else []))

    async def obey(
        self,
        life: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Do what is set for each signal that comes; cancel ``life`` when one asks for the end."""
        self._token = trio.lowlevel.current_trio_token()
        for name in NUMBERS:
            self._install(name)
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for name in self._receive:
                handler = self._handlers.get(name)
                if handler is None:
                    if name in ENDING:
                        self._end(life, name)
                    continue
                if name not in self._queues:
                    self._queues[name], queue = trio.open_memory_channel[Signal](math.inf)
                    nursery.start_soon(self._handle, life, queue)
                self._queues[name].send_nowait(name)

    async def _handle(
        self, life: trio.CancelScope, queue: trio.MemoryReceiveChannel[Signal]
    ) -> None:
        async for name in queue:
            handler = self._handlers.get(name)
            try:
                done = None if handler is None else handler(name)
                if inspect.isawaitable(done):
                    await done
            except Exception as error:  # noqa: BLE001 - it ends the agent, as one out of main
                self.failure = self.failure or error
                life.cancel()
            if name == "TERM":
                self._end(life, name)

    def _end(self, life: trio.CancelScope, name: Signal) -> None:
        self.ending = self.ending or name
        life.cancel()

    def _install(self, name: Signal) -> None:
        wanted: Any = self._caught
        if name not in self._handlers and name not in ENDING:
            wanted = WITHOUT[name]
        signal.signal(NUMBERS[name], wanted)

    def _caught(self, number: int, _at: FrameType | None) -> None:
        assert self._token is not None, "it was set before this was installed"
        with suppress(trio.RunFinishedError):  # it is ending anyway
            self._token.run_sync_soon(self._send.send_nowait, NAMES[number])
