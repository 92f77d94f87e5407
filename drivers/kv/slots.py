"""The tensors in which vLLM has its blocks, one block at a time.

    "model.layers.0.self_attn.attn"   [ block ][ heads, tokens, keys and values ]
    "model.layers.1.self_attn.attn"   [ block ][ ...

What is behind the first dimension is read from the tensors: each attention backend has its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from drivers.kv.tensors import layout, planes, tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from drivers.kv.image import Image, Plane


class Slots:
    """Where blocks are computed, used, saved from and restored to."""

    def __init__(self, caches: Mapping[str, Tensor], count: int) -> None:
        """``caches`` by layer; ``count`` is the scheduler's number of blocks.

        Where a kernel wants smaller blocks than the scheduler, several of its blocks are one
        here. Raises ValueError when the tensors have no such number of blocks.
        """
        self._caches: dict[str, Tensor] = {}
        for layer, cache in caches.items():
            if not cache.dim() or cache.shape[0] % count:
                raise ValueError(f"{layer} has the shape {tuple(cache.shape)}: no {count} blocks")
            whole = cache.shape[0] == count
            self._caches[layer] = cache if whole else cache.unflatten(0, (count, -1))
        self._bytes = _bytes(self._caches)
        self.layout = layout({layer: cache[0] for layer, cache in self._caches.items()})
        self.block_bytes = sum(cache[0].nbytes for cache in self._caches.values())

    @property
    def strides(self) -> str:
        """How the numbers of a block follow each other, and the device that they are for."""
        shapes = {str(cache.stride()[1:]) for cache in self._caches.values()}
        devices = {cache.device.type for cache in self._caches.values()}
        return f"{sorted(shapes)} {sorted(devices)}"

    def read(self, block: int) -> dict[str, Plane]:
        """A block's keys and values. On a CPU they are not copied: keep them at once."""
        return planes({layer: cache[block] for layer, cache in self._caches.items()})

    def write(self, block: int, image: Image) -> None:
        """Put a saved block in its place. Raises ValueError, RuntimeError; then part is there."""
        if image.layout() != self.layout:
            raise ValueError("the saved block has other layers, or of another shape")
        if not self._bytes:
            for layer, saved in tensors(image).items():
                self._caches[layer][block].copy_(saved)
            return
        for layer, plane in image.planes().items():
            memoryview(self._bytes[layer][block])[:] = plane.data


def _bytes(caches: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """The bytes of each block, by layer, where they lie together in memory; else nothing.

    A plain copy of bytes is three times as fast as torch's, which wakes all threads for each.
    """
    if not all(cache.device.type == "cpu" and cache.is_contiguous() for cache in caches.values()):
        return {}
    return {
        layer: cache.view(len(cache), -1).view(torch.uint8).numpy()
        for layer, cache in caches.items()
    }
