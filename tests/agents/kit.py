"""What tests of the zygote share: a launcher, an agent with its two descriptors, patience."""

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from procs.launcher import Child, ExitStatus, Launcher
from procs.zygote import spawn_zygote
from syscalls.launch import Launch

RUNTIME = "tests.agents.tests_runtime"
ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds that a test waits for what must happen."""


@asynccontextmanager
async def launcher(private: str = "", runtime: str = RUNTIME) -> AsyncIterator[Launcher]:
    """A running launcher; at the end nothing of it is left."""
    # The tests' own process has threads, so the zygote comes from a fresh interpreter.
    sys.path[:0] = [str(ROOT)]
    try:
        zygote = spawn_zygote(runtime, private)
    finally:
        sys.path.remove(str(ROOT))
    async with trio.open_nursery() as nursery:
        made = Launcher(zygote, runtime, private)
        await nursery.start(made.run)
        with trio.fail_after(PATIENCE):
            yield made
        nursery.cancel_scope.cancel()
    assert made.statistics().alive == 0


class Agent:
    """A process and the kernel's ends of its channel and its output."""

    def __init__(self, child: Child, channel: socket.socket, output: int) -> None:
        self.child = child
        self.channel = trio.SocketStream(trio.socket.from_stdlib_socket(channel))
        self._output = output
        self._held = b""

    async def heard(self) -> Any:
        """The next line of JSON that it says on its channel."""
        while b"\n" not in self._held:
            data = await self.channel.receive_some()
            assert data, f"it ended instead: {os.read(self._output, 65536).decode()}"
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return msgspec.json.decode(line)

    async def ended(self) -> tuple[ExitStatus, str]:
        """How it ended, and all that it printed."""
        status = await self.child.wait()
        printed = b""
        while data := os.read(self._output, 65536):  # nobody holds the other end any more
            printed += data
        await self.close()
        return status, printed.decode()

    async def close(self) -> None:
        """Give both descriptors back."""
        await self.channel.aclose()
        if self._output >= 0:
            os.close(self._output)
            self._output = -1


async def launch(made: Launcher, program: str, *args: str, **fields: Any) -> Agent:
    """Start a program of the test's runtime, or an executable."""
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    try:
        launch_ = Launch(apid=41, program=program, args=list(args), **fields)
        return Agent(await made.launch(launch_, theirs, writer), ours, reader)
    except BaseException:
        ours.close()
        os.close(reader)
        raise
    finally:
        theirs.close()
        os.close(writer)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def parent(pid: int) -> int:
    """The parent of a process that is there."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    """The children of a process that is there."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def gone(*pids: int) -> None:
    """Wait until none of the processes runs."""
    with trio.fail_after(PATIENCE):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110 - they are no children of ours
            await trio.sleep(0.01)
