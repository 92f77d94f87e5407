"""Cascades against a naive model: whatever happens in whatever order, what is left is the same.

The model keeps the texts and who quotes whom, and works out from nothing but the present state
which facts stand: a fact stands while a sentence that it quotes stands in a source that stands.
"""

from random import Random
from typing import Any

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Update
from syscalls.errors import ENOENT
from syscalls.records import Evidence, Fact, Note
from ums.cascade import Cascade
from ums.lineage import CASCADE
from ums.records import after
from ums.spaces import Spaces

SENTENCES = [f"Sentence {word} stands here." for word in ("one", "two", "three", "four")]


class HandClock:
    """A clock that moves with each look."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        self.time += 1
        return self.time

    def monotonic(self) -> float:
        return self.time


class CascadeMachine(RuleBasedStateMachine):
    """One space and the model; every rule is one change, and the cascade as far as it gets."""

    sources = Bundle("sources")
    facts = Bundle("facts")

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.store = HandClock(), MemoryStore()
        self.reopen()
        self.number = self.run_async(self.spaces.create, 5, "home")
        self.texts: dict[str, list[str]] = {}
        """Sentences of the sources that are there; a fact has one, its own."""
        self.quotes: dict[str, set[tuple[str, str]]] = {}
        """What each fact that stands quotes: source, sentence."""
        self.count = 0

    def run_async(self, function: Any, *arguments: Any) -> Any:
        return trio.run(function, *arguments)

    def reopen(self) -> None:
        self.spaces = Spaces(self.store, self.clock, Random(1))
        self.cascade = Cascade(self.store, self.spaces.open, lambda _: None, lambda *_: None)

    # --- the model

    def settled(self) -> None:
        """Take away quotes that do not stand, and facts without any, until nothing changes."""
        changed = True
        while changed:
            changed = False
            for fact, quotes in list(self.quotes.items()):
                standing = {q for q in quotes if q[1] in self.texts.get(q[0], [])}
                self.quotes[fact] = standing
                if not standing:
                    del self.quotes[fact]
                    del self.texts[fact]
                    changed = True

    # --- rules

    async def _write(self, note: Note) -> str:
        return (await self.spaces.open(self.number).write(note, 7)).rid

    @rule(target=sources, sentences=st.lists(st.sampled_from(SENTENCES), min_size=1, unique=True))
    def write_source(self, sentences: list[str]) -> str:
        note = Note(segment="episodic", content=" ".join(sentences))
        rid: str = self.run_async(self._write, note)
        self.texts[rid] = sentences
        return rid

    @rule(target=facts, data=st.data())
    def write_fact(self, data: st.DataObject) -> Any:
        there = [rid for rid in self.texts if self._sound(rid)]
        if not there:
            return multiple()
        chosen = data.draw(st.lists(st.sampled_from(there), min_size=1, max_size=3, unique=True))
        quotes = {(rid, data.draw(st.sampled_from(self.texts[rid]))) for rid in chosen}
        evidence = []
        for rid, sentence in sorted(quotes):
            at = " ".join(self.texts[rid]).index(sentence)
            evidence.append(Evidence(rid, at, at + len(sentence), sentence))
        self.count += 1
        text = f"Fact {self.count} stands here."
        fact = Fact(f"subject {self.count}", "is", "so")
        note = Note("semantic", text, sources=sorted({q[0] for q in quotes}), fact=fact)
        note.evidence = evidence
        rid = self.run_async(self._write, note)
        self.texts[rid], self.quotes[rid] = [text], quotes
        return rid

    def _sound(self, rid: str) -> bool:
        """Whether the cascades so far have left a record that can be quoted."""
        try:
            return not self.spaces.open(self.number).read(rid).stale
        except ENOENT:
            return False

    @rule(rid=consumes(sources))
    def delete_source(self, rid: str) -> None:
        self.run_async(self.spaces.open(self.number).delete, rid, 7)
        del self.texts[rid]
        self.settled()

    @rule(rid=facts)
    def delete_fact(self, rid: str) -> None:
        try:
            self.run_async(self.spaces.open(self.number).delete, rid, 7)
        except ENOENT:
            return
        self.texts.pop(rid, None)
        self.quotes.pop(rid, None)
        self.settled()

    @rule(rid=sources, data=st.data())
    def correct_source(self, rid: str, data: st.DataObject) -> None:
        """Some sentences stay, in another order; one is new, so that none ever comes back."""
        kept = data.draw(st.lists(st.sampled_from(self.texts[rid]), unique=True))
        self.count += 1
        sentences = [f"Sentence {self.count} is new.", *kept]
        update = Update(rid=rid, content=" ".join(sentences))
        self.run_async(self.spaces.open(self.number).update, update, 7)
        self.texts[rid] = sentences
        self.settled()

    @rule(steps=st.integers(0, 3))
    def some_steps(self, steps: int) -> None:
        self.run_async(self.cascade.settle, self.number, steps)

    @rule()
    def restart(self) -> None:
        self.reopen()

    @rule()
    def all_steps(self) -> None:
        assert self.run_async(self.cascade.settle, self.number)
        self.agree()

    def agree(self) -> None:
        space = self.spaces.open(self.number)
        for rid, quotes in self.quotes.items():
            record = space.read(rid)
            assert record.stale == ""
            assert {(one.rid, one.quote) for one in record.evidence} == quotes
            for one in record.evidence:
                text = space.read(one.rid).content
                assert text[one.start : one.stop] == one.quote
        records = self.run_async(lambda: space.newest(1000))
        assert {record.rid for record in records} == set(self.texts)

    @invariant()
    def nothing_unsound_is_unmarked(self) -> None:
        """Where a cascade has nothing to do, model and space agree."""
        if not self.store.scan("meta", CASCADE, after(CASCADE), limit=1):
            self.agree()


CascadeMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCascade = CascadeMachine.TestCase
