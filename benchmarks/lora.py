"""Nano learns the private words of a user, in the training process that the kernel uses.

40 examples (``benchmarks/data``) are trained on; 60 other sentences with the same words are
asked before and after, of the transformers engine in a host, without and with the adapter, under
the grammar. ``before`` and ``after`` are shares of exact programs; ``base_drop`` is how many
points of a hundred the adapter costs on intents that have nothing to do with those words (the
development intents with ``--data FOLDER``, else our own validation set); ``train_seconds`` is the
wall time from the start of the process to its end, ``cpu_seconds`` that of its processors.
An adapter of own words says which they are, and the engine answers what has none of them with the
base (``drivers/lora/scope.py``); ``in_scope`` is the share of those other intents that have one.
``unchanged`` says that requests without the adapter, asked beside those with it, are answered
with the same text as before. ``ratio`` is what is still wrong over what was.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from benchmarks._harness import ROOT, report
from drivers.llm import make_llm
from drivers.llm.contract import LLM, GenerateRequest
from drivers.lora.contract import ADAPTER, Example, Report, TrainSpec
from drivers.lora.files import digest_of, identity
from drivers.lora.nano import suit
from drivers.lora.scope import concerns, scope_of
from drivers.lora.trainer import ProcessTrainer
from drivers.nano import dialect
from drivers.nano.score import accepted
from kernel.machine import SystemClock
from kernel.mind.seats import nano_weights

DATA = Path(__file__).parent / "data"
OURS = ROOT / "tests" / "data" / "intents.jsonl"
BOUND = 0.1
"""Of the sentences that were wrong before, those that may still be."""
SEEDS = 2


class Intent(msgspec.Struct):
    """A sentence, and the programs that are right for it."""

    intent: str
    program: list[dict[str, Any]] = []
    accept: list[list[dict[str, Any]]] = []

    def right(self, said: str) -> bool:
        """Whether what nano wrote is one of them."""
        try:
            program = dialect.parse(said, self.intent)
        except dialect.Malformed:
            program = []
        return accepted(self.accept or [self.program], program)


def read(path: Path) -> list[Intent]:
    """The intents of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [msgspec.json.decode(line, type=Intent) for line in lines if line.strip()]


async def said(engine: LLM, intents: Sequence[Intent], folder: Path | None = None) -> list[str]:
    """What nano writes for each, with the adapter of a folder or without."""
    name = identity("own", 1, digest_of(folder)) if folder else ""
    texts = []
    for each in intents:
        request = GenerateRequest(
            prompt=dialect.render(each.intent),
            grammar=dialect.grammar(each.intent, dialect.CALLS),
            special=True,
            max_tokens=dialect.MOST_TOKENS,
            stop=[dialect.STOP],
            adapter=name,
            adapter_path=str(folder or ""),
        )
        async with aclosing(engine.generate(request)) as pieces:
            texts.append("".join([piece.text async for piece in pieces]))
    return texts


def share(intents: Sequence[Intent], texts: Sequence[str]) -> float:
    """Share of right programs."""
    right = [each.right(text) for each, text in zip(intents, texts, strict=True)]
    return sum(right) / len(right)


@asynccontextmanager
async def engine_on(weights: Path) -> AsyncIterator[LLM]:
    """Nano in a host, as the kernel has it."""
    options = {"prefix_bytes": 1 << 20, "adapters": 2}
    with tempfile.TemporaryDirectory(prefix="engram-lora-") as run_dir:
        engine = make_llm(
            str(weights), engine="transformers", run_dir=Path(run_dir),
            log=lambda *_: None, clock=SystemClock(), options=options,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()


async def trained(spec: TrainSpec, folder: Path) -> tuple[Report, float, float]:
    """What the training process reports, and its wall and processor seconds."""
    begun, used = time.perf_counter(), _children()
    async with aclosing(ProcessTrainer().train(spec, folder)) as events:
        async for event in events:
            if isinstance(event, Report):
                done = event
    return done, time.perf_counter() - begun, _children() - used


def place(folder: Path) -> Path:
    """A new folder."""
    folder.mkdir()
    return folder


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def development(folder: Path) -> Path:
    """The file of the development intents, in a folder or in one below it."""
    return next(folder.rglob("dev.jsonl"))


async def run(data: Path | None, seeds: int) -> dict[str, Any]:
    """All figures; medians over the seeds."""
    weights = nano_weights()
    if weights is None:
        raise SystemExit("drivers/nano/weights holds no model")
    examples = read(DATA / "own_words.jsonl")
    asked = read(DATA / "own_words_asked.jsonl")
    others = read(development(data) if data else OURS)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="engram-lora-") as jobs:
        for seed in range(seeds):
            given = [Example(json.dumps(each.program), each.intent) for each in examples]
            spec = suit(TrainSpec(str(weights), given, held_out=0.0, seed=seed))
            folder = place(Path(jobs, str(seed)))
            done, wall, cpu = await trained(spec, folder)
            async with engine_on(weights) as engine:
                plain = await said(engine, asked), await said(engine, others)
                learnt = await said(engine, asked, folder / ADAPTER)
                kept = await said(engine, others, folder / ADAPTER)
                again = await said(engine, asked), await said(engine, others)
            base = share(others, plain[1])
            rows.append({
                "before": share(asked, plain[0]), "after": share(asked, learnt),
                "base": base, "base_drop": 100 * (base - share(others, kept)),
                "in_scope": sum(concerns(scope_of(folder / ADAPTER), each.intent)
                                for each in others) / len(others),
                "train_seconds": wall, "cpu_seconds": cpu, "unchanged": plain == again,
                "adapter_bytes": done.bytes, "rows": done.rows,
            })  # fmt: skip
            print(json.dumps({"seed": seed, **rows[-1]}))
    figures = {
        name: statistics.median(row[name] for row in rows)
        for name in rows[0]
        if name != "unchanged"
    }
    worst = {"after_least": min(row["after"] for row in rows),
             "base_drop_most": max(row["base_drop"] for row in rows)}  # fmt: skip
    return {**figures, **worst, "unchanged": all(row["unchanged"] for row in rows),
            "base_set": "development intents" if data else "tests/data/intents.jsonl",
            "seeds": seeds}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, help="folder with the development intents")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    figures = trio.run(run, options.data, options.seeds)
    before, after = figures.pop("before"), figures.pop("after")
    ratio = (1 - after) / (1 - before)
    report("lora", after, before, ratio, bound=BOUND, before=before, after=after, **figures)


if __name__ == "__main__":
    main()
