"""Names of blocks: each a hash of the block and of all before it.

    first   hash(salt, adapter)
    name    hash(name before, token ids)
    part    hash(name before, token ids) and their number: what comes after the last whole block

So a name stands for everything that its keys and values depend on, but the engine.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


HEX = 2 * hashlib.sha256().digest_size
"""Letters of the name of a whole block; that of a part has four more."""


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


def names(mark: Mark, tokens: Sequence[int], size: int) -> list[str]:
    """Those of the whole blocks, if any, and of the part of one that comes after them."""
    whole = chain(mark, tokens, size)
    rest = parts(whole[-1], tokens[len(whole) * size :]) if whole else []
    return whole + rest[-1:]


def parts(before: str, tokens: Sequence[int]) -> list[str]:
    """The names of the parts that ``tokens`` begin with, of 1, 2, ... tokens, after a block."""
    state = hashlib.sha256(bytes.fromhex(before))
    found = []
    for count, token in enumerate(tokens, 1):
        state.update(array("q", [token]).tobytes())
        found.append(f"{state.hexdigest()}{count:04x}")
    return found


def length(name: str, size: int) -> int:
    """Tokens of the block, or part of one, that ``chain`` or ``parts`` has named."""
    return int(name[HEX:], 16) if len(name) > HEX else size
