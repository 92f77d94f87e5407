"""Programs of many intents at once, in plain transformers: for measuring and for tests.

    python -m drivers.nano.predict INTENTS.jsonl OUT.jsonl [--weights FOLDER] [--free]

The product does not run this: there the model host generates and the kernel parses, with the
same dialect and the same grammar.
"""

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from drivers.nano import dialect
from drivers.nano.vocabulary import Codec

WEIGHTS = Path(__file__).parent / "weights"


class Predictor:
    """A model, its tokenizer and the masks of the grammar."""

    def __init__(self, model: Any, codec: Codec, most: int = dialect.MOST_TOKENS) -> None:
        """``most`` is the number of tokens after which a program is cut off."""
        self._most = most
        self._model = model
        self.codec = codec
        self._pad = codec.ids[dialect.PAD]
        self._end = codec.ids[dialect.END]
        self._matcher: Any = None

    @classmethod
    def load(cls, folder: Path = WEIGHTS) -> "Predictor":
        """The model of a folder."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        return cls(model.eval(), Codec.load(folder))

    def programs(
        self,
        texts: Sequence[str],
        *,
        calls: Collection[str] | None = tuple(dialect.CALLS),
        batch: int = 32,
    ) -> list[list[dict[str, Any]]]:
        """The program of each text; the empty one where the output is none.

        ``calls`` are those that the grammar allows; None decodes without a grammar.
        """
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        found: list[list[dict[str, Any]]] = [[] for _ in texts]
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            outputs = self.outputs([texts[at] for at in some], calls=calls)
            for at, output in zip(some, outputs, strict=True):
                try:
                    found[at] = dialect.parse(output, texts[at])
                except dialect.Malformed:
                    found[at] = []
        return found

    def outputs(self, texts: Sequence[str], *, calls: Collection[str] | None) -> list[str]:
        """What the model writes for each text, greedily."""
        with torch.inference_mode():
            return self._outputs(texts, calls)

    def _outputs(self, texts: Sequence[str], calls: Collection[str] | None) -> list[str]:
        prompts = [self.codec.prompt(text) for text in texts]
        longest = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (longest - len(p)) + p for p in prompts])
        mask = (ids != self._pad).long()
        matchers = [] if calls is None else [self._new_matcher(text, calls) for text in texts]
        written: list[list[int]] = [[] for _ in texts]
        going = [True] * len(texts)
        cache, fed = None, ids
        for _ in range(self._most):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -fed.shape[1] :]
            result = self._model(
                input_ids=fed, attention_mask=mask, position_ids=positions,
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            cache = result.past_key_values
            chosen = self._choose(result.logits[:, -1], matchers, going)
            for at, token in enumerate(chosen):
                going[at] = going[at] and token != self._end
                if going[at]:
                    written[at].append(token)
                    if matchers:
                        matchers[at].consume_token(token)
            if not any(going):
                break
            fed = torch.tensor(chosen)[:, None]
            mask = torch.cat((mask, torch.ones_like(fed)), 1)
        decode = self.codec.tokenizer.decode
        return [decode(tokens, skip_special_tokens=False) for tokens in written]

    def _choose(self, logits: torch.Tensor, matchers: list[Any], going: list[bool]) -> list[int]:
        if matchers:
            from llguidance import torch as masks

            bits = masks.allocate_token_bitmask(len(matchers), logits.shape[-1])
            for at, matcher in enumerate(matchers):
                if going[at]:
                    masks.fill_next_token_bitmask(matcher, bits, at)
            masks.apply_token_bitmask_inplace(logits, bits)
        tokens: list[int] = logits.argmax(-1).tolist()
        return [token if going[at] else self._end for at, token in enumerate(tokens)]

    def _new_matcher(self, text: str, calls: Collection[str]) -> Any:
        import llguidance

        if self._matcher is None:
            self._matcher = llguidance.LLTokenizer(
                self.codec.tokenizer.to_str(),
                n_vocab=self._model.config.vocab_size,
                eos_token=self._end,
            )
        grammar = llguidance.LLMatcher.grammar_from_lark(dialect.grammar(text, calls))
        matcher = llguidance.LLMatcher(self._matcher, grammar)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher


def main() -> int:
    """Predict a file of ``{"id", "intent"}`` lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("intents", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--free", action="store_true", help="decode without the grammar")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    predictor = Predictor.load(options.weights)
    lines = options.intents.read_text(encoding="utf-8").splitlines()
    rows = [msgspec.json.decode(line) for line in lines if line.strip()]
    start = time.perf_counter()
    calls = None if options.free else tuple(dialect.CALLS)
    programs = predictor.programs([row["intent"] for row in rows], calls=calls)
    each = (time.perf_counter() - start) * 1000 / max(1, len(rows))
    answers = [
        {"id": row["id"], "program": program} for row, program in zip(rows, programs, strict=True)
    ]
    options.out.write_bytes(msgspec.json.Encoder().encode_lines(answers))
    sys.stderr.write(f"{len(rows)} intents, {each:.1f} ms each in batches\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
