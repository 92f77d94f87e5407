"""Where a system lives: its data directory, and the socket on which its kernel serves.

    <data>/run/kernel.sock     the kernel listens here (mode 0600)
    <data>/run/kernel.pid      the kernel's process id

A socket's address is at most 107 bytes. A longer path is reached through the directory's
own descriptor: ``/proc/self/fd/N/kernel.sock`` names the same socket.
"""

import os
import socket
from pathlib import Path

from syscalls.errors import EIO, ENODEV, EPERM

DATA_VARIABLE = "ENGRAM_DATA"
SOCKET = "kernel.sock"
PID = "kernel.pid"
ADDRESS_LIMIT = 107


class NotRunning(ENODEV):
    """No kernel serves the data directory."""


class Unfit(ENODEV):
    """A program lacks something here that it needs: said in a line, without a traceback."""


class Disconnected(EIO):
    """The kernel has closed the connection: it stopped, or it ended this process."""

    default_hint = "`engram boot` starts the kernel again; nothing that was acknowledged is lost"

    def __init__(self, message: str = "the kernel has closed the connection") -> None:
        super().__init__(message, driver="kernel")


def data_directory(given: str | os.PathLike[str] | None = None) -> Path:
    """The data directory: ``given``, else ``ENGRAM_DATA``, else the user's own data folder."""
    chosen = given or os.environ.get(DATA_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    home = os.environ.get("XDG_DATA_HOME")
    base = Path(home) if home else Path.home() / ".local" / "share"
    return (base / "engram").absolute()


def kernel_pid(data: Path) -> int:
    """The process id that the last kernel wrote down; 0 when there is none."""
    try:
        return int((data / "run" / PID).read_text().strip() or 0)
    except (OSError, ValueError):
        return 0


def connect(data: Path) -> socket.socket:
    """A blocking socket to the kernel of a data directory.

    Raises NotRunning (nobody listens) and EPERM (the socket is another user's).
    """
    path = data / "run" / SOCKET
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) > ADDRESS_LIMIT:
            _connect_by_directory(sock, path)
        else:
            sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        sock.close()
        raise NotRunning(
            f"no kernel is running for {data}", hint=f"start one: engram --data {data} boot"
        ) from error
    except PermissionError as error:
        sock.close()
        raise EPERM(
            f"{path} may not be opened by this user",
            hint="run the command as the user who started the kernel",
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_by_directory(sock: socket.socket, path: Path) -> None:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
