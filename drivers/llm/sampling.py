"""Choosing the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Sampler:
    """Greedy at temperature 0; else nucleus sampling with its own random numbers.

    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = torch.Generator()  # on the CPU: the same on every device
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed & 0x7FFFFFFFFFFFFFFF)

    def pick(self, logits: Tensor) -> int:
        """A token, given logits of shape (vocabulary,)."""
        if self._temperature <= 0:
            return int(logits.argmax())
        weights = torch.softmax(logits.float().cpu() / self._temperature, dim=-1)
        if self._top_p < 1:
            ordered, tokens = weights.sort(descending=True)
            # Keep tokens until those before them already hold top_p; the first always stays.
            ordered[(ordered.cumsum(-1) - ordered) >= self._top_p] = 0
            return int(tokens[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(weights, 1, generator=self._generator))
