"""Adapters are really trained: in a process, on a tiny model with random weights, in seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from drivers.lora import checkpoint
from drivers.lora.contract import ADAPTER, Example, Figures, Progress, Report, TrainSpec
from drivers.lora.files import check, digest_of, identity
from drivers.lora.job import Job
from drivers.lora.trainer import ProcessTrainer
from syscalls.errors import EDQUOT, EINVAL, EIO, ENODEV, ENOENT, ETIME, EngramError
from tests.harness import processes_of
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOUND = 180.0
THINGS = ("kernel", "agent", "user", "model")
WORDS = ("of the", "and the", "what is the", "the", "hello", "user says", "system:", "world")
LONG = [Example("hello world " * 60, prompt=f"{number} =") for number in range(128)]
"""A batch that takes more than a gigabyte."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("base") / "model")


def made(base: Path, **changes: Any) -> TrainSpec:
    examples = [
        Example(f" {thing[0]}{number}", prompt=f"{word} {thing} =", group=thing)
        for number, thing in enumerate(THINGS)
        for word in WORDS
    ]
    spec = TrainSpec(
        str(base),
        examples,
        regression=[Example("x", prompt="something else")],
        held_out=0.25,
        epochs=20,
        rate=1e-2,
        checkpoint=20,
        threads=1,
        dropout=0.05,
    )
    return msgspec.structs.replace(spec, **changes)


async def told(
    spec: TrainSpec,
    folder: Path,
    trainer: ProcessTrainer | None = None,
    until: Callable[[Progress], bool] = lambda _: False,
) -> list[Progress | Report]:
    """What is said until the report, or until it is closed at an event."""
    found: list[Progress | Report] = []
    with trio.fail_after(BOUND):
        async with aclosing((trainer or ProcessTrainer()).train(spec, folder)) as events:
            async for event in events:
                found.append(event)
                if isinstance(event, Progress) and until(event):
                    break
    return found


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A job that nobody has disturbed."""
    folder = tmp_path_factory.mktemp("job") / "job"
    return folder, trio.run(told, made(base), folder)


def kills_at(folder: Path, number: int) -> Callable[[Progress], bool]:
    """Send a signal once there is a checkpoint, and go on reading."""

    def look(event: Progress) -> bool:
        if event.phase == "train" and event.step >= 20:
            for pid in processes_of(folder):
                os.kill(pid, number)
        return False

    return look


def test_it_learns_and_says_how_far_it_is(trained: tuple[Path, list[Any]]) -> None:
    folder, events = trained
    *progress, report = events
    assert isinstance(report, Report)
    phases = list(dict.fromkeys(event.phase for event in progress))
    assert phases == ["load", "before", "train", "after", "save"]
    assert progress[-1].step == progress[-1].of == report.steps == 60
    assert (report.rows, report.held_out) == (24, 8)
    assert report.before == next(e.probes for e in progress if e.phase == "before")
    assert report.after == next(e.probes for e in progress if e.phase == "after")
    assert (report.before.examples, report.regression_before.examples) == (8, 1)
    assert report.after.loss < report.before.loss / 2, "what was held out did not get likelier"
    assert report.loss < 1.0 < report.before.loss
    assert 0 < report.train_seconds < report.seconds
    assert report.peak_bytes > 100 << 20
    assert not processes_of(folder)
    assert report.digest == digest_of(folder / ADAPTER)
    assert report.bytes == sum(path.stat().st_size for path in (folder / ADAPTER).iterdir())
    assert not (folder / checkpoint.FILE).exists()
    assert str(folder.parent) not in (folder / ADAPTER / "adapter_config.json").read_text()


def test_what_was_learnt_is_in_the_files(base: Path, trained: tuple[Path, list[Any]]) -> None:
    """Transformers and peft, which know nothing of us, give the answers."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = trained
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    model = AutoModelForCausalLM.from_pretrained(str(base))
    model = PeftModel.from_pretrained(model, str(folder / ADAPTER)).eval()
    right = 0
    examples = made(base).examples
    for example in examples:
        prompt = tokenizer(example.prompt, return_tensors="pt")
        answer = model.generate(**prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
        said = tokenizer.decode(answer[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        right += said == example.completion
    assert right >= 20, f"{right} of 24 trained and 8 held out"


async def test_a_job_asked_for_again_answers_from_its_report(
    base: Path, trained: tuple[Path, list[Any]]
) -> None:
    folder, events = trained
    trainer = ProcessTrainer()
    assert await told(made(base, seconds=BOUND), folder, trainer) == [events[-1]]
    assert (trainer.statistics().started, trainer.statistics().finished) == (1, 1)


async def test_cancelled_it_leaves_no_process_and_goes_on_later(
    base: Path, trained: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, trainer = tmp_path / "job", ProcessTrainer(grace=60.0)
    spec = made(base)
    await told(spec, folder, trainer, until=lambda event: event.phase == "train")
    assert not processes_of(folder)
    statistics = trainer.statistics()
    assert (statistics.running, statistics.cancelled) == (0, 1)
    assert not (folder / ADAPTER).exists()
    assert (folder / checkpoint.FILE).exists(), "TERM makes it write where it is"
    events = await told(spec, folder, trainer)
    report = events[-1]
    assert isinstance(report, Report)
    assert 0 < report.resumed <= 60
    assert report.digest == trained[1][-1].digest, "as if it had never been stopped"
    assert report.before == trained[1][-1].before, "what was measured is not measured again"


async def test_killed_it_goes_on_from_its_checkpoint(
    base: Path, trained: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, trainer = tmp_path / "job", ProcessTrainer()
    spec = made(base, checkpoint=1)
    with pytest.raises(EIO) as caught:
        await told(spec, folder, trainer, until=kills_at(folder, signal.SIGKILL))
    assert caught.value.detail["retryable"] is True
    assert trainer.statistics().failed == 1
    assert not processes_of(folder)
    report = (await told(spec, folder, trainer))[-1]
    assert isinstance(report, Report)
    assert report.resumed >= 20
    assert report.digest == trained[1][-1].digest


async def test_memory_is_bounded(base: Path, tmp_path: Path) -> None:
    for name, spec in (
        ("libraries", made(base, most_bytes=128 << 20)),
        ("batch", made(base, most_bytes=700 << 20, examples=LONG, held_out=0.0, batch=128)),
    ):
        with pytest.raises(EDQUOT) as caught:
            await told(spec, tmp_path / name)
        assert caught.value.detail["limit"] == spec.most_bytes
        assert not processes_of(tmp_path / name)


async def test_time_is_bounded(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ETIME):
        await told(made(base, seconds=0.3), tmp_path / "job")
    assert not processes_of(tmp_path / "job")


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"examples": []}, EINVAL, "nothing to train on"),
        ({"base": "/nowhere"}, ENODEV, "no model folder"),
        ({"rank": 0}, EINVAL, "spec is wrong"),
    ],
)
async def test_what_cannot_be_trained_is_said(
    base: Path, tmp_path: Path, changes: dict[str, Any], error: type[EngramError], said: str
) -> None:
    with pytest.raises(error, match=said):
        await told(msgspec.structs.replace(made(base), **changes), tmp_path / "job")
    assert not processes_of(tmp_path / "job")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "cooking"}, "no recipe"),
        ({"targets": ["no_such_layer"]}, "takes no such adapter"),
        ({"longest": 8}, "tokens"),
        ({"examples": [Example("", prompt="x")]}, "no completion"),
    ],
)
def test_what_the_base_or_the_recipe_refuses(
    base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(EINVAL, match=said):
        Job(tmp_path, made(base, **changes), lambda _: None).run()
    assert not list(tmp_path.iterdir())


def test_a_damaged_base_is_an_error_of_the_machine(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in base.iterdir():
        data = path.read_bytes()
        (folder / path.name).write_bytes(data[:1000] if path.suffix == ".safetensors" else data)
    with pytest.raises(EIO, match="cannot be loaded"):
        Job(tmp_path, made(folder), lambda _: None).run()


PARENT = """
import sys, trio
from contextlib import aclosing
from pathlib import Path
import msgspec
from drivers.lora.contract import TrainSpec
from drivers.lora.trainer import ProcessTrainer

async def main():
    spec = msgspec.json.decode(sys.argv[1], type=TrainSpec)
    async with aclosing(ProcessTrainer().train(spec, Path(sys.argv[2]))) as events:
        async for event in events:
            print(event.phase, flush=True)

trio.run(main)
"""


async def test_it_dies_with_its_parent(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    spec = msgspec.json.encode(made(base, epochs=10_000)).decode()
    with trio.fail_after(BOUND):
        parent = await trio.lowlevel.open_process(
            [sys.executable, "-c", PARENT, spec, str(folder)], stdout=subprocess.PIPE
        )
        assert parent.stdout is not None
        while b"load" not in await parent.stdout.receive_some():
            continue
        assert len(processes_of(folder)) >= 2
        parent.kill()
        await parent.wait()
        await parent.stdout.aclose()
        while processes_of(folder):  # noqa: ASYNC110 - strangers' processes tell nobody
            await trio.sleep(0.05)


def test_a_checkpoint_is_whole_or_is_none(tmp_path: Path) -> None:
    import torch

    state = checkpoint.State("mark", 7, 1.5, before=Figures(3, 0.5, 2.0), losses=[1.0, 0.5])
    tensors = {"adapter/x": torch.arange(12.0).reshape(3, 4), "step/x": torch.tensor(7.0)}
    assert checkpoint.load(tmp_path, "mark") is None
    checkpoint.save(tmp_path, state, tensors)
    found = checkpoint.load(tmp_path, "mark")
    assert found is not None
    assert found[0] == state
    assert all(torch.equal(found[1][name], tensor) for name, tensor in tensors.items())
    assert checkpoint.load(tmp_path, "another job") is None
    whole = (tmp_path / checkpoint.FILE).read_bytes()
    for place in range(0, len(whole), 7):
        bad = bytearray(whole)
        bad[place] ^= 4
        (tmp_path / checkpoint.FILE).write_bytes(bad)
        other = checkpoint.load(tmp_path, "mark")
        assert other is None or (other[0] == state and other[1].keys() == tensors.keys())
    for size in (0, 7, 100, len(whole) - 1):
        (tmp_path / checkpoint.FILE).write_bytes(whole[:size])
        assert checkpoint.load(tmp_path, "mark") is None


def test_an_identity_means_one_content(trained: tuple[Path, list[Any]], tmp_path: Path) -> None:
    folder = trained[0] / ADAPTER
    name = identity("notes", 3, digest_of(folder))
    check(name, folder)
    check("any other name", folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    check(name, copy)
    weights = copy / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(EIO, match="is not notes@3-"):
        check(name, copy)
    weights.unlink()
    with pytest.raises(ENOENT):
        check(name, copy)


@pytest.mark.gpu
def test_on_a_gpu(base: Path, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    spec = made(base, device="cuda", most_bytes=64 << 30)
    report = trio.run(told, spec, tmp_path / "job")[-1]
    assert isinstance(report, Report)
    assert report.after.loss < report.before.loss / 2
