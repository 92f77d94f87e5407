"""The recipe ``nano``: a user's own words, learnt from a few dozen intents and their programs.

    own      the examples in many other wordings (``wordings.py``)   toward their programs
    strange  the same with words that mean nothing to anybody        toward what the base says
    mention  requests in whose texts the words stand, but as data    toward what the base says
    kept     what nano was trained on, made anew                     toward what the base says

Toward a program is the likelihood of its tokens; toward what the base says is the divergence
(Kullback-Leibler) of the distributions with and without the adapter, so that what is not asked
for stays as it is, certain or not. Both over the tokens of the batch and the dialect, as nano
itself was trained. No other model's answers, no data beside the examples and nano's own corpus.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.lora.contract import Example, TrainSpec
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from drivers.lora.rows import Row
    from drivers.nano import generate
    from drivers.nano.corpus import Seed
    from drivers.nano.vocabulary import Codec

REGRESSION = Path(__file__).parent / "regression.json"
ROWS = 11_520
"""Rows of a training where the spec does not say how many."""
SHARES = {"own": 0.35, "strange": 0.1, "mentioned": 0.08}
"""Of the rows; the rest are what nano was trained on."""
FIDELITY = 4.0
"""What a token that is to stay weighs against one that is to be learnt."""
REPEATED = 4
"""How often an example is shown as it was given."""
LONGEST, LONG = 100, 180
"""Tokens of a row that is made with the user's words, and of one that is not. Longer ones are
left out: they cost most and teach little more."""
OWN_LOOKED, KEPT_LOOKED, LOOKED_AT = 600, 1200, 32
"""Rows by which it is chosen where the adapter looks, and how many at once."""
RARE, OFTENER = 0.01, 8
"""A token is of the user's words where so large a share of his sentences has it, and so many
times the share of all sentences."""
PATIENCE = 4
"""Rows that are looked at for one that is taken, where most are too long."""
NOISE = 0.7
UNCOUNTED = -100
DISTANT = 1009
"""Between the seeds of what is made, so that none of it is made twice."""


class Step(msgspec.Struct, frozen=True):
    """A call of a program."""

    call: str
    args: dict[str, Any] = {}


def suit(spec: TrainSpec) -> TrainSpec:
    """``spec`` with what suits nano, to be overridden by who knows better."""
    spec.recipe = "nano"
    spec.rank, spec.rate, spec.batch, spec.epochs = 16, 3e-3, 48, 1
    spec.checkpoint = 50
    return spec


@cache
def regression_examples() -> list[Example]:
    """Intents of all kinds that nano is not to lose: held-out phrasings of its generator."""
    return msgspec.json.decode(REGRESSION.read_bytes(), type=list[Example])


class NanoRecipe:
    """See the module and ``drivers.lora.contract.Recipe``."""

    def __init__(self, folder: Path, spec: TrainSpec) -> None:
        from drivers.nano import dialect
        from drivers.nano.vocabulary import Codec

        self._spec = spec
        self._codec: Codec = Codec.load(folder)
        self.pad = self._codec.ids[dialect.PAD]
        self._made: dict[tuple[str, str], Row] = {}
        self._scope: list[str] = []
        self._kept: set[tuple[int, ...]] = set()
        """Rows that are to stay what they are."""
        self._dialect = sorted(self._codec.ids.values())

    def rows(self, examples: Sequence[Example]) -> list[Example]:
        """The examples and their other wordings, and what must not change for them."""
        from drivers.lora.align import spelled
        from drivers.lora.wordings import Wordings
        from drivers.nano.generate import Generator

        seed, spec = DISTANT * self._spec.seed, self._spec
        seeds = [_seed(example) for example in examples]
        total = spec.steps * spec.batch or ROWS // spec.epochs
        words = Wordings(seeds, seed + 1)
        self._scope = words.scope
        given = [spelled(each) for each in seeds]
        said = self._rows(given, len(given), longest=spec.longest) * REPEATED
        own = [*said, *self._rows(words, int(SHARES["own"] * total) - len(said))]
        strange = self._rows(words.strange(), int(SHARES["strange"] * total), kept=True, counted=1)
        mentioned = words.mentioned(Generator(seed + 3, noise=NOISE))
        data = self._rows(mentioned, int(SHARES["mentioned"] * total), kept=True)
        rest = total - len(own) - len(strange) - len(data)
        base = self._rows(Generator(seed + 2, noise=NOISE), rest, kept=True, longest=LONG)
        return [*own, *strange, *data, *base]

    def encode(self, example: Example) -> tuple[list[int], list[int]]:
        """Prompt and program in nano's tokens; the loss is on the program."""
        from drivers.lora.align import spelled

        made = self._made.get((example.prompt, example.completion))
        if made is not None:
            return made
        pairs = self._codec.encode([spelled(_seed(example))])
        if not pairs:
            raise EINVAL(
                f"an argument begins or ends inside a word of {example.prompt!r}",
                hint="nano copies whole words",
            )
        return _row(*pairs[0])

    def score(self, model: Any, examples: Sequence[Example]) -> float:
        """Share of exact programs, written under the grammar, with the adapter where an engine
        would use it.
        """
        from drivers.lora.scope import concerns
        from drivers.nano.predict import Predictor
        from drivers.nano.score import accepted

        predictor = Predictor(model, self._codec)
        right = 0
        for used in (True, False):
            some = [each for each in examples if concerns(self._scope, each.prompt) is used]
            _switch(model, on=used)
            written = predictor.programs([each.prompt for each in some])
            right += sum(
                accepted([_program(said) for said in (each.completion, *each.accept)], program)
                for each, program in zip(some, written, strict=True)
            )
        _switch(model, on=True)
        return right / len(examples) if examples else 0.0

    def scope(self) -> list[str]:
        """The user's own words."""
        return self._scope

    def prepare(self, model: Any) -> None:
        """Have the adapter look at the user's words, and where programs with them are written."""
        from drivers.lora.orient import orient

        rows = list(self._made.values())
        own = [row for row in rows if tuple(row[0]) not in self._kept][-OWN_LOOKED:]
        kept = rows[-KEPT_LOOKED:]
        inside = Counter(token for ids, _ in own for token in set(ids))
        outside = Counter(token for ids, _ in kept for token in set(ids))
        words = {
            token
            for token, count in inside.items()
            if count > RARE * len(own)
            and count / len(own) > OFTENER * (outside[token] + 1) / len(kept)
        }
        orient(model, self._looked(model, own, words), self._looked(model, kept))

    def loss(self, model: Any, rows: Sequence[Row]) -> Tensor:
        """What a step makes smaller, in nats a token; ``model`` is the base within peft."""
        import torch
        from torch.nn import functional

        from drivers.lora.orient import freeze

        own = [row for row in rows if tuple(row[0]) not in self._kept]
        kept = [row for row in rows if tuple(row[0]) in self._kept]
        before = None
        if kept:
            with torch.no_grad(), model.disable_adapter():
                before, _ = self._logits(model, kept, [*own, *kept])
            freeze(model)  # peft has made all of it trainable again
        logits, answers = self._logits(model, [*own, *kept])
        taught = sum(label >= 0 for _, labels in own for label in labels)
        total = functional.cross_entropy(logits[:taught], answers[:taught], reduction="sum")
        total = total / max(1, taught)
        if before is not None:
            changed = functional.kl_div(
                functional.log_softmax(logits[taught:], -1),
                functional.log_softmax(before, -1),
                log_target=True,
                reduction="sum",
            )
            total = total + FIDELITY * changed / len(before)
        return total

    # --- how it is done

    def _rows(
        self,
        stream: Iterable[generate.Example],
        most: int,
        *,
        kept: bool = False,
        counted: int = 0,
        longest: int = LONGEST,
    ) -> list[Example]:
        """The first ``most`` of a stream that are not too long, ready for ``encode``.

        ``counted`` tokens of the program count, 0 for all: behind a wrong call nothing is right.
        """
        made = list[Example]()
        for example in islice(stream, PATIENCE * max(0, most)):
            if len(made) >= most:
                break
            pairs = self._codec.encode([example])
            if not pairs or len(pairs[0][0]) + len(pairs[0][1]) > longest:
                continue
            row = _row(*pairs[0], counted)
            completion = msgspec.json.encode(example.program).decode()
            self._made[example.text, completion] = row
            if kept:
                self._kept.add(tuple(row[0]))
            made.append(Example(completion, example.text))
        return made

    def _looked(
        self, model: Any, rows: Sequence[Row], words: set[int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of ids with the places to look at: of some words and of programs, or all."""
        device = model.get_input_embeddings().weight.device
        order = sorted(rows, key=lambda row: len(row[0]))
        for start in range(0, len(order), LOOKED_AT):
            some = order[start : start + LOOKED_AT]
            ids, wanted = self._padded(some)
            if words is None:
                for at, (row, _) in enumerate(some):
                    wanted[at, : len(row)] = True
            else:
                for at, (row, _) in enumerate(some):
                    for place in (place for place, token in enumerate(row) if token in words):
                        wanted[at, place] = True
            yield ids.to(device), wanted.to(device)

    def _padded(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Ids, and where a token of a program comes next."""
        import torch

        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), width), self.pad)
        wanted = torch.zeros((len(rows), width), dtype=torch.bool)
        for at, (row, labels) in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            wanted[at, : len(row) - 1] = torch.tensor(labels[1:]) >= 0
        return ids, wanted

    def _logits(
        self, model: Any, rows: Sequence[Row], batch: Sequence[Row] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits where a token of a program comes next, and which token comes.

        Over the tokens of ``batch`` and of the dialect only: a program is made of no others.
        """
        import torch

        device = model.get_input_embeddings().weight.device
        ids, wanted = self._padded(rows)
        known = {token for row, _ in batch or rows for token in row}
        seen = torch.tensor(sorted(known.union(self._dialect, (self.pad,))), device=device)
        ids, wanted = ids.to(device), wanted.to(device)
        answers = torch.searchsorted(seen, ids).roll(-1, 1)[wanted]
        network = model.get_base_model()
        states = network.model(input_ids=ids, use_cache=False).last_hidden_state
        logits: Tensor = states[wanted] @ network.lm_head.weight[seen].T
        return logits.float(), answers


def _row(prompt: list[int], program: list[int], counted: int = 0) -> Row:
    labels = program[:counted] if counted else program
    rest = len(program) - len(labels)
    return prompt + program, [UNCOUNTED] * len(prompt) + labels + [UNCOUNTED] * rest


def _switch(model: Any, *, on: bool) -> None:
    """Use the adapter that has been put into a model, or the base alone."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(enabled=on)


def _program(completion: str) -> list[dict[str, Any]]:
    """The program of a completion. Raises EINVAL."""
    try:
        steps = msgspec.json.decode(completion, type=list[Step])
    except msgspec.DecodeError as error:
        raise EINVAL(
            f"no program: {completion[:200]!r}",
            hint='write `[{"call": "proc.list", "args": {}}]`',
        ) from error
    return [{"call": step.call, "args": step.args} for step in steps]


def _seed(example: Example) -> Seed:
    from drivers.lora.align import seed_of

    if not example.prompt.strip():
        raise EINVAL("an example for nano has no prompt", hint="say what the user says")
    return seed_of(example.prompt, _program(example.completion))
