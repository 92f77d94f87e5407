"""The engine ``auto``: looks at the model and the machine, chooses, and says why."""

from __future__ import annotations

import importlib.util
import logging
import math
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.engine import Suspending
from drivers.llm.engine import TransformersEngine
from drivers.models import find_model, read_json, weights_of
from syscalls.errors import EIO, EngramError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from drivers.engine import Engine, Job
    from drivers.llm.contract import LLMInfo
    from drivers.protocol import EngineSpec

log = logging.getLogger("auto")
SMALL = 100_000_000
"""Parameters below which, on a CPU, a quick start is worth more than batches."""


class Facts(msgspec.Struct, frozen=True):
    """What the choice depends on."""

    vllm: bool
    """Whether vLLM is installed."""
    cuda: bool
    parameters: int
    architectures: list[str]


def choose(facts: Facts) -> tuple[str, str]:
    """``(engine, why)``; vLLM may still say that it does not know the architecture."""
    millions = f"{facts.parameters / 1e6:,.1f}M parameters"
    if not facts.vllm:
        return "transformers", "vLLM is not installed"
    if not facts.architectures:
        return "transformers", "the configuration names no architecture that vLLM could look up"
    if facts.cuda:
        return "vllm", "there is a CUDA device"
    if facts.parameters < SMALL:
        return "transformers", f"{millions} on a CPU: it starts sooner than vLLM"
    return "vllm", f"{millions} on a CPU: batches pay"


def look(folder: Path) -> Facts:
    """The facts about a model's folder and this machine. Raises EIO."""
    import torch

    named = read_json(folder / "config.json").get("architectures")
    return Facts(
        vllm=importlib.util.find_spec("vllm") is not None,
        cuda=torch.cuda.is_available(),
        parameters=parameters(folder),
        architectures=[str(name) for name in named] if isinstance(named, list) else [],
    )


def parameters(folder: Path) -> int:
    """How many parameters the weights have, by their headers; two bytes each elsewhere."""
    total = 0
    for path in weights_of(folder):
        if path.suffix != ".safetensors":
            total += path.stat().st_size // 2
            continue
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = file.read(min(size, path.stat().st_size))
        try:
            tensors = msgspec.json.decode(header, type=dict[str, dict[str, Any]])
        except msgspec.DecodeError as error:
            raise EIO(f"{path} is damaged: {error}", driver="llm", retryable=False) from error
        shapes = (entry["shape"] for entry in tensors.values() if "shape" in entry)
        total += sum(math.prod(shape) for shape in shapes)
    return total


class AutoEngine:
    """Another engine, once it is chosen."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._engine: Engine = TransformersEngine(spec)

    def load(self, progress: Callable[[str], None]) -> LLMInfo:
        """Choose and load. Raises ENODEV, EIO."""
        name, why = choose(look(find_model(self._spec.model)))
        if name == "vllm":
            try:
                return self._load_vllm(progress, why)
            except EngramError as error:
                why = f"vLLM refused: {error.message}"
                log.warning("%s", why)
        return self._load(self._engine, progress, why)

    def _load_vllm(self, progress: Callable[[str], None], why: str) -> LLMInfo:
        from drivers.llm.vllm_engine import VLLMEngine

        engine = VLLMEngine(self._spec)
        info = self._load(engine, progress, why)
        self._engine = engine
        return info

    def _load(self, engine: Any, progress: Callable[[str], None], why: str) -> LLMInfo:
        info: LLMInfo = engine.load(progress)
        progress(f"engine {info.engine}: {why}")
        return msgspec.structs.replace(info, why=why)

    @property
    def window(self) -> int:
        """Of the chosen engine."""
        return self._engine.window

    def begin(self, job: Job) -> None:
        """Likewise."""
        self._engine.begin(job)

    def cancel(self, job: Job) -> None:
        """Likewise."""
        self._engine.cancel(job)

    def suspend(self, job: Job, *, on: bool) -> None:
        """Likewise."""
        if isinstance(self._engine, Suspending):
            self._engine.suspend(job, on=on)

    @property
    def busy(self) -> bool:
        """Likewise."""
        return self._engine.busy

    def step(self) -> None:
        """Likewise."""
        self._engine.step()

    def close(self) -> None:
        """Likewise."""
        self._engine.close()
