"""The table of pinned prefixes against a naive model: no prefix outlives what it rests on.

The model knows which prefix rests on which records, and which blocks still have to be erased.
"""

from random import Random
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from drivers.store.memory import MemoryStore
from syscalls.calls.mem import Update
from syscalls.errors import EEXIST, ENOENT
from syscalls.records import Note
from syscalls.shapes import ChatMessage
from tests.unit.test_lineage_model import HandClock
from ums.prefixes import Erasure, Kept, Prefix, Prefixes, Source
from ums.rid import pack
from ums.spaces import Spaces


class PrefixMachine(RuleBasedStateMachine):
    """Two spaces, of which the second has what the first had when it was made."""

    records = Bundle("records")

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.store = HandClock(), MemoryStore()
        self.reopen()
        self.spaces_of = [self.run_async(self.spaces.create, 5, "home")]
        self.there: dict[str, set[int]] = {}
        """Record: the spaces that have it."""
        self.rests: dict[tuple[int, str], set[tuple[str, int]]] = {}
        self.blocks: dict[tuple[int, str], str] = {}
        self.erasing: set[str] = set()
        self.count = 0

    def run_async(self, function: Any, *arguments: Any) -> Any:
        return trio.run(function, *arguments)

    @rule()
    def reopen(self) -> None:
        """What a kernel that starts again sees."""
        self.spaces = Spaces(self.store, self.clock, Random(1))
        self.table = Prefixes(self.store, self.spaces.open)

    async def _write(self, space: int, sources: list[str]) -> str:
        note = Note(segment="semantic", content=f"record {self.count} " + "x" * 40, sources=sources)
        return (await self.spaces.open(space).write(note, 7)).rid

    @rule(target=records)
    def write(self) -> str:
        self.count += 1
        rid: str = self.run_async(self._write, self.spaces_of[0], [])
        self.there[rid] = {self.spaces_of[0]}
        return rid

    @precondition(lambda self: len(self.spaces_of) == 1)
    @rule()
    def fork(self) -> None:
        async def branch() -> int:
            return await self.spaces.branch(self.spaces_of[0], 5, sealed=False)

        self.spaces_of.append(self.run_async(branch))
        for rid, spaces in self.there.items():
            if self.spaces_of[0] in spaces:
                spaces.add(self.spaces_of[1])
            self.there[rid] = spaces

    @rule(rids=st.lists(records, min_size=1, max_size=3), at=st.integers(0, 1), done=st.booleans())
    def pin(self, rids: list[str], at: int, done: bool) -> None:
        space = self.spaces_of[at % len(self.spaces_of)]
        sources = [Source(rid, space) for rid in dict.fromkeys(rids)]
        self.count += 1
        new = Prefix("", space, "salt", self.clock.now(), rids=sources, sources=sources)
        missing = [one for one in sources if space not in self.there.get(one.rid, set())]
        if missing:
            with pytest.raises(ENOENT):
                self.run_async(self.table.add, new)
            return
        made = self.run_async(self.table.add, new)
        assert made.place not in self.rests
        self.rests[made.place] = {(one.rid, space) for one in sources}
        block = f"{self.count:016x}"
        self.blocks[made.place] = block
        if done:

            def keep(row: Prefix) -> Prefix:
                row.kept = [Kept("ns", [block], 16, 160, 1.0)]
                return row

            self.run_async(self.table.edit, made, keep)
        else:
            del self.blocks[made.place]
        with pytest.raises(EEXIST):
            self.run_async(self.table.add, made)

    @rule(rid=records)
    def correct(self, rid: str) -> None:
        async def update() -> None:
            self.count += 1
            call = Update(rid=rid, content=f"record {self.count} " + "y" * 40)
            await self.spaces.open(self.spaces_of[0]).update(call, 7)

        if self.spaces_of[0] in self.there.get(rid, set()):
            self.run_async(update)
            for row in self.table.of(self.spaces_of[0]):
                if rid in {one.rid for one in row.rids}:
                    assert row.due

    @rule(rid=consumes(records), at=st.integers(0, 1), target=records)
    def forget(self, rid: str, at: int) -> Any:
        space = self.spaces_of[at % len(self.spaces_of)]

        async def delete() -> None:
            await self.spaces.open(space).delete(rid, 7)

        if space in self.there.get(rid, set()):
            self.run_async(delete)
            self.there[rid].discard(space)
            for place in [p for p, rests in self.rests.items() if (rid, space) in rests]:
                self._gone(place)
        return rid if self.there.get(rid) else multiple()

    def _gone(self, place: tuple[int, str]) -> None:
        del self.rests[place]
        if block := self.blocks.pop(place, ""):
            self.erasing.add(block)

    @precondition(lambda self: self.rests)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.rests)))
        assert self.run_async(self.table.remove, self.table.get(*place))
        self._gone(place)

    @precondition(lambda self: self.erasing)
    @rule()
    def erase(self) -> None:
        key, erasure = self.table.erasures()[0]
        self.run_async(self.table.erased, key)
        self.erasing.difference_update(_blocks(erasure))

    @invariant()
    def the_table_is_the_model(self) -> None:
        rows = {row.place: row for row in self.table.all()}
        assert set(rows) == set(self.rests)
        for place, row in rows.items():
            assert {(one.rid, one.space) for one in row.sources} == self.rests[place]
            for one in row.sources:
                assert self.spaces.open(one.space).stack.find(pack(one.rid)) is not None
        assert {b for _, one in self.table.erasures() for b in _blocks(one)} == self.erasing
        assert self.table.empty == (not rows and not self.table.erasures())


def _blocks(erasure: Erasure) -> set[str]:
    return {name for kept in erasure.kept for name in kept.blocks}


TestPrefixes = PrefixMachine.TestCase
TestPrefixes.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


async def test_of_a_pin_and_a_delete_at_once_one_sees_the_other() -> None:
    """Whichever comes first: never a prefix that rests on nothing."""
    for seed in range(20):
        store, clock = MemoryStore(), HandClock()
        spaces = Spaces(store, clock, Random(seed))
        table = Prefixes(store, spaces.open)
        space = await spaces.create(5)
        home = spaces.open(space)
        rid = (await home.write(Note(segment="semantic", content="to be gone"), 7)).rid
        source = [Source(rid, space)]
        new = Prefix("p", space, "s", 1.0, messages=[ChatMessage("user", "x")], sources=source)
        refused = []

        async def pin(table: Prefixes = table, new: Prefix = new) -> None:
            try:
                await table.add(new)
            except ENOENT as error:
                refused.append(error)  # noqa: B023 - awaited in this round

        async with trio.open_nursery() as nursery:
            for work in Random(seed).sample([pin, lambda: home.delete(rid, 7)], 2):  # noqa: B023
                nursery.start_soon(work)
        assert table.all() == []
        assert len(table.erasures()) == 1 - len(refused)
