"""Keys and values of prompts seen before, so that a common beginning is computed once.

    kept     owner:7   [manual of the calls .................][intent A][program A]
    asked    owner:7   [manual of the calls .................][intent B]
                        └────── copied, counted as cached ───┘ └ computed ┘

What is kept is never lent, only copied, layer by layer: nothing that a request does to its
cache can be seen by another. It is looked for under the request's own mark (salt and adapter)
and no other. What is pinned under a handle stays until it is unpinned; of the rest the least
recently used leaves.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from drivers.kv.chain import Mark

WORTH = 8
"""Tokens; fewer are sooner computed than copied."""
Layers = list[tuple["Tensor", "Tensor"]]
"""Keys and values of each layer, of shape (1, heads, tokens, width)."""


class Kept:
    """Keys and values of some tokens, never changed."""

    def __init__(self, mark: Mark, tokens: Sequence[int], layers: Layers) -> None:
        self.mark = mark
        self.tokens: NDArray[numpy.int64] = numpy.asarray(tokens, numpy.int64)
        self.layers = layers
        self.bytes = sum(keys.nbytes + values.nbytes for keys, values in layers)
        self.pinned = False

    def common(self, tokens: NDArray[numpy.int64]) -> int:
        """How many tokens both begin with."""
        most = min(len(self.tokens), len(tokens))
        differ = numpy.flatnonzero(self.tokens[:most] != tokens[:most])
        return int(differ[0]) if len(differ) else most


class Known(NamedTuple):
    """A beginning that need not be computed."""

    tokens: int
    layers: Layers
    """Those of ``tokens`` and perhaps of more."""


NOTHING = Known(0, [])


class Prefixes:
    """Pinned prompts, and the most recently used ones, up to a number of bytes together."""

    def __init__(self, most_bytes: int) -> None:
        self.most = most_bytes
        self.epoch = 0
        """How often something was forgotten: what began before that is not kept."""
        self._bytes = self._pinned_bytes = 0
        self._number = 0
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._pinned: dict[str, Kept] = {}

    def find(self, mark: Mark, tokens: Sequence[int]) -> Known:
        """The longest known beginning of ``tokens``, which is used with this."""
        wanted = numpy.asarray(tokens, numpy.int64)
        best, place = 0, None
        for number, kept in self._kept.items():
            if kept.mark == mark and (common := kept.common(wanted)) > best:
                best, place = common, number
        pinned = max(
            (each for each in self._pinned.values() if each.mark == mark),
            key=lambda each: each.common(wanted),
            default=None,
        )
        if pinned is not None and (common := pinned.common(wanted)) >= max(best, WORTH):
            return Known(common, pinned.layers)
        if place is None or best < WORTH:
            return NOTHING
        self._kept.move_to_end(place)
        return Known(best, self._kept[place].layers)

    def keep(self, mark: Mark, tokens: Sequence[int], cache: Any, epoch: int) -> None:
        """Keep what ``cache`` holds of ``tokens``. The cache may go on growing, not shrink.

        It is let be when something was forgotten since ``epoch``: it may hold that.
        """
        if epoch == self.epoch and plain(cache):
            self._keep(Kept(mark, tokens, layers_of(cache)))

    def _keep(self, new: Kept) -> None:
        if new.bytes + self._pinned_bytes > self.most:
            return
        for number in [n for n, kept in self._kept.items() if kept.mark == new.mark]:
            common = self._kept[number].common(new.tokens)
            if common == len(new.tokens):
                self._kept.move_to_end(number)
                return
            if common == len(self._kept[number].tokens):
                self._bytes -= self._kept.pop(number).bytes
        self._number += 1
        self._kept[self._number] = new
        self._bytes += new.bytes
        self._shrink()

    def _shrink(self) -> None:
        while self._kept and self._bytes + self._pinned_bytes > self.most:
            self._bytes -= self._kept.popitem(last=False)[1].bytes

    # --- pinned

    def pinned_bytes(self, but: str = "") -> int:
        """Bytes of what is pinned, without those of one handle."""
        return self._pinned_bytes - (self._pinned[but].bytes if but in self._pinned else 0)

    def pin(self, handle: str, kept: Kept) -> None:
        """Keep it until ``unpin``, in place of what has the same handle."""
        self.unpin(handle, keep=False)
        kept.pinned = True
        self._pinned[handle] = kept
        self._pinned_bytes += kept.bytes
        self._shrink()

    def unpin(self, handle: str, *, keep: bool = True) -> None:
        """It may leave now; without ``keep`` it is gone at once. No error if unknown."""
        if (kept := self._pinned.pop(handle, None)) is not None:
            self._pinned_bytes -= kept.bytes
            kept.pinned = False
            if keep:
                self._keep(kept)

    def forget(self, gone: Callable[[Kept], bool]) -> list[str]:
        """Let go of all of which ``gone`` says so; the handles of those that were pinned."""
        self.epoch += 1
        for number in [number for number, kept in self._kept.items() if gone(kept)]:
            self._bytes -= self._kept.pop(number).bytes
        handles = [handle for handle, kept in self._pinned.items() if gone(kept)]
        for handle in handles:
            self.unpin(handle, keep=False)
        return handles

    def __iter__(self) -> Iterator[Kept]:
        return iter([*self._pinned.values(), *self._kept.values()])


def plain(cache: Any) -> bool:
    """Whether every layer holds every token, so that a beginning can be cut from it."""
    from transformers.cache_utils import DynamicLayer

    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


def layers_of(cache: Any) -> Layers:
    """What a plain cache holds now; what it takes later comes in new tensors."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def fill(cache: Any, pieces: Sequence[Layers]) -> None:
    """Fill an empty, plain cache with copies of the pieces, one after another."""
    adopt(cache, join(pieces))


def join(pieces: Sequence[Layers]) -> Layers:
    """Copies of the pieces, one after another, layer by layer."""
    import torch

    return [
        (
            torch.cat([keys for keys, _ in layer], dim=-2),
            torch.cat([values for _, values in layer], dim=-2),
        )
        for layer in zip(*pieces, strict=True)
    ]


def adopt(cache: Any, layers: Layers) -> None:
    """Have an empty, plain cache begin with ``layers`` themselves, which nobody else has."""
    for index, (keys, values) in enumerate(layers):
        cache.update(keys[..., :0, :], values[..., :0, :], index)  # makes the layer
        cache.layers[index].keys, cache.layers[index].values = keys, values


def cut(layers: Layers, start: int, end: int) -> Layers:
    """A stretch of tokens, as views."""
    return [(keys[..., start:end, :], values[..., start:end, :]) for keys, values in layers]
