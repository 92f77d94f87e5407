"""Activation memory in vLLM's own pool: what is let go, comes back, and is lost on the way."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
import trio

from drivers.kv import pool
from drivers.kv.contract import KVStatistics
from drivers.kv.image import encode
from drivers.kv.slots import Slots
from drivers.llm.vllm_pins import VLLMPins
from syscalls.errors import EINVAL, ENODEV
from tests.activation import BLOCK, BLOCK_BYTES, CONTEXT, POOL, Bench, prompt_of
from tests.clumsy import PLACE
from tests.conformance import test_kv_conformance as conformance
from tests.conformance import test_kv_damage as damage
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from drivers.kv.contract import Pinned
    from tests.activation import Life

QUESTION = "what did the user say"
FLOOD = 48
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
SAME = [
    body
    for name, body in (vars(conformance) | vars(damage)).items()
    if name.startswith("test_") and list(inspect.signature(body).parameters) == ["bench"]
]
"""What holds on a GPU as well; vLLM's build for CUDA computes there by itself."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kv") / "model"
    return tiny_llm(folder, template=True, context=CONTEXT)


@pytest.mark.parametrize("body", [pytest.param(body, marks=GPU) for body in SAME])
async def test_on_a_gpu(
    body: Callable[[Bench], Awaitable[None]], model: Path, tmp_path: Path
) -> None:
    await body(Bench("vllm", model, tmp_path))


# --- more pins than there is room for


@pytest.mark.slow
async def test_pins_beyond_their_share_are_let_go_and_come_back(
    model: Path, tmp_path: Path
) -> None:
    async with Bench("vllm", model, tmp_path).life(blocks=24) as life:
        texts = {name: prompt_of(5 * BLOCK, seed) for seed, name in enumerate("abc")}
        await life.pin("warm", prompt_of(BLOCK, 8))  # the first costs more than those after it
        await life.llm.unpin("warm")
        pins = {name: await life.pin(name, text) for name, text in texts.items()}
        right = {name: await life.uncached(text + QUESTION) for name, text in texts.items()}
        await life.flood(FLOOD)
        await what_was_let_go_is_told_and_comes_back(life, texts, right)
        await who_is_asked_for_often_is_held_again(life, texts["a"] + QUESTION, right["a"])
        await many_at_once_are_each_right(life, texts, right)
        await a_pin_that_nobody_waits_for_is_let_be(life)
        await dropped_while_it_was_let_go(life, pins["b"], texts["b"] + QUESTION, right["b"])


async def what_was_let_go_is_told_and_comes_back(
    life: Life, texts: dict[str, str], right: dict[str, str]
) -> None:
    held, before = await life.llm.held()
    assert [pin.handle for pin in held] == ["a", "b", "c"]
    assert {pin.tokens for pin in held} == {5 * BLOCK}
    assert sum(pin.tier == "engine" for pin in held) == 2, "there is room for eleven blocks"
    assert sum(pin.tier == "ram" for pin in held) == 1
    assert (before.pins, before.saved, before.restored) == (3, 16, 0)
    assert before.ram_bytes >= 15 * BLOCK_BYTES
    for name, text in texts.items():
        got, usage = await life.say(text + QUESTION, "ana")
        assert (got, usage.cached) == (right[name], 5 * BLOCK)
    assert (await life.llm.held())[1].restored >= 4, "a flood has pushed out what was let go"


async def who_is_asked_for_often_is_held_again(life: Life, text: str, right: str) -> None:
    for _ in range(9):
        got, usage = await life.say(text, "ana")
        assert (got, usage.cached) == (right, 5 * BLOCK)
    before = (await life.llm.held())[1]
    await life.flood(FLOOD)
    got, usage = await life.say(text, "ana")
    assert (got, usage.cached) == (right, 5 * BLOCK)
    held, after = await life.llm.held()
    assert after.restored == before.restored, "the flood pushed it out"
    [pin] = [pin for pin in held if pin.handle == "a"]
    assert (pin.tier, pin.hits) == ("engine", 11)


async def many_at_once_are_each_right(
    life: Life, texts: dict[str, str], right: dict[str, str]
) -> None:
    """Restored, there and computed in one batch, of several owners."""
    await life.flood(FLOOD)
    said: dict[tuple[str, str], tuple[str, int]] = {}

    async def ask(name: str, salt: str) -> None:
        text, usage = await life.say(texts[name] + QUESTION, salt)
        said[name, salt] = text, usage.cached

    async with trio.open_nursery() as nursery:
        for name in texts:
            nursery.start_soon(ask, name, "ana")
            nursery.start_soon(ask, name, "bob")
    for name in texts:
        assert said[name, "ana"] == (right[name], 5 * BLOCK)
        assert said[name, "bob"] == (right[name], 0)


async def a_pin_that_nobody_waits_for_is_let_be(life: Life) -> None:
    with trio.move_on_after(0.0):
        await life.pin("d", prompt_of(7 * BLOCK, 9))
    for _ in range(2):
        await life.pin("d", prompt_of(BLOCK, 10))
    assert [pin.tokens for pin in (await life.llm.held())[0] if pin.handle == "d"] == [BLOCK]
    await life.llm.unpin("d")


async def dropped_while_it_was_let_go(life: Life, pin: Pinned, text: str, right: str) -> None:
    await life.llm.drop("b", pin.blocks)
    got, usage = await life.say(text, "ana")
    assert (got, usage.cached) == (right, 0)
    assert [each.handle for each in (await life.llm.held())[0]] == ["a", "c"]
    assert not any(life.bench.file(pin, place).exists() for place in range(5))


@pytest.mark.slow
async def test_pins_give_way_to_a_request_that_finds_no_room(model: Path, tmp_path: Path) -> None:
    """The pool has eleven blocks, five of them pinned, and the request takes eight."""
    async with Bench("vllm", model, tmp_path).life(blocks=12) as life:
        pinned = await life.pin("h", prompt_of(5 * BLOCK, 20))
        long = prompt_of(7 * BLOCK + 90, 21)
        got, _ = await life.say(long, "ana")
        assert got == await life.uncached(long)
        text = prompt_of(5 * BLOCK, 20) + QUESTION
        got, usage = await life.say(text, "ana")
        assert (got, usage.cached) == (await life.uncached(text), pinned.tokens)
        both: list[str] = []

        async def ask(salt: str) -> None:
            both.append((await life.say(long, salt))[0])

        async with trio.open_nursery() as nursery:
            for salt in ("bob", "eve", "dan"):
                nursery.start_soon(ask, salt)
        assert len(both) == 3


# --- lost on the way


@pytest.mark.slow
async def test_what_is_lost_on_the_way_is_computed_and_not_counted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [prompt_of(6 * BLOCK, 30 + number) + QUESTION for number in range(2)]
    bench = Bench("vllm", model, tmp_path)
    async with bench.life() as life:
        for text in texts:
            await life.pin(text[:9], text)
        right = [await life.uncached(text) for text in texts]
    monkeypatch.setitem(POOL, PLACE, POOL["vllm"])
    bench.engine = PLACE
    async with bench.life() as life:
        got, usage = await life.say(texts[0], "ana")
        assert (got, usage.cached) == (right[0], 2 * BLOCK)
        assert (await life.llm.held())[1].restored == 4
        said: list[tuple[str, int]] = []

        async def ask(text: str) -> None:
            got, usage = await life.say(text, "ana")
            said.append((got, usage.cached))

        async with trio.open_nursery() as nursery:  # they share what one of them loses
            nursery.start_soon(ask, texts[1])
            nursery.start_soon(ask, texts[1])
        assert {got for got, _ in said} == {right[1]}
        assert min(cached for _, cached in said) <= 2 * BLOCK


# --- parts


def test_without_a_folder_nothing_is_kept() -> None:
    pins = VLLMPins({"kv_ram": 1 << 20})
    assert pins.arguments() == {}, "vLLM is not told of a connector"
    with pytest.raises(EINVAL, match=r"keeps no activation memory.*kv_dir"):
        pins.memory.check(1000)
    pins.memory.unpin("h")
    pins.memory.drop("h", ["ab" * 32])
    assert pins.memory.match("r", [b"ab"], 2, 0) == 0
    assert pins.memory.held() == ([], KVStatistics())


def test_an_unknown_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.99.1"))
    block = SimpleNamespace(block_id=0)
    for call in (
        lambda: pool.size(None),
        lambda: pool.find(None, b""),
        lambda: pool.hold(None, block),
        lambda: pool.release(None, block),
        lambda: pool.forget(None, []),
        lambda: pool.attention(None),
    ):
        with pytest.raises(ENODEV, match=r"0\.99\.1"):
            call()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["plain", "layers inside", "kernel blocks", "heads first"])
def test_a_block_comes_back_as_it_was(shape: str, dtype: torch.dtype, device: str) -> None:
    """Whatever an attention backend does with the order of dimensions."""
    numbers = torch.arange(2 * 6 * 4 * 8 * 4, device=device).to(dtype)
    caches = {
        "plain": lambda: numbers.view(2, 6, 4, 8, 4).unbind(0),
        "layers inside": lambda: numbers.view(6, 2, 4, 8, 4).unbind(1),
        "kernel blocks": lambda: numbers.view(2, 12, 4, 4, 4).unbind(0),
        "heads first": lambda: numbers.view(2, 6, 8, 4, 4).transpose(2, 3).unbind(0),
    }[shape]()
    slots = Slots({f"layer {number}": cache for number, cache in enumerate(caches)}, 6)
    assert slots.block_bytes == 2 * 4 * 8 * 4 * numbers.element_size()
    before = numbers.clone()
    one, four = (encode("ab" * 32, "n", 1.0, slots.read(block)) for block in (1, 4))
    slots.write(1, four)
    assert not torch.equal(numbers, before)
    assert encode("ab" * 32, "n", 1.0, slots.read(1)).data == four.data
    slots.write(1, one)
    assert torch.equal(numbers, before), "more than one block was written"
    with pytest.raises(ValueError, match="layers"):
        slots.write(1, encode("ab" * 32, "n", 1.0, {"other": slots.read(1)["layer 0"]}))
