"""The trace of syscalls that ``strace`` reads.

A finished call is remembered as the bytes that travelled, which costs next to nothing; it
is made readable only when somebody reads it. Long frames are cut before they are kept.
"""

import msgspec

from kernel.feed import Feed
from syscalls.shapes import TraceLine
from syscalls.table import TABLE

KEEP = 512
"""Bytes of arguments, and of a reply, that are kept as they are."""
LARGE = 65536
"""Bytes above which not even a summary is made."""
SHOW = 160
"""Characters of arguments, and of a reply, that are shown."""


class Traced(msgspec.Struct, gc=False):
    """One finished call, unformatted."""

    seq: int
    at: float
    apid: int
    number: int
    arguments: bytes | str
    reply: bytes | str
    ok: bool
    micros: float


class Trace(Feed[Traced]):
    """The ring of finished calls."""

    def record(
        self,
        apid: int,
        number: int,
        arguments: bytes,
        reply: bytes,
        ok: bool,
        at: float,
        micros: float,
    ) -> None:
        """Remember one call; ``reply`` is the encoded value, or the encoded error."""
        self.append(
            Traced(self.written + 1, at, apid, number, _kept(arguments), _kept(reply), ok, micros)
        )


def readable(traced: Traced) -> TraceLine:
    """The line a person reads."""
    entry = TABLE.by_number.get(traced.number)
    return TraceLine(
        seq=traced.seq,
        at=traced.at,
        apid=traced.apid,
        call=entry.name if entry else f"#{traced.number}",
        arguments=_shortened(traced.arguments),
        result=_shortened(traced.reply) if traced.ok else _error(traced.reply),
        micros=traced.micros,
        ok=traced.ok,
    )


def _kept(data: bytes) -> bytes | str:
    """``data`` itself where it is short; else what will be shown of it, made now."""
    if len(data) <= KEEP:
        return bytes(data)
    return _shortened(data) if len(data) <= LARGE else f"<{len(data)} bytes>"


def _error(data: bytes | str) -> str:
    if isinstance(data, str):
        return data
    value = msgspec.msgpack.decode(data)
    return f"{value['name']}: {value['message']}"[:SHOW]


def _shortened(data: bytes | str) -> str:
    if isinstance(data, str):
        return data
    value = msgspec.msgpack.decode(data) if data else {}
    if isinstance(value, dict):
        text = ", ".join(f"{key}={item!r}" for key, item in value.items())
    else:
        text = repr(value)
    return text if len(text) <= SHOW else text[:SHOW] + "..."
