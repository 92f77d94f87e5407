"""Adapters in vLLM: rows of several, and of none, share a batch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, get_args

from drivers.llm.lora_cpu import install
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from pathlib import Path

LOADED = "/loaded"
"""The folder that a request names: vLLM hashes it into the names of blocks, and the name of an
adapter says what is in it, wherever it was loaded from. What is loaded is not read again."""
RANK = 32
"""The highest rank, where nobody says."""
log = logging.getLogger("vllm")


def lora_arguments(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments of an engine with room for the adapters that the options ask for.

    Empty where none are asked for, and (said in the log) where the model or this vLLM takes
    none: a model without adapters is better than no model.
    """
    room = int(options.get("adapters", 0))
    if not room:
        return {}
    if why := _unfit(folder):
        log.warning("no adapters: %s", why)
        return {}
    return {
        "enable_lora": True,
        "max_loras": room,
        "max_cpu_loras": room,
        "max_lora_rank": _rank(int(options.get("adapter_rank", RANK))),
    }


def _rank(wanted: int) -> int:
    """The lowest rank that vLLM can be started with and that is high enough. Raises EINVAL."""
    from vllm.config.lora import MaxLoRARanks

    ranks: list[int] = sorted(get_args(MaxLoRARanks))
    enough = [rank for rank in ranks if rank >= wanted]
    if not enough:
        raise EINVAL(f"vLLM takes adapters up to rank {ranks[-1]}, not {wanted}")
    return enough[0]


def _unfit(folder: Path) -> str:
    """Why a model cannot have adapters here; empty when it can."""
    import vllm
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.models import ModelRegistry, supports_lora
    from vllm.platforms import current_platform

    config = EngineArgs(model=str(folder)).create_model_config()
    model, name = ModelRegistry.resolve_model_cls(config.architectures, config)
    if not supports_lora(model):
        return f"vLLM has no adapters for {name}"
    if current_platform.is_cpu():
        try:
            install(vllm.__version__)
        except EINVAL as error:
            return error.message
    return ""


class VLLMBench:
    """``adapters.Bench`` of an engine that was started with ``lora_arguments``."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def add(self, number: int, name: str, folder: Path) -> Any:
        """A LoRARequest. Only one that is added may be named to vLLM: else a request hangs."""
        from vllm.lora.request import LoRARequest

        try:
            self._engine.add_lora(LoRARequest(name, number, str(folder)))
        except Exception as error:
            raise EINVAL(f"the adapter in {folder} does not fit: {error}") from error
        return LoRARequest(name, number, LOADED)

    def remove(self, number: int) -> None:
        """Free its slot."""
        self._engine.remove_lora(number)
