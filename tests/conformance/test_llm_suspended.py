"""Generations that stand still: they cost nothing meanwhile, and go on as if nothing had been."""

from __future__ import annotations

import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivers.llm import make_llm
from drivers.llm.contract import GenerateRequest, Piece, Suspends
from drivers.llm.hosted import HostedLLM
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PROMPT = "the kernel answers and the model speaks to the user; " * 12
MOST = 200
OPTIONS: dict[str, dict[str, Any]] = {"transformers": {}, "vllm": {"kv_bytes": 32 << 20}}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 20, "maxItems": 30},
    },
    "required": ["name", "numbers"],
    "additionalProperties": False,
}


class WallClock:
    """The machine's own."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


async def read(
    llm: HostedLLM,
    request: GenerateRequest,
    each: Callable[[list[Piece]], Awaitable[None]] | None = None,
) -> list[Piece]:
    got: list[Piece] = []
    async with aclosing(llm.generate(request)) as stream:
        async for piece in stream:
            got.append(piece)
            if each is not None:
                await each(got)
    return got


def text(got: list[Piece]) -> str:
    return "".join(piece.text for piece in got)


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
async def test_a_suspended_generation_goes_on_where_it_was(engine: str, tmp_path: Path) -> None:
    model = tiny_llm(tmp_path / "model", context=1024)
    llm = make_llm(
        str(model),
        engine=engine,
        run_dir=tmp_path,
        log=lambda *_: None,
        clock=WallClock(),
        options=OPTIONS[engine],
    )
    assert isinstance(llm, HostedLLM) and isinstance(llm, Suspends)
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            await nursery.start(llm.run)
            info = await llm.ready()
            assert info.suspends and info.slots
            assert (info.kv_tokens > 0) == (engine == "vllm")
            for schema in (None, SCHEMA):
                await it_goes_on(llm, schema)
            await another_is_served_meanwhile(llm)
            await it_can_be_cancelled(llm)
            nursery.cancel_scope.cancel()


async def it_goes_on(llm: HostedLLM, schema: dict[str, Any] | None) -> None:
    plain = GenerateRequest(prompt=PROMPT, max_tokens=MOST, salt="plain", schema=schema)
    undisturbed = await read(llm, plain)
    times = 0

    async def disturb(got: list[Piece]) -> None:
        nonlocal times
        if got[-1].finish or times >= 3 or sum(each.tokens for each in got) < 20 * (times + 1):
            return
        times += 1
        llm.suspend(disturbed, on=True)
        nursery.start_soon(resume, got)

    async def resume(got: list[Piece]) -> None:
        await trio.sleep(0.3)  # what was on its way has come
        figures = llm.statistics().host
        assert figures is not None
        before, used = len(got), cpu(figures.pid)
        await trio.sleep(0.5)
        assert len(got) == before
        assert cpu(figures.pid) - used < 0.25, "it does not turn in vain"
        llm.suspend(disturbed, on=False)

    disturbed = GenerateRequest(prompt=PROMPT, max_tokens=MOST, salt="disturbed", schema=schema)
    async with trio.open_nursery() as nursery:
        got = await read(llm, disturbed, disturb)
    assert times == 3
    assert text(got) == text(undisturbed)
    assert got[-1].usage == undisturbed[-1].usage, "and its prompt is counted once"
    assert got[-1].usage is not None
    live = sum(piece.tokens for piece in got)
    assert got[-1].usage.completion - 1 <= live <= got[-1].usage.completion


async def another_is_served_meanwhile(llm: HostedLLM) -> None:
    kept = GenerateRequest(prompt=PROMPT, max_tokens=MOST, salt="kept")
    seen: list[Piece] = []

    async def stop(got: list[Piece]) -> None:
        seen[:] = got
        if len(got) == 1:
            llm.suspend(kept, on=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, llm, kept, stop)
        while not seen:  # noqa: ASYNC110
            await trio.sleep(0.01)
        other = await read(llm, GenerateRequest(prompt="hello", max_tokens=20))
        assert other[-1].usage is not None and other[-1].usage.completion == 20
        assert not seen[-1].finish
        llm.suspend(kept, on=False)
    assert seen[-1].finish


async def it_can_be_cancelled(llm: HostedLLM) -> None:
    request = GenerateRequest(prompt=PROMPT, max_tokens=MOST, salt="cancelled")

    async def stop(_got: list[Piece]) -> None:
        llm.suspend(request, on=True)

    with trio.move_on_after(1.0) as scope:
        await read(llm, request, stop)
    assert scope.cancelled_caught
    while await llm.running():  # noqa: ASYNC110 - an engine hears of it a moment later
        await trio.sleep(0.02)
