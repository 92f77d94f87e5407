"""The runtime of Python agents: what the zygote imports once and every agent starts in.

    zygote   describe(program, cwd)     what a declared agent (``.md``) wants
             resolve(program, cwd)      which program a name stands for; imports no agent
      fork
    child    main(descriptor, launch)   import the program, run its ``main(agent)``, say how
                                        it ended (``proc.exit``), return the exit status

What ends an agent:

    main returns             status 0, reason "returned", the value it returned
    main raises              status 1, reason "exception ValueError: ...", traceback on stderr
    sys.exit(n)              status n
    TERM, or INT outside     main is cancelled and may clean up; status 128 + n
      a call
    INT in a call            the call raises ECANCELED; where nothing catches it: status 130
    the kernel goes away     at once, without clean-up: nobody would hear of it
"""

import importlib
import importlib.util
import inspect
import os
import re
import shutil
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import trio

from syscalls.calls.proc import ExitCall
from syscalls.errors import ECANCELED, EINVAL, ENOENT, EPERM, EngramError
from syscalls.launch import DECLARED, Launch, Resolved, Wants
from syscalls.shapes import Signal
from userland.agent import Agent
from userland.channel import Channel
from userland.dispositions import NUMBERS
from userland.place import Disconnected, Unfit
from userland.source import contents

AGENTS = "userland.agents"
ORPHANED = 128 + signal.SIGHUP
LONGEST_REASON = 2000
LONGEST_SOURCE = 16 << 20
"""Bytes of a Python file."""

_BARE = re.compile(r"[A-Za-z_]\w*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_MAIN = re.compile(rb"^(async\s+def\s+main\b|main\s*[:=]|from\s.+\simport\b.*\bmain\b)", re.M)

Main = Callable[[Agent], Awaitable[Any]]


# --- in the zygote


def resolve(program: str, cwd: str) -> Resolved:
    """What a program's name stands for.

    In this order: a path (with a slash, or ending in ``.py`` or ``.md``) from ``cwd``, a Python
    file, a declared agent or an executable; an example agent's bare name; a module, dotted or
    not, in ``cwd`` or where Python finds modules; an executable on PATH. Looks at files and
    imports nothing. Raises
    ENOENT, EPERM, EINVAL.
    """
    if "\0" in program:
        raise EINVAL("a program's name holds no zero byte")
    if program.endswith(DECLARED):
        path = _declared(program, cwd)
        if not os.path.isfile(path):
            raise ENOENT(f"there is no file {path}")
        return Resolved("python", os.path.abspath(path))
    if "/" in program or program.endswith(".py"):
        return _resolve_path(_path(program, cwd), program)
    if _BARE.fullmatch(program):
        found = _module_file(f"{AGENTS}.{program}", "")
        if found is not None:
            return _python(found, f"{AGENTS}.{program}")
    if _BARE.fullmatch(program) or _DOTTED.fullmatch(program):
        found = _module_file(program, cwd)
        if found is not None:
            return _python(found, program)
    executable = shutil.which(program)
    if executable is not None:
        return Resolved("exec", os.path.abspath(executable))
    raise ENOENT(
        f"there is no program {program!r}",
        hint="a file (./agent.py), a module, an executable, or one of the example agents: "
        + ", ".join(examples()),
    )


def describe(program: str, cwd: str) -> Wants:
    """What a declared agent wants: see ``userland/declared.py``. Raises ENOENT, EPERM, EINVAL."""
    from userland.declared import read, wants

    return wants(read(_declared(program, cwd)))


def _declared(program: str, cwd: str) -> Path:
    """A file from ``cwd``, else an example."""
    path, example = _path(program, cwd), Path(__file__).parent / "agents" / program
    if "/" not in program and not os.path.exists(path) and os.path.isfile(example):
        return example
    return path


def _path(program: str, cwd: str) -> Path:
    try:
        return Path(cwd or os.getcwd()) / Path(program).expanduser()
    except RuntimeError as error:
        raise ENOENT(f"there is no home directory for {program}") from error


def examples() -> list[str]:
    """The bare names of the example agents."""
    folder = Path(__file__).parent / "agents"
    return sorted(path.stem for path in folder.glob("[a-z]*.py"))


def _resolve_path(path: Path, program: str) -> Resolved:
    try:
        kind = os.stat(path).st_mode
    except PermissionError as error:
        raise EPERM(f"{program} may not be looked at", hint="check its folder's rights") from error
    except (OSError, ValueError) as error:
        raise ENOENT(f"there is no file {path}") from error
    if not stat.S_ISREG(kind):
        raise EINVAL(f"{program} is not a file that can be run")
    whole = os.path.abspath(path)
    if path.suffix == ".py":
        return _python(Path(whole), whole)
    if not os.access(path, os.X_OK):
        raise EPERM(f"{program} is not executable", hint=f"chmod +x {program}")
    return Resolved("exec", whole)


def _python(path: Path, program: str) -> Resolved:
    if not _MAIN.search(contents(path, LONGEST_SOURCE)):
        raise EINVAL(f"{path} has no main", hint="an agent is a file with: async def main(agent)")
    return Resolved("python", program)


def _module_file(module: str, cwd: str) -> Path | None:
    """The source file of a module, found without importing its packages."""
    relative = module.replace(".", "/")
    for root in [cwd or os.getcwd(), *sys.path]:
        for tail in (".py", "/__init__.py"):
            path = Path(root) / (relative + tail)
            if os.path.isfile(path):
                return path
    return None


# --- in the agent's process


def main(channel_fd: int, launch: Launch) -> int:
    """Run a Python agent on its descriptor; returns the exit status.

    USR1 and USR2 do nothing until the agent listens (``agent.on``, ``agent.signals``).
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    return trio.run(_live, channel_fd, launch)


class Ending(msgspec.Struct):
    """How an agent ends; the arguments of its ``proc.exit``."""

    status: int
    reason: str
    value: Any = None


async def _live(channel_fd: int, launch: Launch) -> int:
    async with (
        Channel(socket.socket(fileno=channel_fd)) as channel,
        trio.open_nursery() as nursery,
    ):
        attached = trio.CancelScope()
        nursery.start_soon(_end_with_kernel, channel, attached)
        ending = await _run(Agent(channel, launch), launch, nursery)
        attached.cancel()  # the kernel closes the channel when it has heard the following
        await _say(channel, ending)
        nursery.cancel_scope.cancel()
    return ending.status


async def _run(agent: Agent, launch: Launch, nursery: trio.Nursery) -> Ending:
    """Run ``main`` until it ends, or a signal or one's handler ends it."""
    signals = agent.dispositions
    with trio.CancelScope() as life:
        try:
            await nursery.start(signals.obey, life)
            return Ending(0, "returned", await load(launch.program)(agent))
        except SystemExit as leaving:
            return _left(leaving)
        except Disconnected:
            os._exit(ORPHANED)
        except BaseExceptionGroup as group:
            # Cancellation goes on to its scope; what is left is how main failed.
            _, rest = group.split(trio.Cancelled)
            if rest is None:
                raise
            return _failed(rest)
        except Exception as error:  # noqa: BLE001 - whatever an agent raises is how it ended
            return _failed(error)
    if signals.failure is not None:
        return _failed(signals.failure)
    assert signals.ending is not None, "nothing else cancels it"
    return _signalled(signals.ending)


def _signalled(name: Signal) -> Ending:
    return Ending(128 + NUMBERS[name], f"signal {name}")


def load(program: str) -> Main:
    """Import a program and return its ``main``. Raises whatever the import raises, EINVAL."""
    if program.endswith(DECLARED):
        from userland.declared import load as load_declared

        return load_declared(Path(program))
    if program.endswith(".py"):
        folder, file = os.path.split(program)
        sys.path.insert(0, folder)
        module = _import_file(program, f"agent_{Path(file).stem}")
    else:
        sys.path.insert(0, os.getcwd())
        module = importlib.import_module(program)
    found = getattr(module, "main", None)
    if not inspect.iscoroutinefunction(found):
        raise EINVAL(f"{program} has no `async def main(agent)`")
    return found


def _import_file(path: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise EINVAL(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _left(leaving: SystemExit) -> Ending:
    """What ``sys.exit`` meant."""
    code = leaving.code
    if isinstance(code, str):
        print(code, file=sys.stderr)
    return Ending(code & 0xFF if isinstance(code, int) else int(code is not None), "exit")


def _failed(error: BaseException) -> Ending:
    """What an exception out of ``main`` means. A group of one is that one."""
    if _interrupted(error):
        return _signalled("INT")
    only = error
    while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
        only = only.exceptions[0]
    if isinstance(only, SystemExit):
        return _left(only)
    if isinstance(only, Disconnected):
        os._exit(ORPHANED)
    if not isinstance(only, Unfit):
        traceback.print_exception(error)
    text = " ".join(traceback.format_exception_only(only)[0].split())
    if isinstance(only, EngramError):
        text = str(only)
    return Ending(1, f"exception {text}"[:LONGEST_REASON])


def _interrupted(error: BaseException) -> bool:
    """Whether it is nothing but calls that INT has cancelled."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_interrupted, error.exceptions))
    return isinstance(error, ECANCELED) and error.detail.get("signal") == "INT"


async def _say(channel: Channel, ending: Ending) -> None:
    """Tell the kernel how this ends; a value that cannot be told is left out.

    A process without the capability to say it ends by its exit status alone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    exit_call = ExitCall(status=ending.status, reason=ending.reason, value=ending.value)
    try:
        await channel.call(exit_call)
    except Disconnected:
        os._exit(ORPHANED)
    except EPERM:
        return
    except (EINVAL, TypeError, ValueError, OverflowError, RecursionError) as error:
        print(f"the value of main cannot be kept: {error}", file=sys.stderr, flush=True)
        await channel.call(ExitCall(status=ending.status, reason=ending.reason))


async def _end_with_kernel(channel: Channel, attached: trio.CancelScope) -> None:
    """Leave at once when the kernel closes its end, whatever ``main`` is doing."""
    with attached:
        await channel.closed()
        os._exit(ORPHANED)
