"""The life of a record: which states there are, and the only ways from one to another.

    generated ──use──> activated ─┬─ merge ──> merged ───┐
        │                  ^   ^  ├─ archive ─> archived ─┼─ forget, delete, expire ─> forgotten
        └──────────────────│───│──┘      │         │     │                              │
                           │   └─restore─┴─────────┘     │          undo, while it may ─┘
                          unpin                          │
                           └── frozen <──pin── (the two) ┘

``generated`` was written and not used since. ``activated`` has been found or read. What is
``merged`` said the same as another record, its survivor. ``archived`` is compressed and in no
index, and can be had back byte for byte. ``forgotten`` has no content any more. ``frozen`` is
pinned: nothing that runs by itself, and no forget, touches it; only its writer's own words
(update, delete, a time to live) do.

Every change of state asks ``step`` and leaves a ``Fate``: what happened, when, by whom, why.
A fate never holds content, so that what is forgotten is not found there.

    meta  "ums/fate/" space (4) rid (16) number (4)              Fate
    meta  "ums/fated/" space (4) ms (8) rid (16) number (4)      empty: the same by time
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from syscalls.errors import ECONFLICT
from syscalls.shapes import LifeEvent, RecordState
from ums import records as form
from ums.rid import SIZE, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import Store
    from ums.draft import Draft

_LIVE: tuple[RecordState, ...] = ("generated", "activated")
_AWAY: tuple[RecordState, ...] = ("merged", "archived")

MOVES: dict[LifeEvent, dict[RecordState, RecordState]] = {
    "use": {"generated": "activated", "activated": "activated", "frozen": "frozen"},
    "cool": {"generated": "generated", "activated": "activated"},
    "warm": {"generated": "generated", "activated": "activated", "frozen": "frozen"},
    "pin": dict.fromkeys(_LIVE, "frozen"),
    "unpin": {"frozen": "activated"},
    "merge": dict.fromkeys(_LIVE, "merged"),
    "archive": dict.fromkeys(_LIVE, "archived"),
    "restore": dict.fromkeys(_AWAY, "activated"),
    "forget": dict.fromkeys((*_LIVE, *_AWAY), "forgotten"),
    "delete": dict.fromkeys((*_LIVE, *_AWAY, "frozen"), "forgotten"),
    "expire": dict.fromkeys((*_LIVE, *_AWAY, "frozen"), "forgotten"),
}
"""The table: event, state before, state after. What is not here does not happen; ``undo`` is
a move of the table backwards."""

FATE = b"ums/fate/"
FATED = b"ums/fated/"
UNDOABLE: frozenset[LifeEvent] = frozenset({"cool", "pin", "unpin", "merge", "archive", "forget"})


def step(state: RecordState, event: LifeEvent) -> RecordState:
    """The state that an event leads to. Raises ECONFLICT where the table has no such move."""
    after = MOVES.get(event, {}).get(state)
    if after is None:
        pinned = state == "frozen"
        raise ECONFLICT(
            f"a record that is {'pinned' if pinned else state} cannot have the event {event}",
            hint="unpin it first" if pinned else "",
            state=state,
        )
    return after


def allows(state: RecordState, event: LifeEvent) -> bool:
    """Whether ``step`` would return."""
    return state in MOVES.get(event, {})


def shown(state: RecordState, used: bool) -> RecordState:
    """The state as a reader sees it: a use is not written into the record but counted."""
    return step(state, "use") if used and state == "generated" else state


class Fate(msgspec.Struct, array_like=True, gc=False):
    """One change of state, for ever true."""

    at: float
    event: LifeEvent
    before: RecordState
    after: RecordState
    why: str
    """The reason in words; nothing of the content."""
    by: int = 0
    """APID of who asked; 0 is the kernel itself."""
    action: int = 0
    """Number that the changes of one run share."""
    other: str = ""
    """Rid of the survivor of a merge."""
    until: float = 0.0
    """Until when it can be undone; 0 for never."""
    number: int = 0
    """Place among the fates of its record, from 1."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Fate)


def record(draft: Draft, space: int, packed: bytes, fate: Fate) -> None:
    """Draft a fate with the change that it tells of; sets its ``number``."""
    prefix = FATE + form.space_key(space) + packed
    last = draft.last("meta", prefix)
    fate.number = 1 if last is None else int.from_bytes(last[-4:], "big") + 1
    number = fate.number.to_bytes(4, "big")
    draft.put("meta", prefix + number, _encoder.encode(fate))
    draft.put("meta", _moment(space, fate.at) + packed + number, b"")


def fates(store: Store, space: int, packed: bytes) -> list[Fate]:
    """What happened to a record in a space, oldest first."""
    prefix = FATE + form.space_key(space) + packed
    return [_decoder.decode(value) for _, value in store.scan("meta", prefix, form.after(prefix))]


def lately(
    store: Store, space: int, *, since: float = 0.0, limit: int = 0
) -> list[tuple[str, Fate]]:
    """Rid and fate of what happened in a space, newest first."""
    start, stop = _moment(space, since), form.after(FATED + form.space_key(space))
    keys = [key for key, _ in store.scan("meta", start, stop, limit=limit, reverse=True)]
    places = [key[-SIZE - 4 :] for key in keys]
    prefix = FATE + form.space_key(space)
    values = store.get_many("meta", [prefix + place for place in places])
    return [
        (unpack(place[:SIZE]), _decoder.decode(value))
        for place, value in zip(places, values, strict=True)
        if value is not None
    ]


def stale_keys(
    store: Store, space: int, before: float, keep: int, limit: int
) -> list[tuple[Literal["meta"], bytes]]:
    """Keys of fates to delete: those older than ``before``, and of the others over ``keep``."""
    prefix = FATED + form.space_key(space)
    keys = [key for key, _ in store.scan("meta", prefix, form.after(prefix), limit=keep + limit)]
    edge = _moment(space, before)
    surplus = max(0, len(keys) - keep)
    old = [key for place, key in enumerate(keys) if place < surplus or key < edge][:limit]
    own = [FATE + form.space_key(space) + key[-SIZE - 4 :] for key in old]
    return [("meta", key) for key in (*old, *own)]


def _moment(space: int, at: float) -> bytes:
    return FATED + form.space_key(space) + max(0, int(at * 1000)).to_bytes(8, "big")


# --- in words

_SAID: dict[LifeEvent, str] = {
    "use": "used",
    "cool": "made cold: found by its words only",
    "warm": "made warm again: found by its meaning too",
    "pin": "pinned",
    "unpin": "unpinned",
    "merge": "merged into {other}, which says the same",
    "archive": "archived: compressed, out of the indexes",
    "restore": "restored",
    "forget": "forgotten: its content was erased",
    "delete": "deleted",
    "expire": "erased at the end of its time to live",
    "undo": "put back to {after}",
}


def words(fate: Fate) -> str:
    """One fate as a person would say it, without the time."""
    said = _SAID[fate.event].format(other=fate.other, after=fate.after)
    who = f" by process {fate.by}" if fate.by else ""
    why = f", because {fate.why}" if fate.why else ""
    return f"{said}{who}{why}"


def undoable(told: Sequence[Fate], now: float) -> Fate | None:
    """The last of a record's fates, where that can still be undone."""
    if not told:
        return None
    last = told[-1]
    return last if last.event in UNDOABLE and last.until > now else None
