"""Starting and stopping the kernel."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import userland
from syscalls.calls.sys import Info, Shutdown, SystemInfo
from syscalls.errors import EIO, ETIME, EngramError
from userland.client import BlockingClient
from userland.context import Context
from userland.place import Disconnected, NotRunning, kernel_pid
from userland.screen import duration

LOG = "kernel.log"
PATIENCE = 60.0


def boot_arguments(parser: argparse.ArgumentParser) -> None:
    """--detach; every other option is the kernel's."""
    parser.add_argument("--detach", action="store_true", help="in the background, until it serves")
    parser.epilog = "Other options are the kernel's settings, such as --embedder none."


def boot(context: Context, options: argparse.Namespace) -> int:
    """Start the kernel of the data directory: in the foreground, or detached."""
    if not options.detach:
        command, environment = kernel_command(context.data, options.rest)
        sys.stdout.flush()
        os.execve(command[0], command, environment)
    began = time.monotonic()
    found, process = start_kernel(context.data, options.rest)
    process.returncode = 0  # it outlives this program: nobody here will wait for it
    took = time.monotonic() - began
    text = f"kernel {found.version} serves {found.data} (pid {found.pid}, {took:.2f}s)"
    context.value(found, text)
    return 0


def kernel_command(data: Path, settings: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of a kernel.

    ``-P``: a folder called ``kernel`` where the user happens to be is not our kernel.
    """
    root = str(Path(userland.__file__).resolve().parent.parent)
    environment = dict(os.environ)
    paths = [root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if root not in sys.path[1:]:
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return [sys.executable, "-P", "-m", "kernel", "--data", str(data), *settings], environment


def start_kernel(data: Path, settings: list[str]) -> tuple[SystemInfo, "subprocess.Popen[bytes]"]:
    """Start a kernel in the background and wait until it serves; what it is, and its process.

    Raises EIO with its last words when it ends instead, ETIME when it takes too long.
    """
    run = data / "run"
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        run.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise EIO(
            f"cannot use the data directory {data}: {error.strerror}",
            hint="choose another with --data, or mend its rights",
            driver="store",
        ) from error
    command, environment = kernel_command(data, settings)
    with open(run / LOG, "ab") as log:
        said = log.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        status = process.poll()
        if status is not None:
            words = _tail(run / LOG, said)
            raise EIO(
                f"the kernel ended with status {status}: {words}",
                hint=f"see {run / LOG}",
                driver="kernel",
            )
        try:
            with BlockingClient.open(data, timeout=5) as client:
                found: SystemInfo = client.call(Info())
                if found.pid == process.pid:
                    return found, process
        except (NotRunning, Disconnected):
            pass
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise ETIME(f"the kernel does not serve after {PATIENCE:g}s", hint=f"see {run / LOG}")


def _tail(log: Path, since: int) -> str:
    with open(log, "rb") as file:
        file.seek(since)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def halt_arguments(parser: argparse.ArgumentParser) -> None:
    """How long."""
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S")


def halt(context: Context, options: argparse.Namespace) -> int:
    """Stop the kernel and wait until its process is gone."""
    began = time.monotonic()
    client = context.client
    pid = client.call(Info()).pid
    try:
        client.call(Shutdown())
    except EngramError as error:
        if error.code not in ("EIO", "ECANCELED"):  # it closed before it could answer: well
            raise
    while alive(pid):
        if time.monotonic() - began > options.timeout:
            raise ETIME(f"the kernel (pid {pid}) is still there after {options.timeout:g}s")
        time.sleep(0.02)
    took = duration(time.monotonic() - began)
    context.value({"pid": pid, "stopped": True}, f"kernel {pid} stopped ({took})")
    return 0


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie that its parent has yet to reap."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def running(data: Path) -> int:
    """The process id of the kernel that serves a data directory; 0 when none does."""
    try:
        with BlockingClient.open(data, timeout=5):
            return kernel_pid(data)
    except NotRunning:
        return 0
