"""A method for every syscall, made from the table: ``client.mem.write(content=...)``.

Nothing here names a call. The types of the methods are in ``stubs.pyi``, which
``stubgen.py`` writes from the same table and a test keeps fresh. Calls that stream have a
second method, ``sys.log_stream``, which yields the chunks.
"""

import keyword

from syscalls.table import TABLE


def method_name(verb):
    """The verb, as a Python name: ``import`` becomes ``import_``."""
    return f"{verb}_" if keyword.iskeyword(verb) else verb


def _method(entry, through):
    def stub(self, **fields):
        return getattr(self._client, through)(entry.call(**fields))

    stub.__name__ = method_name(entry.verb) + ("_stream" if through == "stream" else "")
    stub.__qualname__ = f"{entry.group}.{stub.__name__}"
    stub.__doc__ = entry.call.__doc__
    return stub


class _Group:
    __slots__ = ("_client",)

    def __init__(self, client):
        self._client = client


def _groups():
    members = {}
    for entry in TABLE:
        group = members.setdefault(entry.group, {"__slots__": ()})
        group[method_name(entry.verb)] = _method(entry, "call")
        if entry.chunk is not None:
            group[f"{method_name(entry.verb)}_stream"] = _method(entry, "stream")
    return {name: type(name, (_Group,), made) for name, made in members.items()}


_GROUPS = _groups()


class Stubs:
    """Base of the clients: an attribute for each group of calls."""

    def __init__(self):
        for name, group in _GROUPS.items():
            setattr(self, name, group(self))


class BlockingStubs(Stubs):
    """Methods that return the reply."""


class AsyncStubs(Stubs):
    """Methods that return an awaitable of the reply."""
