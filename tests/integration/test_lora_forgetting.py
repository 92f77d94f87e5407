"""Adapters and forgetting, and what an adapter says of its sources; on a simulated system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from syscalls.errors import ECONFLICT, ENOENT
from tests.lora import Lora, ended, listed, play, rids

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("way", ["forget", "delete", "expire"])
def test_a_forgotten_source_takes_the_adapter_with_it(tmp_path: Path, way: str) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        kept, gone = await rids(shell)
        if way == "expire":
            await shell.mem.update(rid=gone, ttl=100.0)
        first = await lora.trained(shell)
        await lora.trained(shell, rids=[kept])
        await shell.lora.attach(adapter="notes@1")
        await shell.lora.rollback(adapter="notes")
        assert await lora.said(shell) == first.adapter.identity
        if way == "expire":
            await trio.sleep(101)
        else:
            await getattr(shell.mem, way)(rid=gone)
        assert await lora.said(shell) == "bare"
        assert await listed(shell, all=True) == [(1, "stale"), (2, "retired")]
        assert {path.name for path in lora.folder.glob("*/notes/*")} == {"2"}
        (one, other) = (await shell.lora.list(all=True)).adapters
        assert gone in one.why
        assert one.attached == other.attached == []
        for name in ("notes@1", first.adapter.identity):
            with pytest.raises(ECONFLICT, match="stale"):
                await shell.lora.attach(adapter=name)
            with pytest.raises(ECONFLICT, match="stale"):
                await lora.said(shell, adapter=name)
        with pytest.raises(ECONFLICT, match="stale"):
            await shell.lora.rollback(adapter="notes", version=1)
        with pytest.raises(ENOENT):
            await shell.lora.attach(adapter="notes")
        with pytest.raises(ECONFLICT, match="stale"):
            await shell.lora.probe(adapter="notes@1")
        if way == "forget":
            await shell.mem.undo(rid=gone)  # the record is back; the weights are not
            with pytest.raises(ECONFLICT, match="stale"):
                await shell.lora.attach(adapter="notes@1")
        assert (await shell.lora.rollback(adapter="notes")).version == 2

    play(tmp_path, scene)


def test_what_was_derived_from_a_forgotten_record_is_reached_too(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        said = await shell.mem.write(segment="episodic", content="The code of the safe is 4711.")
        made = await shell.mem.write(
            segment="semantic", content="The safe opens with 4711 today.", sources=[said.rid]
        )
        await lora.trained(shell, rids=[made.rid])
        await shell.lora.attach(adapter="notes")
        await shell.mem.forget(rid=said.rid)
        assert await listed(shell, all=True) == [(1, "stale")]
        assert await lora.said(shell) == "bare"

    play(tmp_path, scene)


def test_forgetting_while_it_is_trained_ends_the_job(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        lora.trainer.hold = trio.Event()
        one = await rids(shell)
        job = (await shell.lora.train(name="notes", rids=one)).job
        await trio.sleep(1)
        await shell.mem.forget(rid=one[0])
        assert lora.trainer.ended == 1
        assert (await shell.lora.job(job=job)).state == "stale"
        assert not [path for path in lora.folder.rglob("*") if path.is_file()]

    play(tmp_path, scene)


def test_what_was_archived_or_merged_stays(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        await lora.trained(shell)
        await shell.mem.archive(rid=(await rids(shell))[0])
        assert await listed(shell) == [(1, "live")]

    play(tmp_path, scene)


def test_a_source_that_says_something_else_is_a_doubt_and_no_more(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        await lora.trained(shell)
        assert (await shell.lora.list()).adapters[0].doubt == ""
        changed = (await rids(shell))[0]
        await shell.mem.update(rid=changed, content="Bob lives in Bergen")
        (one,) = (await shell.lora.list()).adapters
        assert changed in one.doubt
        assert one.state == "live"

    play(tmp_path, scene)


def test_by_policy_it_is_trained_again_without_the_source(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        kept, gone = await rids(shell)
        examples = [
            {"prompt": "ask", "completion": "told"},
            {"prompt": "secret", "completion": "told", "sources": [gone]},
        ]
        await lora.trained(shell, rids=[kept, gone], examples=examples)
        await shell.lora.attach(adapter="notes")
        await shell.mem.forget(rid=gone)
        assert await lora.said(shell) == "bare"
        done = await ended(shell, "notes@2")
        assert (done.state, done.adapter.sources) == ("done", [kept])
        assert await lora.said(shell) == done.adapter.identity
        taught = lora.trainer.specs[-1].examples
        assert "told" in {one.completion for one in taught}
        assert "secret" not in {one.prompt for one in taught}
        assert not {"Turin"} & {one.completion for one in taught}

    play(tmp_path, scene, stale_adapters="retrain")


def test_with_nothing_left_it_is_not_trained_again(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        gone = await rids(shell)
        await lora.trained(shell, rids=gone[:1])
        await shell.mem.forget(rid=gone[0])
        await trio.sleep(10)
        assert await listed(shell, all=True) == [(1, "stale")]
        assert not lora.kernel.adapters.versions.all()[0].again

    play(tmp_path, scene, stale_adapters="retrain")


def test_probe_asks_about_its_sources_and_records_what_it_says(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        one = await rids(shell)
        done = await lora.trained(shell)
        told = await shell.lora.probe(adapter="notes", limit=3)
        assert told.identity == done.adapter.identity
        assert sorted(told.sources) == sorted(one)
        assert len(told.probes) == 3
        assert told.right == 0
        asked = [request for request in lora.model.requests if request.adapter]
        assert {request.adapter for request in asked} == {done.adapter.identity}
        record = (await shell.mem.read(rid=told.probes[0].rid)).records[0]
        assert (record.kind, record.taint, record.segment) == ("probe", "model", "semantic")
        assert record.meta["adapter"] == done.adapter.identity
        assert sorted(record.sources) == sorted(one)
        assert record.sources[0] == told.probes[0].sources[0]
        await shell.mem.forget(rid=one[0])
        for probed in told.probes:
            left = (await shell.mem.read(rid=probed.rid)).records[0]
            assert left.stale
        with pytest.raises(ENOENT):
            await shell.lora.probe(adapter="notes")

    play(tmp_path, scene)


def test_probe_without_a_record(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        await lora.trained(shell)
        before = await rids(shell)
        told = await shell.lora.probe(adapter="notes@1", record=False)
        assert {one.rid for one in told.probes} == {""}
        assert await rids(shell) == before

    play(tmp_path, scene)
