"""Where nano's embeddings start: words that are near in meaning are near in the table."""

import pytest
import torch
from torch.nn import functional

from drivers.nano import lexicon
from drivers.nano.predict import WEIGHTS
from drivers.nano.vocabulary import Codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load(WEIGHTS)


@pytest.fixture(scope="module")
def table(codec: Codec) -> torch.Tensor:
    torch.manual_seed(1)
    return lexicon.vectors(codec.tokenizer, 256, codec.tokenizer.get_vocab_size() + 10)


def near(codec: Codec, table: torch.Tensor, one: str, other: str) -> float:
    rows = [codec.tokenizer.encode(f" {word}").ids for word in (one, other)]
    assert all(len(row) == 1 for row in rows), "these words have tokens of their own"
    return float(functional.cosine_similarity(table[rows[0][0]], table[rows[1][0]], dim=0))


def test_words_are_words_and_the_frequent_ones_come_first() -> None:
    some = lexicon.words(5000)
    assert len(set(some)) == len(some) == 5000
    assert all(word.isascii() and word.isalpha() for word in some)
    assert some.index("the") < some.index("garden")


def test_synonyms_start_as_neighbours(codec: Codec, table: torch.Tensor) -> None:
    for one, other, stranger in (
        ("wipe", "erase", "garden"),
        ("announce", "reveal", "kitchen"),
        ("Pause", "pause", "lawyer"),
    ):
        assert near(codec, table, one, other) > near(codec, table, one, stranger) + 0.2


def test_every_row_has_a_start_of_the_same_size(codec: Codec, table: torch.Tensor) -> None:
    assert table.shape == (codec.tokenizer.get_vocab_size() + 10, 256)
    assert torch.isfinite(table).all()
    assert float(table.std()) == pytest.approx(lexicon.SCALE, rel=0.05)
    call = codec.ids["mem.write"]
    assert float(table[call].norm()) > 0.1
