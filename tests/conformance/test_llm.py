"""What every language model does: three engines on one tiny model with random weights."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest
import trio

from drivers.llm import make_llm
from drivers.llm.contract import GenerateRequest, LLMInfo, Piece
from drivers.llm.hosted import HostedLLM
from syscalls.errors import EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENOENT
from syscalls.shapes import ChatMessage, Usage
from tests.models import tiny_adapter, tiny_llm
from tests.server import vllm_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from drivers.llm.contract import LLM
    from drivers.llm.hosted import NoLLM
    from tests.server import Server

CONTEXT = 512
LONG = 480
"""Tokens that take some time to generate."""
PREFIX = "the kernel answers and the model speaks to the user; " * 12
"""More than one block of vLLM's prefix cache."""
BLOCK = 128
OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {},
    "vllm": {"kv_bytes": 32 << 20},
    "openai": {},
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "color": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "color", "count"],
    "additionalProperties": False,
}
GRAMMAR = """start: "call " NAME "(" NUMBER ")"
NAME: /[a-z]{2,5}/
NUMBER: /[0-9]{1,3}/
"""


class WallClock:
    """The machine's own."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def make(
    spec: str, run_dir: Path, engine: str = "transformers", **options: int
) -> HostedLLM | NoLLM:
    return make_llm(
        spec,
        engine=engine,
        run_dir=run_dir,
        log=lambda *_: None,
        clock=WallClock(),
        options=OPTIONS.get(engine, {}) | options,
    )


@asynccontextmanager
async def running(llm: HostedLLM | NoLLM) -> AsyncIterator[None]:
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            await nursery.start(llm.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("tiny") / "model", context=CONTEXT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = tiny_llm(tmp_path_factory.mktemp("served") / "model", context=CONTEXT, template=True)
    with vllm_server(model) as server:
        yield server


async def pieces(llm: HostedLLM | NoLLM, request: GenerateRequest) -> list[Piece]:
    async with aclosing(llm.generate(request)) as stream:
        return [piece async for piece in stream]


async def text_of(llm: HostedLLM, request: GenerateRequest) -> str:
    return "".join(piece.text for piece in await pieces(llm, request))


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
async def test_a_model_on_this_machine(engine: str, folder: Path, tmp_path: Path) -> None:
    """One host for all of these: loading the library takes longer than the rest."""
    llm = make(str(folder), tmp_path, engine)
    assert isinstance(llm, HostedLLM)
    async with running(llm):
        await the_contract_is_kept(llm, engine)
        assert llm.info is not None
        assert llm.info.fingerprint
        await it_reads_messages_without_a_template(llm)
        await it_follows_a_grammar(llm)
        await written_special_tokens_are_text(llm)
        await its_death_is_told_and_it_comes_back(llm, engine)
    assert llm.state == "stopped"


@pytest.mark.slow
async def test_a_model_on_a_server(server: Server, tmp_path: Path) -> None:
    llm = make(server.spec, tmp_path, "openai")
    assert isinstance(llm, HostedLLM)
    async with running(llm):
        await the_contract_is_kept(llm, "openai")
        while server.running():  # noqa: ASYNC110 - it hears of a closed stream a moment later
            await trio.sleep(0.05)
        messages = [ChatMessage("user", "hello")]
        assert await llm.count(None, messages) == await llm.count(
            "<|user|>hello<|assistant|>", None
        )
        assert await text_of(llm, GenerateRequest(messages=messages, max_tokens=12))
        with pytest.raises(EINVAL, match="grammar"):
            await pieces(llm, GenerateRequest(prompt="x", grammar=GRAMMAR))
        await its_death_is_told_and_it_comes_back(llm, "openai")


async def the_contract_is_kept(llm: HostedLLM, engine: str) -> None:
    contract: LLM = llm
    assert contract.state in ("starting", "ready")
    info = await llm.ready()
    assert (info.engine, info.context) == (engine, CONTEXT)
    assert llm.info == info
    await it_streams_and_counts(llm)
    await a_slow_pace_makes_fewer_pieces(llm)
    await it_repeats_itself_by_seed(llm)
    await it_stops_at_a_string(llm)
    await it_refuses_what_it_cannot(llm)
    await it_follows_a_schema(llm)
    await a_prefix_is_computed_once_an_owner(llm)
    await requests_take_turns(llm, ordered=engine != "openai")
    await closing_the_iterator_aborts(llm)
    await a_slow_reader_does_not_hold_others_back(llm)
    msgspec.json.encode(llm.statistics())


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


async def a_slow_pace_makes_fewer_pieces(llm: HostedLLM) -> None:
    quick = await pieces(llm, GenerateRequest(prompt="hello", max_tokens=60))
    slow = await pieces(llm, GenerateRequest(prompt="hello", max_tokens=60, pace=1000.0))
    assert len(slow) <= 2 < len(quick)  # the first comes at once
    assert "".join(piece.text for piece in slow) == "".join(piece.text for piece in quick)


async def it_repeats_itself_by_seed(llm: HostedLLM) -> None:
    def request(seed: int | None, temperature: float, top_p: float = 1.0) -> GenerateRequest:
        return GenerateRequest(
            prompt="the", max_tokens=24, temperature=temperature, seed=seed, top_p=top_p
        )

    greedy = await text_of(llm, request(None, 0))
    assert await text_of(llm, request(None, 0)) == greedy
    assert await text_of(llm, request(1, 2.0, 1e-6)) == greedy, "top_p near 0 leaves one token"
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
        (GenerateRequest(prompt="x", schema={"type": "no such type"}), "type"),
        (GenerateRequest(prompt="x", schema=SCHEMA, grammar=GRAMMAR), "not both"),
    ):
        with pytest.raises(EINVAL, match=said):
            await pieces(llm, request)
    with pytest.raises((EINVAL, ENOENT), match="adapter"):
        await pieces(llm, GenerateRequest(prompt="x", adapter="a"))
    assert await llm.running() == 0


async def it_follows_a_schema(llm: HostedLLM) -> None:
    for seed in range(3):
        got = await pieces(
            llm,
            GenerateRequest(
                prompt="the", schema=SCHEMA, max_tokens=200, temperature=2.0, seed=seed
            ),
        )
        text = "".join(piece.text for piece in got)
        jsonschema.validate(msgspec.json.decode(text), SCHEMA)
        assert got[-1].finish == "stop"


async def it_follows_a_grammar(llm: HostedLLM) -> None:
    texts = {
        await text_of(
            llm,
            GenerateRequest(
                prompt="the", grammar=GRAMMAR, max_tokens=60, temperature=2.0, seed=seed
            ),
        )
        for seed in range(4)
    }
    assert len(texts) > 1
    assert all(re.fullmatch(r"call [a-z]{2,5}\([0-9]{1,3}\)", text) for text in texts)
    with pytest.raises(EINVAL, match="nowhere"):
        await pieces(llm, GenerateRequest(prompt="the", grammar="start: nowhere"))


async def written_special_tokens_are_text(llm: HostedLLM) -> None:
    """What somebody writes cannot end a turn; only who asks for it writes special tokens."""

    async def prompt(special: bool) -> int:
        request = GenerateRequest(prompt="a<eos>b", max_tokens=1, special=special)
        usage = (await pieces(llm, request))[-1].usage
        assert usage is not None
        return usage.prompt

    assert await prompt(special=True) == 3
    assert await prompt(special=False) > 3
    ends = GenerateRequest(prompt="a", grammar='start: <eos> "x"', max_tokens=4, special=True)
    assert await text_of(llm, ends) == "", "a generated end ends the text"


async def a_prefix_is_computed_once_an_owner(llm: HostedLLM) -> None:
    async def usage(owner: int, salt: str = "", more: str = "") -> Usage:
        request = GenerateRequest(prompt=PREFIX + more, max_tokens=4, owner=owner, salt=salt)
        found = (await pieces(llm, request))[-1].usage
        assert found is not None
        return found

    first = await usage(7)
    assert first.prompt > BLOCK
    assert first.cached == 0
    again = await usage(7)
    assert BLOCK <= again.cached < again.prompt == first.prompt
    assert (await usage(7, more="and then")).cached >= BLOCK
    assert (await usage(8)).cached == 0, "an owner found what another had computed"
    assert (await usage(7, salt="7")).cached == 0, "a salt is not an owner"
    assert (await usage(8, salt="7")).cached >= BLOCK
    # What comes of a cached prefix is what comes without it.
    request = GenerateRequest(prompt=PREFIX, max_tokens=20, owner=9)
    assert await text_of(llm, request) == await text_of(llm, request)


async def kill_soon(pid: int) -> None:
    await trio.sleep(0.5)
    os.kill(pid, signal.SIGKILL)


async def its_death_is_told_and_it_comes_back(llm: HostedLLM, engine: str) -> None:
    host = llm.statistics().host
    assert host is not None
    request = GenerateRequest(prompt="the", max_tokens=LONG)
    async with trio.open_nursery() as nursery:
        if engine == "openai":  # what a server has made may come all at once: so nothing comes
            os.kill(host.pid, signal.SIGSTOP)
            nursery.start_soon(kill_soon, host.pid)
        with pytest.raises(EIO) as caught:
            async for _ in llm.generate(request):
                if engine != "openai":
                    os.kill(host.pid, signal.SIGKILL)
    assert caught.value.detail["driver"] == "llm"
    assert caught.value.detail["retryable"] is True
    assert await text_of(llm, GenerateRequest(prompt="hello", max_tokens=3))
    host = llm.statistics().host
    assert host is not None
    assert (host.starts, host.deaths) == (2, 1)


async def it_reads_messages_without_a_template(llm: HostedLLM) -> None:
    messages = [ChatMessage("system", "be short"), ChatMessage("user", "hello")]
    plain = "system: be short\nuser: hello\nassistant:"
    assert await llm.count(None, messages) == await llm.count(plain, None)
    said = await text_of(llm, GenerateRequest(messages=messages, max_tokens=12))
    assert said == await text_of(llm, GenerateRequest(prompt=plain, max_tokens=12))


async def requests_take_turns(llm: HostedLLM, *, ordered: bool) -> None:
    """A short request ends while a long one is under way; each gets its own text.

    In what order a server's answers arrive is its own affair (``ordered``).
    """
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
    assert sorted(order) == ["long"] + ["short"] * 4
    assert not ordered or order[-1] == "long"


async def closing_the_iterator_aborts(llm: HostedLLM) -> None:
    before = llm.statistics()
    async with aclosing(llm.generate(GenerateRequest(prompt="the", max_tokens=LONG))) as stream:
        async for _ in stream:
            break
    with trio.move_on_after(0.05):
        await pieces(llm, GenerateRequest(prompt="the", max_tokens=LONG))
    while (host := llm.statistics().host) and host.inflight:  # noqa: ASYNC110 - a counter
        await trio.sleep(0.01)
    assert await llm.running() == 0
    assert llm.statistics().generations == before.generations, "neither came to its end"


async def a_slow_reader_does_not_hold_others_back(llm: HostedLLM) -> None:
    async with aclosing(llm.generate(GenerateRequest(prompt="the", max_tokens=LONG))) as stream:
        async for _ in stream:
            break
        assert await text_of(llm, GenerateRequest(prompt="hello", max_tokens=100))
        rest = [piece async for piece in stream]
    assert rest[-1].usage is not None
    assert rest[-1].usage.completion == LONG


@pytest.mark.slow
async def test_adapters_share_a_batch_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    """Each row has its own adapter's weights, base rows none; each adapter its own cache."""
    paths = {name: tiny_adapter(folder, tmp_path / name, seed) for seed, name in enumerate("ab")}
    llm = make(str(folder), tmp_path, "vllm", adapters=2, adapter_rank=8)
    assert isinstance(llm, HostedLLM)

    def request(adapter: str, tokens: int = 24) -> GenerateRequest:
        return GenerateRequest(prompt=PREFIX, adapter=adapter, max_tokens=tokens)

    async with running(llm):
        base = await text_of(llm, request(""))
        with pytest.raises(ENOENT, match="'a'"):
            await text_of(llm, request("a"))
        with pytest.raises(ENOENT):
            await llm.load_adapter("a", str(tmp_path / "nowhere"))
        for name, path in paths.items():
            await llm.load_adapter(name, str(path))
        with pytest.raises(EEXIST):
            await llm.load_adapter("a", str(paths["b"]))
        first = (await pieces(llm, request("a")))[-1].usage
        assert first is not None
        assert first.cached == 0, "keys and values of the base model were taken"
        alone = {"": base, "a": await text_of(llm, request("a"))}
        alone["b"] = await text_of(llm, request("b"))
        assert len(set(alone.values())) == 3
        got: list[tuple[str, str]] = []

        async def together(name: str) -> None:
            got.append((name, await text_of(llm, request(name))))

        async with trio.open_nursery() as nursery:
            for name in ("a", "", "b", "", "a"):
                nursery.start_soon(together, name)
        assert all(text == alone[name] for name, text in got)
        async with aclosing(llm.generate(request("a", 300))) as stream:
            async for _ in stream:
                with pytest.raises(EBUSY):
                    await llm.unload_adapter("a")
                break
        await llm.unload_adapter("a")
        await llm.load_adapter("a", str(paths["b"]))
        assert await text_of(llm, request("a")) == alone["b"], "the old adapter's cache was taken"


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
