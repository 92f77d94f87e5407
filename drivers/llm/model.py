"""Tokenizer and weights in transformers, and what they say about themselves."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from drivers.llm.adapters import Adapters
from drivers.llm.grammar import Grammars
from drivers.llm.peft_adapters import PeftBench
from drivers.llm.prefix import Prefixes
from drivers.llm.tokens import Tokens
from drivers.models import quick_mark, read_json, threads, weights_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

PREFILL = {"cpu": 128, "cuda": 2048}
"""Prompt tokens computed in one step."""
MOST_THREADS = 16
RATED = 32
"""Tokens of a forward pass from which the model's speed is measured."""
CONTEXT = 32768
"""Assumed where a model does not say how long its context is."""
PREFIX_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
"""Most bytes of keys and values kept for prompts to come."""
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


class Model:
    """A causal language model that has been loaded.

    Options: ``threads``, ``device``, ``dtype``, ``prefix_bytes``, ``adapters`` (at once; 0 for
    none).
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads(options.get("threads"), MOST_THREADS))
        cuda = torch.cuda.is_available()
        device = str(options.get("device") or ("cuda" if cuda else "cpu"))
        dtype = str(options.get("dtype") or ("auto" if device != "cpu" else "float32"))
        self.tokens = Tokens(AutoTokenizer.from_pretrained(str(folder)))
        self._model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
        self._model.to(device).eval()
        self._config: Any = self._model.config.get_text_config()
        self._bench = PeftBench(self._model)
        room = int(options.get("adapters", 0))
        self.adapters = Adapters(self._bench, room) if room else None
        self.device = device
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self.attention = f"{self._config._attn_implementation} {device.partition(':')[0]}"
        self.rate = 0.0
        """Seconds that a token of a prompt has taken of late."""
        kind = device.partition(":")[0]
        self.prefill = PREFILL.get(kind, PREFILL["cpu"])
        self.ends = self._end_tokens()
        self.context = self._context()
        self.grammars = Grammars(self.tokens.hugging, int(self._config.vocab_size), self.ends)
        most = int(options.get("prefix_bytes", PREFIX_BYTES.get(kind, PREFIX_BYTES["cpu"])))
        self.prefixes = Prefixes(most)

    def _end_tokens(self) -> frozenset[int]:
        found: set[int] = set()
        for end in (
            self._model.generation_config.eos_token_id,
            self.tokens.hugging.eos_token_id,
        ):
            found.update([end] if isinstance(end, int) else end or [])
        return frozenset(found)

    def _context(self) -> int:
        said = getattr(self._config, "max_position_embeddings", None)
        if not isinstance(said, int) or said <= 0:
            said = self.tokens.hugging.model_max_length  # 10**30 where it does not know
        return int(said) if 0 < said < 1 << 30 else CONTEXT

    def new_cache(self) -> Any:
        """An empty cache; layers that are not attention have a shape of their own."""
        from transformers import DynamicCache

        kinds = set(getattr(self._config, "layer_types", None) or ATTENTION)
        return DynamicCache() if kinds <= ATTENTION else DynamicCache(config=self._config)

    def forward(self, tokens: list[int], cache: object, adapter: str | None = None) -> Tensor:
        """Logits after the last of ``tokens``, which join those in ``cache``.

        ``adapter`` is what ``adapters`` gave for it.
        """
        import torch

        self._bench.switch(adapter)
        began = time.perf_counter()
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([tokens], device=self.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[0, -1]
        if len(tokens) >= RATED:
            if self.device != "cpu":
                torch.cuda.synchronize()
            rate = (time.perf_counter() - began) / len(tokens)
            self.rate = 0.8 * self.rate + 0.2 * rate if self.rate else rate
        return logits


def fingerprint(folder: Path) -> str:
    """Marks a model: its configuration, tokenizer and (sampled) weights."""
    mark = hashlib.sha256()
    mark.update(repr(sorted(read_json(folder / "config.json").items())).encode())
    for path in (folder / "tokenizer.json", *weights_of(folder)):
        if path.is_file():
            mark.update(f"{path.name} {quick_mark(path)}\n".encode())
    return mark.hexdigest()
