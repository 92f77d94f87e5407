"""One process's descriptor: frames in, replies out.

    recv -> Framer -> request -- sync handler ---------------> outbox -> send
                          \\---- async handler, in a task ---/

A call that need not wait is answered in the task that reads, without a switch. Replies of
one turn leave in one ``send``. While the peer does not take its replies nothing more is read
from it, so a process that does not listen fills its own buffers and not the kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio

from kernel import trap
from syscalls import wire
from syscalls.errors import EAGAIN, ECANCELED, EINVAL, EngramError
from syscalls.wire import FrameError

if TYPE_CHECKING:
    import socket

    from kernel.accounting.account import Account
    from kernel.kernel import Kernel
    from kernel.trap import Handler
    from procs.process import Process
    from syscalls.table import Call

RECEIVE = 65536
TURNS = 64
"""Reads without waiting after which other tasks get their turn."""
OUTBOX = 1 << 20
"""Bytes of unsent replies above which nothing more is read."""
FREE = frozenset({"proc.exit", "proc.limit", "proc.usage"})
"""The calls that no quota refuses: to end, to see why, and to have more."""

encode = msgspec.msgpack.Encoder().encode


class Begun(NamedTuple):
    """A call that was admitted and is not answered yet."""

    request: wire.Request
    handler: Handler
    call: Call
    scope: trio.CancelScope | None
    began: float
    account: Account
    """To which it is charged."""


@dataclass(eq=False)
class Interrupt:
    """A signal that cancels what a process waits for: one call of it at least."""

    signal: str
    heeded: bool = False
    """Whether a call has been answered so."""


class ConnectionStatistics(msgspec.Struct, frozen=True):
    """Figures of one connection."""

    calls: int
    errors: int
    inflight: int
    received: int
    """Bytes."""
    sent: int
    """Bytes."""


class Connection:
    """Serves one process over one connected socket until either side closes."""

    def __init__(self, kernel: Kernel, process: Process, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.process = process
        self._kernel = kernel
        self._sock = sock
        self._framer = wire.Framer()
        self._outbox = bytearray()
        self._flush_wanted = trio.Event()
        self._drained = trio.Event()
        self._running: dict[int, trio.CancelScope | None] = {}
        """Calls in flight; those that are over in a moment cannot be cancelled: None."""
        self._signalled: dict[int, Interrupt] = {}
        """Calls that a signal has cancelled."""
        self._owed: Interrupt | None = None
        """One that came when what it was to cancel was as good as done."""
        self._waiting = 0
        self._nursery: trio.Nursery | None = None
        self._closing = self._silent = False
        self._errors = 0
        self._received = 0
        self._sent = 0

    @property
    def inflight(self) -> int:
        """Calls that wait for something."""
        return len(self._running)

    @property
    def waiting(self) -> bool:
        """Whether the process blocks in a call (a message, a child's end, a model)."""
        return self._waiting > 0

    @property
    def cancellable(self) -> bool:
        """Whether a call is in flight that ``cancel_calls`` would end."""
        return any(scope is not None for scope in self._running.values())

    def statistics(self) -> ConnectionStatistics:
        """Figures for ``/proc``."""
        return ConnectionStatistics(
            self.process.calls, self._errors, self.inflight, self._received, self._sent
        )

    async def serve(self) -> None:
        """Serve until the peer closes, misbehaves or is cancelled; calls in flight end with it."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._flusher)
                await self._read(nursery)
                nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def close_after_reply(self) -> None:
        """Read nothing more; the connection ends when what is queued has been sent."""
        self._closing = True

    def close(self) -> None:
        """End the connection now; calls in flight are cancelled and not answered."""
        self._closing = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def silence(self) -> None:
        """Its process is being killed: end its calls, answer nothing, heed nothing more.

        The connection stays open until the process has ended: who sees it close may end by itself.
        """
        self._silent = True
        self.cancel_calls()

    def cancel_calls(self, signal: str = "") -> None:
        """Cancel every call in flight; each is answered with ECANCELED, which names the signal.

        One that was as good as done is answered as ever. Where that was all, the signal cancels
        the next call that waits: it must not be lost on a process that goes on to wait.
        """
        interrupt = Interrupt(signal)
        for seq, scope in self._running.items():
            if scope is not None:
                scope.cancel()
                if signal:
                    self._signalled[seq] = interrupt

    # --- in

    async def _read(self, nursery: trio.Nursery) -> None:
        turns = 0
        while not self._closing:
            try:
                data = self._sock.recv(RECEIVE)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                turns = 0
                continue
            except OSError as error:
                self._note("debug", f"connection lost: {error.strerror}")
                return
            if not data:
                if self._framer.pending:
                    self._note("warning", "connection closed inside a frame")
                return
            self._received += len(data)
            try:
                bodies = [] if self._silent else self._framer.feed(data)
                alone = len(bodies) == 1 and not self._running
                for body in bodies:
                    begun = self._request(wire.decode_request(body))
                    if begun is None:
                        continue
                    if alone and begun.scope is None:
                        await self._run(begun)  # nobody else is served by a task of its own
                    else:
                        nursery.start_soon(self._run_and_flush, begun)
            except FrameError as error:
                self._note("warning", f"connection closed by the kernel: {error.message}")
                self._answer(0, error.number, encode(error.to_value()))
                self._try_send()
                return
            if self._outbox:
                self._try_send()
                await self._drain(OUTBOX)
            turns += 1
            if turns >= TURNS:
                turns = 0
                await trio.lowlevel.checkpoint()
        await self._drain(0)

    def _request(self, request: wire.Request) -> Begun | None:
        """Answer a call that need not wait; else what is left of it to do."""
        kernel, process, seq = self._kernel, self.process, request.seq
        if request.number == wire.CANCEL:
            self._cancel(request)
            return None
        began = kernel.clock.monotonic()
        process.calls += 1
        if process.calls == 1 and process.supervisor:
            kernel.supervision.called(process)
        handler: Handler | None = None
        try:
            if seq < 1 or seq in self._running:
                raise EINVAL(f"seq {seq} is not a new positive number")
            handler = trap.HANDLERS.lookup(request.number)
            account = kernel.accounts.of(process)
            free = handler.entry.name in FREE
            if not free:
                account.check("calls")
            account.charge("calls", 1)
            call = trap.admit(handler, process, request.arguments)
            if handler.kind == "sync":
                value = encode(handler.run(kernel, process, call))
                self._finish(request, wire.DONE, value, began)
                return None
            limit = kernel.accounts.limit(process, "inflight")
            if len(self._running) >= limit:
                raise EAGAIN(
                    f"{len(self._running)} calls of process {process.apid} are in flight",
                    retry_after=0.01,
                    limit=limit,
                )
            if not free:
                account.check("inflight")
        except Exception as error:  # noqa: BLE001 - becomes a typed reply, and a log line if a bug
            self._fail(request, handler, error, began)
            return None
        scope = trio.CancelScope() if handler.waits else None
        self._running[seq] = scope
        if scope is not None and self._owed is not None:
            scope.cancel()
            self._signalled[seq], self._owed = self._owed, None
        account.charge("inflight", 1)
        return Begun(request, handler, call, scope, began, account)

    def _cancel(self, request: wire.Request) -> None:
        try:
            seq = msgspec.msgpack.decode(request.arguments, type=wire.Cancel).seq
        except msgspec.DecodeError as error:
            raise FrameError(f"not a cancel: {error}") from error
        scope = self._running.get(seq)
        if scope is not None:
            scope.cancel()

    async def _run_and_flush(self, begun: Begun) -> None:
        await self._run(begun)
        self._flush_wanted.set()

    async def _run(self, begun: Begun) -> None:
        handler, scope = begun.handler, begun.scope
        self._waiting += handler.waits
        error: Exception
        try:
            if scope is None:
                await self._answered(begun)
                return
            with scope:
                await self._answered(begun)
                return
            error = self._cancelled(begun)
        except Exception as raised:  # noqa: BLE001 - becomes a typed reply, and a log line if a bug
            error = raised
        finally:
            self._waiting -= handler.waits
            del self._running[begun.request.seq]
            begun.account.charge("inflight", -1)
            self._over(self._signalled.pop(begun.request.seq, None))
        self._fail(begun.request, handler, error, begun.began)

    def _cancelled(self, begun: Begun) -> ECANCELED:
        """What a call that was cancelled is answered."""
        what = f"{begun.handler.entry.name} was cancelled"
        interrupt = self._signalled.get(begun.request.seq)
        if interrupt is None:
            return ECANCELED(what)
        interrupt.heeded = True
        return ECANCELED(f"{what} by {interrupt.signal}", signal=interrupt.signal)

    def _over(self, interrupt: Interrupt | None) -> None:
        """A call has ended that a signal was to cancel."""
        if interrupt is None or interrupt.heeded or interrupt in self._signalled.values():
            return
        self._owed = interrupt

    async def _answered(self, begun: Begun) -> None:
        run = begun.handler.run
        if begun.handler.kind == "async":
            reply = await run(self._kernel, self.process, begun.call)
        else:
            emit = self._emitter(begun.request.seq)
            reply = await run(self._kernel, self.process, begun.call, emit)
        self._finish(begun.request, wire.DONE, encode(reply), begun.began)

    # --- out

    def _emitter(self, seq: int) -> trap.Emit:
        async def emit(chunk: Any) -> None:
            self._answer(seq, wire.MORE, encode(chunk))
            self._flush_wanted.set()
            await self._drain(OUTBOX)

        return emit

    def _finish(self, request: wire.Request, code: int, value: bytes, began: float) -> None:
        clock = self._kernel.clock
        try:
            self._answer(request.seq, code, value)
        except EINVAL as error:  # the reply is over the limit of a frame
            code, value = error.number, encode(error.to_value())
            self._answer(request.seq, code, value)
        self._errors += code > 0
        took = clock.monotonic() - began
        self._kernel.trace.record(
            self.process.apid,
            request.number,
            request.arguments,
            value,
            code == wire.DONE,
            clock.now() - took,
            took * 1e6,
        )

    def _fail(
        self, request: wire.Request, handler: Handler | None, error: Exception, began: float
    ) -> None:
        told: EngramError = trap.as_error(self._kernel, handler.entry if handler else None, error)
        self._finish(request, told.number, encode(told.to_value()), began)

    def _answer(self, seq: int, code: int, value: bytes) -> None:
        if not self._silent:
            self._outbox += wire.frame([seq, code, msgspec.Raw(value)])

    def _try_send(self) -> None:
        """Send what the socket takes now; the flusher sends the rest."""
        try:
            sent = self._sock.send(self._outbox)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._note("debug", f"connection lost: {error.strerror}")
            self._outbox.clear()
            self._closing = True
            return
        self._sent += sent
        del self._outbox[:sent]
        if self._outbox:
            self._flush_wanted.set()

    async def _flusher(self) -> None:
        """The one task that waits for the socket to take more."""
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted = trio.Event()
            while self._outbox:
                self._try_send()
                if self._outbox:
                    await trio.lowlevel.wait_writable(self._sock)
            self._drained.set()

    async def _drain(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are unsent."""
        while len(self._outbox) > limit:
            if self._drained.is_set():
                self._drained = trio.Event()
            self._flush_wanted.set()
            await self._drained.wait()

    def _note(self, level: Any, text: str) -> None:
        self._kernel.log(level, f"apid {self.process.apid}", text)
