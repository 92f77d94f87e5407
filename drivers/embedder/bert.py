"""A BERT encoder with pooling, in plain torch.

Most embedding models in use (MiniLM, BGE, E5, GTE) are this one network. Written out it
loads in a third of the time that the general libraries need to be imported, and the
vectors are the same to 1e-5. Devlin et al., "BERT", 2018; layer names as in its published
weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from drivers.models import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

POOLINGS = ("mean_tokens", "cls_token")


class Plan:
    """What of a sentence-transformers folder decides its vectors, where ``Bert`` can do it."""

    def __init__(self, folder: Path) -> None:
        self.config = read_json(folder / "config.json")
        self._modules = _modules(folder)
        kinds = [str(module.get("type", "")).rpartition(".")[2] for module in self._modules]
        pooling = next((m for m, k in zip(self._modules, kinds, strict=True) if k == "Pooling"), {})
        settings = read_json(folder / str(pooling.get("path", "1_Pooling")) / "config.json")
        self.poolings = [
            name.removeprefix("pooling_mode_")
            for name, on in settings.items()
            if name.startswith("pooling_mode_") and on is True
        ]
        if isinstance(mode := settings.get("pooling_mode"), str):
            self.poolings.append(f"{mode}_token" if mode == "cls" else f"{mode}_tokens")
        limits = read_json(folder / "sentence_bert_config.json")
        positions = int(self.config.get("max_position_embeddings", 512))
        self.max_tokens = min(int(limits.get("max_seq_length") or positions), positions)
        self.lower = bool(limits.get("do_lower_case"))
        prompts = read_json(folder / "config_sentence_transformers.json")
        self.fits = (
            kinds in (["Transformer", "Pooling", "Normalize"], ["Transformer", "Pooling"])
            and self.config.get("model_type") == "bert"
            and self.config.get("hidden_act") == "gelu"
            and self.config.get("position_embedding_type", "absolute") == "absolute"
            and len(self.poolings) == 1
            and self.poolings[0] in POOLINGS
            and not prompts.get("default_prompt_name")
            and all((folder / name).is_file() for name in ("model.safetensors", "tokenizer.json"))
        )
        """Whether ``Bert`` gives the vectors that sentence-transformers would, scaled to 1."""


def _modules(folder: Path) -> list[dict[str, Any]]:
    import msgspec

    path = folder / "modules.json"
    if not path.is_file():
        return []
    return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])


class Bert:
    """The encoder of one folder. ``encode`` may run in several threads at once."""

    def __init__(self, folder: Path, plan: Plan, device: str) -> None:
        """Load. Raises OSError, KeyError, SafetensorError when the files do not fit."""
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        config = plan.config
        self.max_tokens = plan.max_tokens
        self.dimension = int(config["hidden_size"])
        self._lower = plan.lower
        self._mean = plan.poolings == ["mean_tokens"]
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._device = torch.device(device)
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(plan.max_tokens)
        self._tokenizer.no_padding()
        weights = load_file(folder / "model.safetensors", device=device)
        # Some files were saved from a model with a head, under "bert.".
        named = {name.removeprefix("bert."): w.float() for name, w in weights.items()}
        self._embeddings = _under(named, "embeddings.")
        self._embeddings["start"] = (
            self._embeddings["position_embeddings.weight"]
            + self._embeddings["token_type_embeddings.weight"][0]
        )
        count = int(config["num_hidden_layers"])
        self._layers = [_fused(_under(named, f"encoder.layer.{n}.")) for n in range(count)]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut at ``max_tokens``."""
        if self._lower:
            texts = [text.lower() for text in texts]
        encodings: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        return [encoding.ids for encoding in encodings]

    def encode(self, batch: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors of shape (len(batch), dimension), float32, on the CPU."""
        with torch.inference_mode():
            return self._encode(batch)

    def _encode(self, batch: Sequence[Sequence[int]]) -> Tensor:
        lengths = torch.tensor([len(ids) for ids in batch])
        longest = int(lengths.max())
        padded = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, ids in enumerate(batch):
            padded[row, : len(ids)] = torch.tensor(ids)
        keep = (torch.arange(longest) < lengths[:, None]).to(self._device)
        mask = None if bool((lengths == longest).all()) else keep[:, None, None, :]
        hidden = self._embed(padded.to(self._device))
        for layer in self._layers:
            hidden = self._layer(hidden, layer, mask)
        if self._mean:
            weight = keep[:, :, None].to(hidden.dtype)
            hidden = (hidden * weight).sum(1) / weight.sum(1)
        else:
            hidden = hidden[:, 0]
        return functional.normalize(hidden, dim=1).cpu()

    def _embed(self, ids: Tensor) -> Tensor:
        words = functional.embedding(ids, self._embeddings["word_embeddings.weight"])
        return self._norm(
            words + self._embeddings["start"][: ids.shape[1]], self._embeddings, "LayerNorm"
        )

    def _layer(self, hidden: Tensor, layer: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        rows, length, width = hidden.shape
        mixed = _linear(hidden, layer, "attention.self.fused")
        query, key, value = (
            part.view(rows, length, self._heads, -1).transpose(1, 2)
            for part in mixed.split(width, dim=-1)
        )
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        context = context.transpose(1, 2).reshape(rows, length, width)
        context = _linear(context, layer, "attention.output.dense")
        hidden = self._norm(hidden + context, layer, "attention.output.LayerNorm")
        inner = functional.gelu(_linear(hidden, layer, "intermediate.dense"))
        inner = _linear(inner, layer, "output.dense")
        return self._norm(hidden + inner, layer, "output.LayerNorm")

    def _norm(self, value: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(value, weight.shape, weight, bias, self._epsilon)


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}


def _fused(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value as one matrix: one multiplication instead of three."""
    for part in ("weight", "bias"):
        names = [f"attention.self.{name}.{part}" for name in ("query", "key", "value")]
        layer[f"attention.self.fused.{part}"] = torch.cat([layer.pop(name) for name in names])
    return layer


def _linear(value: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return functional.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])
