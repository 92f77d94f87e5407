"""Entities that a model names in records: kept in the store, and in the graph made from it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from kernel.mind.miner import schema
from syscalls.calls import learn, mem
from syscalls.errors import EIO, ENOENT
from tests.minds import Scripted
from tests.simulation import World, run_seeded, simulated
from ums import records as form
from ums.rid import pack
from userland.channel import Channel

TEXT = "we met at the old lighthouse with zoë and talked about project moss."
NAMED = json.dumps({"facts": [], "names": ["zoë", "project moss", "the moon", "…"]})


@asynccontextmanager
async def attached(world: World) -> AsyncIterator[Channel]:
    """A session, for as long as it is needed."""
    channel = world.attach()
    try:
        yield channel
    finally:
        channel.close()


async def say(shell: Channel, text: str, **more: Any) -> str:
    written = await shell.call(mem.Write(segment="episodic", content=text, **more))
    return str(written.rid)


async def together(shell: Channel, entity: str) -> set[str]:
    """The entities that are named in one record with another."""
    try:
        found = await shell.call(mem.GraphCall(entity=entity, mentions=True))
    except ENOENT:
        return set()
    return {name for edge in found.edges for name in (edge.subject, edge.object)} - {entity}


async def named(world: World, shell: Channel, rid: str) -> list[str]:
    """What the store has of the names in a record."""
    space = (await shell.call(mem.Stat())).space
    value = world.kernel.machine.store.get("records", form.space_key(space) + pack(rid))
    assert value is not None
    stored = form.decode(value)
    return [stored.content[start:stop] for start, stop in stored.named]


def test_names_by_a_model_are_in_the_store_and_in_the_graph() -> None:
    async def main() -> None:
        async with simulated(3, {}) as world, attached(world) as shell:
            rid = await say(shell, TEXT)
            assert await together(shell, "zoë") == set()  # the rules see no name here
            model = world.kernel.llm = Scripted(NAMED)
            await shell.call(learn.Consolidate())
            assert model.requests[0].schema == schema()
            assert await named(world, shell, rid) == ["zoë", "project moss"]
            assert await together(shell, "zoë") == {"project moss"}
            assert await together(shell, "the moon") == set()
            (record,) = (await shell.call(mem.Read(rid=rid))).records
            assert (record.content, record.version, record.taint) == (TEXT, 1, "user")
            hits = (await shell.call(mem.Search(query="lighthouse"))).hits
            assert [hit.rid for hit in hits] == [rid]
            # It is read once by the model, whatever is run after that.
            await shell.call(learn.Consolidate())
            seq = (await shell.call(mem.Stat())).seq
            assert (await shell.call(learn.Consolidate())).read == 0
            assert (await shell.call(mem.Stat())).seq == seq
            assert len(model.requests) == 1

    run_seeded(3, main)


def test_a_text_that_changes_or_goes_takes_its_names_along() -> None:
    async def main() -> None:
        async with simulated(4, {}) as world, attached(world) as shell:
            one, two = await say(shell, TEXT), await say(shell, TEXT + " it rained.")
            world.kernel.llm = Scripted(NAMED, NAMED)
            await shell.call(learn.Consolidate())
            await shell.call(mem.Update(rid=one, tags=["met"]))
            assert await named(world, shell, one) == ["zoë", "project moss"]
            await shell.call(mem.Update(rid=one, content="nothing of note happened there."))
            assert await named(world, shell, one) == []
            assert await together(shell, "zoë") == {"project moss"}
            await shell.call(mem.Delete(rid=two))
            assert await together(shell, "zoë") == set()

    run_seeded(4, main)


def test_the_background_names_too() -> None:
    async def main() -> None:
        async with simulated(5, {}, consolidate_every=60.0) as world, attached(world) as shell:
            world.kernel.llm = Scripted(NAMED)
            rid = await say(shell, TEXT)
            await trio.sleep(61)
            assert await named(world, shell, rid) == ["zoë", "project moss"]

    run_seeded(5, main)


@pytest.mark.parametrize("answer", [EIO("gone"), "no", 600.0, '{"facts": [], "names": [""]}'])
def test_without_an_answer_the_rules_name(answer: Any) -> None:
    async def main() -> None:
        async with simulated(6, {}) as world, attached(world) as shell:
            world.kernel.llm = Scripted(answer)
            rid = await say(shell, "yesterday Ann Lee met Bob Stone.")
            await shell.call(learn.Consolidate())
            assert await named(world, shell, rid) == []
            assert await together(shell, "Ann Lee") == {"Bob Stone"}

    run_seeded(6, main)


def test_what_was_recalled_is_not_read_for_names() -> None:
    async def main() -> None:
        async with simulated(7, {}) as world, attached(world) as shell:
            model = world.kernel.llm = Scripted()
            rid = await say(shell, TEXT, taint="recalled")
            await shell.call(learn.Consolidate())
            assert model.requests == []
            assert await named(world, shell, rid) == []

    run_seeded(7, main)
