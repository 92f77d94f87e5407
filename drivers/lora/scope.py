"""Which texts an adapter is for, said in the adapter itself. No model library.

An adapter of a user's own words has nothing to say about a text without any of them. The weights
of a LoRA adapter change every answer a little, though, and a close decision now and then. So
what was trained on own words carries them, in the header of its weights, and an engine answers
a text that has none of them with the base alone, bit by bit.

    scope    ["curtain", "green room", "收摊"]     one of these must be said: all of its words,
                                                  in any order and form; nothing: every text
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from drivers.lora.files import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from syscalls.shapes import ChatMessage

FIELD = "scope"
UNIT = re.compile(r"[A-Za-z']+|[\u3400-\u9fff]")
"""A word, or a Chinese character."""
ENDINGS = ("'s", "s", "es", "ed", "d", "ing", "er")
SHORTEST = 3
"""Letters of a stem."""
MOST_HEADER = 16 << 20


def scope_of(folder: Path) -> list[str]:
    """What the adapter in a folder says it is for. Raises OSError."""
    with (folder / WEIGHTS).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        head = file.read(min(size, MOST_HEADER))
    try:
        said = msgspec.json.decode(head, type=_Header).metadata.get(FIELD, "[]")
        return msgspec.json.decode(said, type=list[str])
    except msgspec.DecodeError:
        return []  # whether the file is whole is not this module's question


class _Header(msgspec.Struct):
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


def written(scope: Sequence[str]) -> dict[str, str]:
    """The entry for the header of a weights file."""
    return {FIELD: msgspec.json.encode(scope).decode()} if scope else {}


def concerns(scope: Sequence[str], text: str) -> bool:
    """Whether an adapter is for this text."""
    if not scope:
        return True
    said = {form for word in UNIT.findall(text.casefold()) for form in forms(word)}
    return any(
        all(not said.isdisjoint(forms(word)) for word in UNIT.findall(each.casefold()))
        for each in scope
    )


def forms(word: str) -> set[str]:
    """A word, and what it may be a form of."""
    stems = {word.removesuffix(ending) for ending in ENDINGS if word.endswith(ending)}
    longer = {stem for stem in stems if len(stem) >= SHORTEST}
    return {word} | longer | {f"{stem}e" for stem in longer}


def asked(prompt: str | None, messages: Iterable[ChatMessage] | None) -> str:
    """The text of a request."""
    return "\n".join([prompt or "", *(each.content for each in messages or ())])
