"""More sentences with the words that a user has of his own, out of the few that he gave.

A word of his own (``own.py``) means a program whatever else is said, so it may stand in other
sentences, with other names and texts:

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
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from drivers.lora.own import KEY, Own, Signature, kind_of, marked, scope_of
from drivers.lora.scope import UNIT
from drivers.nano import corpus
from drivers.nano.compose import Composer, Draft
from drivers.nano.corpus import Argument, Piece, Seed, Step
from drivers.nano.generate import example_of
from drivers.nano.noise import Noise
from drivers.nano.slots import HANZI, Slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from drivers.nano.generate import Example

OWN, OTHERS = 0.35, 0.25
"""Share of sentences as they were given, and in the frame of another example; the rest take a
frame of the corpus."""
BENT = 0.12
"""Share of frames in which the word has an ending."""
CONTENTS = ("fact", "pref", "event", "howto", "body")
_FRAME = re.compile(r"\{(key|name|text|count)\}")


class Wordings:
    """An endless stream of sentences like those of ``seeds``, every program equally often."""

    def __init__(self, seeds: Sequence[Seed], seed: int) -> None:
        self._rng = random.Random(seed)
        self._slots = Slots(self._rng)
        self._composer = Composer(self._rng, self._slots)
        hanzi = [first + second for first, second in zip(HANZI[::2], HANZI[1::2], strict=False)]
        self._noise = Noise(self._rng, 1.0, {"en": self._slots.words, "zh": hanzi})
        self._groups: dict[str, list[Own]] = defaultdict(list)
        owns = marked(seeds)
        self.scope = scope_of(owns)
        """See ``drivers.lora.scope``."""
        for own in owns:
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
        yield from self._stream(groups, sorted(groups), strange=True)

    def mentioned(self, stream: Iterable[Example]) -> Iterator[Example]:
        """Those of other requests in whose free text an own word stands, as nothing but data."""
        for example in stream:
            spans = [at for at in example.target if isinstance(at, tuple)]
            gaps = [gap for start, stop in spans for gap in range(start, stop)
                    if example.text[gap] == " "]  # fmt: skip
            if not (self.keys and gaps and example.language == "en"):
                continue
            gap, key = self._rng.choice(gaps), " " + self._rng.choice(self.keys)
            target = [
                at if isinstance(at, str) else _moved(at, gap, len(key)) for at in example.target
            ]
            text = example.text[:gap] + key + example.text[gap:]
            yield msgspec.structs.replace(example, text=text, target=target)

    def _stream(
        self, groups: Mapping[str, Sequence[Own]], names: Sequence[str], *, strange: bool = False
    ) -> Iterator[Example]:
        while names:
            own = self._rng.choice(groups[self._rng.choice(names)])
            if strange:
                own = self._other(own)
            example = example_of(self._draft(own))
            if example is not None:
                yield example

    def _other(self, own: Own) -> Own:
        """The example with a word that is nobody's own in place of its own word."""
        word = own.key
        while word.casefold() in own.key.casefold():
            word = self._word(own.seed.language)
        pieces = tuple(Piece(word, p.slot) if p.slot == KEY else p for p in own.pieces)
        return msgspec.structs.replace(own, pieces=pieces, key=word)

    def _word(self, language: str) -> str:
        rng = self._rng
        if language == "zh":
            return "".join(rng.choices(HANZI, k=rng.choice((1, 2, 2, 3))))
        return " ".join(
            self._slots.pseudo() if rng.random() < 0.15 else rng.choice(self._slots.words)
            for _ in range(rng.choice((1, 1, 2)))
        )

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
            pieces = _framed(rng.choice(frames), own.pieces, self._bent(seed.language, own.key))
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
                text = UNIT.sub(
                    lambda found: found[0] if rng.random() > rate
                    else rng.choice(words) if rng.random() < 0.5 else "",
                    text,
                )  # fmt: skip
                text = re.sub(r"  +", " ", text)
            out.append(Piece(text, piece.slot))
        return tuple(piece for piece in out if piece.text)

    def _bent(self, language: str, key: str) -> str:
        """The own word, now and then with an English ending."""
        if language == "zh" or self._rng.random() > BENT or not re.search(r"[^\Wsdg]$", key):
            return key
        return (key.removesuffix("e") if key.endswith("e") else key) + self._rng.choice(
            ("es", "ed", "ing") if key.endswith("e") else ("s", "ed", "ing", "s"))  # fmt: skip

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


def _moved(span: tuple[int, int], gap: int, size: int) -> tuple[int, int]:
    """Where a stretch of a text is after ``size`` letters were put in at ``gap``."""
    start, stop = span
    return start + size * (start > gap), stop + size * (stop > gap)


def _general(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """A sentence as a frame for others."""
    return tuple(
        p if not p.slot else Piece(p.text, KEY) if p.slot == KEY else Piece("", kind_of(p.slot))
        for p in pieces
    )


def _framed(frame: Sequence[Piece], pieces: Sequence[Piece], key: str) -> tuple[Piece, ...]:
    """The own word and the slots of an example in the frame of another."""
    slots = {kind_of(p.slot): p for p in pieces if p.slot and not p.slot.startswith(KEY)}
    return tuple(
        Piece(key, KEY) if p.slot == KEY else slots[p.slot] if p.slot else p for p in frame
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
