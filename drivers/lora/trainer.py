"""The kernel's side of training: starts the process, reads what it says, and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING

import msgspec
import trio
from msgspec.structs import replace

from drivers.child import environment_for
from drivers.lora.contract import Failure, Line, Progress, Report, TrainerStatistics
from drivers.lora.memory import exceeded, said_so
from syscalls.errors import EIO, ETIME, EngramError, from_value

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from drivers.lora.contract import TrainSpec

GRACE = 3.0
"""Seconds between TERM and KILL: enough to write a checkpoint."""
CHUNK = 64 * 1024
TAIL = 2000
"""Bytes of the log that are looked at when a process has died without a word."""

_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class ProcessTrainer:
    """``contract.Trainer`` with a process for each job. It starts none before it is asked."""

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._statistics = TrainerStatistics()

    def statistics(self) -> TrainerStatistics:
        """Figures since it was made."""
        return self._statistics

    async def train(self, spec: TrainSpec, folder: Path) -> AsyncGenerator[Progress | Report, None]:
        """See ``contract.Trainer``."""
        await trio.lowlevel.checkpoint()
        process = _start(spec, folder)
        self._count(started=1, running=1)
        begun = time.monotonic()
        deadline = trio.current_time() + spec.seconds
        outcome = "cancelled"
        try:
            while (lines := await process.said(deadline)) is not None:
                for line in lines:
                    if isinstance(line, Failure):
                        raise from_value(line.number, line.error)
                    if isinstance(line, Report):
                        outcome = "finished"
                    yield line
            if outcome != "finished":
                raise await process.death(spec)
        except EngramError:
            outcome = "failed"
            raise
        finally:
            await process.stop(self._grace)
            self._count(running=-1, **{outcome: 1})
            self._statistics = replace(
                self._statistics,
                seconds=self._statistics.seconds + time.monotonic() - begun,
            )

    def _count(self, **more: int) -> None:
        now = self._statistics
        added = {name: getattr(now, name) + count for name, count in more.items()}
        self._statistics = replace(now, **added)


def _start(spec: TrainSpec, folder: Path) -> _Process:
    """Write the spec and start the process. Raises EIO."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
        return _Process(spec, folder)
    except OSError as error:
        raise EIO(f"training cannot be started: {error}", driver="lora", retryable=True) from error


class _Process:
    """One process, from its start until it is reaped.

    Started from trio's own thread: its death signal is tied to the thread that forks.
    """

    def __init__(self, spec: TrainSpec, folder: Path) -> None:
        environment = environment_for(spec.base)
        if spec.threads:
            environment["OMP_NUM_THREADS"] = str(spec.threads)
        self._log = folder / "train.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "drivers.lora.train",
                    str(folder),
                    f"--parent={os.getpid()}",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._stdin = _pipe(self._process.stdin)
        self._stdout = _pipe(self._process.stdout)
        os.set_blocking(self._stdout.fileno(), False)
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:  # no descriptor is left
            self._process.kill()
            self._process.wait()
            self._stdin.close()
            self._stdout.close()
            raise
        self._rest = b""

    async def said(self, deadline: float) -> list[Line] | None:
        """What it has said since; None when there is no more. Raises ETIME, EIO."""
        with trio.CancelScope(deadline=deadline) as scope:
            data = await self._read()
        if scope.cancelled_caught:
            raise ETIME("training took longer than it was allowed")
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [_decode(line) for line in whole]

    async def _read(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._stdout)
            with contextlib.suppress(BlockingIOError):
                return os.read(self._stdout.fileno(), CHUNK)

    async def death(self, spec: TrainSpec) -> EngramError:
        """Why a process ended without a word."""
        with trio.move_on_after(GRACE):
            await trio.lowlevel.wait_readable(self._pidfd)
        status = self._process.poll()
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - TAIL))
            tail = log.read().decode(errors="replace")
        if status != -signal.SIGKILL and said_so(tail):
            return exceeded(spec.most_bytes)
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        last = (tail.strip().splitlines() or [""])[-1]
        return EIO(
            f"the training process ended with {how}",
            hint="the system may be short of memory" if status == -signal.SIGKILL else "",
            driver="lora",
            retryable=True,
            said=last,
        )

    async def stop(self, grace: float) -> None:
        """TERM, a bounded wait, KILL, and reap; not interrupted by a cancellation."""
        with trio.CancelScope(shield=True):
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGTERM)
                with trio.move_on_after(grace):
                    await trio.lowlevel.wait_readable(self._pidfd)
                # The unreaped leader keeps the group's number from being used again.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await trio.lowlevel.wait_readable(self._pidfd)
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            pipe.close()
        os.close(self._pidfd)


def _decode(line: bytes) -> Line:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError as error:
        raise EIO(
            f"the training process wrote what is no event: {error}", driver="lora", retryable=True
        ) from error


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None, "Popen was asked for this pipe"
    return pipe
