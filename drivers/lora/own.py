"""Which words of an example are the user's own, found by counting.

A word is his own where it stands in most examples of a program, in hardly any of another, and is
none of the words that everybody says to the system:

    curtain on [crawler], please             give [worker-3] the curtain
    ~~~~~~~                                                      ~~~~~~~
Words that nearly always stand beside one belong to it ("green room").
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from drivers.lora.scope import UNIT, forms
from drivers.nano import corpus
from drivers.nano.corpus import Piece, Seed
from drivers.nano.slots import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

KEY = "key"
"""Slot of the user's own word: no argument, but not to be touched either."""
COMMON = 150
"""Words of the corpus so frequent that they are nobody's own."""
USUAL = 60
"""Words so frequent that they alone never tell a user's own sentence."""
GLUE = 40
"""Words so frequent that no own word of several begins or ends with them."""
_NAMES = NAMES - {"tool"} | {"proc", "apid"}

Signature = tuple[str, ...]
"""The kinds of an example's slots, sorted: ``name``, ``text``, ``count``."""


class Own(msgspec.Struct, frozen=True):
    """An example, its program's shape, and where the user's own word is in it."""

    seed: Seed
    shape: str
    pieces: tuple[Piece, ...]
    """With a piece of slot ``KEY`` for each stretch of own words."""
    key: str
    """The own word where it is in one stretch, else nothing."""
    owned: bool
    """Whether it has any own word."""
    signature: Signature


class _Group:
    """The examples of one shape, and what they have in common."""

    def __init__(self, seeds: Sequence[Seed]) -> None:
        self.seeds = seeds
        self.said = [units(seed) for seed in seeds]
        self.counts = Counter(word for row in self.said for word in set(row))

    def own(self, others: Sequence[_Group], common: Sequence[str]) -> set[str]:
        """The words of these that are not those of ``others``, nor among ``common``."""
        size = len(self.seeds)
        return {
            word
            for word, count in self.counts.items()
            if word not in common
            and count >= max(min(2, size), 0.3 * size)
            and not self.shared(word, others)
        }

    def shared(self, word: str, others: Sequence[_Group]) -> bool:
        """Whether ``others`` say a word nearly as often."""
        rest = max(1, sum(len(other.seeds) for other in others))
        outside = sum(other.counts[word] for other in others) / rest
        return outside >= 0.25 * self.counts[word] / len(self.seeds)

    def widened(self, own: set[str], glue: set[str]) -> set[str]:
        """With the words that nearly always stand beside one of these."""
        beside: Counter[str] = Counter()
        held = 0
        for row in self.said:
            near = {
                row[other]
                for at, word in enumerate(row)
                if word in own
                for other in (at - 1, at + 1)
                if 0 <= other < len(row)
            }
            held += any(word in own for word in row)
            beside.update(near - own - glue - {""})
        return own | {word for word, count in beside.items() if count >= max(2, 0.6 * held)}

    def joints(self, own: set[str]) -> set[str]:
        """What nearly always stands between two own words, though everybody says it."""
        found: Counter[str] = Counter()
        held = 0
        for seed in self.seeds:
            for piece in seed.pieces:
                spans = [] if piece.slot else stretches(piece.text, own)
                held += bool(spans)
                between = pairwise(spans)
                found.update({piece.text[left[1] : right[0]] for left, right in between})
        return {text for text, count in found.items() if len(text) < 9 and count >= 0.6 * held}


def marked(seeds: Sequence[Seed]) -> list[Own]:
    """The examples with the user's own words found in them."""
    common = {language: _common(language) for language in {seed.language for seed in seeds}}
    shapes: dict[str, list[Seed]] = defaultdict(list)
    for seed in seeds:
        shapes[shape_of(seed)].append(seed)
    groups = {shape: _Group(some) for shape, some in shapes.items()}
    return [own for shape in groups for own in _marked(shape, groups, common)]


def _marked(
    shape: str, groups: Mapping[str, _Group], common: Mapping[str, Sequence[str]]
) -> Iterator[Own]:
    group = groups[shape]
    others = [other for name, other in groups.items() if name != shape]
    everyone = [word for words in common.values() for word in words]
    # who has given a word of the system another meaning says it in every example
    own = group.own(others, everyone) or group.own(others, [])
    glue = {word for words in common.values() for word in words[:GLUE]}
    glue |= {word for other in others for word in other.counts if group.shared(word, others)}
    own = group.widened(own, glue) if own else own
    joints = group.joints(own)
    for seed in group.seeds:
        yield _own(seed, shape, own, joints)


def shape_of(seed: Seed) -> str:
    """What two programs have in common that differ in names and texts only."""
    return "; ".join(
        " ".join([step.call, *(a.name if a.spanned else f"{a.name}={a.value}" for a in step.args)])
        for step in seed.program
    )


def units(seed: Seed) -> list[str]:
    """The words (characters where Chinese) of an example; "" where an argument is."""
    return [
        unit
        for piece in seed.pieces
        for unit in ([""] if piece.slot else UNIT.findall(piece.text.casefold()))
    ]


def kind_of(slot: str) -> str:
    """The kind of a slot: ``name``, ``text`` or ``count``."""
    found = corpus.SLOT.fullmatch(slot)
    kind = found[1] if found else slot
    return "name" if kind in _NAMES else "count" if kind in {"after", "nice"} else "text"


def stretches(
    text: str, own: set[str], joints: Sequence[str] | set[str] = ()
) -> list[tuple[int, int]]:
    """Where own words stand, those side by side as one."""
    found = list[tuple[int, int]]()
    for unit in UNIT.finditer(text):
        if _is_own(unit[0].casefold(), own):
            between = text[found[-1][1] : unit.start()] if found else "."
            if not between.strip() or between in joints:
                found[-1] = found[-1][0], unit.end()
            else:
                found.append(unit.span())
    return found


def _is_own(word: str, own: set[str]) -> bool:
    return not own.isdisjoint(forms(word))


def _own(seed: Seed, shape: str, own: set[str], joints: set[str]) -> Own:
    """The example cut where its own words are."""
    pieces, keys = list[Piece](), list[str]()
    for piece in seed.pieces:
        if piece.slot:
            pieces.append(piece)
            continue
        at = 0
        for start, stop in stretches(piece.text, own, joints):
            slot = f"{KEY}#{len(keys)}" if keys else KEY
            pieces += [Piece(piece.text[at:start]), Piece(piece.text[start:stop], slot)]
            keys.append(piece.text[start:stop])
            at = stop
        pieces.append(Piece(piece.text[at:]))
    kept = tuple(piece for piece in pieces if piece.text)
    if not keys:  # it has none that is known, so none of its words may be touched
        kept = tuple(Piece(p.text, p.slot or f"{KEY}#{n}") for n, p in enumerate(kept))
    key = keys[0] if len(keys) == 1 else ""
    kinds = (kind_of(p.slot) for p in kept if p.slot and not p.slot.startswith(KEY))
    return Own(seed, shape, kept, key, bool(keys), tuple(sorted(kinds)))


def scope_of(owns: Sequence[Own]) -> list[str]:
    """The words of which an adapter for these examples needs one (``drivers.lora.scope``).

    Of an example without an own word any word that is not common; nothing where there is none.
    """
    found: set[str] = set()
    for own in owns:
        said = [p.text for p in own.pieces if p.slot.partition("#")[0] == KEY]
        common = set(_common(own.seed.language, USUAL if own.owned else COMMON))
        words = [unit for text in said for unit in UNIT.findall(text.casefold())]
        rare = [word for word in words if word not in common]
        if own.owned:
            found.add(" ".join(dict.fromkeys(rare or words)))
        elif rare:
            found.update(rare)
        else:
            return []
    return sorted(found)


@cache
def _common(language: str, most: int = COMMON) -> list[str]:
    """The most frequent words of what people say to the system, most frequent first."""
    counts = Counter(unit for seed in corpus.seeds(language) for unit in units(seed) if unit)
    return [word for word, _ in counts.most_common(most)]
