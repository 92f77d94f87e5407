"""What a driver host asks of an engine, and what it gives to it.

One thread owns the engine. It begins jobs, cancels them, and calls ``step`` while the
engine is busy: a step is one micro-batch of texts, one token of one request, or one
``step()`` of an engine that schedules by itself. Between steps new jobs are begun and
cancelled ones are let go, so the length of a step is the latency of everything else.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import msgspec
from msgspec import Raw

from drivers.protocol import Chunk, Done, Failed, Message, pack
from syscalls.errors import ECANCELED, EINVAL, EIO, EngramError

T = TypeVar("T")
log = logging.getLogger("engine")


class Job:
    """One call that the host has taken. Its answers may be given from any thread."""

    def __init__(
        self, seq: int, method: str, arguments: Raw, credit: int, send: Callable[[Message], None]
    ) -> None:
        self.seq = seq
        self.method = method
        self.credit = credit
        """Chunks that may be sent now; an engine does not step a job that has none left."""
        self.finished = False
        self._arguments = arguments
        self._send = send

    def arguments(self, shape: type[T]) -> T:
        """The arguments, decoded. Raises EINVAL."""
        try:
            return msgspec.msgpack.decode(self._arguments, type=shape)
        except msgspec.DecodeError as error:
            raise EINVAL(f"wrong arguments for {self.method}: {error}") from error

    def chunk(self, value: Any) -> None:
        """Send a part of the answer; costs one credit."""
        self.credit -= 1
        self._send(Chunk(self.seq, pack(value)))

    def done(self, value: Any) -> None:
        """Send the answer, or its end."""
        if not self.finished:
            self.finished = True
            self._send(Done(self.seq, pack(value)))

    def fail(self, error: EngramError) -> None:
        """Send the error instead of an answer."""
        if not self.finished:
            self.finished = True
            self._send(Failed(self.seq, error.number, error.to_value()))

    def cancelled(self) -> None:
        """Answer a call that was cancelled."""
        self.fail(ECANCELED(f"{self.method} was cancelled"))

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn what is raised inside into this job's failure, so that others go on."""
        try:
            yield
        except EngramError as error:
            self.fail(error)
        except Exception as error:
            log.exception("%s failed", self.method)
            self.fail(EIO(f"{self.method} failed: {error}", hint="", retryable=False))


class Engine(Protocol):
    """A model, or a connection to one. All methods are called from one thread."""

    window: int
    """Calls that may be unanswered at once."""

    def load(self, progress: Callable[[str], None]) -> msgspec.Struct:
        """Load, and return what it is. Raises EngramError when it never will."""

    def begin(self, job: Job) -> None:
        """Take a job; it is answered here or in later steps."""

    def cancel(self, job: Job) -> None:
        """Let go of a job, and answer it with ``job.cancelled()``."""

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""

    def step(self) -> None:
        """Do a little of the work that was begun."""

    def close(self) -> None:
        """Write what must not be lost."""


@runtime_checkable
class Suspending(Protocol):
    """An engine whose jobs can stand still for a while."""

    def suspend(self, job: Job, *, on: bool) -> None:
        """Give it no more steps, or (off) go on where it was. It can be cancelled meanwhile."""
