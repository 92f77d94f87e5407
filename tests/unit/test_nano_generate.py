"""The generator: seeded, aligned, and never far from what people say."""

from itertools import islice

import pytest

from drivers.nano import corpus, dialect
from drivers.nano.corpus import Piece
from drivers.nano.generate import HOLD_OUT, Generator
from drivers.nano.noise import Noise
from drivers.nano.score import accepted


def test_the_same_seed_gives_the_same_examples() -> None:
    first, second = (list(islice(Generator(4), 60)) for _ in range(2))
    assert first == second
    assert first != list(islice(Generator(5), 60))


def test_the_seed_corpus_is_as_large_as_promised() -> None:
    assert len(corpus.seeds("en")) >= 1500
    assert len(corpus.seeds("zh")) >= 800


def test_every_call_and_register_occurs() -> None:
    calls, registers = set[str](), set[str]()
    for language in corpus.LANGUAGES:
        for seed in corpus.seeds(language):
            calls |= {step.call for step in seed.program}
            registers.add(seed.register)
    assert calls == set(dialect.CALLS)
    assert {"terse", "dictation", "nonnative", "longwinded", "typos", "multi"} <= registers


def test_arguments_are_stretches_of_the_text() -> None:
    for example in islice(Generator(6), 400):
        for item in example.target:
            if isinstance(item, tuple):
                start, stop = item
                assert 0 <= start < stop <= len(example.text)
                assert example.text[start:stop] == example.text[start:stop].strip()


def test_examples_vary() -> None:
    texts = [example.text for example in islice(Generator(8), 1000)]
    assert len(set(texts)) > 940


def test_held_out_phrasings_are_never_trained_on() -> None:
    total = sum(len(corpus.seeds(language)) for language in corpus.LANGUAGES)
    trained, held = Generator(1), Generator(1, held_out=True)
    sources = [
        {seed.source for groups in generator._groups.values() for kind in groups.values()
         for seeds in kind.values() for seed in seeds}
        for generator in (trained, held)
    ]  # fmt: skip
    assert not sources[0] & sources[1]
    assert len(sources[0] | sources[1]) == total
    assert 0.5 * total / HOLD_OUT < len(sources[1]) < 2 * total / HOLD_OUT


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_noise_keeps_the_order_of_arguments(language: str) -> None:
    import random

    pieces = [Piece("remind me in "), Piece("ten minutes", "a"), Piece(" to "), Piece("go", "b")]
    for seed in range(200):
        noisy = Noise(random.Random(seed), 3.0)(language, "chatty", pieces)
        assert [piece.slot for piece in noisy if piece.slot] == ["a", "b"]


def test_no_noise_changes_nothing() -> None:
    import random

    pieces = [Piece("Search for "), Piece("Red shoes", "a"), Piece(".")]
    assert Noise(random.Random(1), 0.0)("en", "formal", pieces) == pieces


def test_a_fixed_argument_must_be_in_its_phrasing() -> None:
    with pytest.raises(corpus.Unaligned):
        corpus._seed("en", "x", "terse", "stop bob", [("proc.info", {"target": "ann"})])


def test_scoring_takes_near_texts_and_exact_names() -> None:
    gold = [[{"call": "ipc.send", "args": {"to": "bob", "body": "the soup is ready now"}}]]
    near = [{"call": "ipc.send", "args": {"to": "Bob", "body": "that the soup is ready"}}]
    wrong = [{"call": "ipc.send", "args": {"to": "bo", "body": "the soup is ready now"}}]
    assert accepted(gold, near)
    assert not accepted(gold, wrong)
    assert not accepted(gold, [])
