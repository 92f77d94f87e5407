"""What is asked and what is trained on, and in which order. Pure, and the same for one seed.

examples ── set aside, of each group a part ──> probes     never trained on
         └─ the others ── recipe adds ── less what equals a probe ──> rows
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import msgspec

from drivers.lora.contract import Example

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from drivers.lora.contract import TrainSpec

POOL = 16
"""Batches among which rows of similar length come together."""


class Selection(msgspec.Struct, frozen=True):
    """An example is in one of these only."""

    training: list[Example]
    probes: list[Example]
    set_aside: int
    """How many of the probes come from the examples to train on."""


def said(example: Example) -> str:
    """What two examples have in common that ask the same; the answer where nothing is asked."""
    asked = example.prompt
    if example.messages is not None:
        asked = "\n".join(f"{each.role}: {each.content}" for each in example.messages)
    return " ".join((asked or example.completion).casefold().split())


def select(spec: TrainSpec) -> Selection:
    """Set the probes aside. The order of the examples makes no difference to which."""
    asked = {said(each) for each in (*spec.probes, *spec.regression)}
    groups: dict[str, set[str]] = {}
    home: dict[str, str] = {}  # a text that is in two groups belongs to the first by name
    for example in sorted(spec.examples, key=lambda each: each.group):
        text = said(example)
        if text not in asked and text not in home:
            home[text] = example.group
            groups.setdefault(example.group, set()).add(text)
    aside: set[str] = set()
    for name, texts in groups.items():
        aside.update(_share(texts, spec.held_out, f"{spec.seed}/{name}"))
    training = [each for each in spec.examples if said(each) in home and said(each) not in aside]
    held_out = _unique(each for each in spec.examples if said(each) in aside)
    return Selection(training, [*spec.probes, *held_out], len(held_out))


def _share(texts: set[str], share: float, seed: str) -> list[str]:
    """A share of some texts: at least one of several, never all."""
    if not share or len(texts) < 2:
        return []
    order = sorted(texts, key=lambda text: hashlib.sha256(f"{seed}/{text}".encode()).digest())
    return order[: min(len(texts) - 1, max(1, round(share * len(texts))))]


def _unique(examples: Iterable[Example]) -> list[Example]:
    return list({said(each): each for each in examples}.values())


def unasked(rows: Sequence[Example], asked: Sequence[Example]) -> list[Example]:
    """Of the rows those that are not among what is asked."""
    texts = {said(each) for each in asked}
    return [row for row in rows if said(row) not in texts]


def batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The places of all rows in the order of an epoch, ``size`` a batch, similar lengths together.

    The same in every life of a job.
    """
    # Not for secrets: what is wanted is that it can be had again.
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    made = []
    for start in range(0, len(order), size * POOL):
        pool = sorted(order[start : start + size * POOL], key=lambda place: lengths[place])
        made += [pool[at : at + size] for at in range(0, len(pool), size)]
    rng.shuffle(made)
    return made
