"""A pin that replaces another: the other is whole until the new one is, whatever goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from drivers.store.memory import MemoryStore
from kernel.generation import salt_of
from syscalls.errors import EAGAIN, EDQUOT, EIO, ENOENT
from syscalls.shapes import ChatMessage
from tests.remembering import BLOCK, BYTES, Remembering
from tests.simulation import simulated
from tests.unit.test_prefixes import MANUAL, QUESTION, SECRET, facts, files, kept, listed, told
from ums.prefixes import Prefix, engine_name

if TYPE_CHECKING:
    from pathlib import Path

    from tests.minds import Sys
    from userland.channel import Channel

OTHER = "Another manual, of other tools. " + "None of them does anything at all, as yet. " * 12
OLD = [ChatMessage("system", MANUAL)]
NEW = [ChatMessage("system", OTHER)]
TIGHT = BYTES * BLOCK * 15


async def said(shell: Channel, model: Remembering) -> str:
    """What is put before what a process asks."""
    await shell.llm.generate(messages=QUESTION)
    return (model.requests[-1].messages or [])[0].content


async def only(running: Sys, shell: Channel, model: Remembering, folder: Path) -> Prefix:
    """The one prefix that there is; nothing of any other is left anywhere."""
    await trio.sleep(60)
    table = running.kernel.memory.prefixes
    (row,) = table.all()
    assert sorted(await listed(shell)) == [row.handle] == ["manual"]
    assert list(model.pins) == [engine_name(row)]
    assert table.erasures() == []
    assert len(files(folder)) == len(row.kept[0].blocks)
    return row


@pytest.mark.parametrize("why", ["engine", "room", "quota", "quota at the end", "cancel"])
async def test_what_cannot_be_replaced_stays_as_it_was(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async with kept(tmp_path, agent_kv=TIGHT if why.startswith("quota") else 1 << 30) as (
        running,
        model,
    ):
        shell = running.attach()
        await shell.kv.pin(messages=OLD, name="manual")
        await shell.kv.attach(handle="manual")
        assert await said(shell, model) == MANUAL
        before = running.kernel.memory.prefixes.all()
        if why == "engine":
            model.broken = True
            with pytest.raises(EIO):
                await shell.kv.pin(messages=NEW, name="manual")
            model.broken = False
        elif why == "room":
            model.room = len(before[0].kept[0].blocks) + 1
            with pytest.raises(EAGAIN) as caught:
                await shell.kv.pin(messages=NEW, name="manual")
            assert "drop it first" in caught.value.hint
        elif why == "cancel":
            model.gate = trio.Event()
            with trio.move_on_after(1):
                await shell.kv.pin(messages=NEW, name="manual")
            model.gate = None
        else:
            if why == "quota at the end":  # what it takes is known only when it is computed
                monkeypatch.setattr(running.kernel.pins, "_estimated", nothing)
            with pytest.raises(EDQUOT) as over:
                await shell.kv.pin(messages=NEW, name="manual")
            assert "drop it first" in over.value.hint
        row = await only(running, shell, model, tmp_path)
        assert (row.messages, row.created) == (OLD, before[0].created)
        assert (await listed(shell))["manual"].state == "kept"
        assert await said(shell, model) == MANUAL, "it is attached still"


async def nothing(_new: Prefix) -> int:
    return 0


async def test_the_old_one_serves_until_the_new_one_is_there(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with kept(tmp_path) as (running, model):
        shell = running.attach()
        await shell.kv.pin(messages=OLD, name="manual")
        await shell.kv.attach(handle="manual")
        old = await only(running, shell, model, tmp_path)
        model.gate = trio.Event()
        async with trio.open_nursery() as nursery:

            async def pin() -> None:
                assert (await shell.kv.pin(messages=NEW, name="manual")).handle == "manual"

            nursery.start_soon(pin)
            await trio.sleep(60)  # rounds go by
            other = running.attach()
            assert len(running.kernel.memory.prefixes.all()) == 2
            assert await said(shell, model) == MANUAL
            assert running.kernel.pins.statistics().pins == 1
            assert list(await listed(shell)) == ["manual"]
            other.close()
            model.gate.set()
        new = await only(running, shell, model, tmp_path)
        assert new.messages == NEW
        assert new.created > old.created
        assert await said(shell, model) == QUESTION[0].content, "the old one is detached"
        await shell.kv.attach(handle="manual")
        assert await said(shell, model) == OTHER


async def test_of_two_at_once_the_last_one_stays(tmp_path: Path, autojump_clock: object) -> None:
    async with kept(tmp_path) as (running, model):
        shell = running.attach()
        await shell.kv.pin(messages=OLD, name="manual")
        async with trio.open_nursery() as nursery:
            for more in ("one", "two", "three"):

                async def pin(more: str = more) -> None:
                    said = [ChatMessage("system", f"{OTHER} {more}")]
                    await shell.kv.pin(messages=said, name="manual")

                nursery.start_soon(pin)
        row = await only(running, shell, model, tmp_path)
        assert row.messages[0].content.startswith(OTHER)


async def test_what_replaces_rests_on_its_own_records(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with kept(tmp_path) as (running, model):
        shell = running.attach()
        rids = await told(shell, *facts(3), SECRET)
        await shell.kv.pin(rids=rids[:3], name="manual")
        model.gate = trio.Event()
        async with trio.open_nursery() as nursery:

            async def pin() -> None:
                with pytest.raises(ENOENT):
                    await shell.kv.pin(rids=rids[1:], name="manual")

            nursery.start_soon(pin)
            await trio.sleep(1)
            await shell.mem.forget(rid=rids[3])
            model.gate.set()
        model.gate = None
        assert not any(SECRET[:20] in text for text in files(tmp_path))
        row = await only(running, shell, model, tmp_path)
        assert [one.rid for one in row.sources] == rids[:3]
        await shell.kv.pin(rids=rids[1:3], name="manual")
        await shell.mem.forget(rid=rids[0])  # of the old one only
        assert list(await listed(shell)) == ["manual"]
        await shell.mem.forget(rid=rids[2])
        assert await listed(shell) == {}


async def test_after_a_crash_the_old_one_is_there_and_nothing_else(
    tmp_path: Path, autojump_clock: object
) -> None:
    store = MemoryStore()
    model = Remembering(tmp_path)
    async with simulated(3, {}, store=store) as world:
        world.kernel.llm = model
        world.kernel.pins.keeping._folder = tmp_path
        shell = world.attach()
        await shell.kv.pin(messages=OLD, name="manual")
        left = Prefix("manual~9.000000", 1, "", 9.0, messages=NEW, pending=9.0)
        (old,) = world.kernel.memory.prefixes.all()
        left.space, left.salt = old.space, old.salt
        await world.kernel.memory.prefixes.add(left)
        shell.close()
    async with simulated(4, {}, store=store) as world:
        world.kernel.llm = model
        world.kernel.pins.keeping._folder = tmp_path
        await trio.sleep(60)
        (row,) = world.kernel.memory.prefixes.all()
        assert (row.handle, row.messages) == ("manual", OLD)
        assert len(files(tmp_path)) == len(row.kept[0].blocks)


@pytest.mark.parametrize("fits", [True, False])
async def test_a_pin_of_an_image_is_charged_once_it_is_computed(
    fits: bool, autojump_clock: object
) -> None:
    async with kept(agent_kv=BYTES * BLOCK * (12 if fits else 2)) as (running, _):
        shell, kernel = running.attach(), running.kernel
        await shell.mem.write(segment="semantic", content="so that it has a space")
        owner = next(each for each in kernel.processes.live() if each.kind == "session")
        new = Prefix("manual", owner.space, salt_of(owner), 0.0, by=owner.apid, messages=OLD)
        await kernel.memory.prefixes.add(new)
        kernel.pins.keeping.nudge()
        await trio.sleep(60)
        assert sorted(await listed(shell)) == (["manual"] if fits else [])
        used = kernel.accounts.of(owner).own["kv"]
        assert used == (kernel.memory.prefixes.all()[0].bytes if fits else 0)
        assert (used > 0) is fits
