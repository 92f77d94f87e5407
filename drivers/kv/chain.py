"""Names of blocks: each a hash of the block and of all before it.

    first   hash(salt, adapter)
    name    hash(name before, token ids)

So a name stands for everything that its keys and values depend on, but the engine.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Mark(NamedTuple):
    """Whose keys and values, and under which weights: nothing passes from one to another."""

    salt: str
    adapter: str = ""
    """Its identity; empty for the model as it is."""


def chain(mark: Mark, tokens: Sequence[int], size: int) -> list[str]:
    """The names of the whole blocks of ``size`` tokens that ``tokens`` begin with."""
    before = hashlib.sha256(msgspec.json.encode(mark)).digest()
    names = []
    for start in range(0, len(tokens) - size + 1, size):
        ids = array("q", tokens[start : start + size])
        before = hashlib.sha256(before + ids.tobytes()).digest()
        names.append(before.hex())
    return names
