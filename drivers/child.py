"""The operating-system process of a driver host, as its supervisor holds it.

It is started with ``subprocess.Popen`` from trio's own thread: a death signal
(PR_SET_PDEATHSIG) is tied to the *thread* that forked, and the worker thread that
``trio.open_process`` forks from would end, and take the host with it, long before the
kernel does. Its end is awaited on a pidfd, so there is no SIGCHLD handler and no polling.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec
import trio

from drivers.protocol import Birth
from syscalls.shapes import Level

LINE = 16 * 1024
"""Longest line of a host's output, in bytes; a longer one is cut into several."""
Relay = Callable[[Level, str], None]
"""Takes one line of a host's output."""
TAIL = 20
"""Lines of output kept for the report of a crash."""
_LEVELS: dict[str, Level] = {
    **dict.fromkeys("0123", "error"),
    "4": "warning",
    "7": "debug",
}


def environment_for(model: str) -> dict[str, str]:
    """What a host sees: ours, and what keeps its libraries quiet, idle and offline."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment |= {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "passive",  # spinning threads starve a machine with few cores
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TQDM_DISABLE": "1",
    }
    if not model or Path(model).expanduser().is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


class Child:
    """One host process, from its start until it is reaped."""

    def __init__(self, birth: Birth) -> None:
        """Start it. Raises OSError."""
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._rest = b""
        spec = birth.spec
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "drivers.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment_for(spec.model),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._stdin = _pipe(self._process.stdin)
        self._stderr = _pipe(self._process.stderr)
        self._pidfd = os.pidfd_open(self.pid)
        os.set_blocking(self._stderr.fileno(), False)
        with contextlib.suppress(BrokenPipeError):  # already dead: the pidfd will tell
            self._stdin.write(msgspec.json.encode(birth) + b"\n")
            self._stdin.flush()

    @property
    def alive(self) -> bool:
        """Whether it has not been reaped."""
        return self._process.returncode is None

    async def ended(self) -> None:
        """Wait until the process has ended (it is not reaped)."""
        await trio.lowlevel.wait_readable(self._pidfd)

    async def lines(self, relay: Relay) -> None:
        """Pass on what it prints until it closes its standard error."""
        while self._read(relay):
            await trio.lowlevel.wait_readable(self._stderr)

    def _read(self, relay: Relay) -> bool:
        """Pass on what can be read now; False at the end of the stream."""
        while True:
            try:
                data = os.read(self._stderr.fileno(), LINE)
            except BlockingIOError:
                return True
            *whole, self._rest = (self._rest + data).split(b"\n")
            if self._rest and (not data or len(self._rest) > LINE):
                whole.append(self._rest)
                self._rest = b""
            for line in whole:
                self._relay(line.decode(errors="replace").rstrip(), relay)
            if not data:
                return False

    def _relay(self, line: str, relay: Relay) -> None:
        level: Level = "info"
        if line[:1] == "<" and line[2:3] == ">":
            level, line = _LEVELS.get(line[1], "info"), line[3:]
        if line:
            self.tail.append(line)
            relay(level, line)

    async def stop(self, grace: float, relay: Relay) -> int:
        """Wait ``grace`` seconds for its end, then kill; reap, and return its status.

        Whatever it started in its process group goes with it. Not interrupted by a
        cancellation, and bounded: SIGKILL is not refused.
        """
        with trio.CancelScope(shield=True):
            with trio.move_on_after(grace):
                await self.ended()
            # The unreaped leader keeps the group's number from being used again.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self.ended()
        status = self._process.wait()
        self._read(relay)
        for pipe in (self._stdin, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        os.close(self._pidfd)
        return status


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "Popen was asked for this pipe"
    return pipe
