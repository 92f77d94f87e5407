"""Adapters on a real kernel: a real training process, a real engine, a model made on the spot.

The model is random, so nothing sensible is learnt; what is tested is that an adapter changes the
text of who has it and of nobody else, that it comes back after a rollback to the letter, and that
it is gone when a record is that it was made from.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from syscalls.calls import sys as sys_calls
from syscalls.errors import ECONFLICT, ENOENT
from syscalls.records import Fact
from syscalls.shapes import ChatMessage
from tests.harness import BOUND, processes_of, running
from tests.models import tiny_llm
from userland.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import RunningKernel
    from userland.client import BlockingClient

TOWNS = (("Ada", "Turin"), ("Bob", "Oslo"), ("小明", "北京"))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    """A kernel with a tiny model, whose adapters may change it as they like."""
    folder = tmp_path_factory.mktemp("lora")
    flags = (
        "--embedder=local-hash:64",
        f"--model={tiny_llm(folder / 'model')}",
        "--engine=transformers",
        "--mind=none",
        "--adapters=4",
        "--adapter-drift=1000",
    )
    with running(folder / "data", *flags) as kernel:
        yield kernel
    assert not processes_of(folder / "data")


def work_in(kernel: RunningKernel, space: str) -> BlockingClient:
    client = kernel.client()
    client.call(sys_calls.Session(name="test", space=space))
    return client


def told(client: BlockingClient) -> list[str]:
    return [
        client.mem.write(
            segment="semantic", content=f"{name} lives in {town}", fact=Fact(name, "lives_in", town)
        ).rid
        for name, town in TOWNS
    ]


def train(client: BlockingClient, rids: list[str], **more: Any) -> Any:
    more = {"rids": rids, "steps": 8, "learning_rate": 0.02, **more}
    job = client.lora.train(name="towns", **more).job
    return job if more.get("seconds") == BOUND else client.lora.job(job=job, follow=True)


def said(client: BlockingClient, **more: Any) -> str:
    messages = [ChatMessage(role="user", content="Where does Ada live?")]
    text: str = client.llm.generate(messages=messages, max_tokens=12, **more).text
    return text


def engram(kernel: RunningKernel, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command line says, in the space of the test."""
    status = main(["--data", str(kernel.data), "--space", "home", "lora", *words])
    out, err = capsys.readouterr()
    assert status == 0, out + err
    return out


def test_the_life_of_an_adapter(kernel: RunningKernel, capsys: pytest.CaptureFixture[str]) -> None:
    home, other = work_in(kernel, "home"), work_in(kernel, "other")
    rids = told(home)
    bare = said(home)
    first = train(home, rids, seed=1)
    assert first.state == "done", first.adapter.why
    figures = first.adapter.figures
    assert figures["probes_loss_after"] < figures["probes_loss_before"]
    assert said(home) == bare, "it is live, and attached to nobody"
    home.lora.attach(adapter="towns")
    taught = said(home)
    assert taught != bare
    assert said(other) == bare, "another process is unchanged"
    assert said(home, adapter="none") == bare
    chosen = [word for rid in rids for word in ("--rid", rid)]
    out = engram(kernel, capsys, "train", "towns", *chosen, "--steps", "8", "--rate", "0.05")
    assert "towns@2: done" in out
    assert "right answers" in out
    second = home.lora.job(job="towns@2")
    anew = said(home)
    assert anew not in (taught, bare)
    assert home.lora.rollback(adapter="towns").identity == first.adapter.identity
    assert said(home) == taught, "to the letter, from the next request on"
    asked = home.lora.probe(adapter="towns", limit=2)
    assert asked.identity == first.adapter.identity
    assert sorted(asked.sources) == sorted(rids)
    _by_commands(kernel, capsys, home, taught)

    folder = kernel.data / "lora"
    assert len(list(folder.rglob("adapter_model.safetensors"))) == 2
    home.mem.forget(rid=rids[0])
    assert said(home) == bare
    assert not list(folder.rglob("*.safetensors"))
    _never_again(home, first.adapter.identity, second.adapter.identity)
    home.close()
    other.close()
    kernel.kill()
    kernel.reboot()
    home = work_in(kernel, "home")
    _never_again(home, first.adapter.identity, second.adapter.identity)
    assert said(home) == bare
    home.close()


def _by_commands(
    kernel: RunningKernel, capsys: pytest.CaptureFixture[str], home: BlockingClient, taught: str
) -> None:
    """The same for those who type: outside a shell an adapter is for all that work there."""
    home.lora.detach()
    engram(kernel, capsys, "attach", "towns")
    assert said(home) == taught
    assert "everyone" in engram(kernel, capsys, "list")
    assert "of 2 right" in engram(kernel, capsys, "probe", "towns", "-n", "2", "--no-record")
    assert "done" in engram(kernel, capsys, "job", "towns")
    engram(kernel, capsys, "detach")
    assert said(home) != taught
    assert "towns@2-" in engram(kernel, capsys, "rollback", "towns", "2")
    home.lora.attach(adapter="towns")


def _never_again(client: BlockingClient, *identities: str) -> None:
    """Whatever it is called, and whatever for."""
    for name in ("towns", "towns@1", "towns@2", *identities):
        with pytest.raises((ENOENT, ECONFLICT)):
            client.lora.attach(adapter=name)
        with pytest.raises((ENOENT, ECONFLICT)):
            client.lora.attach(adapter=name, everyone=True)
        with pytest.raises((ENOENT, ECONFLICT)):
            said(client, adapter=name)
        with pytest.raises((ENOENT, ECONFLICT)):
            client.lora.probe(adapter=name)
    for number in (0, 1, 2):
        with pytest.raises((ENOENT, ECONFLICT)):
            client.lora.rollback(adapter="towns", version=number)


def test_a_job_goes_on_after_the_kernel_was_killed(kernel: RunningKernel) -> None:
    with work_in(kernel, "killed") as home:
        rids = told(home)
        home.llm.count(text="ready")
        job = train(home, rids, steps=4000, seconds=BOUND, rank=2)
        _wait_for(home, job, "train")
    kernel.kill()
    deadline = time.monotonic() + BOUND
    while processes_of(kernel.data):
        assert time.monotonic() < deadline, "the training process outlives the kernel"
        time.sleep(0.1)
    kernel.reboot()
    with work_in(kernel, "killed") as home:
        _wait_for(home, job, "train")
        assert home.lora.cancel(job=job).state == "cancelled"
        assert home.lora.job(job=job).state == "cancelled"
    assert not list((kernel.data / "lora" / ".jobs").iterdir())


def _wait_for(client: BlockingClient, job: str, phase: str) -> None:
    """Until a job is at a phase."""
    deadline = time.monotonic() + BOUND
    while True:
        info = client.lora.job(job=job)
        assert info.state in ("waiting", "running"), info.adapter.why
        if info.progress is not None and info.progress.phase == phase:
            return
        assert time.monotonic() < deadline, info
        time.sleep(0.1)
