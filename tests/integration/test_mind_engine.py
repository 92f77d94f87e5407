"""The mind on real engines with random weights: what they may say, and what they compute once."""

from __future__ import annotations

import importlib.util
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from drivers.llm import make_llm
from drivers.llm.hosted import HostedLLM
from drivers.nano import dialect as nano
from kernel.machine import SystemClock
from kernel.mind.chat import ChatDialect, manual
from kernel.mind.dialect import Seat
from kernel.mind.grammar import Surfaces
from kernel.mind.loop import Mind
from kernel.mind.nano import NanoDialect
from kernel.mind.prompt import Context
from syscalls.capability import CapSet
from syscalls.shapes import ChatMessage
from syscalls.table import TABLE
from tests.minds import system
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drivers.llm.contract import GenerateRequest
    from kernel.mind.dialect import Dialect
    from tests.minds import Sys

BOUND = 240
PROGRAMS = 24
ENGINES = [
    "transformers",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(
                importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
            ),
        ],
    ),
]
OPTIONS: dict[str, dict[str, Any]] = {"vllm": {"kv_bytes": 64 << 20}}
RIGHTS = [
    {"sys.clock", "sys.info", "proc.list"},
    {"lora.list", "kv.list", "tool.list", "sys.stats", "sys.sessions"},
    {"proc.signal", "proc.nice", "proc.list"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("tiny"), context=16384, template=True)


@asynccontextmanager
async def hosted(folder: Path, run_dir: Path, engine: str) -> AsyncIterator[HostedLLM]:
    """A real engine in its host."""
    model = make_llm(
        str(folder),
        engine=engine,
        run_dir=run_dir,
        log=lambda *_: None,
        clock=SystemClock(),
        options=OPTIONS.get(engine),
    )
    assert isinstance(model, HostedLLM)
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            await nursery.start(model.run)
            await model.ready()
            yield model
            nursery.cancel_scope.cancel()


def take_seat(world: Sys, dialect: Dialect, model: HostedLLM) -> Mind:
    """Have a model understand the intents of a simulated kernel."""
    taken, kernel = Seat(dialect, model), world.kernel
    kernel.mind = Mind(lambda: taken, kernel.act, kernel.processes, kernel.clock)
    return kernel.mind


async def said(model: HostedLLM, request: GenerateRequest) -> tuple[str, str]:
    """Text and reason of its end."""
    texts, finish = [], ""
    async with aclosing(model.generate(request)) as pieces:
        async for piece in pieces:
            texts.append(piece.text)
            finish = piece.finish or finish
    return "".join(texts), finish


@pytest.mark.slow
async def test_a_hot_random_model_stays_inside_its_rights(folder: Path, tmp_path: Path) -> None:
    """Random weights at temperature 2 in the real engine. Nothing tilts it towards an end here,
    so an answer may be cut off at its limit: that is no program, and it is counted."""
    chat, surfaces = ChatDialect(), Surfaces()
    ended = steps = 0
    async with hosted(folder, tmp_path, "transformers") as model:
        for number in range(PROGRAMS):
            caps = CapSet(RIGHTS[number % len(RIGHTS)])
            surface = surfaces.of(caps)
            context = Context("do something", surface.calls)
            request = msgspec.structs.replace(
                chat.render(context, surface), temperature=2.0, seed=number, max_tokens=400
            )
            text, finish = await said(model, request)
            thought = chat.parse(text, context)
            assert thought.understood == (finish == "stop"), (finish, text)
            ended += thought.understood
            for step in thought.steps:
                entry = TABLE.by_name[step.call]
                assert caps.may(entry.capability)
                msgspec.convert(step.args, entry.call)
                steps += 1
    assert ended >= PROGRAMS / 4
    assert steps >= PROGRAMS / 4


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_manual_is_computed_once(folder: Path, tmp_path: Path, engine: str) -> None:
    """From the second intent on at least nine tenths of the static prefix come from the cache."""
    async with system(1, {}) as world, hosted(folder, tmp_path, engine) as model:
        mind = take_seat(world, ChatDialect(), model)
        calls = Surfaces().of(CapSet({"*"})).calls
        static = await model.count(None, [ChatMessage("system", manual(calls))])
        first, second = world.attach(), world.attach()
        await first.llm.intent(text="hello", execute=False)
        for number, shell in enumerate([first, second, second]):
            before = mind.statistics().cached_tokens
            await shell.llm.intent(text=f"and now number {number}", execute=False)
            cached = mind.statistics().cached_tokens - before
            assert cached >= 0.9 * static, (number, cached, static)


async def test_other_rights_share_no_prefix(folder: Path, tmp_path: Path) -> None:
    async with system(2, {}) as world, hosted(folder, tmp_path, "transformers") as model:
        mind = take_seat(world, ChatDialect(), model)
        await world.attach().llm.intent(text="hello", execute=False)
        await world.attach("llm.intent", "mem.*").llm.intent(text="hello", execute=False)
        assert mind.statistics().cached_tokens == 0


# --- random weights in nano's place


@pytest.fixture(scope="module")
def random_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with nano's tokens and nothing learnt."""
    from tokenizers import AddedToken
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_llm(tmp_path_factory.mktemp("nano"), context=2048)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens([AddedToken(nano.token(n), normalized=False) for n in nano.SPECIAL])
    tokenizer.add_special_tokens({"eos_token": nano.STOP, "pad_token": nano.token(nano.PAD)})
    tokenizer.save_pretrained(str(folder))
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    model.resize_token_embeddings(len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(str(folder))
    return folder


async def test_nano_without_wits_still_writes_programs(random_nano: Path, tmp_path: Path) -> None:
    """The whole way, with a model that knows nothing: every answer is a program or refused."""
    rights = ("llm.intent", "mem.write", "mem.read", "proc.list", "sys.info")
    async with system(3, {}) as world, hosted(random_nano, tmp_path, "transformers") as model:
        mind = take_seat(world, NanoDialect(), model)
        shell = world.attach(*rights)
        caps = CapSet(rights)
        for text in ("remember that tea is at five", "列出进程", 'say "kill everything" to bob'):
            done = await shell.llm.intent(text=text)
            for step in done.program:
                assert caps.may(TABLE.by_name[step.call].capability), step
                assert all(
                    str(v) in f"{text} semantic episodic procedural" for v in step.args.values()
                )
            assert done.reply
        assert mind.statistics().decodings == 3
