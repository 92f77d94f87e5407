"""Which engines can use each other's blocks: those whose namespace is the same."""

from __future__ import annotations

import hashlib

import msgspec

FORMAT = 1
"""Changes when blocks of the same description would mean something else."""


class Description(msgspec.Struct, frozen=True):
    """Everything that decides what keys and values come of given tokens, but salt and adapter.

    Those are in a block's name: an adapter by its identity, which has its content's digest.
    """

    model: str
    """Fingerprint of configuration, tokenizer and weights."""
    dtype: str
    """Of the keys and values, and of the weights where that differs."""
    block: int
    """Tokens of a block."""
    engine: str
    version: str
    """Of the engine, and of what computes below it."""
    layout: dict[str, tuple[str, tuple[int, ...]]]
    """Data type and shape of each tensor of a block."""
    attention: str = ""
    """What else there is to say of how keys and values lie, and on what device."""


def namespace(description: Description) -> str:
    """A name for a folder: the engine's, and 32 hexadecimal digits of the description's hash."""
    said = msgspec.json.encode([FORMAT, msgspec.to_builtins(description)], order="sorted")
    engine = "".join(letter if letter.isalnum() else "-" for letter in description.engine)
    return f"{engine[:32]}-{hashlib.sha256(said).hexdigest()[:32]}"
