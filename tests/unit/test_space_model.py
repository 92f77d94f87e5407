"""A space against a dictionary: any sequence of calls, with restarts in between."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Update, Written
from syscalls.errors import ECONFLICT, ENOENT
from syscalls.records import Note
from syscalls.shapes import SEGMENTS, Segment
from ums.spaces import Spaces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class StepClock:
    """A clock that moves when it is told to, also backwards."""

    time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class Model:
    """What a record should be."""

    def __init__(self, content: str, segment: Segment, key: str) -> None:
        self.contents: list[str] = [content]
        self.segment = segment
        self.key = key
        self.deleted = False


contents = st.text(min_size=1, max_size=20)
segments = st.sampled_from(SEGMENTS)
keys = st.sampled_from(["", "", "a", "b", "钥匙"])


class SpaceMachine(RuleBasedStateMachine):
    """Writes, updates, deletes and lists, in both."""

    rids = Bundle("rids")

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.clock = StepClock()
        self.models: dict[str, Model] = {}
        self.repeats: dict[str, tuple[str, Written]] = {}
        self.number = self.run(Spaces(self.store, self.clock, Random(0)).create, 1)
        self.reopen()

    def run(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        async def main() -> T:
            return await call(*args)

        return trio.run(main)

    @rule()
    def reopen(self) -> None:
        self.space = Spaces(self.store, self.clock, Random(0)).open(self.number)

    @rule()
    def checkpoint(self) -> None:
        self.run(self.space.checkpoint)

    @rule(by=st.floats(-5, 5))
    def clock_moves(self, by: float) -> None:
        self.clock.time += by

    @rule(target=rids, content=contents, segment=segments, key=keys)
    def write(self, content: str, segment: Segment, key: str) -> str:
        written = self.run(self.space.write, Note(segment, content, key=key), 1)
        return self.expect_written(written, content, segment, key)

    def expect_written(self, written: Written, content: str, segment: Segment, key: str) -> str:
        held = {m.key: rid for rid, m in self.models.items() if m.key and not m.deleted}
        if key in held:
            model = self.models[held[key]]
            model.contents.append(content)
            model.segment = segment
            assert written == Written(held[key], len(model.contents))
        else:
            assert written.rid not in self.models
            assert written.rid > max(self.models, default="")
            assert written.version == 1
            self.models[written.rid] = Model(content, segment, key)
        return written.rid

    @rule(content=contents, segment=segments, name=st.sampled_from(["x", "y"]))
    def write_once(self, content: str, segment: Segment, name: str) -> None:
        note = Note(segment, content, idempotency=name)
        known = self.repeats.get(name)
        if known is None:
            written = self.run(self.space.write, note, 1)
            self.models[written.rid] = Model(content, segment, "")
            self.repeats[name] = (f"{segment}{content}", written)
        elif self.models[known[1].rid].deleted or known[0] == f"{segment}{content}":
            assert self.run(self.space.write, note, 1) == known[1]
        else:
            with pytest.raises(ECONFLICT):
                self.run(self.space.write, note, 1)

    @rule(notes=st.lists(st.tuples(contents, segments, keys), min_size=1, max_size=5))
    def write_many(self, notes: list[tuple[str, Segment, str]]) -> None:
        many = [Note(segment, content, key=key) for content, segment, key in notes]
        written = self.run(self.space.write_many, many, 1)
        for one, (content, segment, key) in zip(written, notes, strict=True):
            self.expect_written(one, content, segment, key)

    @rule(rid=rids, content=contents, off=st.sampled_from([None, 0, 0, 1, -1]))
    def update(self, rid: str, content: str, off: int | None) -> None:
        model = self.models[rid]
        now = len(model.contents)
        expect = None if off is None else max(1, now + off)
        call = Update(rid=rid, content=content, expect=expect)
        if model.deleted:
            with pytest.raises(ENOENT):
                self.run(self.space.update, call, 1)
        elif expect not in (None, now):
            with pytest.raises(ECONFLICT):
                self.run(self.space.update, call, 1)
        else:
            model.contents.append(content)
            assert self.run(self.space.update, call, 1) == Written(rid, now + 1)

    @rule(rid=consumes(rids))
    def delete(self, rid: str) -> None:
        if self.models[rid].deleted:
            with pytest.raises(ENOENT):
                self.run(self.space.delete, rid, 1)
        else:
            self.run(self.space.delete, rid, 1)
            self.models[rid].deleted = True

    @invariant()
    def records_and_history_agree(self) -> None:
        for rid, model in self.models.items():
            history = [version.content for version in self.space.history(rid)]
            if model.deleted:
                assert history == [None] * (len(model.contents) + 1)
                with pytest.raises(ENOENT):
                    self.space.read(rid)
            else:
                assert history == model.contents
                record = self.space.read(rid)
                assert record.content == model.contents[-1]
                assert (record.segment, record.key) == (model.segment, model.key)
                if model.key:
                    assert self.space.find(model.key) == record

    @invariant()
    def list_and_sums_agree(self) -> None:
        live = {rid: m for rid, m in self.models.items() if not m.deleted}
        listed = self.run(self.space.newest, 1000)
        assert [record.rid for record in listed] == sorted(live, reverse=True)
        info = self.space.info()
        assert info.records == len(live)
        for segment in SEGMENTS:
            held = [m for m in live.values() if m.segment == segment]
            assert info.by_segment[segment] == len(held)


TestSpaceMachine = SpaceMachine.TestCase
TestSpaceMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
