"""Nano's tokens: how they are made, and how examples become numbers.

    python -m drivers.nano.vocabulary OUT

Byte-level BPE, so nothing is unknown. Digits, punctuation and Chinese characters are tokens of
their own, words carry the space before them: the ends of an argument are ends of tokens, and to
copy is to repeat a slice. The tokens of the dialect are added tokens, which no text can
become a part of; only the end and the padding are special ones, so that a decoder that leaves
special tokens out keeps the calls.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Encoding,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

from drivers.nano import dialect, lexicon
from drivers.nano.corpus import HERE
from drivers.nano.generate import Example, Generator
from drivers.nano.slots import HANZI

MERGED = 24_000
"""Tokens of the dialect, bytes and merged letters; Chinese characters come on top."""
LOWER, CAPITAL = 12_000, 6_000
"""Frequent English words that get a token though hardly a phrasing has them; as many that start
with a capital."""
REPEATED = 8
"""How often each of them is shown to the learner of merges."""
SAMPLES = 40_000
CONTEXT = 2048
_HAN = r"\u3400-\u9fff\uf900-\ufaff"
_SPLIT = rf"[{_HAN}]| ?[\p{{L}}&&[^{_HAN}]]+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]|\s"
_IS_HAN = re.compile(f"[{_HAN}]")
_MARKS = "，。：；？！“”‘’「」『』…、（）《》～—·【】￥"


def build(seed: int = 11) -> Tokenizer:
    """Learn the merges from generated English, and give each common character its token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer()
    names = [dialect.token(name) for name in dialect.SPECIAL]
    tokenizer.train_from_iterator(
        _english(seed),
        trainers.BpeTrainer(
            vocab_size=MERGED,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            min_frequency=3,
            show_progress=False,
        ),
    )
    data = json.loads(tokenizer.to_str())
    _add_characters(data["model"]["vocab"], data["model"]["merges"])
    data["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.ByteLevel()
    special = {dialect.token(dialect.PAD), dialect.token(dialect.END)}
    tokenizer.add_special_tokens([name for name in names if name in special])
    tokenizer.add_tokens(
        [AddedToken(name, normalized=False) for name in names if name not in special]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that transformers and vLLM load."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=dialect.token(dialect.PAD),
        eos_token=dialect.token(dialect.END),
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    wrapped.save_pretrained(str(folder))


class Codec:
    """Between texts, programs and token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.ids: dict[str, int] = {}
        for name in dialect.SPECIAL:
            number = tokenizer.token_to_id(dialect.token(name))
            if number is None:
                raise ValueError(f"the tokenizer lacks {dialect.token(name)}")
            self.ids[name] = number

    @classmethod
    def load(cls, folder: Path) -> "Codec":
        """The codec of a folder that ``save`` wrote."""
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))

    def prompt(self, text: str) -> list[int]:
        """Token ids of the prompt of an intent."""
        ids: list[int] = self.tokenizer.encode(dialect.render(text)).ids
        return ids

    def encode(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
        """Prompt and program of each example; left out where an argument cuts a token."""
        encodings = self.tokenizer.encode_batch([" " + example.text for example in examples])
        pairs = []
        for example, encoding in zip(examples, encodings, strict=True):
            program = self._program(example, encoding)
            if program is not None:
                prompt = [self.ids[dialect.USER], *encoding.ids, self.ids[dialect.PLAN]]
                pairs.append((prompt, program))
        return pairs

    def _program(self, example: Example, encoding: Encoding) -> list[int] | None:
        ids, offsets = encoding.ids, encoding.offsets
        padded = " " + example.text
        starts, stops = dict[int, int](), dict[int, int]()
        for at, (start, stop) in enumerate(offsets):
            # a token may begin with the space before the argument
            blank = len(padded[start:stop]) - len(padded[start:stop].lstrip())
            starts.setdefault(start + blank, at)
            stops[stop] = at + 1
        out = list[int]()
        for item in example.target:
            if isinstance(item, str):
                out.append(self.ids[item])
                continue
            first, last = starts.get(item[0] + 1), stops.get(item[1] + 1)
            if first is None or last is None or last <= first:
                return None
            out += ids[first:last]
        return [*out, self.ids[dialect.END]]


def _pre_tokenizer() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )


def _english(seed: int) -> Iterator[str]:
    for example in islice(Generator(seed, noise=0.4), SAMPLES):
        yield " " + _IS_HAN.sub(" ", example.text)
    for word in lexicon.words(LOWER):
        yield f" {word}" * REPEATED
    for word in lexicon.words(CAPITAL):
        yield f" {word.capitalize()}" * REPEATED


def _characters() -> list[str]:
    """Common characters, and whatever else the seed corpus uses."""
    found = set(HANZI) | set(_MARKS)
    for path in HERE.glob("zh/**/*.txt"):
        found |= {c for c in path.read_text(encoding="utf-8") if _IS_HAN.match(c)}
    return sorted(found)


def _add_characters(vocabulary: dict[str, int], merges: list[Any]) -> None:
    """A token for each character, reached by merging its three bytes from the left.

    These merges come first: a learnt one (of an emoji) might take the last two bytes away.
    """
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known, first = {tuple(pair) for pair in merges}, list[Any]()
    for character in _characters():
        units = level.pre_tokenize_str(character)[0][0]
        for at in range(1, len(units)):
            pair = (units[:at], units[at])
            vocabulary.setdefault(units[: at + 1], len(vocabulary))
            if pair not in known:
                known.add(pair)
                first.append(list(pair))
    merges[:0] = first


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    save(build(), target)
