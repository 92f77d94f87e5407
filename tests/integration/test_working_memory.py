"""Working memory in a running kernel: contexts, page-out, and the memory fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivers.llm.contract import LLMInfo, Piece
from kernel.counting import sized
from syscalls.calls import llm, mem
from syscalls.errors import EINVAL, EIO
from syscalls.shapes import ChatMessage, Usage
from tests.harness import running
from tests.minds import system
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from drivers.contracts import DriverState
    from drivers.llm.contract import GenerateRequest


class Counting:
    """A model that counts a token to the character, after ``delay`` seconds."""

    state: DriverState = "ready"

    def __init__(self, *, delay: float = 0.0, context: int = 1 << 20, broken: bool = False) -> None:
        self.info = LLMInfo("counting", "test", context)
        self.delay = delay
        self.broken = broken
        self.requests: list[GenerateRequest] = []

    async def ready(self) -> LLMInfo:
        await trio.lowlevel.checkpoint()
        return self.info

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        await trio.sleep(self.delay)
        if self.broken:
            raise EIO("the host has died", driver="llm")
        return len(text or "") + sum(len(each.content) + 10 for each in messages or [])

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        yield Piece(text="yes", finish="stop", usage=Usage(10, 0, 1))

    def statistics(self) -> Any:
        return LLMInfo("counting", "test", 0)


def working(number: int, content: str = "") -> mem.Write:
    return mem.Write(segment="working", content=content or f"turn {number}: " + "word " * 20)


@pytest.mark.parametrize("model", [None, Counting(), Counting(delay=9.0), Counting(broken=True)])
async def test_the_budget_holds_by_the_model_or_else_by_the_estimate(
    model: Any, autojump_clock: object
) -> None:
    async with system(1, {}) as world:
        if model is not None:
            world.kernel.llm = model
        shell = world.attach()
        for number in range(30):
            await shell.call(working(number))
        for budget in (40, 200, 1000, 5000):
            made = await shell.call(mem.ContextCall(budget_tokens=budget, query="which turn?"))
            answers = model is not None and not model.delay and not model.broken
            assert made.exact == answers
            assert made.tokens <= budget
            counted = sum(len(each.content) + 10 for each in made.messages)
            assert made.tokens == (counted if answers else sized(made.messages))
            assert made.messages[-1].content.endswith("which turn?")
            everything = {*made.shown, *made.left}
            read = await shell.call(mem.Read(segment="working", limit=100))
            assert {record.rid for record in read.records} <= everything
        with pytest.raises(EINVAL, match="the query alone"):
            await shell.call(mem.ContextCall(budget_tokens=3, query="which turn was it again?"))


async def test_what_is_over_the_bound_is_paged_out_and_never_in_neither(
    autojump_clock: object,
) -> None:
    async with system(2, {}, working_tokens=400) as world:
        shell = world.attach()
        rids = [(await shell.call(working(number))).rid for number in range(40)]
        seen: list[int] = []

        async def watch() -> None:
            """Every record is in one of the two segments at every moment."""
            while True:
                read = await shell.call(mem.Read(limit=1000))
                seen.append(len(read.records))
                assert {r.segment for r in read.records} <= {"working", "episodic"}
                assert len(read.records) == len(rids)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            made = await shell.call(mem.ContextCall(budget_tokens=4000))
            nursery.cancel_scope.cancel()
        assert made.paged_out
        assert {*made.paged_out, *made.shown} == set(rids)
        assert rids[-1] in made.shown  # the newest stays
        paged = (await shell.call(mem.Read(rid=made.paged_out[0]))).records[0]
        assert (paged.segment, paged.version, paged.call) == ("episodic", 2, "mem.context")
        assert paged.content == (await shell.call(mem.History(rid=paged.rid))).versions[0].content
        stat = await shell.call(mem.Stat())
        assert stat.by_segment["working"] + stat.by_segment["episodic"] == len(rids)
        found = await shell.call(mem.Search(query=paged.content, segments=["episodic"]))
        assert paged.rid in [hit.rid for hit in found.hits]
        again = await shell.call(mem.ContextCall(budget_tokens=4000))
        assert again.paged_out == []


async def test_a_reader_of_a_snapshot_pages_nothing_out(autojump_clock: object) -> None:
    async with system(3, {}, working_tokens=256) as world:
        shell = world.attach()
        for number in range(30):
            await shell.call(working(number))
        reader = world.attach("mem.read")
        kernel = world.kernel
        apid = max(process.apid for process in kernel.processes.live())
        reading = kernel.processes.get(apid)
        reading.space = kernel.processes.get(apid - 1).space
        made = await reader.call(mem.ContextCall(budget_tokens=300))
        assert made.paged_out == []
        assert made.left
        assert "not shown" in made.messages[0].content


async def test_the_fault_pages_in_what_is_lacking_and_says_why(autojump_clock: object) -> None:
    model = Counting()
    async with system(4, {}) as world:
        world.kernel.llm = model
        shell = world.attach()
        wanted = await shell.call(mem.Write(segment="semantic", content="Ada likes oolong tea"))
        there = await shell.call(mem.Write(segment="semantic", content="Ada likes black tea"))
        await shell.call(mem.Write(segment="episodic", content="x" * 5000 + " tea Ada likes"))
        messages = [
            ChatMessage("system", "be brief"),
            ChatMessage("assistant", "Ada likes black tea"),
            ChatMessage("user", "which tea does Ada like?"),
        ]
        call = llm.Generate(messages=messages, memory="auto", memory_budget=300)
        made = await shell.call(call)
        paged = {each.rid: each for each in made.usage.paged}
        assert wanted.rid in paged
        assert there.rid not in paged  # the request has it already
        assert paged[wanted.rid].tokens >= len("Ada likes oolong tea")
        assert "shares" in paged[wanted.rid].why
        assert "tea" in paged[wanted.rid].why
        assert sum(each.tokens for each in made.usage.paged) <= 300
        sent = model.requests[-1].messages
        assert sent is not None
        assert sent[:2] == messages[:2]  # what came before stays as it was, and cached
        assert sent[2].content.startswith('<data from="memory that fits the question">')
        assert sent[2].content.endswith("which tea does Ada like?")
        assert len(sent[2].content) <= len(messages[2].content) + 300
        plain = await shell.call(llm.Generate(messages=messages))
        assert plain.usage.paged == []
        assert model.requests[-1].messages == messages


async def test_the_fault_keeps_to_the_models_context(autojump_clock: object) -> None:
    async with system(5, {}) as world:
        shell = world.attach()
        for number in range(20):
            await shell.call(mem.Write(segment="semantic", content=f"tea number {number} " * 4))
        model = Counting(context=400)
        world.kernel.llm = model
        call = llm.Generate(prompt="which tea?", memory="auto", memory_budget=5000, max_tokens=100)
        made = await shell.call(call)
        assert made.usage.paged
        assert len(model.requests[-1].prompt or "") <= 300
        world.kernel.llm = Counting(context=120)
        assert (await shell.call(call)).usage.paged == []


async def test_without_the_right_to_read_nothing_is_paged_in(autojump_clock: object) -> None:
    async with system(6, {}) as world:
        world.kernel.llm = Counting()
        shell = world.attach("llm.generate")
        made = await shell.call(llm.Generate(prompt="which tea?", memory="auto"))
        assert made.text == "yes"
        assert made.usage.paged == []


def test_a_real_model_counts_and_keeps_the_beginning(tmp_path: Path) -> None:
    """With a tokenizer and a prefix cache: exact counts, and a second turn that is cached."""
    model = tiny_llm(tmp_path / "model", context=2048)
    flags = ("--embedder", "none", "--model", str(model), "--engine", "transformers")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        client.llm.generate(prompt="hello", max_tokens=1)
        for number in range(12):
            client.mem.write(segment="working", content=f"the user said hello number {number}")
        texts, usages = [], []
        for turn in range(2):
            made = client.mem.context(budget_tokens=1500, query=f"what was said in turn {turn}?")
            assert made.exact
            assert made.tokens == client.llm.count(messages=made.messages).tokens <= 1500
            texts.append(made.messages[0].content)
            usages.append(client.llm.generate(messages=made.messages, max_tokens=2).usage)
            client.mem.write(segment="working", content=f"and the answer was {turn}")
        assert texts[1].startswith(texts[0].removesuffix("]</data>"))
        assert usages[1].cached >= usages[0].prompt * 0.8
        tight = client.mem.context(budget_tokens=150, query="what was said?")
        assert tight.tokens == client.llm.count(messages=tight.messages).tokens <= 150
        assert tight.left
        auto = client.llm.generate(
            messages=[ChatMessage("user", "what was said as number 7?")],
            memory="auto",
            max_tokens=2,
        )
        assert auto.usage.paged
        assert auto.usage.prompt > 20
