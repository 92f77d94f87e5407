"""Keys and values of prompts seen before, so that a common beginning is computed once.

    kept     owner:7   [manual of the calls .................][intent A][program A]
    asked    owner:7   [manual of the calls .................][intent B]
                        └────── copied, counted as cached ───┘ └ computed ┘

What is kept is never lent, only copied, layer by layer: nothing that a request does to its
cache can be seen by another. It is looked for under the request's own salt and no other.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

WORTH = 8
"""Tokens; fewer are sooner computed than copied."""


class _Kept:
    """Keys and values of some tokens, never changed."""

    def __init__(self, tokens: NDArray[numpy.int64], layers: list[tuple[Tensor, Tensor]]) -> None:
        self.tokens = tokens
        self.layers = layers
        self.bytes = sum(keys.nbytes + values.nbytes for keys, values in layers)

    def common(self, tokens: NDArray[numpy.int64]) -> int:
        """How many tokens both begin with."""
        most = min(len(self.tokens), len(tokens))
        differ = numpy.flatnonzero(self.tokens[:most] != tokens[:most])
        return int(differ[0]) if len(differ) else most


class Prefixes:
    """The most recently used prompts with their keys and values, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._number = 0
        self._kept: OrderedDict[tuple[str, int], _Kept] = OrderedDict()

    def copy(self, salt: str, prompt: Sequence[int], cache: Any) -> int:
        """Fill an empty cache with the longest known beginning of ``prompt``; its tokens.

        The last token is always left to compute: the next one is chosen from its logits.
        """
        tokens = numpy.asarray(prompt, numpy.int64)
        best, place = 0, None
        for key, kept in self._kept.items():
            if key[0] == salt and (common := kept.common(tokens[:-1])) > best:
                best, place = common, key
        if place is None or best < WORTH:
            return 0
        self._kept.move_to_end(place)
        for index, (keys, values) in enumerate(self._kept[place].layers):
            # An empty layer takes over by concatenation, which makes new tensors.
            cache.update(keys[..., :best, :], values[..., :best, :], index)
        return best

    def keep(self, salt: str, tokens: Sequence[int], cache: Any) -> None:
        """Keep what ``cache`` holds of ``tokens``. The cache may go on growing, not shrink."""
        if not _plain(cache):
            return
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        new = _Kept(numpy.asarray(tokens, numpy.int64), layers)
        if new.bytes > self._most:
            return
        for key in [key for key in self._kept if key[0] == salt]:
            common = self._kept[key].common(new.tokens)
            if common == len(new.tokens):
                self._kept.move_to_end(key)
                return
            if common == len(self._kept[key].tokens):
                self._bytes -= self._kept.pop(key).bytes
        self._number += 1
        self._kept[salt, self._number] = new
        self._bytes += new.bytes
        while self._bytes > self._most:
            self._bytes -= self._kept.popitem(last=False)[1].bytes


def _plain(cache: Any) -> bool:
    """Whether every layer holds every token, so that a beginning can be cut from it."""
    from transformers.cache_utils import DynamicLayer

    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
