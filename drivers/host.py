"""The driver host: a process that loads one engine and serves it to the kernel.

    main thread: poll(socket, wake, stdin) ── commands ──> engine thread: load, step, step
                                          <── messages ──

The main thread never computes, so pings are answered while the engine works. There is no
trio here: engines are synchronous, and torch and vLLM have loops of their own.

A host never outlives its kernel: the operating system kills it when the thread that
started it ends (PR_SET_PDEATHSIG), and it exits when its standard input, the other end of
which only the kernel holds, is closed. What it or a library prints goes to standard error;
a line may begin with a syslog priority such as ``<4>``.

Started as ``python -m drivers.host`` with one line of JSON (``Birth``) on standard input.
"""

import ctypes
import importlib
import logging
import os
import queue
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec
import zmq

from drivers.engine import Engine, Job, Suspending
from drivers.port import BrokenLink, Port, connect
from drivers.protocol import (
    Birth,
    Call,
    Cancel,
    Credit,
    EngineSpec,
    Failed,
    Hello,
    Message,
    Ping,
    Pong,
    Progress,
    Stop,
    Suspend,
    pack,
)
from syscalls.errors import EINVAL, EngramError

ENGINES = {
    ("embedder", "hash"): "drivers.embedder.hashing:HashEngine",
    ("embedder", "minilm"): "drivers.embedder.engine:MiniLMEngine",
    ("embedder", "sentence"): "drivers.embedder.engine:SentenceEngine",
    ("llm", "auto"): "drivers.llm.auto:AutoEngine",
    ("llm", "openai"): "drivers.llm.remote:OpenAIEngine",
    ("llm", "transformers"): "drivers.llm.engine:TransformersEngine",
    ("llm", "vllm"): "drivers.llm.vllm_engine:VLLMEngine",
}
"""Every engine by kind and name. Its module is imported only in the host that runs it.

An engine from elsewhere is named by its place, ``module:Class``."""

PR_SET_PDEATHSIG = 1
ORPHANED = 3
"""Exit status of a host whose kernel is gone."""
PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

Command = Callable[[Engine], None]


def make_engine(spec: EngineSpec) -> Engine:
    """The engine that ``spec`` names, not loaded. Raises EINVAL for an unknown one."""
    place = ENGINES.get((spec.kind, spec.engine), spec.engine)
    if ":" not in place:
        known = sorted(name for kind, name in ENGINES if kind == spec.kind)
        raise EINVAL(f"no {spec.kind} engine {spec.engine!r}", hint=f"there are: {known}")
    module, _, name = place.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(spec)
    return engine


class Server:
    """The main thread's side: the socket, and the jobs that the engine has."""

    def __init__(self, port: Port, spec: EngineSpec) -> None:
        self._port = port
        self._spec = spec
        self._jobs: dict[int, Job] = {}
        self._outgoing: deque[Message] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    # --- main thread

    def serve(self, lifeline: int) -> int:
        """Serve until told to stop (0), orphaned, or the engine ends (1)."""
        poller = select.poll()
        for fd in (self._port.fd, self._wake_read, lifeline):
            poller.register(fd, select.POLLIN)
        self.send(Progress(f"loading {self._spec.engine} {self._spec.model}".strip()))
        self._thread.start()
        stopping = False
        while not self._ended.is_set():
            stopping = self._exchange() or stopping
            ready = {fd for fd, _ in poller.poll()}
            if lifeline in ready and not os.read(lifeline, 4096):
                return ORPHANED
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
        self._exchange()
        return 0 if stopping else 1

    def send(self, message: Message) -> None:
        """Send a message; from any thread."""
        self._outgoing.append(message)
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # the pipe is full of wakes already

    def _exchange(self) -> bool:
        """Move messages both ways until there is nothing to move; True if told to stop."""
        stopping = False
        while True:
            while self._outgoing:
                message = self._outgoing.popleft()
                if not isinstance(message, Progress | Hello | Pong):
                    self._settle(message)
                self._port.post(message)
            self._port.turn()
            if not self._port.inbox:
                return stopping
            while self._port.inbox:
                stopping = self._handle(self._port.inbox.popleft()) or stopping

    def _settle(self, message: Message) -> None:
        """Forget a job whose answer is on its way."""
        seq = getattr(message, "seq", 0)
        job = self._jobs.get(seq)
        if job is not None and job.finished:
            del self._jobs[seq]

    def _handle(self, message: Message) -> bool:
        match message:
            case Ping(beat):
                self._port.post(Pong(beat))
            case Call(seq, method, arguments, credit):
                job = Job(seq, method, arguments, credit, self.send)
                self._jobs[seq] = job
                self._commands.put(partial(_begin, job))
            case Cancel(seq):
                if (waiting := self._jobs.get(seq)) is not None:
                    self._commands.put(partial(_cancel, waiting))
            case Credit(seq, more):
                if (waiting := self._jobs.get(seq)) is not None:
                    self._commands.put(partial(_grant, waiting, more))
            case Suspend(seq, on):
                if (waiting := self._jobs.get(seq)) is not None:
                    self._commands.put(partial(_suspend, waiting, on))
            case Stop():
                self._commands.put(None)
                return True
        return False

    # --- engine thread

    def _work(self) -> None:
        try:
            engine = self._load()
            if engine is None:
                while self._commands.get() is not None:
                    continue  # the kernel, having read why, tells us to stop
            else:
                self._step(engine)
                engine.close()
        finally:
            self._ended.set()
            self._wake()

    def _load(self) -> Engine | None:
        """The engine, loaded and announced; None when it cannot be, and that was said."""
        try:
            engine = make_engine(self._spec)
            info = engine.load(lambda text: self.send(Progress(text)))
        except EngramError as error:
            self.send(Failed(0, error.number, error.to_value()))
            return None
        self.send(Hello(pack(info), engine.window))
        return engine

    def _step(self, engine: Engine) -> None:
        while True:
            while not engine.busy or not self._commands.empty():
                command = self._commands.get()
                if command is None:
                    return
                command(engine)
            engine.step()


def _begin(job: Job, engine: Engine) -> None:
    with job.guard():
        engine.begin(job)


def _cancel(job: Job, engine: Engine) -> None:
    if not job.finished:
        engine.cancel(job)


def _suspend(job: Job, on: bool, engine: Engine) -> None:
    if not job.finished and isinstance(engine, Suspending):
        engine.suspend(job, on=on)


def _grant(job: Job, more: int, _engine: Engine) -> None:
    job.credit += more


class PriorityFormatter(logging.Formatter):
    """Puts the syslog priority before each line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, each of its lines with its priority."""
        mark = f"<{PRIORITY.get(record.levelno, 3)}>"
        return "\n".join(mark + line for line in super().format(record).splitlines())


def _set_up(parent: int) -> int:
    """Tie this process to its parent and its output to standard error; the lifeline's fd."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent and os.getppid() != parent:
        raise SystemExit(ORPHANED)  # it died before the line above
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PriorityFormatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return lifeline


def main() -> int:
    """Serve one engine; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is the kernel's affair
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return ORPHANED
        line += byte
    birth = msgspec.json.decode(line, type=Birth)
    lifeline = _set_up(birth.parent)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        return Server(connect(context, birth.address), birth.spec).serve(lifeline)
    except BrokenLink as error:
        logging.getLogger("host").error("%s", error)
        return 1


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # no finalisers: threads of the engine may still compute
