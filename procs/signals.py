"""Signals: their delivery to a process of the operating system, and the ladder that ends one.

    TERM or INT ── grace ──> KILL          KILL at once          STOP, CONT, USR1, USR2 as such

A signal goes to the process group, so that what an agent started gets it as well. Python
agents meet TERM and INT as signals too: the runtime cancels ``main``. What else a signal is,
to calls in flight and to generations, ``kernel/signals.py`` decides.
"""

import signal as os_signal

import trio

from procs.launcher import ChildProcess, ExitStatus
from procs.process import Process
from procs.table import ProcessTable
from syscalls.errors import EINVAL
from syscalls.shapes import Signal

NUMBERS: dict[Signal, int] = {
    "TERM": os_signal.SIGTERM,
    "KILL": os_signal.SIGKILL,
    "INT": os_signal.SIGINT,
    "STOP": os_signal.SIGSTOP,
    "CONT": os_signal.SIGCONT,
    "USR1": os_signal.SIGUSR1,
    "USR2": os_signal.SIGUSR2,
}


async def terminate(child: ChildProcess, grace: float, signum: int = NUMBERS["TERM"]) -> ExitStatus:
    """Ask a process to end; after ``grace`` seconds make it. Returns how it ended.

    When this is cancelled the process is killed: nobody else will climb the ladder.
    """
    child.kill(signum)
    # A stopped process would take the request only when it is resumed.
    child.kill(os_signal.SIGCONT)
    try:
        with trio.move_on_after(grace):
            return await child.wait()
    except trio.Cancelled:
        child.kill(os_signal.SIGKILL)
        raise
    child.kill(os_signal.SIGKILL)
    return await child.wait()


def deliver(
    table: ProcessTable,
    process: Process,
    child: ChildProcess,
    signal: Signal,
    *,
    grace: float,
    nursery: trio.Nursery,
) -> None:
    """Deliver a signal; after TERM and INT a ladder goes on in ``nursery``.

    A process is on one ladder at most: a second TERM is delivered but gives no new grace.
    Nothing happens to a process that has ended. Raises EINVAL for an unknown signal.
    """
    number = NUMBERS.get(signal)
    if number is None:
        raise EINVAL(f"there is no signal {signal}", hint=f"one of {', '.join(NUMBERS)}")
    if not process.alive:
        return
    if signal in ("TERM", "INT"):
        table.resume(process)
        if not process.ending:
            process.ending = True
            nursery.start_soon(terminate, child, grace, number)
            return
        child.kill(number)
        child.kill(os_signal.SIGCONT)
        return
    child.kill(number)
    if signal == "STOP":
        table.stop(process)
    elif signal == "CONT":
        table.resume(process)
