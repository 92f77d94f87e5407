"""Stacks of layers against dictionaries: any calls on any spaces, searches included.

Each space is modelled by a dictionary of its own; a snapshot copies it whole, which is what
the real one must look like and must not do.
"""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drivers.embedder.local import NoEmbedder
from drivers.indexes import MemoryIndexes
from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Search, Update
from syscalls.errors import EEXIST, EINVAL, ENOENT, EPERM
from syscalls.records import Note
from syscalls.shapes import SEGMENTS, Segment
from ums.folding import Folding
from ums.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from syscalls.shapes import Level

T = TypeVar("T")
WORDS = ("zebra", "heron", "otter", "gecko")


class StepClock:
    """A clock that moves when it is told to; not backwards, where the dead would rise."""

    time = 1_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class Held:
    """What a record should be in one space."""

    def __init__(self, contents: list[str], segment: Segment, key: str) -> None:
        self.contents = contents
        self.segment = segment
        self.key = key
        self.deleted = False
        self.expires: float | None = None


class Model:
    """What a space should be."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.sealed = False
        self.roots: set[int] = set()
        """Spaces whose layers it may stand on: one of them cannot be attached to it."""
        self.lent: set[str] = set()
        """Records that came by an attachment, which are not passed on."""


async def inline(work: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return work()


def log(level: Level, source: str, text: str) -> None:
    raise AssertionError(f"{level} {source}: {text}")


contents = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
segments = st.sampled_from(SEGMENTS)
keys = st.sampled_from(["", "", "a", "b"])
picks = st.integers(0, 10**6)


class LayerMachine(RuleBasedStateMachine):
    """Writes, changes, deletes, copies, attaches, searches and lists, in both."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.clock = StepClock()
        self.models: dict[int, Model] = {}

    def run(self, call: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        async def main() -> T:
            return await call(*args, **kwargs)

        return trio.run(main)

    @initialize()
    def begin(self) -> None:
        self.reopen()
        for _ in range(2):
            number = self.run(self.memory.create_space, 1)
            self.models[number] = Model()
            self.models[number].roots = {number}

    @rule()
    def reopen(self) -> None:
        self.memory = Memory(
            self.store, MemoryIndexes(), NoEmbedder(), self.clock, Random(0), inline, log
        )

    @rule(by=st.floats(0, 5))
    def clock_moves(self, by: float) -> None:
        self.clock.time += by

    @rule()
    def sweep(self) -> None:
        self.run(self.memory.sweep)

    @rule(length=st.integers(2, 3))
    def fold(self, length: int) -> None:
        """Every stack is too deep here, and folded at once."""

        async def ready(_layer: int) -> bool:
            await trio.lowlevel.checkpoint()
            return True

        spaces = self.memory._spaces
        folding = Folding(self.store, spaces, self.clock, ready, deep=length, length=length)
        self.run(folding.step)

    def space(self, pick: int) -> tuple[int, Model]:
        number = sorted(self.models)[pick % len(self.models)]
        return number, self.models[number]

    def record(self, model: Model, pick: int) -> str | None:
        rids = sorted({rid for one in self.models.values() for rid in one.held})
        return rids[pick % len(rids)] if rids else None

    def alive(self, held: Held | None) -> bool:
        if held is None or held.deleted:
            return False
        return held.expires is None or held.expires > self.clock.time

    @rule(pick=picks, content=contents, segment=segments, key=keys, short=st.booleans())
    def write(self, pick: int, content: str, segment: Segment, key: str, short: bool) -> None:
        number, model = self.space(pick)
        note = Note(segment, content, key=key, ttl=3.0 if short else None)
        if model.sealed:
            with pytest.raises(EPERM):
                self.run(self.memory.write, number, 1, note)
            return
        written = self.run(self.memory.write, number, 1, note)
        named = [r for r, h in model.held.items() if key and h.key == key and self.alive(h)]
        if named:
            # Several only where one is attached: the one that was named last counts.
            assert written.rid in named
            held = model.held[written.rid]
            held.contents.append(content)
            held.segment = segment
            assert written.version == len(held.contents)
        else:
            assert not any(written.rid in one.held for one in self.models.values())
            held = model.held[written.rid] = Held([content], segment, key)
            if key:
                for other in model.held.values():
                    if other.key == key and not self.alive(other):
                        other.deleted = True
        held.expires = self.clock.time + 3.0 if short else None

    @rule(pick=picks, which=picks, content=contents)
    def update(self, pick: int, which: int, content: str) -> None:
        number, model = self.space(pick)
        rid = self.record(model, which)
        if rid is None:
            return
        call = Update(rid=rid, content=content)
        if model.sealed:
            with pytest.raises(EPERM):
                self.run(self.memory.update, 1, call, space=number)
        elif not self.alive(model.held.get(rid)):
            with pytest.raises(ENOENT):
                self.run(self.memory.update, 1, call, space=number)
        else:
            held = model.held[rid]
            held.contents.append(content)
            written = self.run(self.memory.update, 1, call, space=number)
            assert written.version == len(held.contents)

    @rule(pick=picks, which=picks)
    def delete(self, pick: int, which: int) -> None:
        number, model = self.space(pick)
        rid = self.record(model, which)
        if rid is None:
            return
        if self.alive(model.held.get(rid)):
            self.run(self.memory.delete, 1, rid, space=number)
            model.held[rid].deleted = True
        else:
            with pytest.raises(ENOENT):
                self.run(self.memory.delete, 1, rid, space=number)

    @precondition(lambda self: len(self.models) < 8)
    @rule(pick=picks, sealed=st.booleans())
    def branch(self, pick: int, sealed: bool) -> None:
        number, model = self.space(pick)
        make = self.memory.snapshot if sealed else self.memory.fork
        made = self.run(make, number, 1)
        copy = deepcopy(model)
        copy.sealed = sealed
        copy.roots = model.roots | {made}
        self.models[made] = copy

    @rule(pick=picks, other=picks)
    def attach(self, pick: int, other: int) -> None:
        number, model = self.space(pick)
        below, source = self.space(other)
        if model.sealed or any(
            one.key and two.key == one.key
            for one in model.held.values()
            for two in source.held.values()
        ):
            return  # two records of one name: which of them counts is another test
        try:
            self.run(self.memory.attach, number, below)
        except (EINVAL, EEXIST):
            # They have something in common, or there is nothing to attach.
            assert model.roots & source.roots or not source.held or below in model.roots
            return
        model.roots |= source.roots
        model.held |= {
            rid: deepcopy(held) for rid, held in source.held.items() if rid not in source.lent
        }
        model.lent |= source.held.keys() - source.lent

    @rule(pick=picks, word=st.sampled_from(WORDS), segment=st.none() | segments)
    def search(self, pick: int, word: str, segment: Segment | None) -> None:
        number, model = self.space(pick)
        segments = None if segment is None else [segment]
        wanted = {
            rid
            for rid, held in model.held.items()
            if self.alive(held)
            and word in held.contents[-1].split()
            and segment in (None, held.segment)
        }
        for k in (1, 50):
            call = Search(query=word, k=k, segments=segments)
            hits = self.run(self.memory.search, [number], call).hits
            assert {hit.rid for hit in hits} <= wanted
            assert len(hits) == min(k, len(wanted))
            for hit in hits:
                held = model.held[hit.rid]
                assert hit.content == held.contents[-1]
                assert hit.provenance.version == len(held.contents)
                assert hit.provenance.space == number

    @invariant()
    def records_and_history_agree(self) -> None:
        everything = {rid for model in self.models.values() for rid in model.held}
        for number, model in self.models.items():
            for rid in everything:
                held = model.held.get(rid)
                if held is None or not self.alive(held):
                    with pytest.raises(ENOENT):
                        self.memory.read(rid, space=number)
                if held is None:
                    with pytest.raises(ENOENT):
                        self.memory.history(rid, space=number)
                    continue
                history = [v.content for v in self.memory.history(rid, space=number)]
                if not self.alive(held):
                    assert set(history) == {None}
                    continue
                assert history == held.contents
                record = self.memory.read(rid, space=number)
                assert (record.content, record.segment) == (held.contents[-1], held.segment)
                assert self.memory.read(rid, 1, number).content == held.contents[0]
                if held.key:
                    assert self.memory.read_key(number, held.key) == record

    @invariant()
    def lists_and_sums_agree(self) -> None:
        for number, model in self.models.items():
            live = sorted((rid for rid, h in model.held.items() if self.alive(h)), reverse=True)
            listed = self.run(self.memory.newest, number, limit=1000)
            assert [record.rid for record in listed] == live
            half = live[len(live) // 2 :]
            if half:
                page = self.run(self.memory.newest, number, limit=1000, before=half[0])
                assert [record.rid for record in page] == half[1:]

    def teardown(self) -> None:
        """When all that is over has been swept, the sums are those of what is there."""
        if self.models:
            self.clock.time += 100
            self.run(self.memory.sweep)
            for number in self.models:
                listed = self.run(self.memory.newest, number, limit=1000)
                info = self.memory.view(number).info()
                assert info.records == len(listed)
                for segment in SEGMENTS:
                    held = [record for record in listed if record.segment == segment]
                    assert info.by_segment[segment] == len(held)


TestLayerMachine = LayerMachine.TestCase
TestLayerMachine.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
