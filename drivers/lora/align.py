"""A user's own sentence and its program, cut to pieces: what is said, and what is filled in.

    "curtain on crawler, please"   [{"call": "proc.signal", "args": {"signal": "TERM", ...}}]
     [curtain on ] [{proc}] [, please]     proc.signal  signal=TERM  target={proc}

The pieces are those of nano's own corpus, so whatever makes sentences out of it can make more of
these.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from drivers.nano import corpus, dialect
from drivers.nano.compose import Draft
from drivers.nano.corpus import Argument, Piece, Seed, Step
from drivers.nano.generate import Example, example_of
from drivers.nano.score import accepted
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

KINDS = {
    "target": "proc", "to": "proc", "program": "program", "adapter": "adapter", "topic": "topic",
    "name": "tool", "query": "query", "goal": "goal", "body": "body", "message": "message",
    "prompt": "prompt", "after": "after", "nice": "nice",
}  # fmt: skip
"""Which filler may take the place of an argument's value."""
CONTENT = {"semantic": "fact", "episodic": "event", "procedural": "howto"}
ENUMERATED = frozenset(("segment", "signal"))
MOST = 9
"""Arguments of a sentence, each in other words."""
_CJK = re.compile(r"[\u3400-\u9fff]")


def language_of(text: str) -> str:
    """``zh`` where there is any Chinese, else ``en``."""
    return "zh" if _CJK.search(text) else "en"


def seed_of(text: str, program: Sequence[Mapping[str, Any]]) -> Seed:
    """The pieces of a sentence. Raises EINVAL where nano could not write this program for it."""
    text = " ".join(text.split())
    values = dict[tuple[str, bool], str]()
    for step in program:
        for name, value, kind in _wanted(text, step):
            values.setdefault((value, name == "after"), kind)
    if len(values) > MOST:
        raise EINVAL(f"more than {MOST} arguments in one sentence: {text!r}")
    pieces = [Piece(text)]
    slots = dict[tuple[str, bool], str]()
    # longer ones first, so that a name inside a longer argument is not taken from it
    for number, key in enumerate(sorted(values, key=lambda key: -len(key[0]))):
        try:
            pieces, old = corpus.mark(pieces, key[0], number, is_duration=key[1])
        except corpus.Unaligned as error:
            raise EINVAL(
                f"{key[0]!r} is not said in {text!r}",
                hint="nano copies every name and text out of the sentence",
            ) from error
        slots[key] = _slot(values[key], number)
        pieces = [Piece(p.text, slots[key]) if p.slot == old else p for p in pieces]
    steps = tuple(_step(text, step, slots) for step in program)
    seed = Seed(language_of(text), text, "own", tuple(pieces), steps)
    example = spelled(seed)
    if not accepted([program], example.program):
        raise EINVAL(f"nano would read {json.dumps(example.program)} out of {text!r}")
    return seed


def spelled(seed: Seed) -> Example:
    """The sentence as it was said, as nano writes it. Raises EINVAL."""
    draft = Draft(seed.language, seed.register, list(seed.pieces), list(seed.program))
    example = example_of(draft)
    if example is None:
        raise EINVAL(f"nano cannot write the program of {seed.source!r}")
    return example


def _slot(kind: str, number: int) -> str:
    """The name of a slot that ``Composer.fill`` fills; arguments of tools stay as they are."""
    if not kind:
        return f"said#{number}"
    return "{" + kind + (str(number + 1) if number else "") + "}"


def _wanted(text: str, step: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and kind of filler of each argument that is copied from the text."""
    call, args = str(step["call"]), dict(step.get("args") or {})
    if call not in dialect.CALLS:
        raise EINVAL(f"nano does not know {call}", hint=f"it knows {', '.join(dialect.CALLS)}")
    known = {name.rstrip("?") for name in dialect.CALLS[call]}
    if odd := args.keys() - known:
        raise EINVAL(f"nano knows no argument {sorted(odd)[0]!r} of {call}")
    for name, value in args.items():
        if name == "args":
            for key, inner in value.items():
                if _said(text, key):
                    yield "key", key, ""
                elif key not in dialect.KEYS:
                    raise EINVAL(f"the key {key!r} is not said in {text!r}")
                yield "value", _plain(inner), ""
        elif not (name in ENUMERATED or _constant(text, name, value)):
            kind = KINDS.get(name, "")
            if name == "content":
                kind = CONTENT.get(str(args.get("segment")), "fact")
            yield name, _plain(value), kind


def _constant(text: str, name: str, value: object) -> bool:
    """Whether an argument is written as a token of its own."""
    if name == "nice":
        return str(value) in dialect.NICES and not _said(text, str(value))
    return name == "prompt" and str(value).split() == text.split()


def _step(text: str, step: Mapping[str, Any], slots: Mapping[tuple[str, bool], str]) -> Step:
    arguments = list[Argument]()
    for name, value in dict(step.get("args") or {}).items():
        if name == "args":
            for key, inner in value.items():
                spoken = _said(text, key)
                where = slots[key, False] if spoken else f"key:{key}"
                arguments.append(Argument("key", where, spanned=spoken))
                arguments.append(Argument("value", slots[_plain(inner), False], spanned=True))
        elif name in ENUMERATED:
            arguments.append(Argument(name, str(value), spanned=False))
        elif _constant(text, name, value):
            constant = dialect.ALL if name == "prompt" else str(value)
            arguments.append(Argument(name, constant, spanned=False))
        else:
            arguments.append(Argument(name, slots[_plain(value), name == "after"], spanned=True))
    return Step(str(step["call"]), tuple(arguments))


def _plain(value: object) -> str:
    """As it would be said."""
    return value if isinstance(value, str) else json.dumps(value)


def _said(text: str, value: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
