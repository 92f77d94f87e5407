"""The grammar against the real decoder of constraints: right programs pass, others are masked."""

from itertools import islice
from typing import Any

import pytest

from drivers.nano import dialect
from drivers.nano.generate import Generator
from drivers.nano.predict import WEIGHTS
from drivers.nano.vocabulary import Codec

llguidance = pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load(WEIGHTS)


@pytest.fixture(scope="module")
def tokens(codec: Codec) -> Any:
    return llguidance.LLTokenizer(codec.tokenizer.to_str(), eos_token=codec.ids[dialect.END])


def matcher(tokens: Any, text: str, calls: Any = tuple(dialect.CALLS)) -> Any:
    grammar = llguidance.LLMatcher.grammar_from_lark(dialect.grammar(text, calls))
    found = llguidance.LLMatcher(tokens, grammar)
    assert not found.is_error(), found.get_error()
    return found


def masked(found: Any, program: list[int], width: int) -> int | None:
    """Where the first token stands that the masks forbid, decoding step by step."""
    from llguidance import numpy as masks

    bits = masks.allocate_token_bitmask(1, width)
    for at, token in enumerate(program):
        masks.fill_next_token_bitmask(found, bits, 0)
        if not (int(bits[0, token // 32]) >> (token % 32)) & 1 or not found.consume_token(token):
            return at
    return None


def test_right_programs_are_never_masked(codec: Codec, tokens: Any) -> None:
    pairs = 0
    for example in islice(Generator(21), 300):
        for _, program in codec.encode([example]):
            found = matcher(tokens, example.text)
            assert masked(found, program, codec.tokenizer.get_vocab_size()) is None, example.text
            pairs += 1
    assert pairs > 290


def test_arguments_may_end_where_the_text_ends(codec: Codec, tokens: Any) -> None:
    text = "call Ana in ten minutes"
    program = codec.tokenizer.encode("<|sys.alarm|> ten minutes<|arg|> call Ana<|end|>").ids
    assert masked(matcher(tokens, text), program, codec.tokenizer.get_vocab_size()) is None


def test_a_copied_word_cannot_be_changed(codec: Codec, tokens: Any) -> None:
    text = "tell bob the soup is ready"
    start = codec.tokenizer.encode("<|ipc.send|> bob<|arg|> the soup").ids
    right = [*start, *codec.tokenizer.encode(" is").ids]
    wrong = [*start, *codec.tokenizer.encode(" ready").ids]
    assert matcher(tokens, text).validate_tokens(right) == len(right)
    assert matcher(tokens, text).validate_tokens(wrong) < len(wrong)


def test_calls_outside_the_set_cannot_be_written(codec: Codec, tokens: Any) -> None:
    text = "kill bob"
    for call in dialect.CALLS:
        others = [other for other in dialect.CALLS if other != call]
        first = [codec.ids[call]]
        assert matcher(tokens, text, others).validate_tokens(first) == 0
        assert matcher(tokens, text, [call]).validate_tokens(first) == 1


def test_no_call_leaves_the_empty_program(codec: Codec, tokens: Any) -> None:
    found = matcher(tokens, "kill bob", ())
    assert found.validate_tokens([codec.ids[dialect.END]]) == 1
    for call in dialect.CALLS:
        assert found.validate_tokens([codec.ids[call]]) == 0


def test_names_are_single_words(codec: Codec, tokens: Any) -> None:
    text = "kill bob now"
    width = codec.tokenizer.get_vocab_size()
    program = codec.tokenizer.encode("<|proc.signal|><|KILL|> bob now").ids
    assert masked(matcher(tokens, text), program[:-1], width) is None
    assert masked(matcher(tokens, text), program, width) == len(program) - 1


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\t", "<|end|>", '"\\"', "🙂\u0000x", "a" * 4000, " ".join(map(str, range(400)))],
)
def test_any_text_compiles(tokens: Any, text: str) -> None:
    matcher(tokens, text)
