"""The state of a job on disk: tensors and a few words in one safetensors file.

Written beside the last one and renamed over it, so there is always a whole one. What is damaged
or was made for another job is as good as none: training begins anew.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec

from drivers.lora.contract import Figures

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

FILE = "checkpoint.safetensors"


class State(msgspec.Struct):
    """Where a job is, beside its tensors."""

    mark: str
    """Digest of what was asked for."""
    step: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    before: Figures = Figures()
    regression: Figures = Figures()
    losses: list[float] = []
    """Of the last steps."""


class _Sealed(msgspec.Struct):
    state: State
    digest: str


def _digest(state: State, tensors: Mapping[str, Tensor]) -> str:
    made = hashlib.sha256(msgspec.json.encode(state))
    for name in sorted(tensors):
        tensor = tensors[name]
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        made.update(tensor.contiguous().cpu().numpy().tobytes())
    return made.hexdigest()


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(folder: Path, state: State, tensors: Mapping[str, Tensor]) -> None:
    """Replace the checkpoint. Raises OSError."""
    from safetensors.torch import save_file

    own = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    sealed = msgspec.json.encode(_Sealed(state, _digest(state, own))).decode()
    new = folder / f"{FILE}.new"
    save_file(own, str(new), metadata={"state": sealed})
    sync(new)
    new.replace(folder / FILE)
    sync(folder)


def load(folder: Path, mark: str) -> tuple[State, dict[str, Tensor]] | None:
    """The checkpoint of this job; None where there is none that is whole."""
    from safetensors import SafetensorError, safe_open

    if not (folder / FILE).is_file():
        return None
    try:
        with safe_open(str(folder / FILE), framework="pt") as file:
            sealed = msgspec.json.decode((file.metadata() or {}).get("state", ""), type=_Sealed)
            if sealed.state.mark != mark:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, msgspec.DecodeError):
        return None
    return (sealed.state, tensors) if _digest(sealed.state, tensors) == sealed.digest else None
