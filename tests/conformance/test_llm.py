"""What every language model does; the real engine on a tiny model with random weights."""

from __future__ import annotations

import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from drivers.contracts import GenerateRequest, LLMInfo, Piece
from drivers.llm import make_llm
from drivers.llm.hosted import HostedLLM
from syscalls.errors import EINVAL, EIO, ENODEV
from syscalls.shapes import ChatMessage, Usage
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drivers.contracts import LLM
    from drivers.llm.hosted import NoLLM

CONTEXT = 256
LONG = 240
"""Tokens that take some time to generate."""


class WallClock:
    """The machine's own."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def make(spec: str, run_dir: Path) -> HostedLLM | NoLLM:
    return make_llm(
        spec, engine="transformers", run_dir=run_dir, log=lambda *_: None, clock=WallClock()
    )


@asynccontextmanager
async def running(llm: HostedLLM | NoLLM) -> AsyncIterator[None]:
    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            await nursery.start(llm.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("tiny"), context=CONTEXT)


async def pieces(llm: HostedLLM | NoLLM, request: GenerateRequest) -> list[Piece]:
    async with aclosing(llm.generate(request)) as stream:
        return [piece async for piece in stream]


async def text_of(llm: HostedLLM, request: GenerateRequest) -> str:
    return "".join(piece.text for piece in await pieces(llm, request))


async def test_a_model_generates(folder: Path, tmp_path: Path) -> None:
    """One host for all of these: loading the library takes longer than the rest."""
    llm = make(str(folder), tmp_path)
    assert isinstance(llm, HostedLLM)
    contract: LLM = llm
    async with running(llm):
        assert contract.state in ("starting", "ready")
        info = await llm.ready()
        assert (info.engine, info.context) == ("transformers", CONTEXT)
        assert info.fingerprint
        assert llm.info == info
        await it_streams_and_counts(llm)
        await it_repeats_itself_by_seed(llm)
        await it_stops_at_a_string(llm)
        await it_refuses_what_it_cannot(llm)
        await it_reads_messages_without_a_template(llm)
        await requests_take_turns(llm)
        await closing_the_iterator_aborts(llm)
        await a_slow_reader_does_not_hold_others_back(llm)
        msgspec.json.encode(llm.statistics())
    assert llm.state == "stopped"


async def it_streams_and_counts(llm: HostedLLM) -> None:
    prompt = "the agent remembers"
    got = await pieces(llm, GenerateRequest(prompt=prompt, max_tokens=30))
    assert len(got) > 5, "the text did not come in pieces"
    assert all(piece.text and not piece.finish and piece.usage is None for piece in got[:-1])
    count = await llm.count(prompt, None)
    assert got[-1].finish in ("length", "stop")
    assert got[-1].usage == Usage(prompt=count, cached=0, completion=30)
    assert llm.statistics().completion_tokens == 30
    assert await llm.count("", None) == 0
    # The prompt and the completion together never pass the context.
    long = await pieces(llm, GenerateRequest(prompt=prompt, max_tokens=10_000))
    assert long[-1].usage is not None
    assert long[-1].usage.completion <= CONTEXT - count


async def it_repeats_itself_by_seed(llm: HostedLLM) -> None:
    def request(seed: int | None, temperature: float, top_p: float = 1.0) -> GenerateRequest:
        return GenerateRequest(
            prompt="the", max_tokens=24, temperature=temperature, seed=seed, top_p=top_p
        )

    greedy = await text_of(llm, request(None, 0))
    assert await text_of(llm, request(None, 0)) == greedy
    assert await text_of(llm, request(1, 5.0, 1e-6)) == greedy, "top_p near 0 leaves one token"
    first = await text_of(llm, request(1, 1.5))
    assert await text_of(llm, request(1, 1.5)) == first
    assert await text_of(llm, request(2, 1.5)) != first
    await text_of(llm, request(-1, 1.0))  # any number is a seed


async def it_stops_at_a_string(llm: HostedLLM) -> None:
    whole = await text_of(llm, GenerateRequest(prompt="the", max_tokens=40))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    got = await pieces(llm, GenerateRequest(prompt="the", max_tokens=40, stop=["nowhere", stop]))
    assert "".join(piece.text for piece in got) == whole[: whole.index(stop)]
    assert got[-1].finish == "stop"
    assert got[-1].usage is not None
    assert got[-1].usage.completion < 40


async def it_refuses_what_it_cannot(llm: HostedLLM) -> None:
    for request, said in (
        (GenerateRequest(), "empty"),
        (GenerateRequest(prompt=""), "empty"),
        (GenerateRequest(messages=[]), "empty"),
        (GenerateRequest(prompt="word " * 1000), "the model takes"),
        (GenerateRequest(prompt="x", schema={"type": "object"}), "schema"),
        (GenerateRequest(prompt="x", adapter="a"), "adapter"),
    ):
        with pytest.raises(EINVAL, match=said):
            await pieces(llm, request)


async def it_reads_messages_without_a_template(llm: HostedLLM) -> None:
    messages = [ChatMessage("system", "be short"), ChatMessage("user", "hello")]
    plain = "system: be short\nuser: hello\nassistant:"
    assert await llm.count(None, messages) == await llm.count(plain, None)
    said = await text_of(llm, GenerateRequest(messages=messages, max_tokens=12))
    assert said == await text_of(llm, GenerateRequest(prompt=plain, max_tokens=12))


async def requests_take_turns(llm: HostedLLM) -> None:
    """A short request ends while a long one is under way; each gets its own text."""
    short = GenerateRequest(prompt="hello", max_tokens=5)
    alone = await text_of(llm, short)
    order: list[str] = []
    begun = trio.Event()

    async def go_long() -> None:
        async with aclosing(llm.generate(GenerateRequest(prompt="the", max_tokens=LONG))) as stream:
            async for piece in stream:
                begun.set()
                if piece.finish:
                    order.append("long")

    async def go_short() -> None:
        await begun.wait()
        assert await text_of(llm, short) == alone
        order.append("short")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_long)
        for _ in range(4):
            nursery.start_soon(go_short)
    assert order == ["short"] * 4 + ["long"]


async def closing_the_iterator_aborts(llm: HostedLLM) -> None:
    before = llm.statistics()
    async with aclosing(llm.generate(GenerateRequest(prompt="the", max_tokens=LONG))) as stream:
        async for _ in stream:
            break
    with trio.move_on_after(0.05):
        await pieces(llm, GenerateRequest(prompt="the", max_tokens=LONG))
    while (host := llm.statistics().host) and host.inflight:  # noqa: ASYNC110 - a counter
        await trio.sleep(0.01)
    assert llm.statistics().generations == before.generations, "neither came to its end"


async def a_slow_reader_does_not_hold_others_back(llm: HostedLLM) -> None:
    async with aclosing(llm.generate(GenerateRequest(prompt="the", max_tokens=LONG))) as stream:
        async for _ in stream:
            break
        assert await text_of(llm, GenerateRequest(prompt="hello", max_tokens=100))
        rest = [piece async for piece in stream]
    assert rest[-1].usage is not None
    assert rest[-1].usage.completion == LONG


async def test_a_chat_template_is_used(tmp_path: Path) -> None:
    llm = make(str(tiny_llm(tmp_path / "model", template=True)), tmp_path / "run")
    assert isinstance(llm, HostedLLM)
    async with running(llm):
        messages = [ChatMessage("user", "hello")]
        filled = "<|user|>hello<|assistant|>"
        assert await llm.count(None, messages) == await llm.count(filled, None)
        with pytest.raises(EINVAL, match="chat template refuses"):
            await llm.count(None, [ChatMessage("tool", "42")])


async def test_without_a_model_everything_says_how_to_attach_one(tmp_path: Path) -> None:
    llm = make("none", tmp_path)
    contract: LLM = llm
    async with running(llm):
        assert contract.state == "absent"
        assert llm.info is None
        with pytest.raises(ENODEV) as caught:
            await llm.ready()
        assert "--model" in caught.value.hint
        with pytest.raises(ENODEV):
            await llm.count("x", None)
        with pytest.raises(ENODEV):
            await pieces(llm, GenerateRequest(prompt="x"))


@pytest.mark.parametrize("content", [None, "{", '{"model_type": "no-such-type"}'])
async def test_a_bad_folder_fails_typed(content: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if content is not None:
        folder.mkdir()
        (folder / "config.json").write_text(content)
    llm = make(str(folder), tmp_path / "run")
    async with running(llm):
        with pytest.raises(EIO) as caught:
            await llm.ready()
        assert llm.state == "failed"
        assert caught.value.detail["driver"] == "llm"
        assert "model" in caught.value.hint
        with pytest.raises(EIO):
            await pieces(llm, GenerateRequest(prompt="x"))


def test_info_can_be_shown() -> None:
    assert msgspec.to_builtins(LLMInfo("m", "e", 5))["context"] == 5
