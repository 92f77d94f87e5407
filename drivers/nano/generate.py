"""Makes training examples out of the seed corpus. Seeded: the same seed gives the same data.

    python -m drivers.nano.generate --seed 7 --show 20

An example is a text and a program whose arguments are stretches of that text. One phrasing in
``HOLD_OUT`` is never trained on: what the model makes of those measures how it takes wordings
that it has not seen.
"""

import argparse
import json
import random
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from drivers.nano import corpus, dialect
from drivers.nano.compose import Composer, Draft, joinable
from drivers.nano.corpus import Argument, Seed
from drivers.nano.noise import Noise
from drivers.nano.slots import HANZI, Slots

HOLD_OUT = 25
WEIGHTS = {
    "mem.write": 4.0, "mem.search": 2.6, "llm.generate": 3.4, "ipc.send": 2.6, "proc.spawn": 2.4,
    "proc.signal": 2.8, "sys.alarm": 1.8, "mem.forget": 1.2, "ipc.publish": 1.2, "tool.call": 1.2,
    "proc.fork": 1.2, "proc.nice": 1.2, "proc.info": 1.1,
}  # fmt: skip
"""How often a call is drawn, 1 where it is not named: near to how often people ask for it."""

MIX = (("single", 0.64), ("multi", 0.12), ("joined", 0.12), ("quoted", 0.10), ("nonsense", 0.02))
CHINESE = 0.34
"""Share of Chinese examples."""

Pointer = tuple[int, int] | str
"""Start and stop of a stretch of the text, or the name of a token of the dialect."""


class Example(msgspec.Struct):
    """A text and its program; ``program`` is for scoring, ``target`` for training."""

    language: str
    register: str
    text: str
    target: list[Pointer]
    program: list[dict[str, Any]]


class Generator:
    """An endless stream of examples."""

    def __init__(self, seed: int, *, held_out: bool = False, noise: float = 1.0) -> None:
        self._rng = random.Random(seed)
        self._slots = Slots(self._rng)
        self._composer = Composer(self._rng, self._slots)
        hanzi = [first + second for first, second in zip(HANZI[::2], HANZI[1::2], strict=False)]
        self._noise = Noise(self._rng, noise, {"en": self._slots.words, "zh": hanzi})
        self.dropped = 0
        self._groups = {
            language: self._sort([s for s in corpus.seeds(language) if _held(s) == held_out])
            for language in corpus.LANGUAGES
        }
        self._slots.quote(self._utterances())

    def __iter__(self) -> Iterator[Example]:
        while True:
            example = self.example()
            if example:
                yield example
            else:
                self.dropped += 1

    def example(self) -> Example | None:
        """One example; None when noise left a text whose program says something else."""
        rng = self._rng
        language = "zh" if rng.random() < CHINESE else "en"
        kind = rng.choices([name for name, _ in MIX], [share for _, share in MIX])[0]
        if kind == "joined":
            count = 2 if rng.random() < 0.8 else 3
            draft = self._composer.join([self._joinable(language) for _ in range(count)])
        else:
            draft = self._composer.fill(self._pick(language, kind))
            if kind == "single" and draft.register != "programmer" and rng.random() < 0.18:
                draft = self._composer.refer(draft)
        if rng.random() < (0.2 if kind != "nonsense" else 0.0):
            draft = self._composer.surround(draft)
        pieces = self._noise(language, draft.register, draft.pieces)
        return example_of(Draft(language, draft.register, pieces, draft.program))

    def _sort(self, seeds: Sequence[Seed]) -> dict[str, dict[str, list[Seed]]]:
        """Seeds by kind and then by the group within which each is equally likely."""
        groups: dict[str, dict[str, list[Seed]]] = defaultdict(lambda: defaultdict(list))
        for seed in seeds:
            name = seed.source.split("/")[1].partition(".txt")[0]
            if name in {"multi", "quoted", "nonsense"}:
                groups[name]["all"].append(seed)
                continue
            group = name
            if name == "mem.write":
                group += "/" + seed.program[0].args[0].value
            elif name == "proc.signal":
                group += "/" + next(a.value for a in seed.program[0].args if a.name == "signal")
            groups["single"][group].append(seed)
            if joinable(seed):
                groups["joined"][group].append(seed)
        return groups

    def _pick(self, language: str, kind: str) -> Seed:
        groups = self._groups[language][kind]
        names = list(groups)
        return self._rng.choice(groups[self._rng.choices(names, [_weight(n) for n in names])[0]])

    def _joinable(self, language: str) -> Draft:
        if self._rng.random() < 0.06:
            prompt = corpus.Piece(self._slots.fill(language, "prompt").rstrip(".。"), "prompt")
            steps = [corpus.Step("llm.generate", (Argument("prompt", "prompt", spanned=True),))]
            return Draft(language, "imperative", [prompt], steps)
        return self._composer.fill(self._pick(language, "joined"))

    def _utterances(self) -> list[str]:
        """Requests that may turn up as data inside others."""
        found = []
        for language in corpus.LANGUAGES:
            for seeds in self._groups[language]["joined"].values():
                for seed in seeds[:40]:
                    text = "".join(p.text for p in self._composer.fill(seed).pieces)
                    found.append(text.rstrip(".。!?"))
        return found


def _weight(group: str) -> float:
    call, _, part = group.partition("/")
    weight = WEIGHTS.get(call, 1.0)
    shares = {"semantic": 0.5, "episodic": 0.28, "procedural": 0.22,
              "TERM": 0.26, "KILL": 0.2, "STOP": 0.22, "CONT": 0.2, "INT": 0.12}  # fmt: skip
    return weight * shares.get(part, 1.0)


def _held(seed: Seed) -> bool:
    text = "".join(piece.text for piece in seed.pieces)
    return zlib.crc32(text.encode()) % HOLD_OUT == 0


def example_of(draft: Draft) -> Example | None:
    """Text, target and program of a draft; None where the program cannot be read back."""
    spans, text = dict[str, tuple[int, int]](), ""
    for piece in draft.pieces:
        lead = len(piece.text) - len(piece.text.lstrip())
        trail = len(piece.text.rstrip())
        if piece.slot and lead < trail:
            spans[piece.slot] = (len(text) + lead, len(text) + trail)
        text += piece.text
    target = list[Pointer]()
    for step in draft.program:
        target.append(step.call)
        done = False
        for argument in _ordered(step.call, step.args):
            if not argument.spanned:
                target.append(argument.value)
                continue
            if argument.name == "key":
                target.append(dialect.KEY)
            elif done and not (argument.name == "value" and target[-1] in _KEY_TOKENS):
                target.append(dialect.ARG)
            if argument.value not in spans:
                return None
            target.append(spans[argument.value])
            done = True
    written = "".join(
        dialect.token(item) if isinstance(item, str) else text[item[0] : item[1]] for item in target
    )
    try:
        program = dialect.parse(written, text)
    except dialect.Malformed:
        return None
    if dialect.harmless(text) != text or [s["call"] for s in program] != [
        s.call for s in draft.program
    ]:
        return None
    return Example(draft.language, draft.register, text, target, program)


_KEY_TOKENS = frozenset(f"key:{key}" for key in dialect.KEYS)


def _ordered(call: str, args: Sequence[Argument]) -> list[Argument]:
    """Arguments in the order of the dialect; pairs of keys and values stay as they are."""
    order = {name.rstrip("?"): at for at, name in enumerate(dialect.CALLS[call])}
    return sorted(args, key=lambda argument: order.get(argument.name, len(order)))


def main() -> int:
    """Print examples."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--held-out", action="store_true")
    options = parser.parse_args()
    stream = iter(Generator(options.seed, held_out=options.held_out))
    for _ in range(options.show):
        example = next(stream)
        line = json.dumps(example.program, ensure_ascii=False)
        sys.stdout.write(f"{example.text}\n    {line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
