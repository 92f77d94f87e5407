"""Adapters by identity, in both local engines: loaded on demand, each row with its own."""

from __future__ import annotations

import shutil
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivers.llm import make_llm
from drivers.llm.contract import GenerateRequest
from drivers.lora.files import digest_of, identity
from kernel.machine import SystemClock
from syscalls.errors import EAGAIN, EBUSY, EINVAL, EIO, ENOENT
from tests.models import tiny_adapter, tiny_llm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drivers.llm.hosted import HostedLLM
    from syscalls.shapes import Usage

OPTIONS: dict[str, dict[str, Any]] = {"transformers": {}, "vllm": {"kv_bytes": 32 << 20}}
PROMPT = "the kernel answers and the model speaks to the user; " * 12
"""More than one block of vLLM's prefix cache."""
TOKENS = 24
BROKEN = "\ufffd"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("base") / "model", context=512)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four, by identity; "" is none."""
    found = {}
    for seed in range(4):
        folder = tiny_adapter(base, tmp_path_factory.mktemp("adapter") / "it", seed)
        found[identity(f"words{seed}", 1, digest_of(folder))] = folder
    return found


@pytest.fixture(scope="module")
def oracle(base: Path, adapters: dict[str, Path]) -> dict[str, str]:
    """What transformers and peft write, without any of ours."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base))
    prompt = tokenizer(PROMPT, return_tensors="pt")
    texts = {}
    for name, folder in {"": None, **adapters}.items():
        model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
        if folder is not None:
            model = PeftModel.from_pretrained(model, str(folder))
        tokens = model.eval().generate(
            **prompt, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )[0, prompt["input_ids"].shape[1] :]
        texts[name] = tokenizer.decode(tokens, skip_special_tokens=True)
    assert len({text[:8] for text in texts.values()}) == 5, (
        "adapters that change nothing prove nothing"
    )
    return texts


class Text(str):
    """What an engine wrote, equal to the oracle's text up to a character that was cut off.

    With random weights a text may end in bytes that are no character; vLLM keeps those back.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        short, long = sorted((self.rstrip(BROKEN), other.rstrip(BROKEN)), key=len)
        return long.startswith(short) and len(short) >= max(8, len(long) - 8)

    __hash__ = str.__hash__


class Bench:
    """An engine and its adapters."""

    def __init__(self, llm: HostedLLM, folders: dict[str, Path]) -> None:
        self.llm = llm
        self.folders = folders
        self.names = list(folders)

    def request(self, name: str, tokens: int = TOKENS, **more: Any) -> GenerateRequest:
        path = str(self.folders[name]) if name in self.folders else ""
        return GenerateRequest(
            prompt=PROMPT, max_tokens=tokens, **{"adapter": name, "adapter_path": path, **more}
        )

    async def said(self, request: GenerateRequest) -> tuple[Text, Usage]:
        async with aclosing(self.llm.generate(request)) as stream:
            pieces = [piece async for piece in stream]
        assert pieces[-1].usage is not None
        return Text("".join(piece.text for piece in pieces)), pieces[-1].usage


@asynccontextmanager
async def running(
    engine: str, base: Path, run_dir: Path, folders: dict[str, Path], **options: Any
) -> AsyncIterator[Bench]:
    llm = make_llm(
        str(base),
        engine=engine,
        run_dir=run_dir,
        log=lambda *_: None,
        clock=SystemClock(),
        options={**OPTIONS[engine], **options},
    )
    bench = Bench(llm, folders)  # type: ignore[arg-type]
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            await nursery.start(llm.run)
            yield bench
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
async def test_adapters_by_identity(
    engine: str, base: Path, adapters: dict[str, Path], oracle: dict[str, str], tmp_path: Path
) -> None:
    """One host for all of these: loading the library takes longer than the rest."""
    async with running(
        engine, base, tmp_path, adapters, adapters=2, adapter_rank=8, prefix_bytes=1 << 20
    ) as bench:
        await the_base_is_the_base(bench, oracle)
        await each_row_has_its_own(bench, oracle)
        await the_least_recently_used_leaves(bench, oracle)
        await none_leaves_while_it_is_in_use(bench, oracle)
        await what_is_cached_is_the_adapters_own(bench, oracle)
        await what_is_wrong_is_said(bench, tmp_path)
        await the_base_is_the_base(bench, oracle)


async def the_base_is_the_base(bench: Bench, oracle: dict[str, str]) -> None:
    assert (await bench.said(bench.request("")))[0] == oracle[""]


async def each_row_has_its_own(bench: Bench, oracle: dict[str, str]) -> None:
    """Two adapters and none at the same time, effective from the request that names them."""
    first, second, *_ = bench.names
    got: list[tuple[str, Text]] = []

    async def ask(name: str, salt: str) -> None:
        got.append((name, (await bench.said(bench.request(name, salt=salt)))[0]))

    async with trio.open_nursery() as nursery:
        for place, name in enumerate((first, "", second, "", first)):
            nursery.start_soon(ask, name, f"{place}")
    assert len(got) == 5
    assert all(text == oracle[name] for name, text in got)
    held = await bench.llm.adapters()
    assert (held.room, sorted(held.held), held.lent, held.loads) == (2, [first, second], [], 2)


async def the_least_recently_used_leaves(bench: Bench, oracle: dict[str, str]) -> None:
    first, second, third, fourth = bench.names
    before = await bench.llm.adapters()
    for name in (second, first, third):
        assert (await bench.said(bench.request(name)))[0] == oracle[name]
    held = await bench.llm.adapters()
    assert held.held == [first, third], "the least recently used one was to leave"
    assert (held.loads, held.evictions) == (before.loads + 1, before.evictions + 1)
    for name in (fourth, second, first, third, ""):
        assert (await bench.said(bench.request(name)))[0] == oracle[name]
    await bench.llm.unload_adapter(first)
    assert (await bench.llm.adapters()).held == [third]


async def none_leaves_while_it_is_in_use(bench: Bench, oracle: dict[str, str]) -> None:
    first, second, third, _ = bench.names
    async with (
        aclosing(bench.llm.generate(bench.request(first, 250))) as one,
        aclosing(bench.llm.generate(bench.request(second, 250))) as two,
    ):
        begun = [await anext(one), await anext(two)]
        assert sorted((await bench.llm.adapters()).lent) == [first, second]
        with pytest.raises(EAGAIN) as caught:
            await bench.said(bench.request(third))
        assert caught.value.retry_after > 0
        with pytest.raises(EBUSY):
            await bench.llm.unload_adapter(second)
        # The others go on, and so does who needs none.
        assert (await bench.said(bench.request("")))[0] == oracle[""]
        assert (await bench.said(bench.request(first)))[0] == oracle[first]
        text = begun[0].text + "".join([piece.text async for piece in one])
        assert Text(text[: len(oracle[first])]) == oracle[first]
    while await bench.llm.running():  # noqa: ASYNC110 - the second was closed in mid-flight
        await trio.sleep(0.01)
    assert (await bench.said(bench.request(third)))[0] == oracle[third]
    assert (await bench.llm.adapters()).lent == []


async def what_is_cached_is_the_adapters_own(bench: Bench, oracle: dict[str, str]) -> None:
    """Nothing computed with one set of weights is taken with another; its own is found again."""
    salt = "cache"
    first, second, third, fourth = bench.names
    for name in (first, "", second):
        text, usage = await bench.said(bench.request(name, salt=salt))
        assert usage.cached == 0
        assert text == oracle[name]
    text, usage = await bench.said(bench.request(second, salt=salt))
    assert usage.cached > 100
    assert text == oracle[second]
    # It has left the engine and comes back: the same identity, so what was cached is right.
    for name in (third, fourth):
        await bench.said(bench.request(name, salt="others"))
    assert second not in (await bench.llm.adapters()).held
    text, usage = await bench.said(bench.request(second, salt=salt))
    assert usage.cached > 100
    assert text == oracle[second]


async def what_is_wrong_is_said(bench: Bench, tmp_path: Path) -> None:
    first, _, third, _ = bench.names
    with pytest.raises(ENOENT, match="no adapter"):
        await bench.said(bench.request("unknown"))
    gone = str(tmp_path / "gone")
    with pytest.raises(ENOENT, match="holds no adapter"):
        await bench.said(bench.request("gone@1-000000000000", adapter_path=gone))
    other = str(bench.folders[third])
    swapped = first.replace("@1-", "@2-")
    with pytest.raises(EIO, match="is not"):
        await bench.said(bench.request(swapped, adapter_path=other))
    misfit = misfitting(bench.folders[first], tmp_path / "misfit")
    before = await bench.llm.adapters()
    with pytest.raises(EINVAL, match="does not fit"):
        await bench.said(bench.request("misfit", adapter_path=str(misfit)))
    assert "misfit" not in (await bench.llm.adapters()).held
    assert len(before.held) == 2


def misfitting(source: Path, folder: Path) -> Path:
    """An adapter with matrices of a wrong shape."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    weights = load_file(str(folder / "adapter_model.safetensors"))
    wide = {name: tensor.repeat(1, 2).contiguous() for name, tensor in weights.items()}
    save_file(wide, str(folder / "adapter_model.safetensors"))
    return folder


async def test_without_room_an_adapter_is_refused(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    async with running("transformers", base, tmp_path, adapters) as bench:
        with pytest.raises(EINVAL, match="without room"):
            await bench.said(bench.request(bench.names[0]))
        assert (await bench.llm.adapters()).room == 0


def test_without_its_adapter_a_model_is_bit_for_bit_the_base(
    base: Path, adapters: dict[str, Path]
) -> None:
    import torch

    from drivers.llm.model import Model

    threads = torch.get_num_threads()
    model = Model(base, {"adapters": 2, "threads": threads})
    assert model.adapters is not None
    tokens = model.tokens.encode(PROMPT, None)

    def logits(adapter: str | None = None) -> torch.Tensor:
        return model.forward(tokens, model.new_cache(), adapter)

    before = logits()
    marks = []
    for name in list(adapters)[:2]:
        marks.append(model.adapters.take(name, str(adapters[name])))
        assert torch.equal(logits(), before)
    first, second = (logits(mark) for mark in marks)
    assert not torch.equal(first, before)
    assert not torch.equal(first, second)
    assert torch.equal(logits(marks[0]), first)
    assert torch.equal(logits(), before)
    for name in list(adapters)[:2]:
        model.adapters.give_back(name)
        model.adapters.unload(name)
        assert torch.equal(logits(), before)
    again = model.adapters.take(next(iter(adapters)), str(adapters[next(iter(adapters))]))
    assert again not in marks, "a number was used again"
    assert torch.equal(logits(again), first)
