"""Nano really learns: a user's own words, in the real process, asked of the real engine."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivers.llm import make_llm
from drivers.llm.contract import GenerateRequest
from drivers.lora.contract import ADAPTER, Example, Report, TrainSpec
from drivers.lora.files import digest_of, identity
from drivers.lora.nano import regression_examples, suit
from drivers.lora.scope import scope_of
from drivers.lora.trainer import ProcessTrainer
from drivers.nano import dialect
from drivers.nano.predict import WEIGHTS
from drivers.nano.score import accepted
from kernel.machine import SystemClock
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from drivers.llm.contract import LLM

DATA = Path(__file__).parents[1] / "data"
BOUND = 900.0
LEARNT = ("proc.fork", "lora.list", "proc.checkpoint", "proc.nice")
"""First calls of the programs whose words are trained on."""
STEPS = 160
PLAIN = ("pause crawler", "remind me in 20 minutes to call Ana", "list the agents", "记住我喜欢茶")

pytestmark = [pytest.mark.model, pytest.mark.slow]


def rows(name: str) -> list[dict[str, Any]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [row for row in found if row["program"][0]["call"] in LEARNT]


def examples(name: str) -> list[Example]:
    return [Example(json.dumps(row["program"]), row["intent"]) for row in rows(name)]


async def train(spec: TrainSpec, folder: Path) -> Report:
    with trio.fail_after(BOUND):
        async with aclosing(ProcessTrainer().train(spec, folder)) as events:
            async for event in events:
                if isinstance(event, Report):
                    return event
    raise AssertionError("no report")


async def said(engine: LLM, text: str, adapter: str = "", folder: Path | None = None) -> str:
    request = GenerateRequest(
        prompt=dialect.render(text),
        grammar=dialect.grammar(text, dialect.CALLS),
        special=True,
        max_tokens=dialect.MOST_TOKENS,
        stop=[dialect.STOP],
        adapter=adapter,
        adapter_path=str(folder or ""),
    )
    async with aclosing(engine.generate(request)) as pieces:
        return "".join([piece.text async for piece in pieces])


async def test_own_words_are_learnt_and_nobody_else_is_changed(tmp_path: Path) -> None:
    spec = suit(TrainSpec(str(WEIGHTS), examples("own_words.jsonl"), held_out=0.0, threads=1))
    spec.steps = STEPS
    spec.regression = regression_examples()[:60]
    job = tmp_path / "job"
    await trio.Path(job).mkdir()
    report = await train(spec, job)
    assert report.regression_after.score >= report.regression_before.score - 0.02
    asked = rows("own_words_asked.jsonl")
    texts = [*(row["intent"] for row in asked), *PLAIN]
    folder = job / ADAPTER
    name = identity("own", 1, digest_of(folder))
    engine = make_llm(
        str(WEIGHTS), engine="transformers", run_dir=tmp_path, log=lambda *_: None,
        clock=SystemClock(), options={"adapters": 1, "threads": 1},
    )  # fmt: skip
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            before = [await said(engine, text) for text in texts]
            learnt = [await said(engine, text, name, folder) for text in texts]
            after = [await said(engine, text) for text in texts]
            nursery.cancel_scope.cancel()
    assert after == before
    assert scope_of(folder)
    assert learnt[len(asked) :] == before[len(asked) :]
    assert right(asked, before) <= 0.3
    assert right(asked, learnt) >= 0.7


def right(asked: list[dict[str, Any]], written: list[str]) -> float:
    """Share of exact programs."""
    found = []
    for row, text in zip(asked, written, strict=False):
        try:
            found.append(accepted([row["program"]], dialect.parse(text, row["intent"])))
        except dialect.Malformed:
            found.append(False)
    return sum(found) / len(found)


async def test_an_example_that_nano_cannot_say_is_refused_with_the_reason(tmp_path: Path) -> None:
    program = [{"call": "proc.wait", "args": {"target": "crawler"}}]
    spec = suit(TrainSpec(str(WEIGHTS), [Example(json.dumps(program), "wait for the beast")]))
    with pytest.raises(EINVAL, match="is not said in"):
        await train(spec, tmp_path)
