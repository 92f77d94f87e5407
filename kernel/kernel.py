"""The kernel: its parts in one place, and what concerns several of them."""

from __future__ import annotations

import os
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

import kernel.handlers  # noqa: F401 - fills the table of handlers
from drivers.contracts import Batch
from kernel import trap
from kernel.accounting.accounts import Accounts
from kernel.accounting.holdings import Holdings
from kernel.conversations import Conversations
from kernel.generation import Background
from kernel.generation import generate as generated
from kernel.nurse import Nurse
from kernel.sessions import Sessions
from kernel.signals import Signals
from kernel.supervision.alarms import Alarms
from kernel.supervision.ties import Ties
from kernel.tools import Tools
from kernel.trace import Trace
from procs.links import cause_of
from procs.mailbox import Mailboxes
from procs.process import Born
from procs.table import ProcessTable
from procs.topics import Topics
from syscalls.calls import ipc
from syscalls.capability import ALL, compiled
from syscalls.shapes import DriverInfo, Exit, Message, ProcessInfo
from syscalls.table import TABLE
from ums.memory import Memory
from ums.settings import MemorySettings, weighted
from ums.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kernel.activation.prefixes import Pins
    from kernel.connection import Connection
    from kernel.imaging.images import Images
    from kernel.log import Log
    from kernel.machine import Machine
    from kernel.mind.loop import Mind
    from kernel.mind.miner import Miner
    from kernel.mind.policy import Judge, Policy
    from kernel.parametric.adapters import Adapters
    from kernel.parametric.training import Training
    from kernel.settings import Settings
    from kernel.study import Student
    from kernel.supervision.init import Init
    from kernel.tidy import Tidier
    from kernel.turns.schedulers import Schedulers
    from procs.process import Process
    from syscalls.records import Record
    from syscalls.table import Call

BOOT = b"boot"
PAGE = os.sysconf("SC_PAGE_SIZE")
ADAPTERS = (b"lora/version/", b"lora/version0")
"""Between these keys is the table of adapters; looked at without loading what is behind it."""


class KernelStatistics(msgspec.Struct, frozen=True):
    """Figures of the kernel itself."""

    uptime: float
    boot: int
    connections: int
    inflight: int
    calls: int


class Kernel:
    """One running system."""

    def __init__(self, settings: Settings, machine: Machine, log: Log, boot: int) -> None:
        self.settings = settings
        self.machine = machine
        self.log = log
        self.boot = boot
        self.clock = machine.clock
        self.began = self.clock.monotonic()
        self.started = self.clock.now()
        self.trace = Trace(settings.trace_lines)
        self.embedder = machine.embedder
        self.llm = machine.llm
        self.processes = ProcessTable(machine.store, machine.clock)
        self.mailboxes = Mailboxes(machine.store, machine.clock)
        self.topics = Topics()
        self.conversations = Conversations()
        self.memory = Memory(
            machine.store,
            machine.indexes,
            machine.embedder,
            machine.clock,
            machine.random,
            machine.offload,
            log,
            MemorySettings(
                weights=weighted(settings.recall_weights),
                patience=settings.search_deadline,
                open_spaces=settings.open_spaces,
                audit_lines=settings.audit_lines,
            ),
            machine.graphs,
            machine.former,
        )
        self.memory.cascade.remake = self._remake
        self.memory.keeper.on_gone(self._unlearn)
        self._background: trio.Nursery | None = None
        self.accounts = Accounts(self)
        self.holdings = Holdings(self)
        self.connections: dict[int, Connection] = {}
        self.nurse = Nurse(self)
        self.tools = Tools(self)
        self.traces = Traces(self.memory, settings.tool_failures)
        self.sessions = Sessions(self)
        self.signals = Signals(self)
        self.shutdown = trio.Event()
        self._space_lock = trio.Lock()
        self.ties = Ties(self)
        self.alarms = Alarms(self)
        self.supervised = trio.Event()
        self.init: Process

    @classmethod
    async def boot_on(cls, settings: Settings, machine: Machine, log: Log) -> Kernel:
        """A kernel on a machine whose store is open; counts the boot, reads the past."""
        store = machine.store
        before = store.get("meta", BOOT)
        boot = int.from_bytes(before or b"", "big") + 1
        await store.commit(Batch(puts=[("meta", BOOT, boot.to_bytes(8, "big"))]))
        kernel = cls(settings, machine, log, boot)
        for lost in await kernel.processes.open():
            log("warning", "boot", f"apid {lost.apid} was alive when the last kernel ended")
            await kernel.withdraw(lost.apid)
        kernel.init = kernel.processes.create(
            None,
            Born(
                name="init",
                kind="init",
                caps=compiled(frozenset({ALL})),
                quota=kernel.accounts.default,
            ),
        )
        kernel.processes.started(kernel.init)
        return kernel

    async def stop_processes(self) -> None:
        """End every agent: TERM, the grace period, KILL; then every session."""
        if self.supervised.is_set():
            await self.supervision.stop()
        await self.nurse.stop()
        for process in self.processes.live():
            self.sessions.signal(process, "TERM")

    @cached_property
    def supervision(self) -> Init:
        """What runs init's tree, and what was spawned to be started again."""
        from kernel.supervision.init import Init

        self.supervised.set()
        return Init(self, self.settings.init_file())

    @cached_property
    def mind(self) -> Mind:
        """What understands intents; made at the first one, so that boot does not pay for it."""
        from kernel.mind.loop import Mind
        from kernel.mind.seats import seats

        machine = self.machine
        seat = seats(self.settings.mind, machine.nano, machine.llm)
        generate = partial(generated, self)
        return Mind(seat, self.act, self.processes, machine.clock, generate)

    @cached_property
    def schedulers(self) -> Schedulers:
        """What decides whose generation a model works on."""
        from kernel.turns.scheduler import Limits
        from kernel.turns.schedulers import Schedulers

        settings = self.settings
        limits = Limits(settings.llm_slots, settings.llm_queue)
        schedulers = Schedulers(self.clock, settings.scheduler, limits)
        schedulers.on_served.append(self.accounts.served)
        return schedulers

    @cached_property
    def pins(self) -> Pins:
        """Activation memory: what is pinned, and attached to whom."""
        from kernel.activation.prefixes import Pins

        return Pins(self)

    @cached_property
    def images(self) -> Images:
        """What writes images of processes, and starts processes from them."""
        from kernel.imaging.images import Images

        return Images(self)

    @cached_property
    def judge(self) -> Judge:
        """What judges records, in the background where a model is to do it."""
        from kernel.mind.policy import Judge

        return Judge(lambda: Background(self), self.clock)

    @cached_property
    def student(self) -> Student:
        """What consolidates in the background."""
        from kernel.study import Student

        return Student(self.memory, lambda: self.miner, self.log)

    @cached_property
    def miner(self) -> Miner:
        """What has the attached model look for facts; asked at a consolidation only."""
        from kernel.mind.miner import Miner

        return Miner(lambda: Background(self), self.clock)

    @cached_property
    def policy(self) -> Policy:
        """What decides where mechanism has a choice: the rules, or the judge."""
        from kernel.mind.policy import Rules

        return self.judge if self.settings.policy == "model" else Rules()

    @cached_property
    def tidier(self) -> Tidier:
        """What keeps spaces small."""
        from kernel.tidy import Tidier

        return Tidier(self.memory, lambda: self.policy, self.machine.offload, self.log)

    @cached_property
    def adapters(self) -> Adapters:
        """What was learnt into parameters, and who uses it."""
        from kernel.parametric.adapters import Adapters

        return Adapters(self, Path(self.settings.data) / "lora")

    @cached_property
    def training(self) -> Training:
        """The jobs that make adapters."""
        from kernel.parametric.training import Training

        return Training(self, self.adapters, self.machine.trainer())

    @property
    def trained(self) -> bool:
        """Whether there is a version of an adapter, or was."""
        return bool(self.machine.store.scan("meta", *ADAPTERS, limit=1))

    async def _unlearn(self, space: int, rids: Sequence[str], event: str) -> None:
        """Records have gone: so does what was learnt from them, and images of them."""
        if self.trained:
            await self.adapters.gone(rids, event)
        await self.images.gone(space, event)

    def start_soon(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Run something in the background until it is done, or the kernel stops."""
        assert self._background is not None
        self._background.start_soon(work, *arguments)

    async def run_background(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold what runs in the background."""
        async with trio.open_nursery() as self._background:
            task_status.started()
            await trio.sleep_forever()

    def _remake(self, old: Record, left: Sequence[Record]) -> str | None:
        """A summary some of whose sources are lost, made again of those that are left."""
        return self.policy.summary(left) if old.kind == "summary" else None

    def wrote(self, rid: str, space: int | None = None) -> None:
        """A record was written, at home or in ``space``: have it judged, if a model is to."""
        if self.settings.policy == "model":
            self.judge.wrote(self.memory.read(rid, None, space))

    # --- processes

    async def save(self, process: Process) -> None:
        """Make a process's record durable."""
        await self.machine.store.commit(self.processes.record(process))

    async def ended(
        self,
        process: Process,
        *,
        status: int,
        reason: str,
        value: Any = None,
    ) -> None:
        """A process has ended: withdraw what it had and tell who waits for it."""
        connection = self.connections.pop(process.apid, None)
        if connection is not None:
            connection.cancel_calls()
        self.topics.leave(process.apid)
        self.conversations.drop(process.apid)
        self.tools.left(process.apid)
        self.accounts.close(process)
        if "schedulers" in self.__dict__:
            self.schedulers.ended(process.apid)
        cause = cause_of(status, reason, self.ties.links.felled_by(process.apid))
        ended = Exit(process.apid, status, reason, value, self.clock.now(), cause)
        if process.kind != "session":
            self.log("debug", "proc", f"apid {process.apid} ({process.name}) ended: {reason}")
            await self.machine.store.commit(self.processes.record(process, ended))
        await self.withdraw(process.apid)
        self.processes.exit(process, ended)
        await self.ties.ended(process)
        await self.mailboxes.drop(process.apid)  # what came before it was known to have ended

    async def withdraw(self, apid: int) -> None:
        """Take back what a process that has ended was granted, and its mailbox."""
        self.memory.echoes.drop(apid)
        self.memory.handed.drop(apid)
        if "pins" in self.__dict__:  # it is not loaded for that
            self.pins.left(apid)
        await self.memory.sharing.withdraw(apid)
        await self.mailboxes.drop(apid)

    def process_info(self, process: Process, *, rss: bool) -> ProcessInfo:
        """One process as it is shown; ``rss`` measures its memory."""
        connection = self.connections.get(process.apid)
        state = process.state
        if state in ("READY", "RUNNING") and connection is not None and process.calls:
            state = "WAITING" if connection.waiting else "RUNNING"
        return ProcessInfo(
            apid=process.apid,
            name=process.name,
            kind=process.kind,
            state=state,
            parent=process.parent,
            session=process.session,
            pid=process.pid,
            program=process.program,
            goal=process.goal,
            space=process.space,
            caps=sorted(process.caps.grants),
            nice=process.nice,
            created=process.created,
            calls=process.calls,
            inflight=connection.inflight if connection else 0,
            mailbox=self.mailboxes.waiting(process.apid),
            children=[child.apid for child in self.processes.children(process.apid)],
            rss=_resident(process.pid) if rss and state != "ZOMBIE" else 0,
            exit=process.exit,
            supervisor=process.supervisor,
            restarts=process.restarts,
            group=process.group,
        )

    async def own_space(self, process: Process) -> int:
        """The process's own space, made at its first use."""
        async with self._space_lock:
            if not process.space:
                process.space = await self.memory.create_space(process.apid)
            return process.space

    async def act(self, caller: Process, call: Call) -> Any:
        """Run a call that the mind makes for ``caller``: by all checks, and seen in the trace.

        Raises EngramError only; a bug in a handler is logged and becomes EKERNEL.
        """
        began, at = self.clock.monotonic(), self.clock.now()
        arguments = msgspec.msgpack.encode(call)
        ok, reply = False, b""
        try:
            await self.signals.going(caller)
            value = await trap.execute(self, caller, call)
            ok, reply = True, msgspec.msgpack.encode(value)
            return value
        except Exception as error:
            told = trap.as_error(self, TABLE.by_number.get(call.NUMBER), error)
            reply = msgspec.msgpack.encode(told.to_value())
            if told is error:
                raise
            raise told from error
        finally:
            if reply:  # not when it was cancelled
                micros = (self.clock.monotonic() - began) * 1e6
                self.trace.record(caller.apid, call.NUMBER, arguments, reply, ok, at, micros)

    # --- messages

    def message(
        self,
        sender: Process,
        body: Any,
        *,
        type: str = "",
        topic: str = "",
        reply_to: int = 0,
    ) -> Message:
        """A message from ``sender``, as the kernel vouches for it."""
        return Message(
            id=0,
            sender=sender.apid,
            name=sender.name,
            body=body,
            sent=self.clock.now(),
            topic=topic,
            type=type,
            reply_to=reply_to,
        )

    async def publish(self, sender: Process, topic: str, message: Message) -> ipc.Published:
        """Deliver to every subscriber; a full mailbox drops it and is named."""
        receivers = [self.processes.get(apid) for apid in self.topics.subscribers(topic)]
        ids, full = await self.mailboxes.send_many(
            [(each.apid, self.accounts.limit(each, "mailbox")) for each in receivers], message
        )
        self.log("debug", "ipc", f"apid {sender.apid} published on {topic!r} to {len(ids)}")
        return ipc.Published(delivered=sum(1 for number in ids if number), dropped=full)

    # --- figures

    def drivers(self) -> list[DriverInfo]:
        """The drivers and how they are."""
        embedder, llm, nano = self.embedder, self.llm, self.machine.nano
        return [
            DriverInfo("store", type(self.machine.store).__name__, "ready", {}),
            DriverInfo(
                "embedder",
                self.settings.embedder,
                embedder.state,
                msgspec.to_builtins(embedder.info) or {},
            ),
            DriverInfo("llm", self.settings.model, llm.state, msgspec.to_builtins(llm.info) or {}),
            DriverInfo("nano", "transformers", nano.state, msgspec.to_builtins(nano.info) or {}),
            DriverInfo(
                "processes",
                type(self.machine.spawner).__name__,
                "ready",
                {"confinement": self.machine.spawner.statistics().confinement},
            ),
        ]

    def statistics(self) -> dict[str, Any]:
        """Every part's figures, as a tree."""
        own = KernelStatistics(
            uptime=self.clock.monotonic() - self.began,
            boot=self.boot,
            connections=len(self.connections),
            inflight=sum(connection.inflight for connection in self.connections.values()),
            calls=self.trace.written,
        )
        parts: dict[str, Any] = {
            "kernel": own,
            "log": self.log.statistics(),
            "trace": self.trace.statistics(),
            "accounts": self.accounts.statistics(),
            "processes": self.processes.statistics(),
            "mailboxes": self.mailboxes.statistics(),
            "topics": self.topics.statistics(),
            "ties": self.ties.statistics(),
            "alarms": self.alarms.statistics(),
            "signals": self.signals.statistics(),
            "init": self.supervision.statistics() if self.supervised.is_set() else {},
            "store": self.machine.store.statistics(),
            "memory": self.memory.statistics(),
            "embedder": self.embedder.statistics(),
            "llm": self.llm.statistics(),
            "nano": self.machine.nano.statistics(),
            "llm_time": self.schedulers.figures(self.llm),
            "nano_time": self.schedulers.figures(self.machine.nano),
            "pins": self.pins.statistics(),
            "mind": self.mind.statistics(),
            "policy": self.judge.statistics(),
            "miner": self.miner.statistics(),
            "study": self.student.statistics(),
            "tidy": self.tidier.statistics(),
            "tools": self.tools.statistics(),
            "spawner": self.machine.spawner.statistics(),
        }
        for name in ("adapters", "training", "images"):
            if name in self.__dict__:  # it is not loaded for that
                parts[name] = getattr(self, name).statistics()
        return {name: msgspec.to_builtins(figures) for name, figures in parts.items()}


def _resident(pid: int) -> int:
    """Resident bytes of an operating system process; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0
