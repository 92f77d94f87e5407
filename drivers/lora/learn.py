"""The adapter on its base, and how it learns: peft, AdamW, one step at a time.

Whatever a step does depends on the adapter, the optimizer's state and the number of the step
alone. So a job that goes on from a checkpoint ends with the weights that it would have ended
with, bit by bit on the same machine.
"""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from drivers.lora import checkpoint, rows
from drivers.lora.contract import ADAPTER, Judging
from drivers.lora.files import CONFIG, WEIGHTS
from drivers.lora.memory import ran_out
from drivers.lora.scope import written
from syscalls.errors import EINVAL, EIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from drivers.lora.contract import Recipe, TrainSpec
    from drivers.lora.rows import Row

CLIP = 1.0
"""Longest gradient."""
WARM = 0.05
"""Part of the steps in which the rate rises."""


def load_base(folder: Path, device: str) -> Any:
    """The model to adapt, in evaluation mode. Raises EIO."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    dtype = "float32" if device == "cpu" else "auto"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if ran_out(error):
            raise
        raise EIO(
            f"the model in {folder} cannot be loaded: {error}",
            hint="give the folder of a causal language model for transformers",
            driver="lora",
            retryable=False,
        ) from error
    return model.to(device).eval()


class Learner:
    """A base with an adapter that is being trained."""

    def __init__(
        self, base: Any, spec: TrainSpec, steps: int, pad: int, recipe: Recipe | None = None
    ) -> None:
        """Put new, empty layers into ``base``. Raises EINVAL for layers that it has not.

        A ``recipe`` that has first weights and a loss of its own is asked for them.
        """
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(spec.seed)
        self._spec = spec
        self._steps = steps
        self._pad = pad
        self.base = base
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha or 2 * spec.rank,
            lora_dropout=spec.dropout,
            target_modules=spec.targets or "all-linear",
            task_type="CAUSAL_LM",
        )
        try:
            self._model: Any = get_peft_model(base, config)
        except ValueError as error:
            raise EINVAL(
                f"the base takes no such adapter: {error}",
                hint="`targets` are names of linear layers, such as q_proj; none for all",
            ) from error
        self._own_loss = None
        self._note: dict[str, str] = {}
        if isinstance(recipe, Judging):
            recipe.prepare(self._model)
            self._own_loss = recipe.loss
            self._note = written(recipe.scope())
        named = [(n, p) for n, p in self._model.named_parameters() if p.requires_grad]
        self._named: dict[str, Any] = dict(named)
        self._optimizer = torch.optim.AdamW(
            self._named.values(), lr=spec.rate, weight_decay=spec.decay, betas=(0.9, 0.99)
        )

    @property
    def parameters(self) -> int:
        """How many are trained."""
        return sum(each.numel() for each in self._named.values())

    def learn(self, step: int, batch: Sequence[Row]) -> float:
        """Step number ``step``, from 0, on a batch; its loss."""
        torch.manual_seed(self._spec.seed + 1 + step)  # dropout: the same in every life
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(step)
        self.base.train()
        own = self._own_loss
        loss = own(self._model, batch) if own else rows.loss(self.base, batch, self._pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._named.values(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.base.eval()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise EINVAL(
                f"the loss is {value} at step {step}: training has diverged",
                hint="choose a lower `rate`",
            )
        return value

    def _rate(self, step: int) -> float:
        rise = max(1, round(WARM * self._steps))
        warm = min(1.0, (step + 1) / rise)
        passed = max(0, step - rise) / max(1, self._steps - rise)
        return self._spec.rate * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * passed)))

    # --- what is kept

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        kept = {}
        for name, parameter in self._named.items():
            kept[f"adapter/{name}"] = parameter.detach()
            for what, value in self._optimizer.state[parameter].items():
                kept[f"{what}/{name}"] = value
        return kept

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(tensors[f"adapter/{name}"])
                state: dict[str, Tensor] = {}
                for what in ("step", "exp_avg", "exp_avg_sq"):
                    value = tensors.get(f"{what}/{name}")
                    if value is not None:
                        state[what] = value if what == "step" else value.to(parameter.device)
                self._optimizer.state[parameter] = state

    def export(self, folder: Path) -> Path:
        """Write the adapter into a job's folder, durably, and whole or not at all."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        new = folder / f"{ADAPTER}.new"
        for old in (new, folder / ADAPTER):
            if old.exists():
                shutil.rmtree(old)
        new.mkdir()
        weights = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        own = {name: weights[name].float().contiguous().cpu() for name in sorted(weights)}
        save_file(own, str(new / WEIGHTS), metadata={"format": "pt", **self._note})
        (new / CONFIG).write_bytes(self._config())
        for name in (WEIGHTS, CONFIG):
            checkpoint.sync(new / name)
        return new

    def _config(self) -> bytes:
        """As peft has it, in an order that is always the same, and no path of this machine."""
        config = self._model.peft_config["default"].to_dict()
        layers = sorted({name.rpartition(".")[2] for name in config["target_modules"]})
        config |= {"inference_mode": True, "base_model_name_or_path": None}
        config["target_modules"] = layers
        plain = msgspec.to_builtins(config, order="deterministic", enc_hook=str)
        return msgspec.json.format(msgspec.json.encode(plain, order="deterministic"))
