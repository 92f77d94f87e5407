"""An MCP server as a tool device: a child process that speaks JSON-RPC 2.0, a line a message.

    starting ──initialize, tools/list──> ready ──its end──> starting ── … ──> failed
                                                          (too many deaths in a period)

Only what a device needs of the Model Context Protocol (stdio transport, revision 2025-06-18):
``initialize``, ``tools/list`` with its pages and changes, ``tools/call``, ``ping``, and
``notifications/cancelled`` for a call that nobody waits for any more. Whatever else a server
asks for is answered with "method not found": it is lent neither a model nor files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from drivers.contracts import DriverState
from syscalls.errors import EINVAL, EIO, ENOENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO

    from drivers.contracts import Clock
    from drivers.supervisor import Log

PROTOCOL = "2025-06-18"
LINE = 16 << 20
"""Bytes of one message."""
SAID = 500
"""Characters of a line of its standard error."""
HANDSHAKE = 30.0
"""Seconds that a server has to introduce itself."""
GRACE = 2.0
"""Seconds to end by itself once its standard input is closed."""
DEATHS, PERIOD = 5, 60.0
"""So many deaths within so many seconds are too many."""
NOT_FOUND = -32601

# The kernel may be killed; a server that ignores the end of its input must go all the same.
_WRAPPER = (
    "import ctypes, os, sys; parent = int(sys.argv[1]); "
    "ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == parent and os.execvp(sys.argv[2], sys.argv[2:])"
)


class RemoteTool(msgspec.Struct, rename="camel"):
    """A tool as a server describes it."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}


class Answer(msgspec.Struct):
    """What became of one call."""

    ok: bool
    value: Any
    error: str = ""


class ServerStatistics(msgspec.Struct, frozen=True):
    """Figures of one server since it was mounted."""

    name: str
    state: DriverState
    pid: int
    starts: int
    calls: int
    inflight: int
    last_error: str


class _Waiting:
    """A request that is on its way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: dict[str, Any] | None = None
        self.error: EIO | EINVAL | None = None


class Server:
    """One mounted server, kept running."""

    def __init__(self, name: str, command: Sequence[str], log: Log, clock: Clock) -> None:
        """Raises ENOENT where the program is not there."""
        if shutil.which(command[0]) is None:
            raise ENOENT(f"there is no program {command[0]!r}")
        self.name = name
        self.command = list(command)
        self.state: DriverState = "starting"
        self.tools: list[RemoteTool] = []
        self.changed: Callable[[], None] = lambda: None
        """Called when the list of tools is another one."""
        self.settled = trio.Event()
        """Set when it is ready for the first time, or has failed."""
        self.error = self._said = ""
        self._log = log
        self._clock = clock
        self._stdin: trio.lowlevel.FdStream | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._lock = trio.Lock()
        self._number = self._starts = self._calls = self._pid = 0
        self._relist = trio.Event()

    # --- its life

    async def run(self) -> None:
        """Keep it running until cancelled, or until it has died too often."""
        deaths: deque[float] = deque(maxlen=DEATHS)
        try:
            while True:
                await self._live()
                deaths.append(self._clock.monotonic())
                self._log("warning", self.name, f"the server has ended: {self.error}")
                often = len(deaths) == DEATHS and deaths[-1] - deaths[0] < PERIOD
                if often or not self.settled.is_set():  # one that never served is not tried again
                    self.state = "failed"
                    self._log("error", self.name, f"gave up after {len(deaths)} deaths")
                    return
                self.state = "starting"
                await trio.sleep(min(0.2 * 2 ** len(deaths), 10.0))
        finally:
            if self.state != "failed":
                self.state = "stopped"
            self.settled.set()

    async def _live(self) -> None:
        """One process from start to end."""
        self._starts += 1
        self.error = self._said = ""
        try:
            process = _start(self.command)
        except OSError as error:
            self.error = f"it could not be started: {error}"
            return
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._pid = process.pid
        # Each stream closes a descriptor of its own; those of the process close with it.
        self._stdin, out, err = (
            trio.lowlevel.FdStream(os.dup(pipe.fileno()))
            for pipe in (process.stdin, process.stdout, process.stderr)
        )
        process.stdin.close()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._errors, err)
                nursery.start_soon(self._introduce, nursery.cancel_scope)
                nursery.start_soon(self._list_again)
                await self._hear(out)
                nursery.cancel_scope.cancel()
        finally:
            await self._bury(process, (out, err))

    async def _bury(
        self, process: subprocess.Popen[bytes], streams: Sequence[trio.lowlevel.FdStream]
    ) -> None:
        """Close its input, wait, kill, reap; tell who waits."""
        last = f", saying: {self._said}" if self._said else ""
        self.error = (self.error or "it closed its output") + last
        with trio.CancelScope(shield=True):
            if self._stdin is not None:
                await self._stdin.aclose()
                self._stdin = None
            pidfd = os.pidfd_open(process.pid)
            try:
                with trio.move_on_after(GRACE):
                    await trio.lowlevel.wait_readable(pidfd)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
            for stream in streams:
                await stream.aclose()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            _close(pipe)
        self._pid = 0
        for waiting in self._waiting.values():
            waiting.error = EIO(
                f"the server {self.name} has ended: {self.error}", driver=self.name, retryable=True
            )
            waiting.done.set()
        self._waiting.clear()

    async def _introduce(self, scope: trio.CancelScope) -> None:
        """The handshake; then the device is ready."""
        hello = {
            "protocolVersion": PROTOCOL,
            "capabilities": {},
            "clientInfo": {"name": "engramos", "version": "1"},
        }
        try:
            with trio.fail_after(HANDSHAKE):
                await self._request("initialize", hello)
                await self._send({"method": "notifications/initialized"})
                await self._list()
        except (EIO, EINVAL) as error:
            self.error = error.message
        except trio.TooSlowError:
            self.error = f"it did not introduce itself within {HANDSHAKE:g} s"
        else:
            self.state = "ready"
            self._log("info", self.name, f"ready with {len(self.tools)} tools")
            self.settled.set()
            return
        scope.cancel()

    async def _list(self) -> None:
        tools: list[RemoteTool] = []
        cursor: str | None = None
        for _ in range(100):
            page = await self._request("tools/list", {"cursor": cursor} if cursor else {})
            tools += _convert(page.get("tools", []), list[RemoteTool], self.name)
            cursor = page.get("nextCursor")
            if not cursor:
                break
        self.tools = tools
        self.changed()

    async def _list_again(self) -> None:
        while True:
            await self._relist.wait()
            self._relist = trio.Event()
            try:
                await self._list()
            except (EIO, EINVAL) as error:
                self._log("warning", self.name, f"its tools could not be listed: {error.message}")

    async def _errors(self, stream: trio.lowlevel.FdStream) -> None:
        """What it writes to its standard error goes to the log."""
        async for line in _lines(stream):
            self._said = line.decode(errors="replace").rstrip()[:SAID]
            self._log("info", self.name, self._said)

    # --- messages

    async def call(self, tool: str, args: dict[str, Any]) -> Answer:
        """Call one of its tools. Raises EIO (it is not running, or it dies), EINVAL."""
        if self.state != "ready":
            raise EIO(f"the server {self.name} is {self.state}", driver=self.name, retryable=True)
        self._calls += 1
        result = await self._request("tools/call", {"name": tool, "arguments": args})
        content = result.get("content", [])
        texts = [str(each.get("text", "")) for each in content if isinstance(each, dict)]
        text = "\n".join(each for each in texts if each)
        if result.get("isError") is True:
            return Answer(False, content, text or "error")
        value = result.get("structuredContent")
        if value is None:
            value = text if all(_is_text(each) for each in content) else content
        return Answer(True, value)

    async def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        number = self._number
        waiting = self._waiting[number] = _Waiting()
        try:
            await self._send({"id": number, "method": method, "params": params})
            await waiting.done.wait()
        except trio.Cancelled:
            with trio.move_on_after(GRACE, shield=True), contextlib.suppress(EIO):
                note = {"requestId": number, "reason": "nobody waits for it"}
                await self._send({"method": "notifications/cancelled", "params": note})
            raise
        finally:
            self._waiting.pop(number, None)
        if waiting.error is not None:
            raise waiting.error
        return waiting.result or {}

    async def _send(self, message: dict[str, Any]) -> None:
        line = msgspec.json.encode({"jsonrpc": "2.0", **message}, enc_hook=repr) + b"\n"
        async with self._lock:
            if self._stdin is None:
                raise EIO(f"the server {self.name} is not running", driver=self.name)
            try:
                await self._stdin.send_all(line)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise EIO(f"the server {self.name} has ended", driver=self.name) from error

    async def _hear(self, stream: trio.lowlevel.FdStream) -> None:
        """Take its messages until it closes its output, or says what is none."""
        async for line in _lines(stream):
            if not line.strip():
                continue
            try:
                message = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                self._log("warning", self.name, f"not a message: {line[:200]!r}")
                continue
            await self._handle(message)

    async def _handle(self, message: dict[str, Any]) -> None:
        number, method = message.get("id"), message.get("method")
        if method is None:
            waiting = self._waiting.get(number) if isinstance(number, int) else None
            if waiting is not None:
                self._answered(waiting, message)
        elif method == "notifications/tools/list_changed":
            self._relist.set()
        elif number is not None:
            reply: dict[str, Any] = {"id": number}
            if method == "ping":
                reply["result"] = {}
            else:
                reply["error"] = {"code": NOT_FOUND, "message": f"no method {method}"}
            with contextlib.suppress(EIO):  # it is dying: its end is seen elsewhere
                await self._send(reply)

    def _answered(self, waiting: _Waiting, message: dict[str, Any]) -> None:
        error = message.get("error")
        if isinstance(error, dict):
            waiting.error = EINVAL(
                f"{self.name}: {error.get('message', 'error')}", code=error.get("code")
            )
        else:
            result = message.get("result")
            waiting.result = result if isinstance(result, dict) else {}
        waiting.done.set()

    def statistics(self) -> ServerStatistics:
        """Figures since it was mounted."""
        return ServerStatistics(
            self.name,
            self.state,
            self._pid,
            self._starts,
            self._calls,
            len(self._waiting),
            self.error,
        )


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WRAPPER, str(os.getpid()), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


async def _lines(stream: trio.lowlevel.FdStream) -> Any:
    """The lines of a stream until its end; one that is too long ends it."""
    rest = bytearray()
    while True:
        try:
            data = await stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if not data:
            return
        rest += data
        *whole, last = rest.split(b"\n")
        for line in whole:
            yield bytes(line)
        rest = bytearray(last)
        if len(rest) > LINE:
            return


def _convert(value: Any, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise EIO(f"the server {name} does not speak MCP: {error}", driver=name) from error


def _is_text(content: Any) -> bool:
    return isinstance(content, dict) and content.get("type") == "text"


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()
