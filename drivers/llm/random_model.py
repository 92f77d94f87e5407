"""A causal language model with random weights: what it says is nonsense, what it costs is real.

    python -m drivers.llm.random_model FOLDER [--layers 12] [--hidden 384] [--context 4096]

For measuring and for showing what an engine does where no model is at hand. Each word of its
vocabulary (``w0`` to ``w4095``) is one token, so that texts can be compared token by token.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

WORDS = 4096
HEAD = 64


class Shape(msgspec.Struct, frozen=True):
    """How large it is; ``hidden`` is a multiple of 64."""

    layers: int = 12
    hidden: int = 384
    key_heads: int = 2
    context: int = 4096
    seed: int = 1


def make(folder: Path, shape: Shape) -> int:
    """Write a model and its tokenizer; the number of its parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(str(folder))
    torch.manual_seed(shape.seed)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=shape.hidden,
        intermediate_size=shape.hidden * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        initializer_range=0.05,  # so that greedy text varies
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(str(folder))
    return sum(weights.numel() for weights in model.parameters())


def main(arguments: list[str]) -> int:
    """Make one."""
    parser = argparse.ArgumentParser("drivers.llm.random_model", description=__doc__)
    parser.add_argument("folder", type=Path)
    defaults = Shape()
    for name in Shape.__struct_fields__:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(defaults, name))
    options = vars(parser.parse_args(arguments))
    parameters = make(options.pop("folder"), Shape(**options))
    sys.stdout.write(f"{parameters} parameters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
