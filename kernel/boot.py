"""Boot and shutdown: the order in which the parts start, and the reverse.

    lock the data directory -> fork the zygote (while there is one thread and little to share)
    -> store -> log, tables -> memory -> hosts of models begin to load -> spawner -> nurse
    -> sessions are served
    TERM: no new sessions -> TERM, KILL for every process -> indexes flushed -> hosts stopped
    -> store closed -> lock released

Syscalls are served before any model has loaded.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from kernel.settings import Settings, load
from syscalls.errors import EBUSY, EIO, EngramError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from drivers.contracts import Clock
    from drivers.llm.hosted import NoLLM
    from kernel.kernel import Kernel
    from kernel.log import Log
    from kernel.machine import Machine
    from kernel.mind.seats import Sleeper
    from procs.zygote import ZygoteProcess

SWITCH = 0.0005
"""Seconds after which a computing thread must offer the interpreter lock to the loop (the
default, ten times that, is what every call would wait while an index is fed)."""
COLLECT = (20_000, 20, 20)
"""Thresholds of the garbage collector: a call makes dozens of containers and no cycles."""
LEISURE = 1.0
"""Seconds after the start when the tasks begin that nobody waits for."""
KEY = "ENGRAM_API_KEY"
"""Environment variable with the key for a model on a server."""
EXIT_CODES = {"caller": 2, "load": 3, "machine": 4, "ours": 5}


def main(arguments: Sequence[str]) -> int:
    """Run a kernel until it is told to stop; the exit code of the process."""
    try:
        settings = load(arguments, os.environ)
        data = Path(settings.data)
        lock = take_lock(data)
    except EngramError as error:
        sys.stderr.write(f"engram: {error}\n")
        return EXIT_CODES[error.fault]
    from procs.zygote import start_zygote

    key = os.environ.pop(KEY, "")  # before the zygote: no agent is to have it
    sys.setswitchinterval(SWITCH)
    zygote = start_zygote(settings.runtime, settings.data)
    more_descriptors()
    try:
        trio.run(run, settings, zygote, key)
    except BaseExceptionGroup as group:
        expected, others = group.split(EngramError)
        if others is not None or expected is None:
            raise
        for leaf in _leaves(expected):
            sys.stderr.write(f"engram: {leaf}\n")
        return EXIT_CODES["machine"]
    except EngramError as error:
        sys.stderr.write(f"engram: {error}\n")
        return EXIT_CODES[error.fault]
    finally:
        zygote.close()
        os.close(lock)
    return 0


def more_descriptors() -> None:
    """As many open descriptors as the user may have: an agent takes three of the kernel's."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def take_lock(data: Path) -> int:
    """Make the data directory and lock it; the descriptor holds the lock. Raises EBUSY, EIO."""
    try:
        for folder in (data, data / "run"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        lock = os.open(data / "kernel.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EIO(
            f"cannot use the data directory {data}: {error.strerror}",
            hint="choose another with --data, or mend its rights",
            driver="store",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode().strip()
        os.close(lock)
        raise EBUSY(
            f"a kernel (pid {holder or 'unknown'}) has the data directory {data}",
            hint="attach to it with `engram shell`, or choose another with --data",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


async def run(settings: Settings, zygote: ZygoteProcess, key: str = "") -> None:
    """Boot a kernel on the real machine, serve until told to stop, stop in order."""
    from kernel.log import Log
    from kernel.machine import SystemClock
    from kernel.sessions import listen

    clock = SystemClock()
    log = Log(clock, settings.log_lines, settings.log_level)
    run_dir = Path(settings.data) / "run"
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            real_machine(settings, zygote, clock, log, key) as machine,
            booted(settings, machine, log) as kernel,
        ):
            listener = listen(run_dir)
            (run_dir / "kernel.pid").write_text(f"{os.getpid()}\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kernel.sessions.serve, listener)
                nursery.start_soon(_stop_on_signal, signals, kernel)
                log("info", "kernel", f"serving on {run_dir / 'kernel.sock'} (boot {kernel.boot})")
                gc.freeze()
                gc.set_threshold(*COLLECT)
                await kernel.shutdown.wait()
                log("info", "kernel", "shutting down")
                await kernel.stop_processes()
                nursery.cancel_scope.cancel()
            (run_dir / "kernel.sock").unlink(missing_ok=True)
            (run_dir / "kernel.pid").unlink(missing_ok=True)
    log("info", "kernel", "stopped")


async def _stop_on_signal(signals: AsyncIterator[int], kernel: Kernel) -> None:
    async for number in signals:
        kernel.log("info", "kernel", f"got {signal.Signals(number).name}")
        kernel.shutdown.set()


@asynccontextmanager
async def real_machine(
    settings: Settings, zygote: ZygoteProcess, clock: Clock, log: Log, key: str = ""
) -> AsyncIterator[Machine]:
    """The drivers of a real machine, running; stopped in reverse order at the end.

    ``key`` is for the server that has the model, where one has.
    """
    from drivers.embedder import make_embedder
    from drivers.graph import make_graphs
    from drivers.indexes import DiskIndexes
    from drivers.llm import make_llm
    from drivers.store.lmdb import MAP_SIZE, MAX_MAP_SIZE, open_store
    from kernel.machine import Machine, Threads
    from procs.launcher import Launcher

    data = Path(settings.data)
    offload = Threads()
    limit = settings.store_limit or MAX_MAP_SIZE
    store = await open_store(data / "store", map_size=min(limit, MAP_SIZE), max_map_size=limit)
    try:
        async with trio.open_nursery() as hosts:
            run_dir = data / "run"
            embedder = make_embedder(settings.embedder, run_dir=run_dir, log=log, clock=clock)
            former = make_embedder(
                settings.embedder_before or "none",
                run_dir=run_dir,
                log=log,
                clock=clock,
                name="embedder-before",
            )
            llm = make_llm(
                settings.model,
                engine=settings.engine,
                run_dir=run_dir,
                log=log,
                clock=clock,
                options=model_options(settings, key),
            )
            nano = make_nano(settings, log, clock)
            spawner = Launcher(zygote, settings.runtime, settings.data)
            for part in (embedder.run, former.run, llm.run, nano.run, spawner.run):
                await hosts.start(part)
            yield Machine(
                clock=clock,
                random=Random(settings.seed or None),
                offload=offload,
                store=store,
                indexes=DiskIndexes(data / "index"),
                embedder=embedder,
                former=former,
                llm=llm,
                spawner=spawner,
                nano=nano,
                graphs=make_graphs(settings.graph, data / "graph"),
            )
            hosts.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await store.aclose()


def model_options(settings: Settings, key: str) -> dict[str, Any]:
    """Of the attached model's engine; each engine takes those that it knows."""
    return {
        "key": key,
        "sees": settings.model_sees,
        "adapters": settings.adapters,
        "adapter_rank": settings.adapter_rank,
        "kv_dir": str(Path(settings.data) / "kv"),
        "kv_ram": settings.kv_ram,
        "kv_disk": settings.kv_disk,
        **settings.options(),
    }


def make_nano(settings: Settings, log: Log, clock: Clock) -> Sleeper | NoLLM:
    """The embedded model, asleep; none where it is not wanted or not installed."""
    from drivers.llm.hosted import HostedLLM, NoLLM
    from drivers.protocol import EngineSpec
    from drivers.supervisor import Host
    from kernel.mind.seats import Sleeper, nano_weights

    weights = nano_weights() if settings.mind == "nano" else None
    if weights is None:
        return NoLLM()
    options = {
        "prefix_bytes": 1 << 20,  # its prompts have nothing in common to keep
        "adapters": settings.adapters,
    }
    spec = EngineSpec("llm", "transformers", str(weights), options)
    host = Host("nano", spec, run_dir=Path(settings.data) / "run", log=log, clock=clock)
    return Sleeper(HostedLLM(host))


@asynccontextmanager
async def booted(settings: Settings, machine: Machine, log: Log) -> AsyncIterator[Kernel]:
    """A kernel on a machine, real or simulated, with its background tasks running."""
    from kernel.kernel import Kernel

    kernel = await Kernel.boot_on(settings, machine, log)
    async with trio.open_nursery() as nursery:
        await nursery.start(kernel.processes.run)
        await nursery.start(kernel.memory.run)
        await nursery.start(kernel.run_background)
        await nursery.start(kernel.alarms.run)
        await nursery.start(kernel.nurse.run)
        if kernel.accounts.users_bound:
            await kernel.holdings.census()
        await nursery.start(kernel.tools.run)
        if settings.policy == "model":
            await nursery.start(kernel.judge.run)
        nursery.start_soon(_supervise, kernel)
        nursery.start_soon(_at_leisure, kernel)
        try:
            yield kernel
        finally:
            with trio.CancelScope(shield=True):
                await kernel.stop_processes()
            nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await kernel.accounts.aclose()
        await kernel.memory.aclose()


async def _supervise(kernel: Kernel) -> None:
    """Run init's tree from when there is one, or somebody asks for it."""
    from kernel.supervision.identities import Identities

    if not kernel.settings.init_file() and not Identities(kernel.machine.store).any():
        await kernel.supervised.wait()
    await kernel.supervision.run()


async def _at_leisure(kernel: Kernel) -> None:
    """What no call waits for: it is not even loaded before the first calls are served."""
    await trio.sleep(LEISURE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.accounts.run)
        nursery.start_soon(kernel.holdings.census)
        nursery.start_soon(kernel.schedulers.run)
        nursery.start_soon(kernel.pins.keeping.run)
        if kernel.trained:
            nursery.start_soon(kernel.training.run)
        if kernel.settings.tidy_every:
            nursery.start_soon(kernel.tidier.run, kernel.settings.tidy_every)
        if kernel.settings.consolidate_every:
            nursery.start_soon(kernel.student.run, kernel.settings.consolidate_every)
        if kernel.settings.checkpoint_every:
            nursery.start_soon(kernel.images.keepsakes.run, kernel.settings.checkpoint_every)


def _leaves(group: BaseExceptionGroup[EngramError]) -> list[EngramError]:
    leaves: list[EngramError] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
