"""Adapters in vLLM's CPU build: a correct and faster product of rows and their adapters.

In a batch each row has the index of its adapter, and -1 where it has none. vLLM 0.32 gathers
``weights[indices]``, so rows of the base model get the weights of the *last* adapter, and
each row a copy of a whole matrix. Here rows are grouped by adapter: one product each, and
none for -1.

    indices  0 -1  1  0        rows 0, 3 with adapter 0;  row 2 with adapter 1;  row 1: zero
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

VERSIONS = ("0.32.",)
"""Of vLLM, with this fault and these functions."""


def delta(inputs: Tensor, weights: Tensor, indices: Tensor, dtype: object) -> Tensor:
    """Rows times their adapter's weights, shape (rows, out); zero for those without one.

    ``inputs`` is (rows, in), ``weights`` (adapters, out, in) or (adapters, 1, out, in).
    """
    if weights.dim() == 4:
        weights = weights.squeeze(1)
    made = inputs.new_zeros((len(inputs), weights.shape[1]), dtype=dtype)
    indices = indices[: len(inputs)]
    for adapter in indices.unique().tolist():
        if adapter >= 0:
            rows = (indices == adapter).nonzero(as_tuple=True)[0]
            made[rows] = inputs[rows].to(dtype) @ weights[adapter].to(dtype).T
    return made


def shrink(
    inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, scaling: float = 1.0
) -> None:
    """In place of ``bgmv_shrink``."""
    made = delta(inputs, weights, indices, output.dtype)
    output[: len(made), : made.shape[1]] = scaling * made


def expand(
    inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, add_inputs: bool = True
) -> None:
    """In place of ``bgmv_expand``."""
    # Adapter and model may have different amounts of padding.
    size = min(weights.shape[-2], output.shape[1])
    expand_slice(inputs, weights, output, indices, 0, size, add_inputs)


def expand_slice(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    indices: Tensor,
    offset: int,
    size: int,
    add_inputs: bool = True,
) -> None:
    """In place of ``bgmv_expand_slice``."""
    made = delta(inputs, weights, indices, output.dtype)[:, :size]
    part = output[: len(made), offset : offset + size]
    if add_inputs:
        part += made
    else:
        part.copy_(made)


def where_wanted(add: Callable[..., None]) -> Callable[..., None]:
    """``add_lora_linear`` that does nothing in a batch of which no row has an adapter."""

    @functools.wraps(add)
    def add_lora_linear(self: Any, *arguments: Any, **more: Any) -> None:
        if bool((self.token_lora_indices >= 0).any()):
            add(self, *arguments, **more)

    return add_lora_linear


def install(version: str) -> None:
    """Put them in the place of vLLM's. Raises EINVAL for a version not known to need it."""
    if not version.startswith(VERSIONS):
        raise EINVAL(
            f"adapters on a CPU are not known to be right in vLLM {version}",
            hint="boot without adapters, or use a GPU",
        )
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for module in (lora_ops, punica_cpu):  # the sgmv forms call those of lora_ops
        module.bgmv_shrink = shrink
        module.bgmv_expand = expand
        module.bgmv_expand_slice = expand_slice
    wrapper = punica_cpu.PunicaWrapperCPU
    wrapper.add_lora_linear = where_wanted(wrapper.add_lora_linear)
