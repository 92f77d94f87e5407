"""From seeds to utterances: fill the slots, put something before and after, join several.

seed      remind me in {after} to {message}
filled    remind me in [ten minutes] to [call Ana]
preamble  My phone died, so remind me in [ten minutes] to [call Ana]
joined    remind me in [ten minutes] to [call Ana] and then pause [crawler]
"""

import random
import re
from collections.abc import Sequence

import msgspec

from drivers.nano import corpus
from drivers.nano.corpus import SLOT, Argument, Piece, Seed, Step
from drivers.nano.dialect import ALL
from drivers.nano.slots import Slots

_TARGETS = {
    "en": ("the {}", "the {} agent", "agent {}", "process {}", "the {} process", "the agent {}",
           "@{}", "'{}'", "`{}`", "my {}", '"{}"', "our {}", "{}, the agent,"),
    "zh": ("{} 进程", "{}进程", "进程 {}", "进程{}", "{}这个进程", "“{}”", "叫{}的那个", "@{} ",
           "{} 这个 agent", "agent {}", "{}那个智能体", "`{}`", "名为{}的进程"),
}  # fmt: skip
_NUMBERS = {
    "en": ("apid {}", "process {}", "pid {}", "#{}", "number {}", "proc {}", "agent {}",
           "process number {}", "apid={}", "no. {}", "the process with apid {}"),
    "zh": ("apid {}", "进程 {}", "进程{}", "{} 号", "{}号进程", "pid {}", "{} 号进程", "#{} ",
           "编号 {} 的进程", "{}号"),
}  # fmt: skip
_ASKED = ("mem.pin", "mem.forget", "kv.pin", "mem.search")
"""Calls after which people say why."""
_CODE = frozenset(("programmer", "sysadmin"))


class Draft(msgspec.Struct):
    """An utterance in the making."""

    language: str
    register: str
    pieces: list[Piece]
    program: list[Step]

    def whole(self) -> bool:
        """Whether the entire text is the argument."""
        return any(a.value == ALL and not a.spanned for s in self.program for a in s.args)


class Composer:
    """Fills and joins seeds with one random generator."""

    def __init__(self, rng: random.Random, slots: Slots) -> None:
        self._rng = rng
        self._slots = slots
        self._parts = {language: corpus.parts(language) for language in corpus.LANGUAGES}
        self._fillers = {language: corpus.fillers(language) for language in corpus.LANGUAGES}

    def fill(self, seed: Seed) -> Draft:
        """The seed with its slots filled."""
        pieces, program = list[Piece](), list(seed.program)
        tool, words, args = "", list[Piece](), list[Argument]()
        if any(piece.slot == "{args}" for piece in seed.pieces):
            tool, words, args = self._slots.args(seed.language)
            program = [_with_pairs(step, args) for step in program]
        for at, piece in enumerate(seed.pieces):
            found = SLOT.fullmatch(piece.slot)
            if not found:
                pieces.append(piece)
            elif found[1] == "args":
                pieces += words
            elif found[1] == "tool" and tool and self._rng.random() < 0.7:
                pieces.append(Piece(tool, piece.slot))
            else:
                text = self._slots.fill(seed.language, found[1])
                texts = ["", *(other.text for other in seed.pieces), ""]
                around = texts[at], texts[at + 2]
                text = _fitting(text, around)
                if found[1] in {"proc", "apid"} and seed.register not in _CODE:
                    pieces += self._called(seed.language, Piece(text, piece.slot), around)
                else:
                    pieces.append(Piece(text, piece.slot))
        if [s.call for s in program] == ["llm.generate"]:
            program = [Step("llm.generate", (Argument("prompt", ALL, spanned=False),))]
        return Draft(seed.language, seed.register, pieces, program)

    def _called(self, language: str, piece: Piece, around: tuple[str, str]) -> list[Piece]:
        """A process the way people refer to it: "the crawler agent", "process 12"."""
        number = piece.text.isdigit()
        share = 0.5 if number else 0.16
        tight = bool(re.search(r"[\"'`(@#=/“]$", around[0])) or bool(
            re.search(r"(?:process|agent|apid|pid|number|called|named|进程|编号|号|the|my)\s*$",
                      around[0], re.IGNORECASE)
            or re.match(r"\s*(?:process|agent|号|进程|这个|'s)", around[1])
        )  # fmt: skip
        if tight or self._rng.random() > share:
            return [piece]
        forms = _NUMBERS[language] if number else _TARGETS[language]
        before, after = self._rng.choice(forms).split("{}")
        return [part for part in (Piece(before), piece, Piece(after)) if part.text]

    def refer(self, draft: Draft) -> Draft:
        """The process named first with what is the matter, or the reason after the request.

        "pause [crawler]" becomes "[crawler] is stuck, pause it" or "pause [crawler], it's stuck".
        """
        rng, parts = self._rng, self._parts[draft.language]
        at = _pronounceable(draft.pieces)
        if [s.call for s in draft.program] in ([c] for c in _ASKED):
            pieces = [*_bare_end(draft.pieces), Piece(_spaced(parts, "purpose", rng))]
            return Draft(draft.language, draft.register, pieces, draft.program)
        if at is None:
            return draft
        if rng.random() < 0.35:
            if any(a.name in {"body", "goal"} for s in draft.program for a in s.args):
                return draft  # a reason would read as a part of it
            pieces = [*_bare_end(draft.pieces), Piece(_spaced(parts, "reason", rng))]
            return Draft(draft.language, draft.register, pieces, draft.program)
        name = Piece(draft.pieces[at].text, draft.pieces[at].slot)
        rest = list(draft.pieces)
        rest[at] = Piece(rng.choice(parts["pronoun"]))
        space = " " if draft.language == "en" else ""
        joint = rng.choice(parts["pivot"] if rng.random() < 0.4 else (", ", ". ", " - ", ", so "))
        if draft.language == "zh":
            joint = rng.choice(parts["pivot"]) if rng.random() < 0.3 else "，"
        head = [name, Piece(space + rng.choice(parts["complaint"]) + joint.rstrip() + space)]
        if rng.random() < 0.25:
            english, chinese = ("the ", "I think ", "so ", "my "), ("那个", "我看", "嗯，", "哎，")
            head.insert(0, Piece(rng.choice(english if space else chinese)))
        pieces = [*head, *self._lower(draft, rest)]
        return Draft(draft.language, draft.register, pieces, draft.program)

    def surround(self, draft: Draft) -> Draft:
        """With a preamble, a trailer or both."""
        rng, pick = self._rng, self._rng.random()
        if draft.register == "programmer" and rng.random() < 0.8:
            return draft
        pieces = list(draft.pieces)
        if pick < 0.8:
            # a fact before "save it" would be a second thing to save
            plain = any(s.call in {"mem.write", "llm.generate"} for s in draft.program)
            said = self.preamble(draft.language, stock=0.85 if plain else 0.5)
            pieces = [Piece(said), *self._lower(draft, pieces)]
        if pick > 0.62:
            trailer = rng.choice(self._parts[draft.language]["trailer"])
            trailer = _unquoted(trailer)
            last = pieces[-1]
            if not (last.slot and rng.random() < 0.3):
                if draft.language == "en" and trailer[0].isalpha():
                    trailer = " " + trailer
                if last.text[-1:] in ".!?。！？" and not last.slot:
                    trailer = re.sub(r"^[,，.。]", "", trailer)
                pieces.append(Piece(trailer))
        return Draft(draft.language, draft.register, pieces, draft.program)

    def preamble(self, language: str, stock: float = 0.5) -> str:
        """What is said before the point: a stock phrase, or a sentence about something else."""
        rng, parts = self._rng, self._parts[language]
        text = ""
        for _ in range(rng.choice((1, 1, 1, 2))):
            if rng.random() < stock:
                text += rng.choice(parts["preamble"])
            else:
                kind = rng.choice(("event", "fact", "pref", "event", "fact", "body"))
                about = rng.choice(self._fillers[language][kind])
                about = about.rstrip(".!?。！？") or about
                if rng.random() < 0.35:
                    about = self._slots.exchange(language, about)
                if rng.random() < 0.2:
                    other = rng.choice(self._fillers[language]["event"]).rstrip(".!?。！？")
                    about += (" and " if language == "en" else "，") + other
                about = about[0].upper() + about[1:] if rng.random() < 0.6 else about
                text += about + rng.choice(parts["pivot"])
            text += " " if language == "en" else ""
        return text

    def join(self, drafts: Sequence[Draft]) -> Draft:
        """Several requests in one utterance, to be run in this order."""
        rng, first = self._rng, drafts[0]
        language = first.language
        pieces, program = list[Piece](), list[Step]()
        style = rng.random()
        if style < 0.2:
            opening = rng.choice(self._parts[language]["opening"])
            pieces.append(Piece(opening + (" " if language == "en" else "")))
        for at, draft in enumerate(drafts):
            renamed, steps = _renamed(draft, f"#{at}")
            if at and rng.random() < 0.4:
                renamed, steps = self._same_target(language, program, renamed, steps)
            renamed = _bare_end(renamed) if at + 1 < len(drafts) or rng.random() < 0.5 else renamed
            if style > 0.94:
                number = rng.choice((f"{at + 1}. ", f"{at + 1}) ", f"({at + 1}) "))
                glue = rng.choice(("\n", " ")) if at else ""
                pieces += [Piece(glue + number), *renamed]
            else:
                if at:
                    glue = self._connective(language, sentence=rng.random() < 0.5)
                    capital = glue.rstrip().endswith((".", "。"))
                    pieces.append(Piece(glue))
                    renamed = renamed if capital else self._lower(draft, renamed)
                elif pieces:
                    renamed = self._lower(draft, renamed)
                pieces += renamed
            program += steps
        register = "multi" if any(d.register not in _CODE for d in drafts) else "programmer"
        return Draft(language, register, pieces, program)

    def _same_target(
        self, language: str, before: Sequence[Step], pieces: list[Piece], steps: list[Step]
    ) -> tuple[list[Piece], list[Step]]:
        """The second request about the process of the first: "... and then pause it"."""
        first = [a for s in before for a in s.args if a.name in {"target", "to"} and a.spanned]
        at = _pronounceable(pieces)
        if not first or at is None:
            return pieces, steps
        old, new = pieces[at].slot, first[-1].value
        pieces = [*pieces[:at], Piece(self._rng.choice(self._parts[language]["pronoun"][:4])),
                  *pieces[at + 1 :]]  # fmt: skip
        moved = [
            Step(s.call, tuple(
                Argument(a.name, new if a.spanned and a.value == old else a.value, a.spanned)
                for a in s.args))
            for s in steps
        ]  # fmt: skip
        return pieces, moved

    def _connective(self, language: str, *, sentence: bool) -> str:
        rng = self._rng
        if language == "en" and rng.random() < 0.08:
            return rng.choice(("\n", ". ", "; ", ", ", " | "))
        glue = _unquoted(rng.choice(self._parts[language]["connective"]))
        if language == "zh":
            return glue
        if glue[0].isalpha():
            glue = " " + glue
        return glue if glue.endswith(" ") else glue + " "

    def _lower(self, draft: Draft, pieces: Sequence[Piece]) -> list[Piece]:
        """The first letter made small in most cases, as it no longer starts the sentence."""
        head = pieces[0]
        if head.slot or draft.language != "en" or self._rng.random() < 0.15:
            return list(pieces)
        if re.match(r"I\b|[A-Z]{2}", head.text):
            return list(pieces)
        return [Piece(head.text[0].lower() + head.text[1:]), *pieces[1:]]


def joinable(seed: Seed) -> bool:
    """Whether a seed can be one of several in a sentence: it says what is to be done, briefly."""
    plain = "".join(piece.text for piece in seed.pieces if not piece.slot)
    letters = sum(c.isalpha() for c in plain)
    if [s.call for s in seed.program] in ([], ["llm.generate"]) or len(seed.program) > 1:
        return False
    least = 3 if seed.language == "en" else 1
    most = 60 if seed.language == "en" else 24
    early = {"longwinded", "adversarial", "novice", "kid"}
    return seed.register not in early and least <= letters <= most and not re.search(
        r"[.?!。？！]\s*\S", plain)  # fmt: skip


def _pronounceable(pieces: Sequence[Piece]) -> int | None:
    """Where the only process of an utterance stands, if "it" could stand there."""
    found = [at for at, p in enumerate(pieces) if re.match(r"\{(?:proc|apid)", p.slot)]
    if len(found) != 1:
        return None
    at = found[0]
    before = pieces[at - 1].text if at else ""
    after = pieces[at + 1].text if at + 1 < len(pieces) else ""
    tight = re.search(
        r"(?:process|agent|apid|pid|number|called|named|the|my|our|a|进程|编号|叫|名为)\s*$"
        r"|[\"'`(@#=/“:：-]\s*$",
        before,
        re.IGNORECASE,
    )
    follows = re.match(r"\s*(?:process|agent|号|进程|这个|那个|'s|[\"'`)”])", after)
    start = not before.strip()
    return None if tight or follows or start else at


def _spaced(parts: dict[str, list[str]], name: str, rng: random.Random) -> str:
    """A part that starts a new word unless it starts with punctuation."""
    text = rng.choice(parts[name])
    return text if not text[0].isascii() or not text[0].isalpha() else " " + text


def _with_pairs(step: Step, args: Sequence[Argument]) -> Step:
    kept = [argument for argument in step.args if argument.value != "{args}"]
    return Step(step.call, (*kept, *args)) if len(kept) < len(step.args) else step


def _fitting(text: str, around: tuple[str, str]) -> str:
    """The filler without a quote that would end the quotes around it, or a doubled full stop."""
    for mark in "\"'`“”":
        if around[0].endswith(mark):
            text = text.replace(mark, "").replace("”" if mark == "“" else mark, "")
    if around[1][:1] in {".", "。", "?", "？", "!", "！", "，", ","}:
        text = text.rstrip(".。!！，,") or text
    return text.strip() or "x"


def _renamed(draft: Draft, suffix: str) -> tuple[list[Piece], list[Step]]:
    """The draft with slots of its own, so that joined drafts do not mix them up."""
    pieces = [Piece(p.text, p.slot + suffix if p.slot else "") for p in draft.pieces]
    steps = [
        Step(s.call, tuple(
            Argument(a.name, a.value + suffix if a.spanned else a.value, a.spanned)
            for a in s.args))
        for s in draft.program
    ]  # fmt: skip
    return pieces, steps


def _bare_end(pieces: list[Piece]) -> list[Piece]:
    last = pieces[-1]
    text = last.text.rstrip(" .!?。！？~～")
    return [*pieces[:-1], Piece(text, last.slot)] if text else pieces[:-1] or pieces


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
