"""The trap: from a number and arguments to a handler and its reply.

    decode by the table -> capability -> handler -> reply

Handlers are registered with ``@handles(Call)``. There are three kinds, told apart by their
form, because a call that need not wait should not pay for a task:

    def   handler(kernel, caller, call) -> reply           answered at once
    async def handler(kernel, caller, call) -> reply       may wait
    async def handler(kernel, caller, call, emit) -> reply may stream: ``await emit(chunk)``
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from syscalls.errors import EINVAL, EKERNEL, ENOSYS, EPERM, EngramError
from syscalls.table import TABLE, Call, Entry

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process

Kind = Literal["sync", "async", "stream"]
Emit = Callable[[Any], Awaitable[None]]
H = TypeVar("H", bound=Callable[..., Any])


class Handler(msgspec.Struct, frozen=True):
    """One served call."""

    entry: Entry
    kind: Kind
    run: Callable[..., Any]
    decode: Callable[[Any], Call]
    waits: bool
    """Whether it may wait for long (a message, a process, a model): then the caller counts as
    WAITING meanwhile, and the call can be cancelled. The others are over in a moment."""


class Handlers:
    """The served calls by number; filled by the imports of ``kernel.handlers``."""

    def __init__(self) -> None:
        self.by_number: dict[int, Handler] = {}

    def handles(self, call: type[Call], *, waits: bool = False) -> Callable[[H], H]:
        """Decorator: this function serves ``call``."""

        def register(run: H) -> H:
            entry = TABLE.by_number[call.NUMBER]
            if entry.number in self.by_number:
                raise ValueError(f"{entry.name} has two handlers")
            self.by_number[entry.number] = Handler(
                entry, _kind(run), run, msgspec.msgpack.Decoder(call).decode, waits
            )
            return run

        return register

    def lookup(self, number: int) -> Handler:
        """The handler of a call. Raises EINVAL for an unknown one, ENOSYS for an unserved one."""
        handler = self.by_number.get(number)
        if handler is not None:
            return handler
        entry = TABLE.by_number.get(number)
        if entry is None:
            raise EINVAL(
                f"there is no syscall {number}", hint="docs/syscalls.md lists them", number=number
            )
        raise ENOSYS(f"{entry.name} is declared but not served by this kernel", call=entry.name)

    def served(self) -> list[str]:
        """Names of the served calls, in order of their numbers."""
        return [self.by_number[number].entry.name for number in sorted(self.by_number)]


HANDLERS = Handlers()
handles = HANDLERS.handles


def _kind(run: Callable[..., Any]) -> Kind:
    if not inspect.iscoroutinefunction(run):
        return "sync"
    return "stream" if len(inspect.signature(run).parameters) == 4 else "async"


def admit(handler: Handler, caller: Process, arguments: Any) -> Call:
    """Decode a call and check that its caller may make it. Raises EPERM, EINVAL."""
    entry = handler.entry
    if not caller.caps.may(entry.capability):
        raise EPERM(
            f"{entry.name} needs the capability {entry.capability}",
            capability=entry.capability,
            apid=caller.apid,
        )
    try:
        return handler.decode(arguments)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise EINVAL(f"{entry.name}: {error}", call=entry.name) from error


async def execute(kernel: Kernel, caller: Process, call: Call) -> Any:
    """Run a call as ``caller`` from inside the kernel, by the same checks as from outside.

    Streams are not delivered, only the final reply. Raises what the call raises.
    """
    handler = HANDLERS.lookup(call.NUMBER)
    admitted = admit(handler, caller, msgspec.msgpack.encode(call))
    if handler.kind == "sync":
        return handler.run(kernel, caller, admitted)
    if handler.kind == "async":
        return await handler.run(kernel, caller, admitted)
    return await handler.run(kernel, caller, admitted, _discard)


async def _discard(_chunk: Any) -> None:
    """Takes the chunks of a stream that nobody follows."""


def as_error(kernel: Kernel, entry: Entry | None, error: Exception) -> EngramError:
    """``error`` as what the caller is told; one that is not ours is a bug, and is logged."""
    if isinstance(error, EngramError):
        return error
    name = entry.name if entry else "unknown call"
    kernel.log("error", "trap", f"{name} failed:\n" + "".join(traceback.format_exception(error)))
    return EKERNEL(f"{name} failed: {type(error).__name__}: {error}", call=name)
