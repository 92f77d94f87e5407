"""The ``lora`` calls on a simulated system: jobs, attachments, rollback, and what forgetting does.

Training and model are stand-ins; the rest is the kernel's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from drivers.lora.contract import Figures
from syscalls.errors import EAGAIN, ECONFLICT, EDQUOT, EINVAL, EIO, ENODEV, ENOENT, EPERM
from syscalls.shapes import Fact, Filter
from tests.lora import Lora, ended, taught
from tests.simulation import run_seeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Scene = Callable[[Lora, Any], Awaitable[None]]


def play(folder: Path, scene: Scene, **settings: Any) -> None:
    """A scene with a system of its own and a shell that has two facts in its space."""

    async def main() -> None:
        async with taught(folder, **settings) as lora:
            shell = lora.attach()
            for name, town in (("Ada", "Turin"), ("Bob", "Oslo")):
                await shell.mem.write(
                    segment="semantic",
                    content=f"{name} lives in {town}",
                    fact=Fact(name, "lives_in", town),
                )
            await scene(lora, shell)

    run_seeded(3, main)


async def rids(shell: Any) -> list[str]:
    return [record.rid for record in (await shell.mem.read()).records]


async def listed(shell: Any, name: str = "notes", **more: Any) -> list[tuple[int, str]]:
    found = (await shell.lora.list(adapter=name, **more)).adapters
    return [(one.version, one.state) for one in found]


def test_train_goes_live_and_is_attached_from_the_next_request(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        done = await lora.trained(shell)
        assert (done.state, done.adapter.state) == ("done", "live")
        assert done.adapter.figures["probes_before"] == 0.1
        assert done.adapter.figures["probes_after"] == 0.9
        assert sorted(done.adapter.sources) == sorted(await rids(shell))
        spec = lora.trainer.specs[0]
        assert {example.completion for example in spec.examples} == {"Turin", "Oslo"}
        assert spec.probes
        assert spec.regression
        assert spec.held_out == 0
        assert await lora.said(shell) == "bare"
        await shell.lora.attach(adapter="notes")
        assert await lora.said(shell) == done.adapter.identity
        request = lora.model.requests[-1]
        assert (
            request.adapter_path == str(lora.folder / "1" / "notes" / "1") or request.adapter_path
        )
        assert await trio.Path(request.adapter_path, "adapter_config.json").exists()
        (one,) = (await shell.lora.list()).adapters
        assert one.attached == [(await shell.proc.info()).apid]
        assert await lora.said(shell, adapter="none") == "bare"
        await shell.lora.detach()
        assert await lora.said(shell) == "bare"
        assert await lora.said(shell, adapter="notes@1") == done.adapter.identity

    play(tmp_path, scene)


def test_nothing_of_a_job_is_left_but_the_weights(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        await lora.trained(shell)
        files = {path.name for path in lora.folder.rglob("*") if path.is_file()}
        assert files == {"adapter_config.json", "adapter_model.safetensors"}

    play(tmp_path, scene)


def test_progress_is_streamed_and_remembered(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        lora.trainer.hold = trio.Event()
        job = (await shell.lora.train(name="notes", rids=await rids(shell))).job
        await trio.sleep(1)
        info = await shell.lora.job(job=job)
        assert (info.state, info.progress.phase, info.progress.of) == ("running", "train", 2)
        steps = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_let_go, lora)
            async with shell.stream(_follow(job)) as stream:
                async for progress in stream:
                    steps.append((progress.phase, progress.step))
        assert steps[0] == ("train", 1)
        assert steps[-1] == ("train", 2)
        assert (await shell.lora.job(job="notes")).state == "done"

    play(tmp_path, scene)


def _follow(job: str) -> Any:
    from syscalls.calls.lora import JobCall

    return JobCall(job=job, follow=True)


async def _let_go(lora: Lora) -> None:
    await trio.sleep(1)
    assert lora.trainer.hold is not None
    lora.trainer.hold.set()


@pytest.mark.parametrize(
    ("after", "kept", "state"),
    [
        (Figures(10, 0.1, 2.0), Figures(10, 1.0, 0.5), "refused"),
        (Figures(10, 0.1, 1.0), Figures(10, 1.0, 0.5), "live"),
        (Figures(10, 0.0, 0.1), Figures(10, 1.0, 0.5), "refused"),
        (Figures(10, 0.9, 0.2), Figures(10, 0.9, 0.55), "live"),
        (Figures(10, 0.9, 0.2), Figures(10, 0.9, 0.7), "refused"),
        (Figures(0, 0.0, 0.0), Figures(10, 1.0, 0.5), "refused"),
    ],
)
def test_only_what_is_better_goes_live(
    tmp_path: Path, after: Figures, kept: Figures, state: str
) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        lora.trainer.after, lora.trainer.kept = after, kept
        done = await lora.trained(shell)
        assert done.adapter.state == state
        assert done.adapter.figures["probes_after"] == after.score
        files = [path for path in lora.folder.rglob("*") if path.is_file()]
        assert bool(files) == (state == "live")
        if state == "refused":
            assert done.adapter.why
            with pytest.raises(ENOENT):
                await shell.lora.attach(adapter="notes")
            for name in ("notes@1", done.adapter.identity):
                with pytest.raises(ECONFLICT, match="refused"):
                    await shell.lora.attach(adapter=name)
                with pytest.raises(ECONFLICT, match="refused"):
                    await lora.said(shell, adapter=name)
            with pytest.raises(ECONFLICT, match="refused"):
                await shell.lora.rollback(adapter="notes", version=1)

    play(tmp_path, scene)


def test_rollback_is_one_call_and_who_follows_the_name_follows(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        first, second = await lora.trained(shell), await lora.trained(shell)
        await shell.lora.attach(adapter="notes")
        fixed = lora.attach()
        await lora.join(fixed, shell)
        await fixed.lora.attach(adapter="notes@2")
        assert await lora.said(shell) == await lora.said(fixed) == second.adapter.identity
        rolled = await shell.lora.rollback(adapter="notes")
        assert (rolled.version, rolled.identity) == (1, first.adapter.identity)
        assert await listed(shell) == [(1, "live"), (2, "retired")]
        assert await lora.said(shell) == first.adapter.identity
        assert await lora.said(fixed) == second.adapter.identity
        with pytest.raises(ENOENT, match="no such version"):
            await shell.lora.rollback(adapter="notes")
        assert (await shell.lora.rollback(adapter="notes", version=2)).version == 2
        assert await lora.said(shell) == second.adapter.identity

    play(tmp_path, scene)


def test_only_a_few_earlier_versions_are_kept(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        for _ in range(4):
            await lora.trained(shell)
        shown = await listed(shell, all=True)
        assert shown == [(1, "dropped"), (2, "dropped"), (3, "retired"), (4, "live")]
        assert len(list(lora.folder.glob("*/notes/*"))) == 2

    play(tmp_path, scene, adapter_versions=1)


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


def test_jobs_are_bounded(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        lora.trainer.hold = trio.Event()
        one = await rids(shell)
        job = (await shell.lora.train(name="notes", rids=one)).job
        await trio.sleep(1)
        with pytest.raises(EAGAIN) as caught:
            await shell.lora.train(name="other", rids=one)
        assert caught.value.retry_after > 0
        lora.trainer.hold.set()
        await ended(shell, job)
        lora.kernel.settings = _with(lora, adapter_bytes=1)
        with pytest.raises(EDQUOT) as full:
            await shell.lora.train(name="other", rids=one)
        assert full.value.detail["quota"] == "adapter_bytes"

    play(tmp_path, scene)


def _with(lora: Lora, **more: Any) -> Any:
    return msgspec.structs.replace(lora.kernel.settings, **more)


def test_cancel(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        lora.trainer.hold = trio.Event()
        job = (await shell.lora.train(name="notes", rids=await rids(shell))).job
        await trio.sleep(1)
        assert (await shell.lora.cancel(job=job)).state == "cancelled"
        assert lora.trainer.ended == 1
        assert not [path for path in lora.folder.rglob("*") if path.is_file()]
        with pytest.raises(ECONFLICT):
            await shell.lora.cancel(job=job)
        with pytest.raises(ENOENT):
            await shell.lora.cancel(job="other")

    play(tmp_path, scene)


@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_is_told_and_a_death_is_tried_once_more(tmp_path: Path, retryable: bool) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        lora.trainer.error = EIO("it died", driver="lora", retryable=retryable)
        done = await lora.trained(shell)
        assert len(lora.trainer.specs) == (2 if retryable else 1)
        assert done.state == ("done" if retryable else "failed")
        assert retryable or "it died" in done.adapter.why

    play(tmp_path, scene)


def test_a_bug_in_a_job_ends_this_job_only(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        lora.trainer.error = ZeroDivisionError("a bug")  # type: ignore[assignment]
        done = await lora.trained(shell)
        assert done.state == "failed"
        assert "EKERNEL" in done.adapter.why
        assert (await lora.trained(shell)).state == "done"

    play(tmp_path, scene)


def test_what_cannot_be_trained(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        one = await rids(shell)
        train = shell.lora.train
        with pytest.raises(EINVAL, match="nothing to learn"):
            await train(name="notes")
        with pytest.raises(EINVAL, match="rids, or a query"):
            await train(name="notes", rids=one, query="Ada")
        with pytest.raises(EINVAL, match="name"):
            await train(name="a/b", rids=one)
        with pytest.raises(EINVAL, match="base"):
            await train(name="notes", rids=one, base="other")
        with pytest.raises(EINVAL, match="nothing to learn"):
            await train(name="notes", rids=one, base="nano")
        with pytest.raises(ENOENT):
            await train(name="notes", rids=["0" * 26])
        lora.kernel.settings = _with(lora, model="openai:x@http://localhost:1")
        with pytest.raises(ENODEV):
            await train(name="notes", rids=one)

    play(tmp_path, scene)


def test_records_are_chosen_by_a_query_or_a_filter(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        tagged = await shell.mem.write(
            segment="episodic", content="The tram to the office is number nine.", tags=["way"]
        )
        done = await lora.trained(shell, filter=Filter(tags=["way"]))
        assert done.adapter.sources == [tagged.rid]
        done = await lora.trained(shell, query="Ada lives in Turin", k=1)
        assert {one.completion for one in lora.trainer.specs[-1].examples} == {"Turin"}

    play(tmp_path, scene)


def test_adapters_belong_to_a_space(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        done = await lora.trained(shell)
        other = lora.attach()
        await other.mem.write(segment="semantic", content="mine")
        assert (await other.lora.list()).adapters == []
        for name in ("notes", "notes@1", done.adapter.identity):
            with pytest.raises(ENOENT):
                await other.lora.attach(adapter=name)
            with pytest.raises(ENOENT):
                await lora.said(other, adapter=name)
        with pytest.raises(ENOENT):
            await other.lora.rollback(adapter="notes")
        apid = (await other.proc.info()).apid
        await shell.lora.attach(adapter="notes", target=apid)  # its owner may give it away
        assert await lora.said(other) == done.adapter.identity
        with pytest.raises(ENOENT):
            await lora.said(other, adapter="notes")

    play(tmp_path, scene)


def test_a_share_gives_an_adapter_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        done = await lora.trained(shell)
        guest = lora.attach("lora.*", "llm.*", "mem.*", "sys.*", "proc.*")
        apid = (await guest.proc.info()).apid
        await shell.mem.share(to=apid, access="write")
        await lora.join(guest, shell)
        await guest.lora.attach(adapter="notes")
        assert await lora.said(guest) == done.adapter.identity
        other = lora.attach()
        with pytest.raises(EPERM):
            await guest.lora.attach(adapter="notes", target=(await other.proc.info()).apid)
        await shell.mem.revoke(to=apid)
        assert await lora.said(guest) == "bare"
        with pytest.raises((ENOENT, EPERM)):
            await lora.said(guest, adapter="notes")
        with pytest.raises(EPERM):
            await guest.lora.list()

    play(tmp_path, scene)


def test_attached_for_all_that_work_in_the_space(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        done = await lora.trained(shell)
        await shell.lora.attach(adapter="notes", everyone=True)
        late = lora.attach()
        assert await lora.said(late) == "bare"
        await lora.join(late, shell)
        assert await lora.said(late) == await lora.said(shell) == done.adapter.identity
        (one,) = (await shell.lora.list()).adapters
        assert one.everyone
        await shell.mem.forget(rid=done.adapter.sources[0])
        assert await lora.said(late) == "bare"
        assert lora.kernel.adapters.versions.worn(1) == {}

    play(tmp_path, scene)


def test_another_model_is_told_apart(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        await lora.trained(shell)
        await shell.lora.attach(adapter="notes")
        lora.model.info = msgspec.structs.replace(lora.model.info, fingerprint="other-weights")
        with pytest.raises(ECONFLICT, match="another model"):
            await lora.said(shell)
        with pytest.raises(ECONFLICT, match="another model"):
            await shell.lora.attach(adapter="notes")
        await shell.lora.detach()
        assert await lora.said(shell) == "bare"

    play(tmp_path, scene)


def test_drop(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        await lora.trained(shell)
        await lora.trained(shell)
        await shell.lora.attach(adapter="notes")
        await shell.lora.drop(adapter="notes@2")
        assert await lora.said(shell) == "bare"
        assert await listed(shell) == [(1, "retired")]
        await shell.lora.drop(adapter="notes")
        assert await listed(shell) == []
        assert not [path for path in lora.folder.rglob("*") if path.is_file()]
        with pytest.raises(ENOENT):
            await shell.lora.drop(adapter="other")
        assert (await lora.trained(shell)).adapter.version == 3

    play(tmp_path, scene)


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
