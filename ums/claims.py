"""The claims of a space in the store: found by subject and relation, settled with each change.

    bucket  key                                                        value
    meta    "ums/fact/" layer (4) subject (8) relation (8) rid (16)    Claim, or empty: covered
    meta    "ums/alias/" layer (4) entity (8) rid (16)                 the other name, or empty
    meta    "ums/slot/" layer (4) subject (8) relation (8)             rid that changed it last
    meta    "ums/slot/" layer (4) entity (8)                           the same, of its names

Entities and relations are in the keys as 8 bytes of a hash. They are written in the batch of
the record that they come from. A slot's guard is read by whoever settles it, and written, so
that two who claim about one thing at the same time meet. In an upper layer an empty value
covers what a lower one says under the same rid.
"""

from __future__ import annotations

from math import inf, isnan
from typing import TYPE_CHECKING

import msgspec

from syscalls.errors import EINVAL
from ums import records as form
from ums.facts import (
    ALIAS,
    Claim,
    Stretch,
    digest,
    entity_key,
    is_functional,
    relation_key,
    timeline,
)
from ums.moment import begins
from ums.records import SPACE_SIZE
from ums.rid import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from syscalls.records import Fact
    from ums.draft import Draft
    from ums.records import Stored

FACT = b"ums/fact/"
NAMES = b"ums/alias/"
SLOT = b"ums/slot/"
MOST_NAMES = 64
"""Names of one entity that are followed."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Claim)


class Outcome(msgspec.Struct):
    """What settling found of one record: how it has to read."""

    rid: bytes
    stretch: Stretch
    supersedes: bytes


class Claims:
    """The claims that one draft sees and changes, through the layers of a space."""

    def __init__(self, draft: Draft, layers: Sequence[int]) -> None:
        self._draft = draft
        self._prefixes = [form.space_key(layer) for layer in layers]
        self._top = self._prefixes[0]

    # --- changing

    def change(self, rid: bytes, old: Stored | None, new: Stored | None) -> None:
        """Note that a record has come (no ``old``), changed or gone (no ``new``)."""
        before = None
        if old is not None and old.fact is not None:
            slot = self._touch(old.fact)
            before = self._load(slot, rid)
            self._cover(FACT, slot, rid)
            if relation_key(old.fact.relation) == ALIAS:
                self._unname(rid, old.fact)
        if new is not None and new.fact is not None:
            self._enter(rid, old, new, new.fact, before)
            if relation_key(new.fact.relation) == ALIAS:
                self._name(rid, new.fact)

    def _touch(self, fact: Fact) -> bytes:
        slot = _slot(fact)
        self._draft.touched[slot] = entity_key(fact.subject)
        return slot

    def _enter(
        self, rid: bytes, old: Stored | None, new: Stored, fact: Fact, before: Claim | None
    ) -> None:
        slot = self._touch(fact)
        start = begins(new)
        stop = inf if new.valid_to is None else new.valid_to
        if isnan(start) or isnan(stop):
            raise EINVAL("valid_from and valid_to are times: not a number is none")
        known = new.updated
        if before is not None and old is not None:
            # What settling closed is not what was claimed.
            if new.valid_from == old.valid_from:
                start = before.start
            if new.valid_to == old.valid_to:
                stop = before.stop
            if (start, stop) == (before.start, before.stop) and old.fact == fact:
                known = before.known
        claim = Claim(
            start,
            stop,
            known,
            entity_key(fact.subject),
            entity_key(fact.object),
            is_functional(fact),
            new.expires,
            inf if new.valid_to is None else new.valid_to,
            new.gaps,
            _packed(new.superseded_by),
            _packed(new.supersedes),
        )
        self._save(slot, rid, claim)

    def _save(self, slot: bytes, rid: bytes, claim: Claim) -> None:
        self._draft.put_member("meta", FACT + self._top + slot, rid, _encoder.encode(claim))

    def _load(self, slot: bytes, rid: bytes) -> Claim | None:
        for prefix in self._prefixes:
            value = self._draft.peek("meta", FACT + prefix + slot + rid)
            if value is not None:
                return _decoder.decode(value) if value else None
        return None

    def told(self, rid: bytes, fact: Fact) -> tuple[float, float, float] | None:
        """Start, stop and time of what a record claimed, not what of it is in force."""
        claim = self._load(_slot(fact), rid)
        return None if claim is None else (claim.start, claim.stop, claim.known)

    def retell(self, rid: bytes, fact: Fact, told: tuple[float, float, float]) -> None:
        """Have a record claim what ``told`` said of it elsewhere."""
        slot = _slot(fact)
        claim = self._load(slot, rid)
        if claim is not None:
            claim.start, claim.stop, claim.known = told
            self._save(slot, rid, claim)

    def _cover(self, kind: bytes, slot: bytes, rid: bytes) -> None:
        """Take an entry away; where a lower layer may have it, by an empty one."""
        born_here = form.born(rid) == self._top
        self._draft.put_member("meta", kind + self._top + slot, rid, None if born_here else b"")

    def _guard(self, slot: bytes) -> bytes | None:
        """What guards a slot, in the topmost layer that has one; expected to stay."""
        for prefix in self._prefixes:
            value = self._draft.get("meta", SLOT + prefix + slot)
            if value is not None:
                return value
        return None

    # --- names

    def _name(self, rid: bytes, fact: Fact) -> None:
        one, two = entity_key(fact.subject), entity_key(fact.object)
        if one == two:
            return
        for key, other in ((one, two), (two, one)):
            place = NAMES + self._top + digest(key)
            self._draft.put_member("meta", place, rid, other.encode())
            self._draft.put("meta", SLOT + self._top + digest(key), rid)
        self._touch_all(self.names(one))

    def _unname(self, rid: bytes, fact: Fact) -> None:
        one, two = entity_key(fact.subject), entity_key(fact.object)
        self._touch_all(self.names(one))
        for key in (one, two):
            self._cover(NAMES, digest(key), rid)
            self._draft.put("meta", SLOT + self._top + digest(key), rid)

    def names(self, key: str) -> list[str]:
        """The keys of all names of an entity, its own first; in order of distance."""
        found = {key: None}
        for name in _in_turn(found):
            mark = digest(name)
            self._guard(mark)
            for _, value in sorted(self._entries(NAMES, mark).items()):
                other = value.decode()
                if len(found) < MOST_NAMES:
                    found.setdefault(other)
        return list(found)

    def _touch_all(self, names: Iterable[str]) -> None:
        """Have every slot settled whose subject has one of these names."""
        for name in names:
            for relation in self._relations(digest(name)):
                self._draft.touched[digest(name) + relation] = name

    # --- reading

    def _entries(self, kind: bytes, slot: bytes) -> dict[bytes, bytes]:
        """Rid and value of each entry of a slot, the topmost layer's."""
        found: dict[bytes, bytes] = {}
        for prefix in self._prefixes:
            for rid, value in self._draft.members("meta", kind + prefix + slot).items():
                found.setdefault(rid, value)
        return {rid: value for rid, value in found.items() if value}

    def _relations(self, subject: bytes) -> list[bytes]:
        """The relations of which something is, or was, claimed about a subject."""
        places = [FACT + prefix + subject for prefix in self._prefixes]
        found = {
            family[len(place) :]
            for place in places
            for family in self._draft.families("meta", place)
        }
        return sorted(found)

    def about(self, subject: str, relation: str | None = None) -> list[bytes]:
        """Rids of what is claimed about an entity under any of its names, oldest first."""
        rids: set[bytes] = set()
        for name in self.names(entity_key(subject)):
            mark = digest(name)
            kinds = [digest(relation_key(relation))] if relation else self._relations(mark)
            for kind in kinds:
                rids.update(self._entries(FACT, mark + kind))
        return sorted(rids)

    # --- settling

    def settle(self, now: float, seal: bytes) -> list[Outcome]:
        """Bring the touched slots in order: the records that have to read otherwise.

        ``seal`` is new to each change. What is answered is noted as done.
        """
        outcomes: list[Outcome] = []
        done: set[bytes] = set()
        for slot, subject in sorted(self._draft.touched.items()):
            if slot not in done:
                slots = [digest(name) + slot[8:] for name in self.names(subject)]
                done.update(slots)
                outcomes += self._settle({one: self._claims(one) for one in slots}, now, seal)
        self._draft.touched.clear()
        return outcomes

    def _claims(self, slot: bytes) -> dict[bytes, Claim]:
        entries = self._entries(FACT, slot)
        return {rid: _decoder.decode(value) for rid, value in entries.items()}

    def _settle(
        self, group: dict[bytes, dict[bytes, Claim]], now: float, seal: bytes
    ) -> list[Outcome]:
        said = any(claim.functional for held in group.values() for claim in held.values())
        guards = [self._guard(slot) for slot in group]
        if not said and not any(guards):
            return []
        claims = {
            rid: (slot, claim)
            for slot, held in group.items()
            for rid, claim in held.items()
            if claim.functional is not False
            and not (claim.expires is not None and claim.expires <= now)
        }
        for slot in group:
            self._draft.put("meta", SLOT + self._top + slot, seal)
        stretches = timeline(self._resolved(claims))
        replaced: dict[bytes, tuple[float, bytes]] = {}
        for rid, stretch in stretches.items():
            if stretch.by:
                last = replaced.get(stretch.by, (-inf, b""))
                replaced[stretch.by] = max(last, (stretch.start, rid))
        outcomes = []
        for rid, stretch in stretches.items():
            slot, claim = claims[rid]
            supersedes = replaced.get(rid, (0.0, b""))[1]
            if not supersedes and claim.supersedes not in claims:
                supersedes = claim.supersedes
            reads = (claim.until, claim.gaps, claim.superseded_by, claim.supersedes)
            if reads != (stretch.stop, stretch.gaps, stretch.by, supersedes):
                claim.until, claim.gaps = stretch.stop, stretch.gaps
                claim.superseded_by, claim.supersedes = stretch.by, supersedes
                self._save(slot, rid, claim)
                outcomes.append(Outcome(rid, stretch, supersedes))
        return outcomes

    def _resolved(self, claims: dict[bytes, tuple[bytes, Claim]]) -> list[tuple[bytes, Claim]]:
        """The claims with one key for all names of an object."""
        if not any(self._draft.any("meta", NAMES + prefix) for prefix in self._prefixes):
            return [(rid, claim) for rid, (_, claim) in claims.items()]
        keys: dict[str, str] = {}
        found = []
        for rid, (_, claim) in claims.items():
            key = keys.get(claim.object)
            if key is None:
                key = keys[claim.object] = min(self.names(claim.object))
            found.append((rid, msgspec.structs.replace(claim, object=key)))
        return found


def _in_turn(found: dict[str, None]) -> Iterator[str]:
    """The keys of a dictionary that grows meanwhile."""
    at = 0
    while at < len(found):
        yield list(found)[at]
        at += 1


def _packed(rid: str) -> bytes:
    """A rid as bytes; empty for none."""
    return pack(rid) if rid else b""


def _slot(fact: Fact) -> bytes:
    return digest(entity_key(fact.subject)) + digest(relation_key(fact.relation))


assert SPACE_SIZE == 4  # the keys above say so
