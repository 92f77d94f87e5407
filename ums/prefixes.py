"""Pinned prefixes: beginnings of prompts whose model state is kept, and what they rest on.

    prefixes  "p" space (4) handle      Prefix: what it says, and which blocks hold its state
              "r" rid (16)              [(space, handle)]: the prefixes that rest on a record
              "n" space (4)             the last number that a handle was made of
              "e" digest (16)           Erasure: blocks that are to be erased everywhere

A prefix is what a space has, like a record. Here is the truth; the blocks are files that may
all be lost. One that was made of records holds their rids and not their words, so that it
always says what they say now.

Whoever changes a record does so on the condition that the list of prefixes at it is as he read
it, and who pins expects the records to be as he read them: of the two one comes later and sees
the other. A record that goes takes along, in the same batch, every prefix that rests on it, and
leaves an erasure there: nothing can be attached from then on, and no crash loses what is left to
be done. What is erased of the blocks is the affair of ``kernel.activation.keeping``.

One that replaces another is computed ``aside``, under a handle that nobody can say, and takes the
other's place in one batch: until then, and if it fails, the other is what it was.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from drivers.contracts import Mismatch
from syscalls.errors import EAGAIN, EEXIST, EINVAL, ENOENT
from syscalls.shapes import ChatMessage
from ums import records as form
from ums.draft import Draft
from ums.lineage import ties
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from drivers.contracts import Store
    from ums.records import Stored
    from ums.view import View

Origin = Literal["pin", "promotion"]
T = TypeVar("T")

PREFIX = b"p"
SOURCE = b"r"
NUMBER = b"n"
ERASE = b"e"
TRIES = 64
DEEP = 10_000
"""Records that one prefix may rest on, those that its sources were made from included."""
NAMESPACES = 3
"""Models of which the blocks of one prefix are known; those of older ones are erased."""
HEAD = 96
"""Characters by which a record is known in a text: a context may show its beginning only."""
SHORT = 24
"""A record with fewer characters is known only as the whole of an item."""
NAMED: dict[Origin, str] = {"pin": "pin", "promotion": "auto"}
ASIDE = "~"
"""Parts the handle of one that is to replace another from its number; in no handle otherwise."""
APART = 1e-5
"""Seconds between two that have the same handle, at least: more than a name of them loses."""


Digest = bytes  # a name of its own: in ``Prefix`` the word means a property


class Source(msgspec.Struct, array_like=True, frozen=True):
    """A record, as a space has it."""

    rid: str
    space: int


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """State of a prefix under one model."""

    namespace: str
    blocks: list[str]
    tokens: int
    bytes: int
    prefill: float
    """Seconds that computing it costs."""


class Prefix(msgspec.Struct, omit_defaults=True):
    """A pinned prefix."""

    handle: str
    space: int
    salt: str
    created: float
    """When it was pinned; with space and handle it tells two apart."""
    made_by: Origin = "pin"
    by: int = 0
    """APID."""
    messages: list[ChatMessage] = []
    """What it says; empty where it is what its records say."""
    rids: list[Source] = []
    """The records that it shows, in this order; where it has messages, those known in them."""
    sources: list[Source] = []
    """All that it rests on: its records, and what those were made from."""
    adapter: str = ""
    adapter_path: str = ""
    under: list[Source] = []
    """The records that its adapter was made from: its state rests on them, its words do not."""
    kept: list[Kept] = []
    """The model in use first."""
    digest: Digest = b""
    """Of the words that the blocks of ``kept[0]`` hold."""
    pending: float = 0.0
    """Since when it is being computed; then there may be blocks that ``kept`` does not name."""
    due: bool = False
    """Whether a record has changed, so that it is to be computed anew."""
    stale: str = ""
    """Why its own words are not to be relied on."""
    used: float = 0.0
    hits: int = 0
    saved: float = 0.0
    """Seconds of computing that its hits have saved."""

    @property
    def place(self) -> tuple[int, str]:
        """Where it is: space and handle."""
        return self.space, self.handle

    @property
    def name(self) -> str:
        """The handle that it has, or is to have when it is ``aside`` no more."""
        return self.handle.partition(ASIDE)[0]

    @property
    def aside(self) -> bool:
        """Whether it is being computed to replace another; nobody can attach it yet."""
        return ASIDE in self.handle

    @property
    def rendered(self) -> bool:
        """Whether it says what its records say."""
        return not self.messages

    @property
    def bytes(self) -> int:
        """Bytes of its state."""
        return self.kept[0].bytes if self.kept else 0

    @property
    def tokens(self) -> int:
        """Tokens whose state is kept."""
        return self.kept[0].tokens if self.kept else 0


class Erasure(msgspec.Struct, array_like=True, frozen=True):
    """What is left to be done of a prefix that is gone."""

    name: str
    """What the engine calls it; empty where only blocks are to go."""
    kept: list[Kept]
    since: float = 0.0
    """Since when there may be blocks whose names are not known; 0 for none."""


_prefix = msgspec.msgpack.Decoder(Prefix)
_places = msgspec.msgpack.Decoder(list[tuple[int, str]])
_erasure = msgspec.msgpack.Decoder(Erasure)
_encode = msgspec.msgpack.encode
_escapes = str.maketrans({"<": "\\u003c", ">": "\\u003e"})


def engine_name(prefix: Prefix) -> str:
    """What an engine calls a prefix: no two that there ever were are called the same."""
    return f"{prefix.space}/{prefix.name}@{prefix.created:.6f}"


def holds(text: str, content: str) -> bool:
    """Whether a text shows a record that says ``content``, or its beginning."""
    if len(content) < SHORT:
        quoted = msgspec.json.encode(content).decode().translate(_escapes)
        return bool(content) and (text == content or quoted in text)
    head = content[:HEAD]
    return head in text or msgspec.json.encode(head).decode()[1:-1].translate(_escapes) in text


def _key(space: int, handle: str) -> bytes:
    return PREFIX + form.space_key(space) + handle.encode()


# --- drafting


def _relist(draft: Draft, rid: bytes, place: tuple[int, str], *, listed: bool) -> None:
    """Draft that a prefix is, or is not, in the list at a record."""
    value = draft.get("prefixes", SOURCE + rid)
    places = [] if value is None else _places.decode(value)
    places = [one for one in places if one != place] + ([place] if listed else [])
    if places:
        draft.put("prefixes", SOURCE + rid, _encode(places))
    else:
        draft.delete("prefixes", SOURCE + rid)


def _remove(draft: Draft, gone: Prefix) -> None:
    """Draft the end of a prefix, and what is left to be done."""
    draft.delete("prefixes", _key(*gone.place))
    for rid in {source.rid for source in gone.sources}:
        _relist(draft, pack(rid), gone.place, listed=False)
    _erase(draft, Erasure(engine_name(gone), gone.kept, gone.pending))


def _erase(draft: Draft, erasure: Erasure) -> None:
    value = _encode(erasure)
    draft.put("prefixes", ERASE + blake2b(value, digest_size=16).digest(), value)


def follow(draft: Draft, store: Store, space: int) -> None:
    """Draft what the changes of a draft do to the prefixes that rest on the records.

    ``draft.lapsed`` says whether any is concerned.
    """
    for rid, (old, new) in draft.turned.items():
        if old is None:
            continue
        for prefix in _resting(draft, rid, space):
            draft.lapsed = True
            if new is None:
                _remove(draft, prefix)
            elif _affected(draft, prefix, unpack(rid), old, new):
                draft.put("prefixes", _key(*prefix.place), _encode(prefix))
        if new is None:
            for prefix in _saying(draft, store, space, old.content):
                draft.lapsed = True
                _remove(draft, prefix)


def _resting(draft: Draft, rid: bytes, space: int) -> list[Prefix]:
    """The prefixes that rest on a record as a space has it."""
    value = draft.get("prefixes", SOURCE + rid)
    found = []
    for place in [] if value is None else _places.decode(value):
        row = draft.get("prefixes", _key(*place))
        prefix = None if row is None else _prefix.decode(row)
        if prefix is not None and Source(unpack(rid), space) in prefix.sources:
            found.append(prefix)
    return found


def _saying(draft: Draft, store: Store, space: int, content: str) -> list[Prefix]:
    """The prefixes of a space that have the words of a record, wherever they had them from."""
    start = PREFIX + form.space_key(space)
    found = []
    for key, _ in store.scan("prefixes", start, form.after(start)):
        row = draft.get("prefixes", key)
        prefix = None if row is None else _prefix.decode(row)
        if prefix is not None and any(holds(one.content, content) for one in prefix.messages):
            found.append(prefix)
    return found


def _affected(draft: Draft, prefix: Prefix, rid: str, old: Stored, new: Stored) -> bool:
    """Change a prefix as a change of a record wants it; whether there is anything to change."""
    said = old.content != new.content and any(one.rid == rid for one in prefix.rids)
    if said and not prefix.rendered:
        if prefix.made_by == "promotion":
            _remove(draft, prefix)
            return False
        prefix.stale = f"its source {rid} was corrected"
        return True
    prefix.due = said or ties(old) != ties(new)
    return prefix.due


# --- the table


class Prefixes:
    """The pinned prefixes of all spaces."""

    def __init__(self, store: Store, view: Callable[[int], View]) -> None:
        self._store = store
        self._view = view

    # --- reading

    def find(self, space: int, handle: str) -> Prefix | None:
        """A prefix; None when there is none."""
        value = self._store.get("prefixes", _key(space, handle))
        return None if value is None else _prefix.decode(value)

    def get(self, space: int, handle: str) -> Prefix:
        """A prefix. Raises ENOENT."""
        found = self.find(space, handle)
        if found is None:
            raise ENOENT(
                f"space {space} has no pinned prefix {handle!r}", hint="kv.list tells which it has"
            )
        return found

    def of(self, space: int) -> list[Prefix]:
        """Those of a space, by handle."""
        return self._scan(PREFIX + form.space_key(space))

    def all(self) -> list[Prefix]:
        """Those of every space."""
        return self._scan(PREFIX)

    def _scan(self, start: bytes) -> list[Prefix]:
        rows = self._store.scan("prefixes", start, form.after(start))
        return [_prefix.decode(value) for _, value in rows]

    @property
    def empty(self) -> bool:
        """Whether there is nothing at all to care for."""
        return not any(
            self._store.scan("prefixes", kind, form.after(kind), limit=1)
            for kind in (PREFIX, ERASE)
        )

    def erasures(self) -> list[tuple[bytes, Erasure]]:
        """What is left to be erased, with its keys."""
        rows = self._store.scan("prefixes", ERASE, form.after(ERASE))
        return [(key, _erasure.decode(value)) for key, value in rows]

    def lineage(self, rids: Iterable[Source]) -> list[Source]:
        """These records and all that they were made from, as far as that is still there.

        Raises EINVAL for more than ``DEEP``.
        """
        found: dict[Source, None] = {}
        waiting = deque(rids)
        while waiting:
            one = waiting.popleft()
            if one in found:
                continue
            found[one] = None
            if len(found) > DEEP:
                raise EINVAL(f"the prefix would rest on more than {DEEP} records")
            stack = self._view(one.space).stack
            there = stack.find(pack(one.rid))
            for rid in ties(None if there is None else form.decode(there.value)):
                if stack.find(rid) is not None:
                    waiting.append(Source(unpack(rid), one.space))
        return list(found)

    # --- changing

    async def add(self, new: Prefix) -> Prefix:
        """Add a prefix; one without a handle is given one.

        Raises EEXIST; ENOENT where a source is gone, EAGAIN.
        """

        def build(draft: Draft) -> Prefix:
            made = new if new.handle else self._named(draft, new)
            if draft.get("prefixes", _key(*made.place)) is not None:
                raise EEXIST(f"there is a pinned prefix {made.handle!r} already")
            self._link(draft, made, ())
            draft.put("prefixes", _key(*made.place), _encode(made))
            return made

        return await self._commit(build)

    async def edit(
        self,
        old: Prefix,
        change: Callable[[Prefix], Prefix],
        erase: Callable[[Prefix, Prefix], Erasure | None] = lambda _before, _after: None,
    ) -> Prefix | None:
        """Change a prefix; None where it is gone. ``erase`` says what goes with the change.

        Raises ENOENT where a source is gone, EAGAIN.
        """

        def build(draft: Draft) -> Prefix | None:
            row = draft.get("prefixes", _key(*old.place))
            before = None if row is None else _prefix.decode(row)
            if row is None or before is None or before.created != old.created:
                return None
            after = change(_prefix.decode(row))
            if after.sources != before.sources:
                self._link(draft, after, before.sources)
            if (erasure := erase(before, after)) is not None:
                _erase(draft, erasure)
            draft.put("prefixes", _key(*after.place), _encode(after))
            return after

        return await self._commit(build)

    async def remove(self, old: Prefix) -> bool:
        """Remove a prefix, leaving an erasure; False where it is gone already. Raises EAGAIN."""

        def build(draft: Draft) -> bool:
            row = draft.get("prefixes", _key(*old.place))
            there = None if row is None else _prefix.decode(row)
            if there is None or there.created != old.created:
                return False
            _remove(draft, there)
            return True

        return await self._commit(build)

    async def replace(self, aside: Prefix) -> Prefix | None:
        """Give one that is aside its handle, removing the one that has it, in one batch.

        None where it is gone itself, or stale. Raises ENOENT where a source is gone, EAGAIN.
        """

        def build(draft: Draft) -> Prefix | None:
            row = draft.get("prefixes", _key(*aside.place))
            new = None if row is None else _prefix.decode(row)
            if new is None or new.stale or new.created != aside.created:
                return None
            made = msgspec.structs.replace(new, handle=new.name)
            there = draft.get("prefixes", _key(*made.place))
            if there is not None:
                _remove(draft, _prefix.decode(there))
            for rid in {source.rid for source in new.sources}:
                _relist(draft, pack(rid), new.place, listed=False)
            draft.delete("prefixes", _key(*new.place))
            self._link(draft, made, ())
            draft.put("prefixes", _key(*made.place), _encode(made))
            return made

        return await self._commit(build)

    async def erase(self, erasure: Erasure) -> None:
        """Have blocks erased that no prefix names. Raises EAGAIN."""
        await self._commit(lambda draft: _erase(draft, erasure))

    async def erased(self, key: bytes) -> None:
        """Nothing is left to be done of an erasure. Raises EAGAIN."""
        await self._commit(lambda draft: draft.delete("prefixes", key))

    def _named(self, draft: Draft, new: Prefix) -> Prefix:
        key = NUMBER + form.space_key(new.space)
        last = draft.get("prefixes", key)
        number = int.from_bytes(last or b"", "big")
        while True:
            number += 1
            handle = f"{NAMED[new.made_by]}-{number}"
            if draft.get("prefixes", _key(new.space, handle)) is None:
                break
        draft.put("prefixes", key, number.to_bytes(8, "big"))
        return msgspec.structs.replace(new, handle=handle)

    def _link(self, draft: Draft, prefix: Prefix, before: Sequence[Source]) -> None:
        """Draft the way from the sources to a prefix. Raises ENOENT."""
        for source in prefix.sources:
            found = self._view(source.space).stack.find(pack(source.rid), draft.get)
            if found is None:
                raise ENOENT(
                    f"record {source.rid} is gone from space {source.space}", rid=source.rid
                )
        now = {source.rid for source in prefix.sources}
        for rid in now:
            _relist(draft, pack(rid), prefix.place, listed=True)
        for rid in {source.rid for source in before} - now:
            _relist(draft, pack(rid), prefix.place, listed=False)

    async def _commit(self, build: Callable[[Draft], T]) -> T:
        for _ in range(TRIES):
            draft = Draft(self._store)
            result = build(draft)
            batch = draft.batch(0)
            if not batch.puts and not batch.deletes:
                return result
            try:
                await self._store.commit(batch)
            except Mismatch:
                continue
            return result
        raise EAGAIN("the pinned prefixes change too fast", retry_after=0.05)
