"""Train nano: a small Qwen3, on examples that are generated as it goes.

    python -m drivers.nano.train OUT --minutes 45 [--resume] [--dev INTENTS.jsonl]

The loss counts program tokens only. Hidden matrices are trained by Muon (Jordan et al. 2024,
"Muon: an optimizer for hidden layers"), the rest by AdamW; what is saved and measured is an
exponential average of the weights, so any checkpoint is usable. The learning rate falls with
time or steps as a cosine. OUT gets the model, ``state.pt`` to go on from (weights and optimizer
tensors only), and ``curve.json``.
"""

import argparse
import copy
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.nn import functional

from drivers.nano import dialect, lexicon, vocabulary
from drivers.nano.generate import Example, Generator
from drivers.nano.predict import Predictor
from drivers.nano.score import accepted
from drivers.nano.vocabulary import Codec

Pair = tuple[list[int], list[int]]
TETHER = 0.5
"""How strongly embeddings are pulled back to where they started, in parts of the learning rate.

Words that are rarely seen stay near to their neighbours of the start."""
POOL = 4096
"""Examples that are made at a time; the batches among them come in random order."""
LONGEST = 256
"""Tokens of prompt and program of the longest example."""


class Plan(msgspec.Struct):
    """The settings of a run."""

    out: Path
    minutes: float
    steps: int
    """0: the minutes decide."""
    hidden: int = 256
    layers: int = 6
    tokens: int = 2600
    """Tokens in a batch, padding included."""
    rate: float = 4e-3
    rate_other: float = 3e-3
    seed: int = 5
    average: float = 0.998
    every: float = 240.0
    """Seconds between two measurements."""
    device: str = "cpu"
    again: float = 0.0
    """Share of the full learning rate from which a resumed run starts a cosine of its own."""
    fuse: bool = False
    """Compile the forward pass; takes a minute or two at first."""


def configuration(codec: Codec, hidden: int, layers: int) -> Any:
    """A Qwen3 of ``hidden`` width with heads of 64."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=-(-codec.tokenizer.get_vocab_size() // 64) * 64,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        max_position_embeddings=vocabulary.CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=codec.ids[dialect.END],
        pad_token_id=codec.ids[dialect.PAD],
        bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",  # faster than the fused kernels on short rows and CPUs
    )


class Trainer:
    """Model, optimizers and the average of the weights."""

    def __init__(self, plan: Plan, codec: Codec) -> None:
        from transformers import Qwen3ForCausalLM

        torch.manual_seed(plan.seed)
        self.plan = plan
        self.codec = codec
        self.model: Any = Qwen3ForCausalLM(configuration(codec, plan.hidden, plan.layers))
        self.model.to(plan.device)
        self._forward: Any = self.model.model
        if plan.fuse:
            self._forward = torch.compile(self.model.model, dynamic=True)
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        self._words = self.model.get_input_embeddings().weight
        with torch.no_grad():
            self._words.copy_(lexicon.vectors(codec.tokenizer, plan.hidden, self._words.shape[0]))
        self._start = self._words.detach().clone()
        hidden = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        chosen = {id(p) for p in hidden}
        other = [p for p in self.model.parameters() if id(p) not in chosen]
        self.optimizers: list[Any] = [
            torch.optim.Muon(
                hidden, lr=1.0, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(other, lr=1.0, weight_decay=0.0, betas=(0.9, 0.98)),
        ]
        self.step = 0
        self.examples = 0
        self.elapsed = 0.0
        self.loss = 0.0

    def learn(self, batch: Sequence[Pair], scale: float) -> None:
        """One step on one batch at ``scale`` times the full learning rate."""
        ids, wanted = _tensors(batch, self.plan.device)
        rates = (self.plan.rate, self.plan.rate_other)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
        # Programs are made of the batch's own tokens, so the softmax is over those alone, and no
        # word is pushed away from its neighbours for not having been said.
        seen, places = torch.unique(ids, return_inverse=True)
        answers = places.roll(-1, 1)[wanted]
        with torch.autocast(self.plan.device, torch.bfloat16):
            states = self._forward(input_ids=ids, use_cache=False).last_hidden_state
            logits = states[wanted] @ self.model.lm_head.weight[seen].T
        loss = functional.cross_entropy(logits.float(), answers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self._words.lerp_(self._start, TETHER * self.plan.rate_other * scale)
        self.step += 1
        self.examples += len(batch)
        value = loss.item()
        self.loss = value if self.step == 1 else 0.98 * self.loss + 0.02 * value
        keep = min(self.plan.average, 1 - 1 / (1 + self.step / 4))
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.model.parameters(), strict=True)
            for average, now in pairs:
                average.lerp_(now, 1 - keep)

    def save(self) -> None:
        """The averaged model in half precision with its tokenizer, and the state."""
        export(self.averaged, self.codec, self.plan.out)
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step, "examples": self.examples, "elapsed": self.elapsed,
            "loss": self.loss,
        }  # fmt: skip
        torch.save(state, self.plan.out / "state.new")
        (self.plan.out / "state.new").replace(self.plan.out / "state.pt")

    def resume(self) -> None:
        """Go on from the saved state."""
        state = torch.load(self.plan.out / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.examples = state["step"], state["examples"]
        self.elapsed, self.loss = state["elapsed"], state["loss"]


def export(model: Any, codec: Codec, folder: Path) -> None:
    """A folder that transformers and vLLM load, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).to(torch.bfloat16).cpu()
    half.generation_config.eos_token_id = codec.ids[dialect.END]
    half.generation_config.pad_token_id = codec.ids[dialect.PAD]
    half.generation_config.do_sample = False
    half.save_pretrained(str(folder))
    vocabulary.save(codec.tokenizer, folder)


def batches(codec: Codec, seed: int, tokens: int) -> Iterator[list[Pair]]:
    """Batches of examples of similar length, without end.

    Lengths are rounded up to a multiple of 8 and each has its own size of a batch, so there
    are few shapes and kernels are made for each only once.
    """
    rng = random.Random(seed)
    stream = iter(Generator(seed))
    waiting: dict[int, list[Pair]] = {}
    while True:
        ready = list[list[Pair]]()
        for pair in codec.encode(list(itertools.islice(stream, POOL))):
            width = _width(pair)
            if width > LONGEST:
                continue
            batch = waiting.setdefault(width, [])
            batch.append(pair)
            if len(batch) == max(4, tokens // width):
                ready.append(waiting.pop(width))
        rng.shuffle(ready)
        yield from ready


def _width(pair: Pair) -> int:
    return -(-(len(pair[0]) + len(pair[1])) // 8) * 8


def _tensors(batch: Sequence[Pair], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded ids, and which positions predict a token of a program."""
    longest = max(_width(pair) for pair in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    wanted = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, (prompt, program) in enumerate(batch):
        stop = len(prompt) + len(program)
        ids[row, :stop] = torch.tensor(prompt + program)
        wanted[row, len(prompt) - 1 : stop - 1] = True
    return ids.to(device), wanted.to(device)


def measure(trainer: Trainer, held_out: Sequence[Example], dev: Path | None) -> dict[str, Any]:
    """Share of exact programs on unseen wordings, and on the development set if there is one."""
    predictor = Predictor(trainer.averaged, trainer.codec, most=96)
    found = predictor.programs([e.text for e in held_out], calls=None, batch=64)
    right = [accepted([e.program], p) for e, p in zip(held_out, found, strict=True)]
    row: dict[str, Any] = {
        "step": trainer.step, "examples": trainer.examples, "seconds": round(trainer.elapsed),
        "loss": round(trainer.loss, 4), "held_out": round(sum(right) / len(right), 4),
    }  # fmt: skip
    if dev:
        lines = dev.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        found = predictor.programs([r["intent"] for r in rows], calls=None, batch=40)
        for language in ("en", "zh"):
            some = [accepted(r["accept"], p) for r, p in zip(rows, found, strict=True)
                    if r["lang"] == language]  # fmt: skip
            row[f"dev_{language}"] = round(sum(some) / len(some), 4)
    return row


def run(plan: Plan, codec: Codec, *, resume: bool, dev: Path | None) -> None:
    """Train until the time or the steps are over, with measurements and checkpoints."""
    trainer = Trainer(plan, codec)
    curve: list[dict[str, Any]] = []
    if resume:
        trainer.resume()
        curve = json.loads((plan.out / "curve.json").read_text())
    begun = trainer.elapsed if plan.again else 0.0
    peak = plan.again or 1.0
    held_out = list(itertools.islice(Generator(99, held_out=True), 320))
    size = sum(p.numel() for p in trainer.model.parameters())
    sys.stdout.write(f"{size} parameters, {codec.tokenizer.get_vocab_size()} tokens\n")
    last = measured = time.monotonic()
    for batch in batches(codec, plan.seed + 1000 * trainer.step, plan.tokens):
        now = time.monotonic()
        trainer.elapsed, last = trainer.elapsed + now - last, now
        passed = (trainer.elapsed - begun) / (60 * plan.minutes - begun)
        done = trainer.step / plan.steps if plan.steps else passed
        if done >= 1 or now - measured > plan.every:
            curve.append(measure(trainer, held_out, dev))
            trainer.save()
            (plan.out / "curve.json").write_text(json.dumps(curve, indent=1))
            sys.stdout.write(f"measured {json.dumps(curve[-1])}\n")
            sys.stdout.flush()
            last = measured = time.monotonic()
        if done >= 1:
            break
        warm = min(1.0, (trainer.step + 1) / 80)
        trainer.learn(batch, peak * warm * max(0.01, 0.5 * (1 + math.cos(math.pi * done))))
        if trainer.step % 50 == 0:
            _progress(trainer, done)


def _progress(trainer: Trainer, done: float) -> None:
    bar = "#" * int(20 * done)
    rate = trainer.examples / max(1.0, trainer.elapsed)
    sys.stdout.write(
        f"[{bar:<20}] step {trainer.step} loss {trainer.loss:.4f} "
        f"examples {trainer.examples} {rate:.0f}/s {trainer.elapsed:.0f}s\n"
    )
    sys.stdout.flush()


def main() -> int:
    """Parse the settings and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--every", type=float, default=240.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokenizer", type=Path, help="a folder; learnt anew when not given")
    parser.add_argument("--again", type=float, default=0.0, help="start a new cosine from here")
    parser.add_argument("--compile", action="store_true", help="fuse the forward pass")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--dev", type=Path, help="intents to measure on, never to train on")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    source = options.tokenizer or (options.out if options.resume else None)
    codec = Codec.load(source) if source else Codec(vocabulary.build())
    plan = Plan(
        options.out, options.minutes, options.steps, options.hidden, options.layers,
        options.tokens, seed=options.seed, every=options.every, device=options.device,
        again=options.again, fuse=options.compile,
    )  # fmt: skip
    run(plan, codec, resume=options.resume, dev=options.dev)
    return 0


if __name__ == "__main__":
    sys.exit(main())
