"""Prefixes that are pinned by themselves: the policy, and the kernel that carries it out."""

from __future__ import annotations

import tracemalloc
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kernel.activation.promotion import (
    GROWTH,
    IDLE,
    LEAST,
    SEEN,
    Promotion,
    Wish,
    flat,
    worth,
)
from syscalls.errors import EDQUOT
from syscalls.shapes import ChatMessage
from tests.minds import Sys, system
from tests.remembering import BLOCK, BYTES, Remembering
from ums.prefixes import Kept, Prefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from syscalls.calls import kv
    from userland.channel import Channel

MANUAL = "The manual of the tools. " + "Each tool does one thing and says what it did. " * 20
FACT = "fact of the house: the key of the cellar lies under the third stone"


def turn(number: int, manual: str = MANUAL) -> list[ChatMessage]:
    return [ChatMessage("system", manual), ChatMessage("user", f"question {number}?")]


@asynccontextmanager
async def kept(**settings: Any) -> AsyncIterator[tuple[Sys, Remembering]]:
    """A system with a model that keeps state."""
    async with system(3, {}, **settings) as running:
        running.kernel.llm = model = Remembering()
        await trio.sleep(5)
        yield running, model


async def listed(shell: Channel) -> list[kv.Prefix]:
    found: kv.Listed = await shell.kv.list()
    return list(found.prefixes)


async def asked(shell: Channel, *numbers: int, manual: str = MANUAL) -> None:
    """Generations that begin with a manual, and the round after them."""
    for number in numbers:
        await shell.llm.generate(messages=turn(number, manual))
    await trio.sleep(40)


# --- the policy


def test_what_was_the_same_three_times_is_wanted_once_it_is_long_enough() -> None:
    policy = Promotion()
    for number in range(SEEN - 1):
        assert policy.saw(7, turn(number), 0, 0.0) is None
    wish = policy.saw(7, turn(3), 0, 0.0)
    assert wish is not None
    assert wish.messages[0] == turn(0)[0]
    assert flat(turn(9)).startswith(wish.flat)
    assert policy.saw(7, turn(4), len(wish.flat), 0.0) is None  # it is pinned by now
    for number in range(SEEN + 1):
        assert policy.saw(8, turn(number, "a short one"), 0, 0.0) is None


def test_processes_are_seen_apart_and_what_is_forgotten_is_not_remembered() -> None:
    policy = Promotion()
    for number in range(SEEN - 1):
        policy.saw(7, turn(number), 0, 0.0)
    assert policy.saw(8, turn(3), 0, 0.0) is None
    policy.forget()
    assert policy.saw(7, turn(4), 0, 0.0) is None


def test_a_conversation_is_pinned_anew_when_it_is_half_as_long_again() -> None:
    policy, covered, pinned = Promotion(), 0, []
    messages = [ChatMessage("system", MANUAL)]
    for number in range(60):
        messages = [*messages, ChatMessage("user", f"{number} " * 30)]
        wish = policy.saw(7, messages, covered, 0.0)
        if wish is not None:
            covered = len(wish.flat)
            pinned.append(covered)
    assert 2 <= len(pinned) <= 6
    assert all(b >= GROWTH * a for a, b in pairwise(pinned))


def test_one_that_could_not_be_had_rests() -> None:
    policy = Promotion()
    wishes = [policy.saw(7, turn(number), 0, 0.0) for number in range(SEEN)]
    assert wishes[-1] is not None
    policy.declined(wishes[-1], 0.0)
    assert policy.saw(7, turn(5), 0, 10.0) is None
    assert policy.saw(7, turn(6), 0, 10_000.0) is not None


@given(st.lists(st.text(alphabet="ab 甲", max_size=400), min_size=SEEN, max_size=6))
def test_a_wish_is_always_a_beginning(texts: list[str]) -> None:
    policy = Promotion()
    for number, text in enumerate(texts):
        messages = turn(number, "甲乙丙丁" * LEAST + text)
        wish = policy.saw(7, messages, 0, 0.0)
        if wish is not None:
            assert flat(messages).startswith(wish.flat)
            assert flat(wish.messages) == wish.flat


def prefix(**fields: Any) -> Prefix:
    kept = [Kept("ns", ["ab" * 8], 16, 160, 0.5)]
    return Prefix("auto-1", 1, "s", 0.0, "promotion", kept=kept, **fields)


def test_cold_ones_go_the_sooner_the_less_they_were_used() -> None:
    policy = Promotion()
    seldom, often, pin = prefix(), prefix(hits=100), prefix()
    pin.made_by = "pin"
    assert policy.cold([seldom, often, pin], IDLE - 1) == []
    assert policy.cold([seldom, often, pin], IDLE + 1) == [seldom]
    assert policy.cold([seldom, often, pin], 20 * IDLE) == [seldom, often]
    assert policy.victim([often, seldom, pin], 0.0) is seldom
    assert policy.victim([pin], 0.0) is None
    assert policy.victim([often, seldom], 0.0, newcomer=True) is None
    assert policy.victim([often, seldom], 2 * IDLE, newcomer=True) is seldom
    assert worth(often, 0.0) > worth(often, IDLE) > worth(seldom, IDLE)


# --- in the kernel


async def test_a_busy_process_has_its_beginning_pinned(autojump_clock: object) -> None:
    async with kept() as (running, model):
        shell = running.attach()
        await shell.mem.write(segment="semantic", content="so that it has a space")
        await asked(shell, 1, 2)
        assert await listed(shell) == []
        await asked(shell, 3)
        (row,) = await listed(shell)
        assert (row.handle, row.made_by, row.hits, row.tier) == ("auto-1", "promotion", 0, "engine")
        assert row.text.startswith("The manual of the tools.")
        await asked(shell, 4, 5)
        (row,) = await listed(shell)
        assert row.hits == 2
        assert row.saved == pytest.approx(2 * row.prefill)
        assert model.pins
        assert running.kernel.pins.statistics().promoted == 1
        await trio.sleep(3 * IDLE)
        assert await listed(shell) == []
        assert model.pins == {}
        assert running.kernel.pins.statistics().cooled == 1


async def test_it_can_be_switched_off(autojump_clock: object) -> None:
    async with kept(promote="off") as (running, _):
        shell = running.attach()
        await shell.mem.write(segment="semantic", content="so that it has a space")
        await asked(shell, 1, 2, 3, 4, 5)
        found: kv.Listed = await shell.kv.list()
        assert (found.prefixes, found.promote) == ([], False)


async def test_a_longer_beginning_takes_the_place_of_a_shorter_one(autojump_clock: object) -> None:
    async with kept() as (running, _):
        shell = running.attach()
        await shell.mem.write(segment="semantic", content="so that it has a space")
        await asked(shell, 1, 2, 3)
        await asked(shell, 1, 2, 3, manual=MANUAL + "And more of it, at that. " * 40)
        (row,) = await listed(shell)
        assert row.handle == "auto-2"


async def test_pins_are_never_evicted_for_promotions(autojump_clock: object) -> None:
    room = BYTES * BLOCK * 25
    async with kept(agent_kv=room) as (running, _):
        shell = running.attach()
        await shell.kv.pin(messages=[ChatMessage("user", MANUAL)], name="mine")
        await asked(shell, 1, 2, 3, 4)
        assert [row.handle for row in await listed(shell)] == ["mine"]
        await shell.kv.drop(handle="mine")
        other = MANUAL.replace("tool", "thing")
        await asked(shell, 1, 2, 3, manual=other)
        (row,) = await listed(shell)
        assert row.made_by == "promotion"
        await shell.kv.pin(messages=[ChatMessage("user", MANUAL)], name="mine")  # it gives way
        assert [row.handle for row in await listed(shell)] == ["mine"]
        with pytest.raises(EDQUOT):
            await shell.kv.pin(messages=[ChatMessage("user", other)])


async def test_what_rests_on_records_goes_with_them(autojump_clock: object) -> None:
    async with kept() as (running, model):
        shell = running.attach()
        for number in range(12):
            await shell.mem.write(segment="working", content=f"{number}: " + "so it went. " * 12)
        fact = await shell.mem.write(segment="semantic", content=FACT)
        await shell.mem.pin(rid=fact.rid)
        for number in range(4):
            made = await shell.mem.context(budget_tokens=2000)
            question = ChatMessage("user", f"question {number}?")
            await shell.llm.generate(messages=[*made.messages, question])
        await trio.sleep(40)
        (row,) = await listed(shell)
        assert fact.rid in row.sources
        assert len(row.sources) == 13
        await shell.mem.unpin(rid=fact.rid)
        await shell.mem.forget(rid=fact.rid)
        assert await listed(shell) == []
        assert model.pins == {}
        # What the process still has in its hands does not become a pin again.
        for number in range(6):
            question = ChatMessage("user", f"question {number}?")
            await shell.llm.generate(messages=[*made.messages, question])
        await trio.sleep(40)
        assert await listed(shell) == []


async def test_no_room_in_the_engine_is_no_failure(autojump_clock: object) -> None:
    async with kept() as (running, model):
        shell = running.attach()
        await shell.mem.write(segment="semantic", content="so that it has a space")
        model.room = 0
        await asked(shell, 1, 2, 3, 4)
        assert await listed(shell) == []
        assert running.kernel.memory.prefixes.erasures() == []


async def test_wishes_that_wait_are_granted_once(autojump_clock: object) -> None:
    async with kept() as (running, model):
        shell = running.attach()
        await shell.mem.write(segment="semantic", content="so that it has a space")
        model.gate = trio.Event()
        for manual in (MANUAL, MANUAL.replace("tool", "thing")):  # the second waits for the first
            for number in range(8):
                await shell.llm.generate(messages=turn(number, manual))
            await trio.sleep(5)
        model.gate.set()
        await trio.sleep(40)
        assert len(await listed(shell)) == 2
        assert running.kernel.pins.statistics().promoted == 2


async def test_the_wish_of_a_process_that_has_ended_is_not_granted(autojump_clock: object) -> None:
    """What it was handed is not known any more, so nothing would say what the pin rests on."""
    async with kept() as (running, model):
        shell = running.attach()
        model.gate = trio.Event()
        await shell.mem.write(segment="semantic", content=FACT)
        (hit,) = (await shell.mem.search(query="cellar key")).hits
        for manual in (MANUAL, f"{hit.content}. {MANUAL}"):
            for number in range(SEEN):
                await shell.llm.generate(messages=turn(number, manual))
            await trio.sleep(5)
        running.shells.remove(shell)
        shell.close()
        await trio.sleep(5)
        model.gate.set()
        await trio.sleep(40)
        (row,) = running.kernel.memory.prefixes.all()
        assert row.messages[0].content.startswith("The manual")


async def test_a_use_is_counted_once_whoever_writes_it_down(autojump_clock: object) -> None:
    async with kept() as (running, _):
        shell = running.attach()
        await shell.kv.pin(messages=[ChatMessage("system", MANUAL)], name="mine")
        await shell.llm.generate(messages=turn(1))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(running.kernel.pins.habits.flush)
        (row,) = await listed(shell)
        assert row.hits == 1


def test_what_could_not_be_had_is_remembered_in_little_memory() -> None:
    policy = Promotion()
    tracemalloc.start()
    try:
        for number in range(64):
            text = f"{number} " + "x" * 200_000
            policy.declined(Wish([ChatMessage("system", text)], text), float(number))
        del text
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
