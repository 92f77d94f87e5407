"""How a space learns a fact from a record: one that it knows gains support, another is new.

    statement ──> is it an echo? ──> is it claimed already, and in force then?
                                       ├─ yes: its record gains a source and the words
                                       └─ no:  a semantic record; ums.claims settles the rest

All that one record states is one batch, with how far the reading has come. To read a record
twice changes nothing: the words that are its evidence are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from drivers.contracts import Batch
from syscalls.records import Evidence, Note
from ums import records as form
from ums.claims import Claims
from ums.draft import Draft
from ums.echo import contains, tokens
from ums.facts import entity_key, is_functional, relation_key
from ums.lineage import Lineage, misquoted
from ums.living import LivingSpace
from ums.moment import begins, ends
from ums.records import UPSERT, Change, Stored
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syscalls.records import Fact
    from ums.extract import Statement
    from ums.layers import Found

LEARNED_BY = "mem.consolidate"
KIND = "fact"
SUPPORTS = 16
"""Pieces of evidence of one fact; more make it no surer."""


class Source(msgspec.Struct, frozen=True):
    """A record that is read, and who has it read."""

    rid: str
    stored: Stored
    writer: int = 0
    limit: int | None = None
    """Most records that the space may hold."""


class Lesson(msgspec.Struct):
    """What was learned from one record."""

    made: list[str] = []
    """Rids of new facts."""
    supported: list[str] = []
    """Rids of facts that gained evidence."""
    refused: list[tuple[int, int, str]] = []
    """Stretches of the record that state nothing to be learned, and why."""


Mark = tuple[bytes, bytes]
"""A key of ``meta`` and its value: how far the reading has come."""


class LearningSpace(LivingSpace):
    """A space that learns."""

    def scratch(self) -> Draft:
        """What may be learned into without being kept: for trying."""
        return Draft(self._store)

    async def learn(
        self,
        source: Source,
        statements: Sequence[Statement],
        marks: Sequence[Mark] = (),
        named: Sequence[tuple[int, int]] = (),
    ) -> Lesson:
        """Keep what a record states, and where a model found names in it.

        Raises EDQUOT, EPERM (a snapshot), EIO.
        """

        def build(draft: Draft) -> Lesson:
            self._writable()
            found = self.stack.find(pack(source.rid), draft.get)
            same = found is not None and form.decode(found.value).content == source.stored.content
            lesson = self._learn(draft, source, statements) if same else Lesson()
            if same:
                self._note_names(draft, source.rid, named)
            for key, value in marks:
                draft.put("meta", key, value)
            return lesson

        return await self._mutate(build)

    def _note_names(self, draft: Draft, rid: str, named: Sequence[tuple[int, int]]) -> None:
        """Note where a record names entities; no new version: it says what it said.

        A record of a frozen layer stays as it is, and so do those that are packed away.
        """
        found = self.stack.find(pack(rid), draft.get)
        if found is None or found.depth or form.is_packed(found.value) or not named:
            return
        stored, tag = form.decode(found.value), form.tag_of(found.value)
        if stored.named == list(named):
            return
        stored.named = list(named)
        value = form.encode(stored, tag)
        draft.put("records", found.key, value)
        grown = len(value) - len(found.value)
        draft.changes.append(Change(UPSERT, pack(rid), stored.version, tag, tag, grown))

    async def mark(self, marks: Sequence[Mark]) -> None:
        """Keep how far the reading has come."""
        await self._store.commit(Batch([("meta", key, value) for key, value in marks]))

    def try_learning(
        self, draft: Draft, source: Source, statements: Sequence[Statement]
    ) -> tuple[Lesson, list[tuple[str, int, Stored]]]:
        """What ``learn`` would do, after what was tried in ``draft`` before; nothing is kept.

        With the facts that it would make: rid, segment number, record.
        """
        lesson = self._learn(draft, source, statements)
        self._follow(draft, None)
        made = []
        for rid in lesson.made:
            value = draft.peek("records", form.record_key(self.top.number, rid))
            assert value is not None
            made.append((rid, form.tag_of(value), form.decode(value)))
        return lesson, made

    def _learn(self, draft: Draft, source: Source, statements: Sequence[Statement]) -> Lesson:
        lesson = Lesson()
        for statement in statements:
            why = self._learn_one(draft, source, statement, lesson)
            if why:
                lesson.refused.append((statement.start, statement.stop, why))
        if source.limit is not None and lesson.made:
            self._admit(len(lesson.made), source.limit)
        return lesson

    def _learn_one(self, draft: Draft, source: Source, statement: Statement, lesson: Lesson) -> str:
        """Draft one fact; why it is refused, or nothing."""
        stored = source.stored
        if any(a < statement.stop and statement.start < b for a, b in stored.echoes):
            return "it was handed to its writer from memory"
        quote = stored.content[statement.start : statement.stop]
        evidence = Evidence(source.rid, statement.start, statement.stop, quote)
        since = stored.created if stored.valid_from is None else stored.valid_from
        known = self._known(draft, statement.fact, since)
        if known is None:
            note = Note(
                segment="semantic",
                content=statement.text,
                kind=KIND,
                importance=stored.importance,
                valid_from=since,
                valid_to=stored.valid_to,
                sources=[source.rid],
                taint=stored.taint,
                fact=statement.fact,
                evidence=[evidence],
            )
            now = self._clock.now()
            lesson.made.append(self._put(draft, note, now, source.writer, LEARNED_BY).rid)
            return ""
        found, fact = known
        if any((one.rid, one.quote) == (source.rid, quote) for one in fact.evidence):
            return ""
        why = _no_support(found, fact, source.rid, quote)
        if not why:
            fact.evidence = [*self._standing(draft, fact), evidence]
            fact.sources = [*fact.sources, *({source.rid} - set(fact.sources))]
            fact.updated, fact.writer = self._clock.now(), source.writer
            fact.call, fact.idempotency = LEARNED_BY, ""
            self._revise(draft, found, fact, form.tag_of(found.value))
            lesson.supported.append(unpack(form.packed_in(found.key)))
        return why

    def _standing(self, draft: Draft, fact: Stored) -> list[Evidence]:
        """The evidence of a fact that stands; of one that is pinned all of it may have gone."""
        line = Lineage(draft, self.stack)
        return [one for one in fact.evidence if not misquoted(one, line.source(pack(one.rid)))]

    def _known(self, draft: Draft, fact: Fact, since: float) -> tuple[Found, Stored] | None:
        """The record that claims a fact and is in force at a time, if there is one."""
        claims = Claims(draft, self.stack.layers)
        wanted = entity_key(fact.object)
        others = {wanted, *claims.names(wanted)}
        for rid in claims.about(fact.subject, fact.relation):
            found = self.stack.find(rid, draft.get)
            stored = None if found is None else form.decode(found.value)
            if found is None or stored is None or stored.fact is None:
                continue
            same = relation_key(stored.fact.relation) == relation_key(fact.relation)
            if not same or entity_key(stored.fact.object) not in others:
                continue
            if stored.state in ("merged", "forgotten") or stored.expired(self._clock.now()):
                continue
            # Of what changes in time it is the same claim only while that is in force; one that
            # was superseded at once never was.
            start = begins(stored)
            if start <= since < ends(stored) or start == since or not is_functional(fact):
                return found, stored
        return None


def _no_support(found: Found, fact: Stored, rid: str, quote: str) -> str:
    """Why a sentence adds nothing to a fact that is known; empty where it does."""
    name = unpack(form.packed_in(found.key))
    if name == rid:
        return "it is the fact itself"
    if len(fact.evidence) >= SUPPORTS:
        return f"{name} has evidence enough"
    said, own = tokens(quote), tokens(fact.content)
    if contains(said, own) and not any(contains(tokens(e.quote), own) for e in fact.evidence):
        return f"it is what record {name} says, word for word"
    return ""
