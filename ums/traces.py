"""Tool calls as records: what a space remembers of them, and the reading of it.

Each distinct call is one procedural record, named by a key made of tool, schema and arguments;
each time it is made adds a version to it. So the same call is found by its name, and the
history of a record is that of a call. What was learnt follows the journal (``Roster``): a
trace that is deleted or forgotten is no longer known.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from syscalls.records import Note
from ums.records import TAGS
from ums.roster import Roster
from ums.tools import REFUSED_AFTER, Experience, Trace, digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import Store
    from ums.memory import Memory
    from ums.records import Stored

KIND = "tool_call"
BOOKS = 64
"""Spaces whose traces are held ready; those of another one are read again."""
SHOWN = 1500
"""Characters of arguments and of an answer in the text of a record."""
WHOLE = 32_768
"""Bytes of arguments that are kept whole; of longer ones a digest is."""


class Book(Roster):
    """The traces of one space."""

    def __init__(self, store: Store, refused_after: int) -> None:
        super().__init__(store)
        self._refused_after = refused_after
        self._digests: dict[str, str] = {}
        self.experience = Experience(refused_after)
        self.turn = trio.Lock()
        """Held from reading a trace until it is written."""

    def clear(self) -> None:
        """Nothing is known."""
        self._digests.clear()
        self.experience = Experience(self._refused_after)

    def wants(self, tag: int) -> bool:
        """Procedural memory only."""
        return tag == TAGS["procedural"]

    def keep(self, rid: str, tag: int, stored: Stored) -> None:
        """A record is like this now."""
        self.drop(rid)
        if stored.kind != KIND:
            return
        try:
            trace = msgspec.convert(stored.meta, Trace)
        except msgspec.ValidationError:
            return  # somebody else's record of the same kind
        self._digests[rid] = trace.digest
        self.experience.learn(trace.digest, trace)

    def drop(self, rid: str) -> None:
        """A record is gone."""
        digest = self._digests.pop(rid, None)
        if digest is not None:
            self.experience.unlearn(digest)


class Traces:
    """The tool calls that all spaces remember."""

    def __init__(self, memory: Memory, refused_after: int = REFUSED_AFTER) -> None:
        self._memory = memory
        self._refused_after = refused_after
        self._books: OrderedDict[int, Book] = OrderedDict()

    def __len__(self) -> int:
        return len(self._books)

    async def book(self, space: int) -> Book:
        """What a space remembers, up to now. Raises ENOENT."""
        book = self._books.get(space)
        if book is None:
            book = self._books[space] = Book(self._memory.store, self._refused_after)
            while len(self._books) > BOOKS:
                self._books.popitem(last=False)
        self._books.move_to_end(space)
        await book.follow(self._memory.view(space))
        return book

    async def record(
        self, space: int, writer: int, traces: Sequence[Trace], result: str, limit: int | None
    ) -> str:
        """Write a call that was made (the first) with those that it mended; its rid.

        One batch. Raises EDQUOT, EPERM, EIO.
        """
        notes = [_note(trace, result if at == 0 else "") for at, trace in enumerate(traces)]
        written = await self._memory.write_many(space, writer, notes, "tool.call", limit)
        return written[0].rid


def _note(trace: Trace, result: str) -> Note:
    """The record of a trace."""
    meta = msgspec.to_builtins(trace)
    args = _cut(msgspec.json.encode(trace.args, enc_hook=repr).decode())
    if trace.ok:
        how = f"worked: {_cut(result)}" if result else "worked"
    else:
        how = f"failed: {trace.error}"
        if trace.cure is not None:
            cure = msgspec.json.encode(trace.cure, enc_hook=repr).decode()
            how = f"{how}\nwhat then worked: {_cut(cure)}"
    return Note(
        segment="procedural",
        content=f"{trace.tool} {args} {how}",
        kind=KIND,
        key=f"tool/{trace.tool}/{trace.digest}",
        meta=meta,
        tags=[trace.tool],
        taint="tool",
    )


def compact(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments as they are kept: those that are very long only by what identifies them."""
    text = msgspec.json.encode(args, enc_hook=repr)
    return args if len(text) <= WHOLE else {"too long": digest("", "", args)}


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text)} characters)"
