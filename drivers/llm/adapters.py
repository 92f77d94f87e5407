"""LoRA adapters of a vLLM engine, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from syscalls.errors import EEXIST, EINVAL, ENOENT

if TYPE_CHECKING:
    from drivers.llm.shapes import AdapterArguments


class Adapters:
    """Those that have been loaded. Rows of several share a batch.

    Each loading gets a number that is never used again, in its identifier and in its name:
    keys and values that vLLM keeps are marked with the name, so nothing that an earlier adapter
    of the same name has left can be taken for this one's.
    """

    def __init__(self, engine: Any) -> None:
        """``engine`` is vLLM's, started with ``enable_lora``."""
        self._engine = engine
        self._number = 0
        self._known: dict[str, Any] = {}

    def load(self, adapter: AdapterArguments) -> None:
        """Load one. Raises EEXIST, ENOENT, EINVAL."""
        from vllm.lora.request import LoRARequest

        if adapter.name in self._known:
            raise EEXIST(f"there is an adapter {adapter.name!r}", hint="unload it first")
        if not (Path(adapter.path) / "adapter_config.json").is_file():
            raise ENOENT(
                f"{adapter.path} holds no adapter",
                hint="give a folder with adapter_config.json and adapter_model.safetensors",
            )
        self._number += 1
        request = LoRARequest(f"{adapter.name}#{self._number}", self._number, adapter.path)
        try:
            self._engine.add_lora(request)
        except Exception as error:
            raise EINVAL(f"the adapter in {adapter.path} does not fit: {error}") from error
        self._known[adapter.name] = request

    def unload(self, name: str) -> None:
        """Let go of one that no request under way has. Raises ENOENT."""
        self._engine.remove_lora(self.request(name).lora_int_id)
        del self._known[name]

    def request(self, name: str) -> Any:
        """What vLLM wants beside a prompt. Raises ENOENT.

        Only a loaded adapter may be named to vLLM: for another the request would hang.
        """
        if name not in self._known:
            known = ", ".join(sorted(self._known)) or "none"
            raise ENOENT(f"no adapter {name!r} is loaded", hint=f"loaded: {known}")
        return self._known[name]
