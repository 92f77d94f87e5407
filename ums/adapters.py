"""Versions of adapters: what was trained, on which records, and which one is in use.

                 accept             retire
    training ─┬────────────> live ─────────> retired
              │                ^               │
              │ refuse         └─── restore ───┘
              └────────> refused

    spoil   from all four to stale: a record that it was made from is gone
    drop    from every state to dropped

A version never changes but for its state and its figures; another training is another version.
Of a name one version is live at most. Numbers are not used again, so that ``NAME@VERSION`` and a
digest of the content name the same weights for ever. The weights are files; here is all that is
known of them:

    meta  "lora/version/" space (4) name 0 version (4)           Version
    meta  "lora/name/" space (4) name                            Named
    meta  "lora/source/" rid (16) space (4) name 0 version (4)   empty: it was made from the record
    meta  "lora/given/" space (4) name 0 version (4)             examples that are in no record
    meta  "lora/worn/" space (4) base                            name that all who work there use

A version that is stale or dropped is in no reverse index: nothing of its sources is left in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import trio

from drivers.contracts import Batch
from syscalls.errors import ECONFLICT, EINVAL, ENOENT
from ums.records import SPACE_SIZE, after, space_key
from ums.rid import SIZE, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from drivers.contracts import Clock, Store

State = Literal["training", "refused", "live", "retired", "stale", "dropped"]
Event = Literal["accept", "refuse", "retire", "restore", "spoil", "drop"]

_KEPT: tuple[State, ...] = ("training", "refused", "live", "retired")
MOVES: dict[Event, dict[State, State]] = {
    "accept": {"training": "live"},
    "refuse": {"training": "refused"},
    "retire": {"live": "retired"},
    "restore": {"retired": "live"},
    "spoil": dict.fromkeys(_KEPT, "stale"),
    "drop": dict.fromkeys((*_KEPT, "stale"), "dropped"),
}
"""The table: event, state before, state after. What is not here does not happen."""

VERSION = b"lora/version/"
NAME = b"lora/name/"
SOURCE = b"lora/source/"
GIVEN = b"lora/given/"
WORN = b"lora/worn/"
NUMBER_SIZE = 4
DIGEST_SIZE = 12
"""Hexadecimal digits of the content's digest that are in an identity."""
_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_REF = re.compile(r"(?P<name>[^@]+)(?:@(?P<number>[0-9]{1,9})(?:-(?P<digest>[0-9a-f]+))?)?")


class Version(msgspec.Struct, omit_defaults=True):
    """One version of an adapter."""

    space: int
    name: str
    number: int
    base: str
    """``nano`` or ``model``."""
    fingerprint: str = ""
    """Of the weights of the base that it was trained on."""
    rank: int = 8
    sources: list[str] = []
    """Rids of the records that it was trained on."""
    roots: list[str] = []
    """Those, and all that they were made from in turn: it stands and falls with each."""
    marks: list[bytes] = []
    """Digests of what each of ``sources`` said then; see ``ums.roots``."""
    examples: int = 0
    examples_digest: str = ""
    figures: dict[str, float] = {}
    """What was measured: shares of probes and regression rows, before and after; seconds."""
    digest: str = ""
    """SHA-256 of its files, in hexadecimal; empty before there are any."""
    folder: str = ""
    """Where its files are, below the directory of the adapters."""
    size: int = 0
    """Bytes of its files."""
    state: State = "training"
    why: str = ""
    """Why it was refused, is stale or was dropped."""
    again: bool = False
    """Whether it is to be trained again, without what is gone."""
    order: dict[str, Any] = {}
    """How it was trained: what it takes to train it again."""
    job: str = ""
    by: int = 0
    """APID of who had it trained."""
    created: float = 0.0

    @property
    def identity(self) -> str:
        """``NAME@VERSION-DIGEST``: what the engines know it by."""
        return f"{self.name}@{self.number}-{self.digest[:DIGEST_SIZE]}"

    @property
    def usable(self) -> bool:
        """Whether it may be used by who names it: it has passed, and stands."""
        return self.state in ("live", "retired")

    @property
    def key(self) -> bytes:
        """What tells it from all others, ordered by space, name and number."""
        return _place(self.space, self.name) + self.number.to_bytes(NUMBER_SIZE, "big")


class Named(msgspec.Struct, omit_defaults=True):
    """What is kept of a name, also when all its versions are gone."""

    last: int = 0
    """The highest number that was given out."""
    live: int = 0
    """The number of the version in use; 0 for none."""


class Reference(msgspec.Struct, frozen=True):
    """A name as it is written: with a version, or of whatever is live."""

    name: str
    number: int = 0
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.number}" if self.number else self.name


def reference(text: str) -> Reference:
    """``NAME``, ``NAME@VERSION`` or an identity. Raises EINVAL."""
    match = _REF.fullmatch(text)
    if match is None:
        raise EINVAL(
            f"{text!r} names no adapter", hint="write NAME, or NAME@VERSION for a certain one"
        )
    return Reference(match["name"], int(match["number"] or 0), match["digest"] or "")


def check_name(name: str) -> None:
    """Raises EINVAL for what cannot be the name of an adapter."""
    if _NAME.fullmatch(name) is None:
        raise EINVAL(
            f"{name!r} cannot be the name of an adapter",
            hint="letters, digits, dot, dash and underscore; it begins with a letter or digit",
        )


def step(state: State, event: Event) -> State:
    """The state that an event leads to. Raises ECONFLICT where the table has no such move."""
    new = MOVES[event].get(state)
    if new is None:
        raise ECONFLICT(f"a version that is {state} cannot have the event {event}", state=state)
    return new


class VersionsStatistics(msgspec.Struct, frozen=True):
    """Figures of the table."""

    versions: int
    live: int
    bytes: int
    """Of the files of versions that can still be used."""


class Versions:
    """The table of all versions of all spaces. Every change is one batch."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._turn = trio.Lock()
        """Held while the table is read in order to change it."""

    # --- reading

    def find(self, space: int, ref: Reference) -> Version:
        """The version that a reference means: the live one, or a certain one in any state.

        Raises ENOENT.
        """
        number = ref.number or self.named(space, ref.name).live
        version = self._get(space, ref.name, number) if number else None
        if version is None or (ref.digest and not version.digest.startswith(ref.digest)):
            what = f"adapter {ref}" if ref.number else f"live adapter {ref.name}"
            raise ENOENT(f"there is no {what} in space {space}", hint="`engram lora list`")
        return version

    def named(self, space: int, name: str) -> Named:
        """What is kept of a name; nothing of one that was never used."""
        value = self._store.get("meta", NAME + space_key(space) + name.encode())
        return Named() if value is None else msgspec.msgpack.decode(value, type=Named)

    def all(self, space: int | None = None, name: str | None = None) -> list[Version]:
        """Versions by space, name and number: of all spaces, of one, of one name in it."""
        prefix = VERSION
        if space is not None:
            prefix += space_key(space) if name is None else _place(space, name)
        return [_version(value) for _, value in self._store.scan("meta", prefix, after(prefix))]

    def made_from(self, rid: str) -> list[Version]:
        """The versions that stand and fall with a record."""
        prefix = SOURCE + pack(rid)
        keys = [key[len(prefix) :] for key, _ in self._store.scan("meta", prefix, after(prefix))]
        values = self._store.get_many("meta", [VERSION + key for key in keys]) if keys else []
        return [_version(value) for value in values if value is not None]

    def sources(self) -> Iterator[str]:
        """The records that some version stands and falls with, each once, in order."""
        start, stop = SOURCE, after(SOURCE)
        while first := self._store.scan("meta", start, stop, limit=1):
            packed = first[0][0][len(SOURCE) :][:SIZE]
            yield unpack(packed)
            start = after(SOURCE + packed)

    def worn(self, space: int) -> dict[str, str]:
        """By base the reference that all who work in a space use."""
        prefix = WORN + space_key(space)
        found = self._store.scan("meta", prefix, after(prefix))
        return {key[len(prefix) :].decode(): value.decode() for key, value in found}

    def _get(self, space: int, name: str, number: int) -> Version | None:
        key = VERSION + _place(space, name) + number.to_bytes(NUMBER_SIZE, "big")
        value = self._store.get("meta", key)
        return None if value is None else _version(value)

    # --- changing

    async def begin(
        self, version: Version, given: bytes = b"", instead: Version | None = None
    ) -> Version:
        """Add a version in training; its number is given here.

        ``given`` are the examples that come from no record, encoded. ``instead`` is a stale
        version that need not be trained again now. Raises EINVAL, EIO.
        """
        check_name(version.name)
        async with self._turn:
            named = self.named(version.space, version.name)
            named.last += 1
            version.number, version.state = named.last, "training"
            version.created = self._clock.now()
            version.folder = f"{version.space}/{version.name}/{version.number}"
            version.roots = list(dict.fromkeys([*version.sources, *version.roots]))
            batch = _put(version, Batch(puts=[_named(version, named)]))
            batch.puts += [("meta", key, b"") for key in _bonds(version)]
            if given:
                batch.puts.append(("meta", GIVEN + version.key, given))
            if instead is not None:
                self._settle(instead, batch)
            await self._store.commit(batch)
        return version

    async def settle(self, version: Version) -> None:
        """A stale version is not to be trained again, after all."""
        async with self._turn:
            batch = Batch()
            self._settle(version, batch)
            await self._store.commit(batch)

    def _settle(self, version: Version, batch: Batch) -> None:
        now = self._get(version.space, version.name, version.number)
        if now is not None:
            now.again = False
            _put(now, batch)
        batch.deletes.append(("meta", GIVEN + version.key))

    def given(self, version: Version) -> bytes:
        """The examples of a version that come from no record, encoded; empty for none."""
        return self._store.get("meta", GIVEN + version.key) or b""

    async def accept(self, version: Version) -> Version:
        """Make a version that has been trained the live one; the one before it is retired.

        ``fingerprint``, ``digest``, ``size`` and ``figures`` are taken from ``version``. Raises
        ECONFLICT when it was spoiled or dropped meanwhile, EIO.
        """
        async with self._turn:
            return await self._live(self._take(version), "accept")

    def earlier(self, space: int, name: str, number: int = 0) -> Version:
        """The version to go back to: ``number``, or the newest retired one before the live one.

        Raises ENOENT.
        """
        if not number:
            live = self.named(space, name).live
            number = max(
                (
                    one.number
                    for one in self.all(space, name)
                    if one.state == "retired" and (not live or one.number < live)
                ),
                default=0,
            )
        version = self._get(space, name, number) if number else None
        if version is None:
            raise ENOENT(
                f"adapter {name} has no such version to go back to", hint="`engram lora list`"
            )
        return version

    async def restore(self, version: Version) -> Version:
        """Make a retired version the live one, and the live one retired.

        Raises ECONFLICT (it was refused, is stale or was dropped), EIO.
        """
        async with self._turn:
            now = self._take(version)
            return now if now.state == "live" else await self._live(now, "restore")

    async def _live(self, version: Version, event: Event) -> Version:
        version.state = step(version.state, event)
        named = self.named(version.space, version.name)
        before = self._get(version.space, version.name, named.live) if named.live else None
        named.live = version.number
        batch = _put(version, Batch(puts=[_named(version, named)]))
        if before is not None and before.number != version.number:
            before.state = step(before.state, "retire")
            _put(before, batch)
        await self._store.commit(batch)
        return version

    async def refuse(self, version: Version, why: str) -> Version:
        """Keep the figures of a version that is not to go live. Raises ECONFLICT, EIO."""
        async with self._turn:
            taken = self._take(version)
            taken.state, taken.why = step(taken.state, "refuse"), why
            await self._store.commit(_put(taken, Batch()))
            return taken

    def _take(self, version: Version) -> Version:
        """The version as the table has it, with what its training has found."""
        now = self._get(version.space, version.name, version.number)
        if now is None:
            raise ENOENT(f"there is no version {version.number} of adapter {version.name}")
        now.digest, now.size, now.figures = version.digest, version.size, version.figures
        now.fingerprint = version.fingerprint
        return now

    async def spoil(
        self, which: Callable[[], Sequence[Version]], why: str, *, again: bool = False
    ) -> list[Version]:
        """Mark versions stale that can never be used again; those that this was news for.

        ``which`` is asked in the turn, so that it sees the table that is changed. ``again`` has
        those that were live, or on the way to it, be trained again.
        """
        return await self._end(which, "spoil", why, again=again)

    async def drop(self, which: Callable[[], Sequence[Version]], why: str) -> list[Version]:
        """Drop versions; those that this was news for."""
        return await self._end(which, "drop", why, again=False)

    async def _end(
        self, which: Callable[[], Sequence[Version]], event: Event, why: str, *, again: bool
    ) -> list[Version]:
        """One batch for all: their states, the live ones' names, what their sources say of them."""
        async with self._turn:
            batch, ended = Batch(), []
            nameds: dict[bytes, Named] = {}
            for version in which():
                if version.state not in MOVES[event]:
                    continue
                version.again = again and version.state in ("live", "training")
                version.state, version.why = step(version.state, event), why
                place = _place(version.space, version.name)
                named = nameds.setdefault(place, self.named(version.space, version.name))
                if named.live == version.number:
                    named.live = 0
                    batch.puts.append(_named(version, named))
                batch.deletes += [("meta", key) for key in _bonds(version)]
                if not version.again:
                    batch.deletes.append(("meta", GIVEN + version.key))
                _put(version, batch)
                ended.append(version)
            if ended:
                await self._store.commit(batch)
            return ended

    async def wear(self, space: int, base: str, ref: str | None) -> None:
        """Have all who work in a space use an adapter, or none. Durable."""
        key = WORN + space_key(space) + base.encode()
        batch = (
            Batch(deletes=[("meta", key)])
            if ref is None
            else Batch(puts=[("meta", key, ref.encode())])
        )
        await self._store.commit(batch)

    def statistics(self) -> VersionsStatistics:
        """Figures for ``sys.stats``."""
        known = self.all()
        usable = [one for one in known if one.state in ("refused", "live", "retired")]
        live = sum(one.state == "live" for one in known)
        return VersionsStatistics(len(known), live, sum(one.size for one in usable))


def _place(space: int, name: str) -> bytes:
    return space_key(space) + name.encode() + b"\0"


def _bonds(version: Version) -> list[bytes]:
    return [SOURCE + pack(rid) + version.key for rid in version.roots]


def _put(version: Version, batch: Batch) -> Batch:
    batch.puts.append(("meta", VERSION + version.key, msgspec.msgpack.encode(version)))
    return batch


def _named(version: Version, named: Named) -> tuple[Literal["meta"], bytes, bytes]:
    key = NAME + space_key(version.space) + version.name.encode()
    return "meta", key, msgspec.msgpack.encode(named)


def _version(value: bytes) -> Version:
    return msgspec.msgpack.decode(value, type=Version)


assert SPACE_SIZE == 4  # the keys in the docstring
