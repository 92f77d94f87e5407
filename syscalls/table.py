"""The syscall table: the one place that says which calls exist.

A call is a struct with a number, a name, a capability and a docstring. Everything else
that knows about calls (dispatch, client stubs, trace lines, manual, JSON Schema) is
derived from ``TABLE``. Numbers are part of the wire format and are never used twice.

    @syscall(64, "mem.write", reply=Written)
    class Write(Call, kw_only=True): ...
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import msgspec


class Call(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Base of every syscall's arguments. The class variables are set by ``syscall``."""

    NUMBER: ClassVar[int]
    NAME: ClassVar[str]


class Empty(msgspec.Struct):
    """The reply of calls that have nothing to say but that they are done."""


class Entry(msgspec.Struct, frozen=True):
    """One row of the table."""

    number: int
    name: str
    """``group.verb``, as it is written everywhere."""
    capability: str
    """What the caller must hold; often the call's own name (see ``capability.py``)."""
    call: type[Call]
    reply: type[Any]
    """Struct of the final reply's value."""
    chunk: type[Any] | None
    """Struct of each streamed value before the final one; None where it never streams."""
    destructive: bool
    """Whether a careful shell asks before running it on a person's behalf."""
    summary: str
    """First line of the docstring."""

    @property
    def group(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        """The part of the name after the dot."""
        return self.name.partition(".")[2]


class Table:
    """The calls by number and by name. Filled once by the imports of ``syscalls.calls``."""

    def __init__(self) -> None:
        self.by_number: dict[int, Entry] = {}
        self.by_name: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Add one row; a number or name used twice is a mistake in the source."""
        if entry.number in self.by_number or entry.name in self.by_name:
            raise ValueError(f"syscall {entry.number} {entry.name} is declared twice")
        self.by_number[entry.number] = entry
        self.by_name[entry.name] = entry

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self.by_number.values(), key=lambda entry: entry.number))

    def __len__(self) -> int:
        return len(self.by_number)

    def capabilities(self) -> frozenset[str]:
        """Every capability that some call asks for."""
        return frozenset(entry.capability for entry in self)


TABLE = Table()

C = TypeVar("C", bound=type[Call])


def syscall(
    number: int,
    name: str,
    *,
    reply: type[Any] = Empty,
    capability: str = "",
    chunk: type[Any] | None = None,
    destructive: bool = False,
) -> Callable[[C], C]:
    """Class decorator that registers a ``Call`` struct in ``TABLE``."""

    def register(call: C) -> C:
        call.NUMBER = number
        call.NAME = name
        summary = (call.__doc__ or "").strip().partition("\n")[0]
        if not summary:
            raise ValueError(f"syscall {name} has no docstring")
        TABLE.add(Entry(number, name, capability or name, call, reply, chunk, destructive, summary))
        return call

    return register
