"""What was made from what: the way back from a source to all that rests on it.

A record names its sources, and the evidence of a fact the very words. Here is the reverse:

    bucket  key                                              value
    meta    "ums/derived/" layer (4) source (16) rid (16)    Bond, or empty: covered
    meta    "ums/source/" layer (4) source (16)              rid that was made from it last
    meta    "ums/cascade/" space (4) phase (1) rid (16)      why, in words

A bond holds a digest of what the source said when the record was made, so that whether the
record still stands is a question about the present state, whatever happened in between. Bonds
are written in the batch of the record. The second key guards them: who changes a source expects
it, and who derives from it writes it, so that of the two one comes later and sees the other.

A change of a source that something was made from leaves a cascade key in its own batch; what
follows from it is the work of ``ums.cascade``. In an upper layer an empty bond covers one that
a lower layer has.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from syscalls.errors import EINVAL
from ums import records as form
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syscalls.records import Evidence
    from ums.draft import Draft
    from ums.layers import Stack
    from ums.records import Stored
    from ums.view import Guard

DERIVED = b"ums/derived/"
SOURCE = b"ums/source/"
CASCADE = b"ums/cascade/"
SPREAD, MEND = b"\0", b"\1"
"""The phases of a cascade: to mark what rests on a record; to put a marked record right."""
TEXT, MERGE = b"t", b"m"
"""Kinds of bonds: made from what the source says; the source was merged into the record."""
DEEP = 10_000
"""Records that are looked at for a circle; a longer line is refused."""
NEEDS_EVIDENCE = frozenset({"model", "recalled"})
"""The taint of facts that are somebody's conclusion: they are refused without evidence."""


def digest(content: str) -> bytes:
    """8 bytes that tell texts apart."""
    return blake2b(content.encode(), digest_size=8).digest()


def ties(stored: Stored | None) -> list[bytes]:
    """The records that one was made from, packed: its sources and where its evidence stands."""
    if stored is None:
        return []
    return list(dict.fromkeys(pack(rid) for rid in (*stored.sources, *_quoted(stored))))


def _quoted(stored: Stored) -> Iterable[str]:
    return (evidence.rid for evidence in stored.evidence)


def cascade_key(space: int, phase: bytes, rid: bytes = b"") -> bytes:
    """Where it is noted that a cascade has something to do."""
    return CASCADE + form.space_key(space) + phase + rid


class Lineage:
    """The bonds that one draft sees and changes, through the layers of a space."""

    def __init__(self, draft: Draft, stack: Stack) -> None:
        self._draft = draft
        self._stack = stack
        self._prefixes = [form.space_key(layer) for layer in stack.layers]

    # --- reading

    def has_made(self, source: bytes) -> bool:
        """Whether something was ever made from a record; expected to stay so."""
        return any(
            self._draft.get("meta", SOURCE + prefix + source) is not None
            for prefix in self._prefixes
        )

    def made_from(self, source: bytes) -> list[bytes]:
        """The records that were made from one, oldest first."""
        found: dict[bytes, bytes] = {}
        for prefix in self._prefixes:
            for rid, value in self._draft.members("meta", DERIVED + prefix + source).items():
                found.setdefault(rid, value)
        return sorted(rid for rid, value in found.items() if value)

    def bond(self, source: bytes, rid: bytes) -> bytes:
        """What ties a record to its source; empty for nothing."""
        for prefix in self._prefixes:
            value = self._draft.peek("meta", DERIVED + prefix + source + rid)
            if value is not None:
                return value
        return b""

    def source(self, rid: bytes) -> Stored | None:
        """A record as the draft has it; expected to stay."""
        found = self._stack.find(rid, self._draft.get)
        return None if found is None else form.decode(found.value)

    # --- changing

    def tie(self, source: bytes, rid: bytes, value: bytes) -> None:
        """Tie a record to a source that is there."""
        top = self._prefixes[0]
        self._draft.put_member("meta", DERIVED + top + source, rid, value)
        self._draft.put("meta", SOURCE + top + source, rid)

    def untie(self, source: bytes, rid: bytes) -> None:
        """Take a bond away; where a lower layer may have it, by an empty one."""
        top = self._prefixes[0]
        born_here = form.born(rid) == top
        self._draft.put_member("meta", DERIVED + top + source, rid, None if born_here else b"")

    def change(
        self, rid: bytes, old: Stored | None, new: Stored | None, guard: Guard | None
    ) -> str:
        """Follow a record that has come (no ``old``), changed or gone (no ``new``).

        Returns why it is stale from the beginning, where it was made from what is; or what
        was so before, where its sources are the same. Raises EINVAL for evidence that does
        not stand where it says, and for a circle.
        """
        before, after = ties(old), ties(new)
        for source in before:
            if source not in after or new is None:
                self.untie(source, rid)
        if new is None:
            return ""
        if old is not None and before == after and _says(old) == _says(new):
            return new.stale
        if old is None or old.evidence != new.evidence or old.fact != new.fact:
            self._vouch(rid, new, guard)
        self._refuse_circle(rid, [source for source in after if source not in before])
        why = ""
        for source in after:
            stored = self.source(source)
            if stored is not None:
                self.tie(source, rid, TEXT + digest(stored.content))
                why = why or ailing(unpack(source), stored)
        return why

    def resume(self, rid: bytes, stored: Stored) -> None:
        """Tie a record that was gone, and is back, to those of its sources that are there."""
        for source in ties(stored):
            there = self.source(source)
            if there is not None:
                self.tie(source, rid, TEXT + digest(there.content))

    def merge(self, survivor: bytes, rids: Iterable[bytes]) -> None:
        """Tie a record to those that were merged into it; it stands without them, too."""
        for rid in rids:
            if survivor not in ties(self.source(rid)) and not self.bond(rid, survivor):
                self.tie(rid, survivor, MERGE)

    def part(self, survivor: bytes, rid: bytes) -> None:
        """Undo ``merge`` for one record."""
        if self.bond(rid, survivor)[:1] == MERGE:
            self.untie(rid, survivor)

    def _vouch(self, rid: bytes, new: Stored, guard: Guard | None) -> None:
        """Raise EINVAL where the evidence of a fact is wanting."""
        if new.fact is not None and not new.evidence and new.taint in NEEDS_EVIDENCE:
            raise EINVAL(
                f"a fact that is a {new.taint}'s conclusion needs evidence",
                hint="give the record and the words in it that say so",
            )
        for evidence in new.evidence:
            stored = None if pack(evidence.rid) == rid else self.source(pack(evidence.rid))
            if guard is not None:
                guard(evidence.rid, stored or form.NOTHING)
            why = misquoted(evidence, stored)
            if why:
                raise EINVAL(
                    f"the evidence {evidence.quote[:80]!r} ({evidence.start} to {evidence.stop} "
                    f"of record {evidence.rid}) {why}",
                    rid=evidence.rid,
                    start=evidence.start,
                    stop=evidence.stop,
                )

    def _refuse_circle(self, rid: bytes, sources: list[bytes]) -> None:
        """Raise EINVAL where one of ``sources`` was itself made from ``rid``."""
        seen: set[bytes] = set()
        waiting = list(sources)
        while waiting:
            one = waiting.pop()
            if one == rid:
                raise EINVAL(f"record {unpack(rid)} would be made from itself")
            if one in seen:
                continue
            seen.add(one)
            if len(seen) > DEEP:
                raise EINVAL(f"record {unpack(rid)} would rest on more than {DEEP} others")
            waiting += ties(self.source(one))


def _says(stored: Stored) -> tuple[object, ...]:
    return stored.content, stored.fact, stored.evidence


def ailing(rid: str, stored: Stored) -> str:
    """Why nothing should rest on a record that is there; empty where it may."""
    if stored.stale:
        return f"its source {rid} is stale itself: {stored.stale}"[:300]
    if stored.superseded_by:
        return f"its source {rid} was superseded by {stored.superseded_by}"
    return ""


def misquoted(evidence: Evidence, stored: Stored | None) -> str:
    """What is wrong with a piece of evidence; empty when it stands."""
    if stored is None:
        return "is of a record that is not in this space"
    if stored.content[evidence.start : evidence.stop] != evidence.quote:
        return "does not stand there"
    if not evidence.quote.strip():
        return "says nothing"
    if stored.taint == "recalled":
        return "was itself recalled"
    if any(start < evidence.stop and evidence.start < stop for start, stop in stored.echoes):
        return "was itself recalled"
    return ""


def _changed(old: Stored | None, new: Stored | None) -> str:
    """What happened to a record that concerns those who rest on it; empty for nothing."""
    if new is None:
        return "is gone"
    if old is None:
        return ""
    if (old.content, old.fact) != (new.content, new.fact):
        return "was corrected"
    if old.superseded_by != new.superseded_by:
        return (
            f"was superseded by {new.superseded_by}" if new.superseded_by else "is in force again"
        )
    if old.stale != new.stale:
        return "is stale itself" if new.stale else "is sound again"
    return ""


def relate(draft: Draft, stack: Stack, space: int, guard: Guard | None) -> None:
    """Draft what the changes of a draft do to what was made from the records, or they from.

    Raises EINVAL: see ``Lineage.change``.
    """
    line = Lineage(draft, stack)
    for rid, (old, new) in draft.turned.items():
        if new is not None and rid in draft.returned:
            line.resume(rid, new)
            draft.put("meta", cascade_key(space, MEND, rid), b"it has come back")
        else:
            why = line.change(rid, old, new, guard)
            if new is not None and why != new.stale:
                _restate(draft, stack, rid, why)
        what = "is there again" if rid in draft.returned else _changed(old, new)
        if what and line.has_made(rid):
            note = f"its source {unpack(rid)} {what}"
            draft.put("meta", cascade_key(space, SPREAD, rid), note.encode())
    draft.turned.clear()
    draft.returned.clear()


def _restate(draft: Draft, stack: Stack, rid: bytes, why: str) -> None:
    """Have a record that the draft writes anyway be stale, or not, from the beginning."""
    found = stack.find(rid, draft.get)
    assert found is not None
    stored = form.decode(found.value)
    stored.stale = why
    value = form.encode(stored, form.tag_of(found.value))
    change = next(change for change in draft.changes if change.rid == rid)
    change.size += len(value) - len(found.value)
    draft.put("records", found.key, value)
