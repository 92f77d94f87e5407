"""A space that keeps what was made from its records true: one step of a cascade at a time.

    source changes ──(same batch)──> to spread
    spread   what was made from it is marked stale, and is in turn to spread and to be mended;
             breadth first, until nothing is left to mark
    mend     sources before what was made from them: what still has support is sound again, on
             less evidence; what has none is withdrawn; the rest stays, and says why

Each step is one batch, with the key that says it was to be done: a crash in between loses and
repeats nothing. What mending finds depends on what is there then, and on nothing else, so that
the order in which sources changed makes no difference.

    a source is...        gone        corrected         superseded, or stale itself
    evidence in it        is lost     stands, if its    counts no longer, but is kept
                                      sentence does
    a record without      is made     is made again,    stale for as long
    evidence              again, or   or stays stale
                          withdrawn
                          with the
                          last one

A pinned record is neither withdrawn nor made again: it is only marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from syscalls.records import Evidence
from ums import lifecycle
from ums import records as form
from ums.erasure import blank
from ums.extract import around, unfit
from ums.learning import LearningSpace
from ums.lifecycle import Fate
from ums.lineage import MEND, MERGE, SPREAD, TEXT, Lineage, ailing, cascade_key, digest, ties
from ums.records import DELETE, NONE, Change, Stored
from ums.rid import SIZE, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syscalls.records import Record
    from ums.draft import Draft
    from ums.layers import Found

    Remake = Callable[[Record, Sequence[Record]], "str | None"]
    """New content of a record from those of its sources that are left; None: nobody can."""

WIDE = 64
"""Records that one step marks."""
DEEP = 32
"""Records that one step mends."""
WITHDRAWN_BY = "mem.withdraw"
REMADE_BY = "mem.rederive"


class Verdict(msgspec.Struct):
    """What is to become of a record whose sources have changed."""

    stale: str = ""
    """Why it is stale; empty when it is sound."""
    withdraw: bool = False
    remake: bool = False
    evidence: list[Evidence] = []
    sources: list[str] = []
    bonds: dict[bytes, bytes] = {}
    """Those to be renewed (empty: to be taken away)."""
    erased: bool = False
    """Whether a source is gone for good, so that what it said must not stay in old versions."""


class _Support(msgspec.Struct):
    """How one source is."""

    rid: str
    stored: Stored | None
    bond: bytes
    why: str
    """What is the matter with it; empty when nothing is."""

    @property
    def changed(self) -> bool:
        """Whether it says something else than when the record was made."""
        return (
            self.stored is not None
            and self.bond[:1] == TEXT
            and self.bond[1:] != digest(self.stored.content)
        )


class DerivedSpace(LearningSpace):
    """A space with the steps of a cascade."""

    def troubled(self) -> bool:
        """Whether a cascade has something to do."""
        prefix = cascade_key(self.number, b"")
        return bool(self._store.scan("meta", prefix, form.after(prefix), limit=1))

    def _first(self, phase: bytes, limit: int) -> list[bytes]:
        prefix = cascade_key(self.number, phase)
        keys = self._store.scan("meta", prefix, form.after(prefix), limit=limit)
        return [key[-SIZE:] for key, _ in keys]

    # --- spreading

    async def spread(self) -> int:
        """Mark what was made from some changed records; how many, -1 when there are none."""
        rids = self._first(SPREAD, WIDE)
        if not rids:
            return -1

        def build(draft: Draft) -> int:
            marked = 0
            for rid in rids:
                marked += self._spread(draft, rid, WIDE - marked)
                if marked >= WIDE:
                    break
            return marked

        return await self._mutate(build)

    def _spread(self, draft: Draft, rid: bytes, most: int) -> int:
        """Draft the marks of what was made from one record; how many."""
        place = cascade_key(self.number, SPREAD, rid)
        why = draft.get("meta", place)
        if why is None:
            return 0
        line = Lineage(draft, self.stack)
        marked = 0
        for made in line.made_from(rid):
            to_mend = cascade_key(self.number, MEND, made)
            if draft.get("meta", to_mend) is not None:
                continue
            if marked == most:
                return marked
            draft.put("meta", to_mend, why)
            found = self.stack.find(made, draft.get)
            if found is None:
                continue
            marked += 1
            stored = form.decode(found.value)
            if not stored.stale:
                stored.stale = why.decode()
                self._restore_value(draft, found, stored)
            if line.has_made(made):
                draft.put("meta", cascade_key(self.number, SPREAD, made), why)
        draft.delete("meta", place)
        return marked

    def _restore_value(self, draft: Draft, found: Found, stored: Stored) -> None:
        """Draft another value of the same version, packed where it was."""
        if not form.is_packed(found.value):
            self._rewrite(draft, found, stored)
            return
        packed, tag = form.packed_in(found.key), form.tag_of(found.value)
        state = stored.state
        stored.state = form.decode(form.unpack_value(found.value)).state
        value = form.pack_value(form.encode(stored, tag), state)
        draft.put("records", self._prefix + packed, value)
        draft.changes.append(Change(DELETE, packed, stored.version, tag, NONE, 0))

    # --- mending

    async def mend(self, remake: Remake) -> int:
        """Put some marked records right; how many, 0 when there are none.

        They are such whose sources are not to be mended themselves.
        """
        rids = self._ripe()
        if not rids:
            return 0

        def build(draft: Draft) -> int:
            for rid in rids:
                place = cascade_key(self.number, MEND, rid)
                if draft.get("meta", place) is not None:
                    draft.delete("meta", place)
                    found = self.stack.find(rid, draft.get)
                    if found is not None:
                        self._mend(draft, found, remake)
            return len(rids)

        return await self._mutate(build)

    def _ripe(self) -> list[bytes]:
        rids = self._first(MEND, DEEP)
        ripe = [rid for rid in rids if not self._above(rid)]
        if ripe or not rids:
            return ripe
        rid, seen = rids[0], {rids[0]}
        while above := [one for one in self._above(rid) if one not in seen]:
            rid = above[0]
            seen.add(rid)
        return [rid]

    def _above(self, rid: bytes) -> list[bytes]:
        """The sources of a record that are to be mended before it."""
        found = self.stack.find(rid)
        sources = [] if found is None else ties(form.decode(found.value))
        keys = [cascade_key(self.number, MEND, one) for one in sources]
        waiting = self._store.get_many("meta", keys) if keys else []
        return [one for one, why in zip(sources, waiting, strict=True) if why is not None]

    def _mend(self, draft: Draft, found: Found, remake: Remake) -> None:
        packed = form.packed_in(found.key)
        old = form.decode(found.value)
        line = Lineage(draft, self.stack)
        verdict = self._judge(line, packed, old)
        pinned = old.state == "frozen"
        if verdict.withdraw and not pinned:
            self._withdraw(draft, found, old, verdict.stale)
            return
        if verdict.remake and not pinned and self._remake(draft, found, old, verdict, remake):
            return
        if not pinned and not verdict.remake:
            for source, bond in verdict.bonds.items():
                if bond:
                    line.tie(source, packed, bond)
                else:
                    line.untie(source, packed)
        new = form.decode(found.value)
        new.stale = verdict.stale
        if not pinned and not verdict.remake:
            new.evidence, new.sources = verdict.evidence, verdict.sources
        if new != old:
            self._restore_value(draft, found, new)
        if old.stale and not new.stale:
            # Who was made from it meanwhile saw it stale.
            for made in line.made_from(packed):
                place = cascade_key(self.number, MEND, made)
                if draft.get("meta", place) is None:
                    draft.put("meta", place, b"its source is sound again")

    def _withdraw(self, draft: Draft, found: Found, old: Stored, why: str) -> None:
        before = lifecycle.shown(old.state, used=False)
        after = lifecycle.step(before, "delete")
        fate = Fate(self._clock.now(), "delete", before, after, f"nothing supports it: {why}")
        self._erase(draft, found, old, 0, WITHDRAWN_BY, fate)

    def _remake(
        self, draft: Draft, found: Found, old: Stored, verdict: Verdict, remake: Remake
    ) -> bool:
        """Draft the record made again from what is left; False where nobody can."""
        left = []
        for rid in verdict.sources:
            there = self.stack.find(pack(rid), draft.get)
            if there is not None:
                stored = form.decode(there.value)
                left.append(form.to_record(self.number, rid, form.tag_of(there.value), stored))
        packed, tag = form.packed_in(found.key), form.tag_of(found.value)
        content = None
        if left and not form.is_packed(found.value):
            content = remake(form.to_record(self.number, unpack(packed), tag, old), left)
        if not content:
            return False
        new = form.decode(found.value)
        new.content, new.sources, new.stale = content, verdict.sources, ""
        new.updated, new.writer, new.call, new.idempotency = self._clock.now(), 0, REMADE_BY, ""
        self._revise(draft, found, new, tag)
        if verdict.erased:
            key = self._prefix + packed
            for version in range(1, new.version):
                place = form.version_key(key, version)
                past = draft.peek("versions", place)
                if past is not None:
                    blank(draft, place, past)
        return True

    # --- judging

    def _judge(self, line: Lineage, packed: bytes, old: Stored) -> Verdict:
        """What is to become of a record; from what is there now."""
        supports = {unpack(rid): self._support(line, rid, packed) for rid in ties(old)}
        if old.evidence:
            return self._by_evidence(old, supports)
        return _by_sources(old, supports)

    def _support(self, line: Lineage, rid: bytes, packed: bytes) -> _Support:
        name = unpack(rid)
        bond = line.bond(rid, packed)
        stored = line.source(rid)
        if stored is not None and stored.expired(self._clock.now()):
            stored = None
        if stored is None:
            return _Support(name, None, bond, f"its source {name} is gone" if bond else "")
        return _Support(name, stored, bond, ailing(name, stored))

    def _by_evidence(self, old: Stored, supports: dict[str, _Support]) -> Verdict:
        verdict = Verdict()
        sound, why = False, ""
        for evidence in old.evidence:
            support = supports[evidence.rid]
            stands = self._relocated(evidence, support)
            if stands is None:
                what = "is gone" if support.stored is None else "was corrected"
                why = why or f"its source {evidence.rid} {what}"
                continue
            verdict.evidence.append(stands)
            sound = sound or not support.why
        kept = {evidence.rid for evidence in verdict.evidence}
        quoted = {evidence.rid for evidence in old.evidence}
        for rid, support in supports.items():
            if rid in quoted and rid not in kept:
                verdict.bonds[pack(rid)] = b""
            elif support.changed and support.stored is not None:
                verdict.bonds[pack(rid)] = TEXT + digest(support.stored.content)
            if rid in old.sources and (rid in kept or rid not in quoted):
                verdict.sources.append(rid)
        doubts = [one.why for rid, one in supports.items() if rid in kept and one.why]
        verdict.withdraw = not verdict.evidence
        verdict.stale = "" if sound else (doubts[0] if verdict.evidence and doubts else why)
        return verdict

    def _relocated(self, evidence: Evidence, support: _Support) -> Evidence | None:
        """The evidence as it stands in its source now; None where it does not."""
        if support.stored is None:
            return None
        text = support.stored.content
        if not support.changed:
            stands = text[evidence.start : evidence.stop] == evidence.quote
            return evidence if stands else None
        sentence, offset = evidence.quote, 0
        was_fit = True
        for _, past in self.versions(support.rid):
            if digest(past.content) == support.bond[1:]:
                start, stop = around(past.content, evidence.start, evidence.stop)
                sentence, offset = past.content[start:stop], evidence.start - start
                was_fit = not unfit(past.content, evidence.start, evidence.stop)
        at = text.find(sentence)
        while at >= 0:
            whole = around(text, at, at + len(sentence)) == (at, at + len(sentence))
            start, stop = at + offset, at + offset + len(evidence.quote)
            if whole and not (was_fit and unfit(text, start, stop)):
                return msgspec.structs.replace(evidence, start=start, stop=stop)
            at = text.find(sentence, at + 1)
        return None


def _by_sources(old: Stored, supports: dict[str, _Support]) -> Verdict:
    """Of a record without evidence, which is trusted as far as what it was made from."""
    verdict = Verdict(evidence=old.evidence)
    gone = [one for one in supports.values() if one.stored is None and one.bond]
    merged = [one for one in gone if one.bond[:1] == MERGE]
    lost = [one for one in gone if one.bond[:1] != MERGE]
    changed = [one for one in supports.values() if one.changed]
    for one in merged:
        verdict.bonds[pack(one.rid)] = b""
    dropped = {one.rid for one in gone}
    verdict.sources = [rid for rid in old.sources if rid not in dropped]
    doubts = [one.why for one in supports.values() if one.why and one.stored is not None]
    if not lost and not changed:
        verdict.stale = doubts[0] if doubts else ""
        return verdict
    verdict.erased = bool(lost)
    verdict.stale = lost[0].why if lost else f"its source {changed[0].rid} was corrected"
    verdict.withdraw = bool(lost) and len(dropped) == len(supports)
    verdict.remake = not verdict.withdraw
    return verdict
