"""Adapters in a model of transformers: peft's layers, of which one set or none is switched on.

A layer with all sets switched off is its base layer and nothing else, so a request without an
adapter computes what it would compute if there were none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from pathlib import Path


class PeftBench:
    """``adapters.Bench`` on one model; each forward pass is of one sequence, with its adapter."""

    def __init__(self, model: Any) -> None:
        """``model`` goes on being called directly: its layers are replaced in place."""
        self._model = model
        self._peft: Any = None
        self._on: str | None = None

    def add(self, number: int, name: str, folder: Path) -> str:
        """What ``switch`` takes. The name means nothing here."""
        from peft import PeftConfig, PeftModel, PeftType

        own = f"a{number}"
        try:
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            if config.peft_type != PeftType.LORA:
                raise EINVAL(f"the adapter in {folder} is {config.peft_type}, not LoRA")
            if config.bias != "none" or config.modules_to_save:
                raise EINVAL(f"the adapter in {folder} has more than LoRA layers")
            if self._peft is None:
                self._peft = PeftModel(self._model, config, adapter_name=own)
            else:
                self._peft.add_adapter(own, config)
        except (TypeError, ValueError) as error:
            self._off()
            raise EINVAL(f"the adapter in {folder} does not fit: {error}") from error
        try:
            found = self._peft.load_adapter(str(folder), adapter_name=own)
            wrong = [*found.missing_keys, *found.unexpected_keys]
        except (RuntimeError, ValueError, KeyError) as error:
            wrong = [str(error)]
        self._off()
        if wrong:
            self._delete(own)
            raise EINVAL(f"the adapter in {folder} does not fit: {wrong[0]}")
        return own

    def remove(self, number: int) -> None:
        """Let go of its weights."""
        self._delete(f"a{number}")

    def switch(self, own: str | None) -> None:
        """Have the next forward passes be with this set of layers, or with none."""
        if own == self._on:
            return
        if own is None:
            self._off()
            return
        self._peft.base_model.set_adapter(own, inference_mode=True)
        self._peft.base_model.enable_adapter_layers()
        self._on = own

    def _delete(self, own: str) -> None:
        self._peft.base_model.set_adapter([])  # else peft chooses another one to be active
        self._peft.delete_adapter(own)
        self._off()

    def _off(self) -> None:
        self._on = None
        if self._peft is not None:
            self._peft.base_model.disable_adapter_layers()
