"""Time to the first token of a short question about a long context: computed, restored, there.

    cold      a new engine process that has nothing of the context: all of it is computed
    hit       the same process, the context pinned: the engine has it, but not the question, which
              is another one than before
    restored  the next engine process, with the same folder of keys and values: read from disk

The model has about 80 million random weights in the shape of a small one of today (9 heads of
which 3 have keys and values); each word is one token, so that a text can be compared token by
token. Greedy text must be the same computed, there and restored, and what is said to be cached
must be what was pinned: of a hit, as of what is restored, the question is computed. Each figure
is the median of a few contexts, in seconds from the call to the first piece; the engine has
answered one unrelated short prompt before, in each process.

``ours`` is restored, ``floor`` is cold, ``ratio`` is ours over the floor at 6k tokens: at most
0.10. ``over_hit`` is restored over hit: at most 2.
"""

import argparse
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio

from benchmarks._harness import percentile, report
from drivers.kv.contract import PinRequest
from drivers.llm import make_llm
from drivers.llm.contract import GenerateRequest
from drivers.llm.hosted import HostedLLM

CONTEXTS = (1500, 6000)
"""Tokens."""
QUESTION = 12
ANSWER = 32
WORDS = 4096
OPTIONS = {"vllm": {"kv_bytes": 2 << 30}, "transformers": {"prefix_bytes": 2 << 30}}


class WallClock:
    """The machine's own."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()


def make_model(folder: Path) -> int:
    """A model with random weights, and a tokenizer of one word a token; its parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(str(folder))
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=22,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        initializer_range=0.05,  # so that greedy text varies
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(str(folder))
    return sum(weights.numel() for weights in model.parameters())


def words(seed: str, count: int) -> str:
    """Random words, one token each."""
    chooser = random.Random(seed)
    return " ".join(f"w{chooser.randrange(WORDS)}" for _ in range(count))


@asynccontextmanager
async def engine(name: str, folder: Path) -> AsyncIterator[HostedLLM]:
    """An engine process that has answered something; ``folder`` has model and saved state."""
    options: dict[str, Any] = {
        "kv_dir": str(folder / "kv"),
        "kv_ram": 1 << 30,
        "kv_disk": 8 << 30,
        "kv_pinned": 0.9,
        **OPTIONS[name],
    }
    llm = make_llm(
        str(folder / "model"),
        engine=name,
        run_dir=folder,
        log=lambda *_: None,
        clock=WallClock(),
        options=options,
    )
    assert isinstance(llm, HostedLLM)
    async with trio.open_nursery() as nursery:
        await nursery.start(llm.run)
        await llm.ready()
        await ask(llm, words("warm", 40), "warm")
        yield llm
        nursery.cancel_scope.cancel()


class Asked:
    """What came of a question."""

    def __init__(self) -> None:
        self.first = 0.0
        self.cached = 0
        self.text: list[str] = []


async def ask(llm: HostedLLM, prompt: str, salt: str) -> Asked:
    """Greedy text, and when it began."""
    asked = Asked()
    parts = []
    began = time.perf_counter()
    async for piece in llm.generate(
        GenerateRequest(prompt=prompt, salt=salt, max_tokens=ANSWER, temperature=0.0)
    ):
        asked.first = asked.first or time.perf_counter() - began
        parts.append(piece.text)
        if piece.usage is not None:
            asked.cached = piece.usage.cached
            assert piece.usage.completion == ANSWER
    asked.text = "".join(parts).split()
    return asked


class Case(NamedTuple):
    """One context; each is asked about under a salt of its own."""

    salt: str
    context: str

    def asks(self, question: str = "question") -> str:
        """The prompt: nothing but the context is pinned."""
        return f"{self.context} {words(question, QUESTION)}"


async def measure(name: str, folder: Path, rounds: int) -> dict[int, dict[str, float]]:
    """Medians for each length of context, in seconds."""
    cases = {
        size: [
            Case(f"{size}/{turn}", words(f"{size}/{turn}", size - QUESTION))
            for turn in range(rounds)
        ]
        for size in CONTEXTS
    }
    every = [case for size in CONTEXTS for case in cases[size]]
    cold, hit, back, pins = {}, {}, {}, {}
    same: dict[Case, list[tuple[Asked, Asked]]] = {}
    async with engine(name, folder) as llm:
        for case in every:
            cold[case] = await ask(llm, case.asks(), case.salt)
            pins[case] = await llm.pin(PinRequest(case.salt, prompt=case.context, salt=case.salt))
            hit[case] = await ask(llm, case.asks("another"), case.salt)
            same[case] = [(cold[case], await ask(llm, case.asks(), case.salt))]
    async with engine(name, folder) as llm:
        for case in every:
            back[case] = await ask(llm, case.asks(), case.salt)
        _, figures = await llm.held()
        for case in every:
            same[case] += [(cold[case], back[case])]
            same[case] += [(hit[case], await ask(llm, case.asks("another"), case.salt))]
    for case in every:
        check((cold[case], hit[case], back[case]), same[case], pins[case].tokens)
    assert figures.restored == sum(len(pin.blocks) for pin in pins.values()), figures
    return {
        size: {
            "cold": percentile([cold[case].first for case in cases[size]], 0.5),
            "hit": percentile([hit[case].first for case in cases[size]], 0.5),
            "restored": percentile([back[case].first for case in cases[size]], 0.5),
            "bytes": pins[cases[size][0]].bytes,
            "tokens": pins[cases[size][0]].tokens,
        }
        for size in CONTEXTS
    }


def check(asked: tuple[Asked, Asked, Asked], same: list[tuple[Asked, Asked]], pinned: int) -> None:
    """The same words, and honest counts: computed, there, restored."""
    assert [each.cached for each in asked] == [0, pinned, pinned]
    assert all(one.text == other.text for one, other in same), "the text is another"
    assert all(len(set(one.text)) > 2 for one, _ in same), "it says nothing, and compares nothing"


async def run(name: str, rounds: int) -> None:
    """Measure one engine and say what came out."""
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as place:
        folder = Path(place)
        parameters = make_model(folder / "model")
        found = await measure(name, folder, rounds)
    short, long = (found[size] for size in CONTEXTS)
    report(
        "ttft",
        long["restored"],
        long["cold"],
        long["restored"] / long["cold"],
        unit="s",
        bound=0.10,
        engine=name,
        parameters=parameters,
        rounds=rounds,
        over_hit=long["restored"] / long["hit"],
        bound_over_hit=2.0,
        ratio_short=short["restored"] / short["cold"],
        over_hit_short=short["restored"] / short["hit"],
        long=long,
        short=short,
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--engine", choices=list(OPTIONS), default="vllm")
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    trio.run(run, chosen.engine, chosen.rounds)
