"""The recipe ``text``: answers of any causal language model, in its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from drivers.lora.rows import UNCOUNTED, exact
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drivers.lora.contract import Example, TrainSpec


class TextRecipe:
    """Prompts as the engines encode them, with the base's chat template where it has one."""

    def __init__(self, folder: Path, spec: TrainSpec) -> None:
        from transformers import AutoTokenizer

        from drivers.llm.tokens import Tokens

        self._tokens = Tokens(AutoTokenizer.from_pretrained(str(folder)))
        hugging = self._tokens.hugging
        self._end: int | None = hugging.eos_token_id
        self.pad = int(hugging.pad_token_id or 0)

    def rows(self, examples: Sequence[Example]) -> list[Example]:
        """The examples themselves."""
        return list(examples)

    def encode(self, example: Example) -> tuple[list[int], list[int]]:
        """The prompt, and the answer with the end of the text; the loss is on the answer."""
        prompt: list[int] = []
        if example.prompt or example.messages is not None:
            prompt = self._tokens.encode(example.prompt, example.messages)
        answer: list[int] = self._tokens.hugging(
            example.completion, add_special_tokens=False, split_special_tokens=True
        )["input_ids"]
        if not answer:
            raise EINVAL("an example has no completion", hint="say what is to be answered")
        if self._end is not None:
            answer = [*answer, self._end]
        if not prompt and len(answer) < 2:
            raise EINVAL("an example without a prompt has a single token: nothing to predict")
        return prompt + answer, [UNCOUNTED] * len(prompt) + answer

    def score(self, model: Any, examples: Sequence[Example]) -> float:
        """Share whose greedy completion is the answer, or one of those accepted."""
        rows, owners = [], []
        for owner, example in enumerate(examples):
            for completion in (example.completion, *example.accept):
                rows.append(self.encode(replace(example, completion=completion)))
                owners.append(owner)
        right = {
            owner for owner, same in zip(owners, exact(model, rows, self.pad), strict=True) if same
        }
        return len(right) / len(examples) if examples else 0.0
