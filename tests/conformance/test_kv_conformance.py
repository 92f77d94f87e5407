"""What every engine with activation memory does: what is pinned is there, and is right."""

from __future__ import annotations

from contextlib import aclosing
from shutil import copytree
from typing import TYPE_CHECKING

import pytest
import trio

from drivers.kv.contract import PinRequest
from drivers.llm.contract import GenerateRequest
from drivers.llm.hosted import NoLLM
from syscalls.errors import EAGAIN, EINVAL, ENODEV
from syscalls.shapes import ChatMessage
from tests.activation import BLOCK, BLOCK_BYTES, CONTEXT, ENGINES, Bench, prompt_of
from tests.models import tiny_adapter, tiny_llm

if TYPE_CHECKING:
    from pathlib import Path

    from drivers.kv.contract import Activation, Pinned
    from tests.activation import Life

QUESTION = "what did the user say"
FLOOD = 48
"""Blocks, twice what an engine in these tests holds."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kv") / "model"
    return tiny_llm(folder, template=True, context=CONTEXT)


@pytest.fixture(params=ENGINES)
def bench(request: pytest.FixtureRequest, model: Path, tmp_path: Path) -> Bench:
    return Bench(request.param, model, tmp_path)


async def test_what_is_pinned_survives_a_restart_and_is_its_owners_alone(bench: Bench) -> None:
    text = prompt_of(4 * BLOCK + 50, 1)
    asked = text + QUESTION
    tokens = bench.kept(4 * BLOCK + 50)
    size, files = tokens * BLOCK_BYTES // BLOCK, -(-tokens // BLOCK)
    async with bench.life() as life:
        contract: Activation = life.llm
        assert contract is life.llm
        pinned = await life.pin("h", text)
        assert (pinned.tokens, len(pinned.blocks)) == (tokens, files)
        assert pinned.bytes == size
        assert pinned.cached == 0
        assert pinned.seconds > 0
        assert pinned.prefill > 0
        assert pinned.namespace
        right = await life.uncached(asked)
        got, usage = await life.say(asked, "ana")
        assert (got, usage.cached) == (right, tokens)
        assert (await life.say(asked, "bob"))[1].cached == 0, "another owner had a hit"
        [held], figures = await life.llm.held()
        assert (held.handle, held.tokens, held.bytes) == ("h", tokens, size)
        assert (held.tier, held.hits) == ("engine", 1)
        assert (figures.pins, figures.saved) == (1, files)
        assert figures.disk_bytes >= size
        await messages_are_pinned_up_to_where_others_may_follow(life)
        again = await life.pin("again", prompt_of(3 * BLOCK, 4))
        gone = await life.pin("gone", prompt_of(BLOCK, 2))
        await life.llm.drop("gone", gone.blocks)
    assert all(bench.file(pinned, place).is_file() for place in range(files))
    assert not bench.file(gone, 0).exists()
    async with bench.life() as life:  # attached, without being pinned again
        half = text[: 2 * BLOCK] + prompt_of(100, 3)
        assert await life.uncached(asked) == right
        assert (await life.say(asked, "bob"))[1].cached == 0, "another owner had a hit"
        got, usage = await life.say(half, "ana")
        assert (got, usage.cached) == (await life.uncached(half), 2 * BLOCK)
        got, usage = await life.say(asked, "ana")
        assert (got, usage.cached) == (right, tokens)
        pins, figures = await life.llm.held()
        assert pins == []
        assert (figures.restored, figures.saved, figures.corrupt) == (files, 0, 0)
        assert (await life.say(prompt_of(BLOCK + 9, 2), "ana"))[1].cached == 0, "it was dropped"
        other = prompt_of(BLOCK, 3) + text[BLOCK:]
        assert (await life.say(other, "ana"))[1].cached == 0, "a block without what is before it"
        await pinned_again_it_is_restored(life, prompt_of(3 * BLOCK, 4), again)


async def pinned_again_it_is_restored(life: Life, text: str, first: Pinned) -> None:
    before = (await life.llm.held())[1]
    second = await life.pin("h", text)
    assert second.cached == second.tokens == first.tokens
    assert second.blocks == first.blocks
    assert second.namespace == first.namespace
    assert second.prefill == pytest.approx(first.prefill), "what it would cost is with it"
    assert (await life.llm.held())[1].restored - before.restored == 3
    # The whole prompt is pinned: its last token is computed all the same.
    got, usage = await life.say(text, "ana")
    assert 2 * BLOCK <= usage.cached < 3 * BLOCK
    assert got == await life.uncached(text)


async def messages_are_pinned_up_to_where_others_may_follow(life: Life) -> None:
    """A block in which the assistant's turn begins would be of no use to any other request."""
    turn = await life.llm.count("<|system|>", None)
    system = ChatMessage("system", prompt_of(2 * BLOCK - turn - 1, 13))
    both = [system, ChatMessage("user", "hello")]
    assert (await life.llm.count(None, [system])) > 2 * BLOCK
    pinned = await life.llm.pin(PinRequest("m", messages=[system], salt="ana"))
    assert pinned.tokens == life.bench.kept(2 * BLOCK - 1)
    whole = await life.llm.pin(PinRequest("m", messages=both, salt="ana"))
    assert whole.tokens // BLOCK == 2
    assert whole.cached >= pinned.tokens


async def test_a_life_of_pins(bench: Bench) -> None:
    """One host for all of these: loading the library takes longer than the rest."""
    async with bench.life(blocks=24) as life:
        await a_flood_does_not_push_out_what_is_pinned(life)
        await what_was_pushed_out_comes_back(life)
        await dropped_is_gone_from_everywhere(life)
        await dropped_while_a_request_uses_it(life)
        await others_go_on_while_one_is_pinned(life)
        await a_pin_nobody_waits_for_leaves_nothing(life)
        await what_cannot_be_pinned_is_refused(life)


async def a_flood_does_not_push_out_what_is_pinned(life: Life) -> None:
    text, other = prompt_of(4 * BLOCK + 9, 5), prompt_of(4 * BLOCK + 9, 6)
    await life.pin("h", text)
    await life.say(other, "ana")
    assert (await life.say(other + QUESTION, "ana"))[1].cached >= 4 * BLOCK
    before = (await life.llm.held())[1]
    await life.flood(FLOOD)
    assert (await life.say(other + QUESTION, "ana"))[1].cached == 0, "the flood is too small"
    got, usage = await life.say(text + QUESTION, "ana")
    tokens = life.bench.kept(4 * BLOCK + 9)
    assert (got, usage.cached) == (await life.uncached(text + QUESTION), tokens)
    assert (await life.llm.held())[1].restored == before.restored, "it was not in the engine"
    for handle in ("h", "h", "nobody's"):
        await life.llm.unpin(handle)
    assert (await life.llm.held())[0] == []


async def what_was_pushed_out_comes_back(life: Life) -> None:
    """From memory here: its files are deleted. From disk: see ``test_kv_damage``."""
    text = prompt_of(4 * BLOCK + 9, 7)
    pinned = await life.pin("h", text)
    right = await life.uncached(text + QUESTION)
    await life.llm.unpin("h")
    await life.flood(FLOOD)
    places = range(len(pinned.blocks))
    for place in places:
        life.bench.file(pinned, place).unlink()
    before = (await life.llm.held())[1]
    got, usage = await life.say(text + QUESTION, "ana")
    assert (got, usage.cached) == (right, pinned.tokens)
    after = (await life.llm.held())[1]
    assert after.restored - before.restored == len(places)
    await life.pin("h", text)
    assert all(life.bench.file(pinned, place).is_file() for place in places)
    await life.llm.unpin("h")


async def dropped_is_gone_from_everywhere(life: Life) -> None:
    text, kept = prompt_of(4 * BLOCK + 9, 8), prompt_of(2 * BLOCK, 9)
    shared = await life.pin("shared", text[: 2 * BLOCK])
    pinned = await life.pin("h", text)
    await life.pin("kept", kept)
    assert pinned.blocks[:2] == shared.blocks
    await life.say(text + QUESTION, "ana")
    await life.llm.drop("h", pinned.blocks[2:])
    got, usage = await life.say(text + QUESTION, "ana")
    assert usage.cached == 2 * BLOCK, "what another pin needs stays, and nothing else"
    assert got == await life.uncached(text + QUESTION)
    await life.llm.drop("h", pinned.blocks[2:])
    await life.llm.drop("shared", shared.blocks)
    assert (await life.say(text + QUESTION, "ana"))[1].cached == 0
    await life.llm.drop("", pinned.blocks)  # by names: what the request before has left
    assert (await life.say(text, "ana"))[1].cached == 0
    assert (await life.say(kept + QUESTION, "ana"))[1].cached == 2 * BLOCK
    assert [held.handle for held in (await life.llm.held())[0]] == ["kept"]
    with pytest.raises(EINVAL):
        await life.llm.drop("kept", ["../../../../somebody"])
    places = range(len(pinned.blocks))
    assert not [place for place in places if life.bench.file(pinned, place).exists()]
    await life.llm.unpin("kept")


async def dropped_while_a_request_uses_it(life: Life) -> None:
    text = prompt_of(3 * BLOCK + 9, 16)
    pinned = await life.pin("h", text)
    request = GenerateRequest(prompt=text, salt="ana", max_tokens=100)
    async with aclosing(life.llm.generate(request)) as pieces:
        await anext(pieces)
        await life.llm.drop("h", pinned.blocks)
        rest = [piece async for piece in pieces]
    assert rest[-1].usage is not None
    assert 3 * BLOCK <= rest[-1].usage.cached <= pinned.tokens
    assert (await life.say(text, "ana"))[1].cached == 0, "it came back with the request's end"


async def others_go_on_while_one_is_pinned(life: Life) -> None:
    request = GenerateRequest(prompt=prompt_of(20, 17), salt="bob", max_tokens=900)
    came = 0

    async def go_on() -> None:
        nonlocal came
        async with aclosing(life.llm.generate(request)) as pieces:
            async for _ in pieces:
                came += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        while not came:  # noqa: ASYNC110 - a counter
            await trio.sleep(0.001)
        before = came
        await life.pin("h", prompt_of(7 * BLOCK, 18))
        assert came > before, "a pin held another request up to its end"
        nursery.cancel_scope.cancel()
    await life.llm.unpin("h")


async def a_pin_nobody_waits_for_leaves_nothing(life: Life) -> None:
    text = prompt_of(7 * BLOCK, 19)
    for patience in (0.0, 0.002, 0.01, 0.03):
        with trio.move_on_after(patience):
            await life.pin("h", text)
            break
        assert (await life.llm.held())[0] == []
    assert (await life.pin("h", text)).tokens == 7 * BLOCK
    assert (await life.say(text + QUESTION, "ana"))[0] == await life.uncached(text + QUESTION)
    await life.llm.unpin("h")


async def what_cannot_be_pinned_is_refused(life: Life) -> None:
    await life.pin("a", prompt_of(7 * BLOCK, 10))
    if life.bench.engine != "vllm":  # that lets go of what is worth least: test_kv_vllm.py
        with pytest.raises(EAGAIN, match="pinned") as caught:
            await life.pin("b", prompt_of(7 * BLOCK, 11))
        assert caught.value.retry_after > 0
    await life.pin("a", prompt_of(7 * BLOCK, 11))  # in its own place there is room
    assert [held.handle for held in (await life.llm.held())[0]] == ["a"]
    for prompt, said in (
        (prompt_of(BLOCK - 1, 12), "block"),
        (prompt_of(CONTEXT, 12), "takes"),
        ("", "nothing"),
    ):
        with pytest.raises(EINVAL, match=said):
            await life.pin("c", prompt)
    with pytest.raises(EINVAL, match="salt"):
        await life.pin("c", prompt_of(2 * BLOCK, 12), salt="")
    assert (await life.llm.held())[1].pins == 1


async def test_what_was_computed_under_an_adapter_is_for_that_adapter(
    bench: Bench, tmp_path: Path
) -> None:
    from drivers.lora.files import digest_of

    paths = {seed: tiny_adapter(bench.model, tmp_path / f"a{seed}", seed) for seed in (1, 2)}
    one, two = (
        {"adapter": f"{name}@1-{digest_of(path)[:12]}", "adapter_path": str(path)}
        for name, path in zip(("one", "two"), paths.values(), strict=True)
    )
    text = prompt_of(3 * BLOCK, 15) + QUESTION
    async with bench.life(adapters=2, adapter_rank=8) as life:
        pinned = await life.pin("h", text, **one)
        right = await life.uncached(text, **one)
        assert right != await life.uncached(text)
        await life.pin("odd", text, adapter="odd", adapter_path=one["adapter_path"])
    bench.kv_dir = bench.kv_dir.rename(tmp_path / "moved")
    bench.model = copytree(bench.model, tmp_path / "copied")
    async with bench.life(adapters=2, adapter_rank=8) as life:
        for adapter in ({}, two, {"adapter": "odd", "adapter_path": two["adapter_path"]}):
            got, usage = await life.say(text, "ana", **adapter)
            assert usage.cached == 0, "the state of another adapter was taken"
            assert got == await life.uncached(text, **adapter)
        moved = paths[1].rename(tmp_path / "elsewhere")  # names say what is in it all, not where
        got, usage = await life.say(text, "ana", **one | {"adapter_path": str(moved)})
        # The whole prompt is pinned; its last token is computed all the same.
        assert (got, usage.cached) == (right, min(pinned.tokens, usage.prompt - 1))


async def test_absent_models_pin_nothing() -> None:
    none = NoLLM()
    for call in (none.pin(PinRequest("h")), none.unpin("h"), none.drop("h", []), none.held()):
        with pytest.raises(ENODEV):
            await call
