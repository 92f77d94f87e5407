"""The tokenizer: nothing is lost, and arguments end where tokens end."""

from functools import cache
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.nano import dialect
from drivers.nano.generate import Generator
from drivers.nano.predict import WEIGHTS
from drivers.nano.vocabulary import Codec


@cache
def shared() -> Codec:
    return Codec.load(WEIGHTS)


@pytest.fixture
def codec() -> Codec:
    return shared()


TEXTS = st.text(max_size=80) | st.text("记住 提醒abc 123,.!\n🙂é", max_size=80)


@settings(max_examples=300)
@given(text=TEXTS)
def test_any_text_survives(text: str) -> None:
    tokenizer = shared().tokenizer
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_calls_survive_a_decoder_that_leaves_special_tokens_out(codec: Codec) -> None:
    for name in dialect.SPECIAL:
        ids = codec.tokenizer.encode(dialect.token(name)).ids
        assert ids == [codec.ids[name]]
        kept = codec.tokenizer.decode(ids, skip_special_tokens=True)
        assert kept == ("" if name in {dialect.PAD, dialect.END} else dialect.token(name))


def test_common_characters_and_digits_are_single_tokens(codec: Codec) -> None:
    for character in "记住提醒杀进程，。1234567890鐘":
        assert len(codec.tokenizer.encode(character).ids) == 1
    assert len(codec.tokenizer.encode("2048").ids) == 4


def test_prompts_are_the_rendered_text(codec: Codec) -> None:
    for text in ("hi", "杀掉 bob", "", "<|end|>", "a\nb"):
        ids = codec.prompt(text)
        assert (ids[0], ids[-1]) == (codec.ids[dialect.USER], codec.ids[dialect.PLAN])
        assert codec.ids[dialect.END] not in ids


def test_arguments_are_slices_of_the_prompt(codec: Codec) -> None:
    examples = list(islice(Generator(31), 500))
    pairs = codec.encode(examples)
    assert len(pairs) >= 0.99 * len(examples)
    special = set(codec.ids.values())
    assert {tuple(prompt) for prompt, _ in pairs} <= {tuple(codec.prompt(e.text)) for e in examples}
    for prompt, program in pairs:
        run = list[int]()
        for token in [*program, codec.ids[dialect.END]]:
            if token not in special:
                run.append(token)
                continue
            places = range(len(prompt) - len(run) + 1)
            assert any(prompt[at : at + len(run)] == run for at in places)
            run = []
