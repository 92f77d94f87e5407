"""The ``lora`` calls on a simulated system: jobs, attachments, rollback, rights, bounds.

Training and model are stand-ins; the rest is the kernel's own.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from drivers.lora.contract import Figures
from syscalls.calls import capsule
from syscalls.capsule import Unsealer, decode
from syscalls.errors import EAGAIN, ECONFLICT, EDQUOT, EINVAL, EIO, ENODEV, ENOENT, EPERM
from syscalls.records import Filter
from tests.lora import FakeModel, Lora, ended, listed, play, rids
from ums.adapters import Version

if TYPE_CHECKING:
    from pathlib import Path


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
            with pytest.raises(ECONFLICT, match="notes is refused: "):
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


def test_what_has_lost_its_files_is_refused_and_nobody_fails_by_it(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        first, second = await lora.trained(shell), await lora.trained(shell)
        await shell.lora.attach(adapter="notes")
        (folder,) = lora.folder.glob("*/notes/2")
        shutil.rmtree(folder)
        assert await lora.said(shell) == "bare"
        for refused in (
            partial(shell.lora.attach, adapter="notes"),
            partial(lora.said, shell, adapter=second.adapter.identity),
        ):
            with pytest.raises(ECONFLICT, match="are lost"):
                await refused()
        await shell.lora.rollback(adapter="notes")
        assert await lora.said(shell) == first.adapter.identity
        with pytest.raises(ECONFLICT, match="are lost"):
            await shell.lora.rollback(adapter="notes", version=2)
        assert await lora.said(shell) == first.adapter.identity

    play(tmp_path, scene)


def test_only_a_few_earlier_versions_are_kept(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        for _ in range(4):
            await lora.trained(shell)
        shown = await listed(shell, all=True)
        assert shown == [(1, "dropped"), (2, "dropped"), (3, "retired"), (4, "live")]
        assert len(list(lora.folder.glob("*/notes/*"))) == 2

    play(tmp_path, scene, adapter_versions=1)


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
        word = {"prompt": "what is a flump?", "completion": "a crawler"}
        for alone in ([word], [word, {**word, "prompt": "What is a  flump?"}]):
            with pytest.raises(EINVAL, match="nothing would be set aside"):
                await train(name="notes", examples=alone)
        two = [word, {**word, "prompt": "a flump, what is it?"}]
        with pytest.raises(EINVAL, match="nothing would be set aside"):
            await train(name="notes", examples=two, held_out=0)
        assert not lora.trainer.specs, "nobody has trained for nothing"
        assert (await shell.lora.list(all=True)).adapters == []
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


def test_an_adapter_of_nano_is_for_the_intents_of_who_has_it(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        nano = FakeModel()
        lora.kernel.machine = msgspec.structs.replace(lora.kernel.machine, nano=nano)
        program = [{"call": "proc.list", "args": {}}]
        examples = [{"prompt": f"crew {at}?", "program": program} for at in range(4)]
        done = await lora.trained(shell, examples=examples, base="nano")
        assert (done.state, done.adapter.base) == ("done", "nano")
        spec = lora.trainer.specs[0]
        assert (spec.recipe, spec.held_out, spec.probes) == ("nano", 0.25, [])
        assert {one.group for one in spec.examples} == {"proc.list"}
        assert len(spec.regression) >= 100
        other = lora.attach()
        await shell.lora.attach(adapter="notes")
        for each in (shell, other):
            await each.llm.intent(text="who is there", execute=False)
        assert [one.adapter for one in nano.requests] == [done.adapter.identity, ""]
        assert await lora.said(shell) == "bare", "the other model is as it was"
        with pytest.raises(ECONFLICT, match="is for nano"):
            await lora.said(shell, adapter="notes")
        for wrong in ("proc.fly", 3):
            with pytest.raises(EINVAL):
                await shell.lora.train(
                    name="x", base="nano", examples=[{"prompt": "a", "program": [{"call": wrong}]}]
                )

    play(tmp_path, scene)


def test_after_a_start_jobs_that_had_not_begun_are_lost(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        await lora.trained(shell)
        space = (await shell.proc.info()).space
        versions = lora.kernel.adapters.versions
        await versions.begin(Version(space, "notes", 0, "model"))
        for left in ("7/other/1", f"{space}/notes/9", ".jobs/1-gone-1"):
            await trio.Path(lora.folder, left).mkdir(parents=True)
        await lora.kernel.training.resume()
        assert await listed(shell, all=True) == [(1, "live"), (2, "dropped")]
        job = await shell.lora.job(job="notes@2")
        assert job.state == "failed"
        assert "lost" in job.adapter.why
        assert [path.name for path in lora.folder.glob("*/*/*")] == ["1"]
        assert not list(lora.folder.glob(".jobs/*"))

    play(tmp_path, scene)


def test_after_a_start_what_was_to_be_trained_again_is(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        kept, gone = await rids(shell)
        await lora.trained(shell)
        adapters = lora.kernel.adapters
        await shell.mem.forget(rid=gone)
        (old,) = adapters.versions.all()
        old.again, old.state = True, "live"  # as if the kernel had died right after
        await adapters.versions.spoil(lambda: [old], "gone", again=True)
        await lora.kernel.training.resume()
        await trio.sleep(1)
        done = await ended(shell, "notes@2")
        assert (done.state, done.adapter.sources) == ("done", [kept])
        assert not adapters.versions.all()[0].again

    play(tmp_path, scene)


def test_a_capsule_names_the_adapters_of_its_space(tmp_path: Path) -> None:
    async def scene(lora: Lora, shell: Any) -> None:
        done = await lora.trained(shell)
        cut, frames = Unsealer(), []
        async with shell.stream(capsule.Export()) as stream:
            async for piece in stream:
                frames += cut.feed(piece.data)
        cut.finish()
        (named,) = [decode(one) for one in frames if one.kind == "A"]
        assert named.name == done.adapter.identity
        assert (named.base, sorted(named.sources)) == ("fake-weights", sorted(await rids(shell)))

    play(tmp_path, scene)
