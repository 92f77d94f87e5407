"""A runtime as small as the contract allows, for tests of the zygote without the userland.

A program is the name of a function below, or an executable's path. A function gets the
channel as a blocking socket, and the launch; it returns the exit status.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from syscalls.errors import EINVAL, ENOENT, EPERM
from syscalls.launch import Launch, Resolved


def resolve(program: str, cwd: str) -> Resolved:
    """Functions of this module, else executables."""
    if program in AGENTS:
        return Resolved("python", program)
    if program == "puzzle":
        raise RecursionError("it is deeper than anybody thought of")
    path = os.path.join(cwd or os.getcwd(), program)
    if not os.path.exists(path):
        raise ENOENT(f"there is no program {program}")
    if os.path.isdir(path):
        raise EINVAL(f"{program} is a directory")
    if not os.access(path, os.X_OK):
        raise EPERM(f"{program} may not be executed")
    return Resolved("exec", path)


def main(channel_fd: int, launch: Launch) -> int:
    """Run the function that the program names."""
    with socket.socket(fileno=channel_fd) as channel:
        return AGENTS[launch.program](channel, launch)


def _say(channel: socket.socket, value: object) -> None:
    channel.sendall(msgspec.json.encode(value) + b"\n")


def hello(channel: socket.socket, launch: Launch) -> int:
    """Say who and where it is."""
    open_descriptors = []
    for fd in range(64):
        try:
            os.fstat(fd)
        except OSError:
            continue
        open_descriptors.append(fd)
    _say(
        channel,
        {
            "pid": os.getpid(),
            "sid": os.getsid(0),
            "args": launch.args,
            "goal": launch.goal,
            "apid": os.environ["ENGRAM_APID"],
            "fd": os.environ["ENGRAM_FD"],
            "extra": os.environ.get("EXTRA", ""),
            "cwd": os.getcwd(),
            "open": open_descriptors,
        },
    )
    return 0


def status(channel: socket.socket, launch: Launch) -> int:
    """Return the number in its first argument."""
    return int(launch.args[0])


def fail(channel: socket.socket, launch: Launch) -> int:
    """Raise."""
    print("about to fail")
    raise ValueError("on purpose")


def leave(channel: socket.socket, launch: Launch) -> int:
    """Leave by SystemExit with a message."""
    sys.exit("good-bye")


def linger(channel: socket.socket, launch: Launch) -> int:
    """Say its pid, then wait until the kernel's end closes."""
    _say(channel, {"pid": os.getpid()})
    while channel.recv(4096):
        pass
    return 7


def idle(channel: socket.socket, launch: Launch) -> int:
    """The same under trio, as the real runtime does; asked anything, it tells its memory.

    It must tell itself: nobody else of its user may look into a process that is not dumpable.
    """

    async def run() -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(channel))
        await stream.send_all(b'{"pid": %d}\n' % os.getpid())
        async for _data in stream:
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()  # noqa: ASYNC240
            own = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
            await stream.send_all(b"%d\n" % (own * 1024))

    trio.run(run)
    return 0


def deaf(channel: socket.socket, launch: Launch) -> int:
    """Ignore TERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return linger(channel, launch)


def polite(channel: socket.socket, launch: Launch) -> int:
    """Return 3 on TERM."""

    def leave_now(_number: int, _frame: object) -> None:
        raise SystemExit(3)

    signal.signal(signal.SIGTERM, leave_now)
    return linger(channel, launch)


def attempt(work: Callable[[], object]) -> str:
    """What came of it: ``done`` or the error's class."""
    try:
        work()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "done"


def prowl(channel: socket.socket, launch: Launch) -> int:
    """Try what an agent must not: ``args`` are the kernel's pid, its data, another's pid."""
    kernel, data, other = launch.args
    free = os.path.join(os.path.dirname(data), "made-before-the-agent")
    _say(
        channel,
        {
            "read data": attempt(lambda: Path(data, "data.mdb").read_bytes()),
            "write data": attempt(lambda: Path(data, "data.mdb").write_bytes(b"")),
            "remove data": attempt(lambda: os.unlink(f"{data}/data.mdb")),
            "rename data": attempt(lambda: os.rename(data, data + "-moved")),
            "signal kernel": attempt(lambda: os.kill(int(kernel), signal.SIGCONT)),
            "signal other": attempt(lambda: os.kill(int(other), signal.SIGCONT)),
            "kernel memory": attempt(lambda: os.open(f"/proc/{kernel}/mem", os.O_RDONLY)),
            "kernel root": attempt(lambda: os.listdir(f"/proc/{kernel}/root/{data}")),
            "other memory": attempt(lambda: os.open(f"/proc/{other}/mem", os.O_RDONLY)),
            "zygote memory": attempt(lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY)),
            "signal zygote": attempt(lambda: os.kill(os.getppid(), signal.SIGCONT)),
            "signal itself": attempt(lambda: os.kill(os.getpid(), signal.SIGCONT)),
            "read a sibling": attempt(lambda: Path(free).read_text()),
            "write to tmp": attempt(lambda: Path(launch.cwd, "made").write_text("x")),
            "run a program": attempt(lambda: subprocess.run(["/bin/true"], check=True)),
        },
    )
    return 0


def limits(channel: socket.socket, launch: Launch) -> int:
    """Run against its limits."""
    files: list[int] = []

    def open_many() -> None:
        for _ in range(1000):
            files.append(os.open(os.devnull, os.O_RDONLY))

    found: dict[str, object] = {"files": attempt(open_many), "opened": len(files)}
    for fd in files:
        os.close(fd)
    found["memory"] = attempt(lambda: bytearray(1 << 30))
    with open("/proc/self/status") as lines:
        found["NoNewPrivs"] = next(line for line in lines if "NoNewPrivs" in line).split()[1]
    import resource

    found["core"] = resource.getrlimit(resource.RLIMIT_CORE)[1]
    found["children"] = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    _say(channel, found)
    return 0


def daemonize(channel: socket.socket, launch: Launch) -> int:
    """Start a daemon (double fork, own session), say its pid and linger."""
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        second = os.fork()
        if second == 0:
            os.write(writer, str(os.getpid()).encode())
            while True:
                time.sleep(60)
        os._exit(0)
    os.waitpid(first, 0)
    _say(channel, {"pid": os.getpid(), "daemon": int(os.read(reader, 20))})
    while channel.recv(4096):
        pass
    return 0


AGENTS: dict[str, Callable[[socket.socket, Launch], int]] = {
    agent.__name__: agent
    for agent in (
        hello, status, fail, leave, linger, idle, deaf, polite, prowl, limits, daemonize
    )
}  # fmt: skip
