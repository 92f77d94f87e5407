"""Between blocks and torch. Imported in hosts only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from drivers.kv.image import Plane

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from drivers.kv.image import Image

DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8",
    torch.int8: "I8",
}
NAMES = {name: dtype for dtype, name in DTYPES.items()}


def planes(tensors: Mapping[str, Tensor]) -> dict[str, Plane]:
    """Tensors, of any device and strides, as planes.

    A contiguous one on the CPU is not copied: do not change it before it is kept.
    Raises KeyError for a data type that no key or value has.
    """
    found = {}
    for key, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        data = memoryview(flat.reshape(-1).view(torch.uint8).numpy())
        found[key] = Plane(DTYPES[flat.dtype], tuple(flat.shape), data)
    return found


def tensors(image: Image) -> dict[str, Tensor]:
    """The tensors of a block, as views: copy what is to be changed."""
    return {
        key: torch.frombuffer(plane.data, dtype=NAMES[plane.dtype]).reshape(plane.shape)
        for key, plane in image.planes().items()
    }


def layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Data type and shape of each, as ``Files`` checks them."""
    return {key: (DTYPES[tensor.dtype], tuple(tensor.shape)) for key, tensor in tensors.items()}
