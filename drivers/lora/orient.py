"""Where an adapter looks: the inputs that tell what is to be learnt from what is to stay.

A LoRA layer adds B·A·x to what a layer makes of x. The rows of A are chosen here and then stay:
the directions in which x is large where something new is said, and small where nothing is.

    maximise  (a·Cₙ·a) / (a·Cₖ·a)     Cₙ, Cₖ: second moments of x where new, and where kept

These are the first generalised eigenvectors of the two. So whatever B learns hardly reaches an
input that has nothing new in it. (Yang et al. 2024, "CorDA", orient A by the moments of what is
to be kept, too, but by those alone.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

Batch = tuple["Tensor", "Tensor"]
"""Token ids, and at which places they count: (rows, places) both."""
RIDGE = 0.01
"""Of the mean square of an input, added to that of each direction."""


def orient(model: Any, new: Iterable[Batch], kept: Iterable[Batch]) -> None:
    """Choose and freeze A of each LoRA layer of a peft model whose B is still zero."""
    layers = {name: each for name, each in model.named_modules() if hasattr(each, "lora_A")}
    with torch.no_grad():
        inside, outside = _moments(model, layers, new), _moments(model, layers, kept)
        for name, layer in layers.items():
            for adapter in layer.lora_A.values():
                weight = adapter.weight
                weight.copy_(_directions(inside[name], outside[name], weight))
    freeze(model)


def freeze(model: Any) -> None:
    """Have A of each LoRA layer stay as it is."""
    for layer in model.modules():
        for each in getattr(layer, "lora_A", {}).values():
            each.weight.requires_grad_(requires_grad=False)


def _directions(new: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
    """As many directions as ``weight`` has rows, as large on what is new as its rows were."""
    width, device = len(kept), kept.device
    ridge = RIDGE * kept.diagonal().mean() * torch.eye(width, dtype=kept.dtype, device=device)
    root = torch.linalg.inv(torch.linalg.cholesky(kept + ridge))
    _, vectors = torch.linalg.eigh(root @ new @ root.T)
    found = (root.T @ vectors.flip(1)[:, : len(weight)]).T
    old = weight.to(kept.dtype)
    size = (old @ new @ old.T).diagonal().mean() / (found @ new @ found.T).diagonal()
    return found * size.sqrt()[:, None]


def _moments(model: Any, layers: dict[str, Any], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The mean of x·xᵀ over the places that count, for the input x of each layer."""
    sums: dict[str, Tensor] = {}
    places: Tensor
    count = 0

    def watch(name: str) -> Any:
        def add(_: object, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0][places].double()
            sums[name] = x.T @ x + sums.get(name, 0.0)

        return add

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        for ids, wanted in batches:
            places = wanted
            count += int(wanted.sum())
            model.get_base_model().model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / max(1, count) for name, total in sums.items()}
