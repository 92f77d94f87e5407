"""More sentences with the words that a user has of his own, out of the few that he gave.

A word of his own is one that stands in most examples of a program and in none of another. It
means that program whatever else is said, so it may stand in other sentences, with other names
and texts:

    example    curtain on [crawler], please          key: curtain
    filled     curtain on [db-agent], please         what stands in the slots is exchanged
    blurred    curtain at [db-agent], fine           words that are no key are dropped, exchanged
    framed     would you bring the curtain to [12]   the sentence of another example, or of the
                                                     corpus (``parts/own.txt``), of the same slots

Noise, preambles and trailers are those of nano's generator. Seeded.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import msgspec

from drivers.nano import corpus
from drivers.nano.compose import Composer, Draft
from drivers.nano.corpus import Argument, Piece, Seed, Step
from drivers.nano.generate import example_of
from drivers.nano.noise import Noise
from drivers.nano.slots import HANZI, NAMES, Slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drivers.nano.generate import Example

KEY = "key"
"""Slot of the user's own word: no argument, but not to be touched either."""
COMMON = 150
"""Words of the corpus so frequent that they are nobody's own."""
GLUE = 40
"""Words so frequent that no own word of several begins or ends with them."""
OWN, OTHERS = 0.35, 0.25
"""Share of sentences as they were given, and in the frame of another example; the rest take a
frame of the corpus."""
CONTENTS = ("fact", "pref", "event", "howto", "body")
_NAMES = NAMES - {"tool"} | {"proc", "apid"}
_FRAME = re.compile(r"\{(key|name|text|count)\}")
_UNIT = re.compile(r"[A-Za-z']+|[\u3400-\u9fff]")

Signature = tuple[str, ...]


class Own(msgspec.Struct, frozen=True):
    """An example, its program's shape, and where the user's own word is in it."""

    seed: Seed
    shape: str
    pieces: tuple[Piece, ...]
    """With a piece of slot ``KEY`` for each stretch of own words."""
    key: str
    """The own word where it is in one stretch, else nothing."""
    signature: Signature


class Wordings:
    """An endless stream of sentences like those of ``seeds``, every program equally often."""

    def __init__(self, seeds: Sequence[Seed], seed: int) -> None:
        self._rng = random.Random(seed)
        self._slots = Slots(self._rng)
        self._composer = Composer(self._rng, self._slots)
        hanzi = [first + second for first, second in zip(HANZI[::2], HANZI[1::2], strict=False)]
        self._noise = Noise(self._rng, 1.0, {"en": self._slots.words, "zh": hanzi})
        self._groups: dict[str, list[Own]] = defaultdict(list)
        for own in marked(seeds):
            self._groups[own.shape].append(own)
        self._names = sorted(self._groups)
        self._frames = {language: _stock(language) for language in corpus.LANGUAGES}
        self._lent: dict[tuple[str, Signature], list[tuple[Piece, ...]]] = defaultdict(list)
        for own in (own for name in self._names for own in self._groups[name]):
            if own.key:
                self._lent[own.seed.language, own.signature].append(_general(own.pieces))

    @property
    def keys(self) -> list[str]:
        """The words that the user has of his own, as far as they were found."""
        return sorted({own.key for owns in self._groups.values() for own in owns if own.key})

    def __iter__(self) -> Iterator[Example]:
        return self._stream(self._groups, self._names)

    def strange(self) -> Iterator[Example]:
        """The same with other words where the own ones stand: nothing that was asked for.

        The program is still that of the own word, so it is wrong here.
        """
        groups = {
            name: kept
            for name, owns in self._groups.items()
            if (kept := [own for own in owns if own.key])
        }
        for example in self._stream(groups, sorted(groups), strange=True):
            yield example

    def _stream(self, groups, names, *, strange=False) -> Iterator[Example]:
        while names:
            own = self._rng.choice(groups[self._rng.choice(names)])
            if strange:
                own = self._other(own)
            example = example_of(self._draft(own))
            if example is not None:
                yield example

    def _other(self, own: Own) -> Own:
        rng = self._rng
        if own.seed.language == "en":
            word = " ".join(
                self._slots.pseudo() if rng.random() < 0.15 else rng.choice(self._slots.words)
                for _ in range(rng.choice((1, 1, 2)))
            )
        else:
            word = "".join(rng.choices(HANZI, k=rng.choice((1, 2, 2, 3))))
        if word in own.key:
            return own
        pieces = tuple(Piece(word, p.slot) if p.slot == KEY else p for p in own.pieces)
        return msgspec.structs.replace(own, pieces=pieces, key=word)

    def _draft(self, own: Own) -> Draft:
        rng = self._rng
        seed = own.seed
        lent = self._lent.get((seed.language, own.signature), [])
        stock = self._frames[seed.language].get(own.signature, [])
        pick = rng.random()
        if not own.key or pick < OWN or not (lent or stock):
            pieces = own.pieces
            if own.key and rng.random() < 0.6:
                pieces = self._blurred(seed.language, pieces, rng.choice((0.15, 0.3, 0.6)))
        else:
            frames = lent if lent and (pick < OWN + OTHERS or not stock) else stock
            pieces = _framed(rng.choice(frames), own)
        pieces, program = self._refilled(pieces, seed.program)
        draft = self._composer.fill(Seed(seed.language, "", "own", pieces, program))
        if rng.random() < 0.25:
            draft = self._composer.surround(draft)
        draft.pieces = self._noise(seed.language, "own", draft.pieces)
        return draft

    def _blurred(self, language: str, pieces: Sequence[Piece], rate: float) -> tuple[Piece, ...]:
        """Some of the words that are neither own nor an argument dropped, some exchanged."""
        rng, out = self._rng, list[Piece]()
        words = self._slots.words if language == "en" else HANZI
        for piece in pieces:
            text = piece.text
            if not piece.slot:
                text = _UNIT.sub(
                    lambda found: found[0] if rng.random() > rate
                    else rng.choice(words) if rng.random() < 0.5 else "",
                    text,
                )  # fmt: skip
                text = re.sub(r"  +", " ", text)
            out.append(Piece(text, piece.slot))
        return tuple(piece for piece in out if piece.text)

    def _refilled(
        self, pieces: Sequence[Piece], program: Sequence[Step]
    ) -> tuple[tuple[Piece, ...], tuple[Step, ...]]:
        """Slots of other kinds: an own word decides what is done, not what stands beside it."""
        rng, new = self._rng, dict[str, str]()
        for piece in pieces:
            found = corpus.SLOT.fullmatch(piece.slot)
            if not found:
                continue
            kind = found[1]
            if kind in CONTENTS and rng.random() < 0.7:
                kind = rng.choice((*CONTENTS, "query"))
            elif kind in {"query", "goal", "message", "prompt"} and rng.random() < 0.3:
                kind = rng.choice((*CONTENTS, "query", "goal"))
            elif kind == "proc" and rng.random() < 0.2:
                kind = "apid"
            new[piece.slot] = "{" + kind + found[2] + "}"
        moved = tuple(
            Step(step.call, tuple(
                Argument(a.name, new.get(a.value, a.value), a.spanned) for a in step.args))
            for step in program
        )  # fmt: skip
        return tuple(Piece(p.text, new.get(p.slot, p.slot)) for p in pieces), moved


def marked(seeds: Sequence[Seed]) -> list[Own]:
    """The examples with the user's own words found in them."""
    common = {language: _common(language) for language in corpus.LANGUAGES}
    groups: dict[str, list[Seed]] = defaultdict(list)
    for seed in seeds:
        groups[shape_of(seed)].append(seed)
    said = {shape: [_units(seed) for seed in some] for shape, some in groups.items()}
    found = []
    for shape, some in groups.items():
        inside = Counter(word for units in said[shape] for word in units)
        outside = Counter(
            word for other, rows in said.items() if other != shape for units in rows
            for word in units
        )  # fmt: skip
        rest = max(1, len(seeds) - len(some))
        for seed in some:
            own = {
                word
                for word in _units(seed)
                if inside[word] >= max(min(2, len(some)), 0.3 * len(some))
                and outside[word] / rest < 0.25 * inside[word] / len(some)
                and word not in common[seed.language][:COMMON]
            }
            own = _widened(own, some, common[seed.language][:GLUE])
            found.append(_own(seed, shape, own))
    return found


def shape_of(seed: Seed) -> str:
    """What two programs have in common that differ in names and texts only."""
    return "; ".join(
        " ".join([step.call, *(a.name if a.spanned else f"{a.name}={a.value}" for a in step.args)])
        for step in seed.program
    )


def _units(seed: Seed) -> set[str]:
    return {unit for piece in seed.pieces if not piece.slot
            for unit in _UNIT.findall(piece.text.casefold())}  # fmt: skip


def _widened(own: set[str], seeds: Sequence[Seed], glue: Sequence[str]) -> set[str]:
    """With the words that nearly always stand beside an own word ("green room")."""
    if not own:
        return own
    beside: Counter[str] = Counter()
    held = 0
    for seed in seeds:
        units = [_UNIT.findall(p.text.casefold()) if not p.slot else [""] for p in seed.pieces]
        row = [unit for some in units for unit in some]
        near = {
            row[other]
            for at, word in enumerate(row)
            if word in own
            for other in (at - 1, at + 1)
            if 0 <= other < len(row)
        }
        held += any(word in own for word in row)
        beside.update(near - own - set(glue) - {""})
    return own | {word for word, count in beside.items() if count >= max(2, 0.6 * held)}


def _own(seed: Seed, shape: str, own: set[str]) -> Own:
    """The example cut where its own words are."""
    pieces, keys = list[Piece](), list[str]()
    for piece in seed.pieces:
        if piece.slot or not own:
            # nothing is known of an example without an own word, so nothing of it is touched
            slot = piece.slot or (f"{KEY}#{len(pieces)}" if not own else "")
            pieces.append(Piece(piece.text, slot))
            continue
        at = 0
        for start, stop in _stretches(piece.text, own):
            pieces += [Piece(piece.text[at:start]),
                       Piece(piece.text[start:stop], KEY + (f"#{len(keys)}" if keys else ""))]  # fmt: skip
            keys.append(piece.text[start:stop])
            at = stop
        pieces.append(Piece(piece.text[at:]))
    kept = tuple(piece for piece in pieces if piece.text)
    key = keys[0] if len(keys) == 1 else ""
    kinds = tuple(sorted(_kind(p.slot) for p in kept if p.slot and not p.slot.startswith(KEY)))
    return Own(seed, shape, kept, key, kinds)


def _stretches(text: str, own: set[str]) -> list[tuple[int, int]]:
    """Where own words stand, those side by side as one."""
    found = list[tuple[int, int]]()
    for unit in _UNIT.finditer(text):
        if unit[0].casefold() in own:
            if found and not text[found[-1][1] : unit.start()].strip():
                found[-1] = found[-1][0], unit.end()
            else:
                found.append(unit.span())
    return found


def _kind(slot: str) -> str:
    """The kind of a frame's slot."""
    found = corpus.SLOT.fullmatch(slot)
    kind = found[1] if found else slot
    return "name" if kind in _NAMES else "count" if kind in {"after", "nice"} else "text"


def _general(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """A sentence as a frame for others."""
    return tuple(
        p if not p.slot else Piece(p.text, KEY) if p.slot == KEY else Piece("", _kind(p.slot))
        for p in pieces
    )


def _framed(frame: Sequence[Piece], own: Own) -> tuple[Piece, ...]:
    """The own word and the slots of an example in the frame of another."""
    slots = {_kind(p.slot): p for p in own.pieces if p.slot and not p.slot.startswith(KEY)}
    return tuple(
        Piece(own.key, KEY) if p.slot == KEY else slots[p.slot] if p.slot else p for p in frame
    )


def _stock(language: str) -> dict[Signature, list[tuple[Piece, ...]]]:
    """The frames of the corpus, by their slots."""
    frames: dict[Signature, list[tuple[Piece, ...]]] = defaultdict(list)
    for line in corpus.parts(language)["own"]:
        pieces, at = list[Piece](), 0
        for found in _FRAME.finditer(line):
            pieces += [Piece(line[at : found.start()]), Piece(found[0], found[1])]
            at = found.end()
        pieces.append(Piece(line[at:]))
        kept = tuple(piece for piece in pieces if piece.text)
        frames[tuple(sorted(p.slot for p in kept if p.slot and p.slot != KEY))].append(kept)
    return frames


def _common(language: str) -> list[str]:
    """The most frequent words of what people say to the system, most frequent first."""
    counts = Counter(
        unit
        for seed in corpus.seeds(language)
        for piece in seed.pieces
        if not piece.slot
        for unit in _UNIT.findall(piece.text.casefold())
    )
    return [word for word, _ in counts.most_common(COMMON)]
