"""Another user of the machine at the kernel's socket: the kernel itself refuses him.

The folders and the socket are opened to everybody first, so that it is not the file system that
does. That needs somebody who can become another user: root.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from syscalls.errors import EngramError
from tests.harness import BOUND, running
from userland.client import BlockingClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import RunningKernel

NOBODY = 65534
WHY = f"user {NOBODY} is not the kernel's user"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can reach, which those of pytest are not."""
    made = Path(tempfile.mkdtemp(prefix="engram-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def opened(kernel: RunningKernel) -> None:
    """Let everybody connect to the kernel's socket."""
    for path, mode in ((kernel.data, 0o755), (kernel.data / "run", 0o755)):
        path.chmod(mode)
    (kernel.data / "run" / "kernel.sock").chmod(0o666)


def asked_by(uid: int, data: Path) -> str:
    """What a process of a user gets for a call: the error's code, or how many processes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with BlockingClient.open(data, timeout=BOUND) as client:
                said = f"{len(client.proc.list().processes)} processes"
        except EngramError as error:
            said = f"{error.code} {error.message}"
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
            said = repr(error)
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def test_another_user_is_refused_by_the_kernel(folder: Path) -> None:
    with running(folder / "data", "--embedder", "none") as kernel:
        assert asked_by(NOBODY, kernel.data).startswith("EPERM"), "by the file system"
        with kernel.client() as before:
            opened(kernel)
            for _ in range(3):
                told = asked_by(NOBODY, kernel.data)
                assert told == f"EPERM this connection is refused: {WHY}"
            lines = before.sys.log(level="warning").lines
            refused = [line for line in lines if WHY in line.text]
            assert len(refused) == 3
            sessions = before.sys.sessions().sessions
            assert [one.uid for one in sessions] == [os.geteuid()], "he has become nobody here"
        assert asked_by(os.geteuid(), kernel.data).endswith(" processes")


def test_who_is_refused_and_says_nothing_or_nonsense_holds_nothing(folder: Path) -> None:
    import socket

    with running(folder / "data", "--embedder", "none") as kernel:
        opened(kernel)
        child = os.fork()
        if child == 0:
            try:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                made = []
                for number in range(100):
                    sock = socket.socket(socket.AF_UNIX)
                    sock.connect(str(kernel.data / "run" / "kernel.sock"))
                    if number % 2:
                        sock.send(b"\xff" * 64)
                    made.append(sock)
                for sock in made:
                    sock.settimeout(BOUND)
                    try:
                        assert sock.recv(1) == b"", "he is told nothing"
                    except ConnectionResetError:
                        continue
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        with kernel.client() as client:
            client.sys.clock()
        assert "Traceback" not in kernel.stderr()
