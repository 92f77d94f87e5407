"""Keeps one driver host running, and passes calls to it.

    starting ──hello──> ready ──death──> starting ── … ──> failed   (too many deaths in a
        └────────────── refusal ──────────────────────────────┘      period, or a refusal)
                              run cancelled ──> stopped

A death is the end of the process, a broken link or lost heartbeats. A refusal is an engine
saying, typed, that it cannot load: that does not get better by trying again.
"""

import contextlib
import math
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import trio
import zmq
from msgspec import Raw
from trio import lowlevel

from drivers.child import Child
from drivers.contracts import Clock, DriverState
from drivers.life import Exchange, Life
from drivers.link import Link
from drivers.port import BrokenLink, PortStatistics, listen, socket_path
from drivers.protocol import Birth, EngineSpec, Hello, Progress, Stop
from syscalls.errors import EIO, ETIME, EngramError
from syscalls.shapes import Level

Log = Callable[[Level, str, str], None]
"""Takes ``(level, source, text)``."""


class HostSettings(msgspec.Struct, frozen=True):
    """How patient a supervisor is. Times in seconds."""

    heartbeat: float = 2.0
    misses: int = 10
    """Heartbeats in a row after which a host is taken for dead."""
    backoff: float = 0.2
    """Wait before the first restart; it doubles with each."""
    backoff_most: float = 30.0
    failures: int = 5
    """Deaths within ``period`` after which the supervisor gives up."""
    period: float = 60.0
    grace: float = 5.0
    """Time that a host has to stop by itself."""
    url: str = ""
    """``tcp://HOST:*`` for a link with CURVE keys; empty for a unix socket."""


class HostStatistics(msgspec.Struct, frozen=True):
    """Figures of a supervised host since ``run``."""

    name: str
    state: DriverState
    pid: int
    """0 while there is no process."""
    starts: int
    deaths: int
    calls: int
    failed: int
    replayed: int
    """Calls sent again to a restarted host."""
    inflight: int
    progress: str
    last_error: str
    link: PortStatistics | None


class Host:
    """A supervised driver host."""

    def __init__(
        self,
        name: str,
        spec: EngineSpec,
        *,
        run_dir: Path,
        log: Log,
        clock: Clock,
        settings: HostSettings | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.state: DriverState = "starting"
        self.settings = settings or HostSettings()
        self._run_dir = run_dir
        self._log = log
        self._clock = clock
        self._life: Life | None = None
        self._child: Child | None = None
        self._error: EngramError | None = None
        self._changed = lowlevel.ParkingLot()
        self._deaths: deque[float] = deque(maxlen=self.settings.failures)
        self._starts = self._died = self._calls = self._failed = self._replayed = 0

    # --- supervision

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled; then stop the host in order and leave no process."""
        task_status.started()
        try:
            while self.state != "failed":
                await self._attempt()
            await trio.sleep_forever()
        finally:
            self._enter("stopped", self._error)

    async def _attempt(self) -> None:
        """One life, and after it the wait before the next, or the end."""
        refusal = None
        try:
            refusal = await self._live()
        except OSError as error:
            self._die(f"could not be started: {error}")
        if refusal is not None:
            self._log("error", self.name, str(refusal))
            return
        first = self._deaths[0]
        now = self._clock.monotonic()
        if len(self._deaths) == self.settings.failures and now - first < self.settings.period:
            self._log("error", self.name, f"gave up after {len(self._deaths)} deaths")
            self._enter("failed", self._error)
            return
        recent = sum(now - at < self.settings.period for at in self._deaths)
        wait = min(self.settings.backoff * 2 ** (recent - 1), self.settings.backoff_most)
        self._log("info", self.name, f"starts again in {wait:.1f} s")
        await trio.sleep(wait)

    async def _live(self) -> EngramError | None:
        """One host from start to end; its refusal. Raises OSError when it cannot start."""
        self._starts += 1
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with contextlib.ExitStack() as stack:
            stack.callback(context.term)
            url = self.settings.url
            if not url:
                path = socket_path(self._run_dir, f"{self.name}.{self._starts}.sock")
                stack.callback(self._unlink, path)
                url = f"ipc://{path}"
            try:
                port, address = listen(context, url)
            except zmq.ZMQError as error:
                raise OSError(f"cannot listen at {url}: {error}") from error
            life = Life(Link(port))
            stack.callback(life.link.close)
            child = self._child = Child(Birth(address, self.spec, os.getpid()))
            await self._serve(life, child)
        return life.refusal

    async def _serve(self, life: Life, child: Child) -> None:
        """Serve one life; on the way out its host is stopped, whatever the reason."""
        reasons: list[str] = []
        try:
            async with trio.open_nursery() as nursery:

                async def until(task: Callable[[], Awaitable[str | None]]) -> None:
                    try:
                        reasons.append(await task() or "")
                    except BrokenLink as error:
                        reasons.append(str(error))
                    nursery.cancel_scope.cancel()

                self._life = life
                beat = partial(life.beat, self.settings.heartbeat, self.settings.misses)
                for task in (life.link.run, partial(self._hear, life), beat, child.ended):
                    nursery.start_soon(until, task)
                nursery.start_soon(child.lines, self._relay)
        finally:
            died = bool(reasons) and life.refusal is None
            await self._bury(life, child, reasons[0] if died else None)

    async def _hear(self, life: Life) -> str:
        """Take the host's messages until it refuses."""
        while life.refusal is None:
            message = await life.link.receive()
            life.handle(message)
            if isinstance(message, Progress):
                self._log("info", self.name, message.text)
            elif isinstance(message, Hello):
                self._log("info", self.name, "ready")
                self._enter("ready", None)
        return "refused"

    async def _bury(self, life: Life, child: Child, reason: str | None) -> None:
        """End a life: ask its host to stop unless it died (``reason``), reap, tell the calls."""
        self._life = None
        if reason is not None:
            self._enter("starting", self._error)
        else:
            self._enter("failed" if life.refusal else "stopped", life.refusal)
            life.over(EIO(f"the {self.name} was stopped", driver=self.name, retryable=True))
            with contextlib.suppress(BrokenLink):
                life.link.post(Stop())
        # One that died, or has not loaded, has nothing to lose.
        grace = self.settings.grace if reason is None and life.hello is not None else 0
        status = await child.stop(grace, self._relay)
        self._child = None
        if reason is not None:
            last = f": {child.tail[-1]}" if child.tail else ""
            error = self._die(f"died ({reason or describe(status)}){last}")
            life.over(error)

    def _die(self, what: str) -> EIO:
        """Note a death and its time; the error for those who waited for it."""
        self._died += 1
        self._deaths.append(self._clock.monotonic())
        text = f"the {self.name} host {what}"
        self._log("warning", self.name, text)
        error = EIO(text, driver=self.name, retryable=True)
        self._enter("starting", error)
        return error

    def _enter(self, state: DriverState, error: EngramError | None) -> None:
        self.state = state
        self._error = error
        self._changed.unpark_all()

    def _relay(self, level: Level, text: str) -> None:
        self._log(level, self.name, text)

    def _unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path.parent != self._run_dir:
            path.parent.rmdir()  # the short folder that ``socket_path`` made

    # --- calls

    async def ready(self) -> Raw:
        """Wait until it serves; the ``info`` of its engine. Raises EIO (failed, stopped)."""
        await lowlevel.checkpoint()
        while self.state == "starting":
            await self._changed.park()
        if self._life is not None and self._life.hello is not None:
            return self._life.hello.info
        raise self.unavailable()

    def unavailable(self) -> EIO:
        """The error for a call that cannot be served now."""
        if self.state == "failed" and self._error is not None:
            return EIO(
                f"the {self.name} has failed: {self._error.message}",
                hint=self._error.hint,
                driver=self.name,
                retryable=False,
                cause=self._error.code,
            )
        return EIO(f"the {self.name} is stopped", driver=self.name, retryable=True)

    async def begin(self, method: str, arguments: msgspec.Struct, *, credit: int = 0) -> Exchange:
        """Begin a call that answers in chunks, at most ``credit`` of them unread.

        The caller closes the exchange. Waits until the host is ready and has a free slot.
        """
        while True:
            await self.ready()
            life = self._life
            if life is not None and await life.slot():
                self._calls += 1
                return life.begin(method, arguments, credit)

    async def call(
        self,
        method: str,
        arguments: msgspec.Struct,
        *,
        replays: int = 0,
        timeout: float = math.inf,
    ) -> Raw:
        """Make a call and return its answer, still encoded.

        ``replays`` is how often a call that does the same when made twice may be sent again
        to a restarted host. Raises what the engine raises; EIO with ``retryable`` when the
        host dies; ETIME after ``timeout`` seconds.
        """
        with trio.move_on_after(timeout):
            while True:
                exchange = await self.begin(method, arguments)
                try:
                    return await exchange.result()
                except EIO as error:
                    self._failed += 1
                    if not replays or not error.detail.get("retryable"):
                        raise
                    replays -= 1
                    self._replayed += 1
                finally:
                    exchange.close()
        raise ETIME(f"{self.name}.{method} took longer than {timeout:g} s")

    def statistics(self) -> HostStatistics:
        """Figures for ``/proc`` and metrics."""
        life = self._life
        return HostStatistics(
            self.name,
            self.state,
            self._child.pid if self._child else 0,
            self._starts,
            self._died,
            self._calls,
            self._failed,
            self._replayed,
            life.inflight if life else 0,
            life.progress if life else "",
            str(self._error) if self._error else "",
            life.link.statistics() if life else None,
        )


def describe(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
