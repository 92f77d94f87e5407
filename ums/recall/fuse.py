"""One ranking out of similarities and word scores.

Each signal is measured in its own standard deviations over all candidates, and these are
added with weights. Sums of standardised scores rank better than reciprocal ranks do,
because how much better a candidate is counts (see also Bruch, Gai and Ingber, "An Analysis
of Fusion Functions for Hybrid Retrieval", https://arxiv.org/abs/2210.11934).

    dense    (similarity - mean) / deviation     no vector: 0, which is the mean
    lexical  score / deviation                   no word in common: 0

Leaving the lexical mean in changes no order, and makes a silent signal contribute nothing.
A deviation has a floor, so that among a few like candidates noise stays noise.
"""

from collections.abc import Collection, Mapping
from math import sqrt

import msgspec

from ums.settings import Weights

_CJK = (
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7AF),  # hangul
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One candidate with what each signal contributed to its score."""

    score: float
    rid: str
    dense: float
    lexical: float


def fuse(
    dense: Mapping[str, float],
    lexical: Mapping[str, float],
    dense_weight: float,
    lexical_weight: float,
    weights: Weights,
) -> list[Candidate]:
    """All candidates of both signals, best first; among equals the newest first."""
    mean, deviation = _moments(dense.values(), len(dense))
    dense_scale = dense_weight / max(deviation, weights.dense_floor)
    rids = dense.keys() | lexical.keys()
    _, spread = _moments(lexical.values(), len(rids))
    floor = max(lexical.values(), default=0.0) * weights.lexical_floor
    lexical_scale = lexical_weight / max(spread, floor, 1e-9)
    ranked = []
    for rid in rids:
        similarity = dense.get(rid)
        near = 0.0 if similarity is None else (similarity - mean) * dense_scale
        said = lexical.get(rid, 0.0) * lexical_scale
        ranked.append((near + said, rid, near, said))
    ranked.sort(reverse=True)  # rids sort by time
    return [Candidate(*row) for row in ranked]


def balance(query: str, weights: Weights) -> tuple[float, float]:
    """The weights of dense and lexical for a query.

    The embedder knows little Chinese, while the words of a Chinese query are segmented
    well: the larger the part of CJK characters, the more the words count.
    """
    share = cjk_share(query)
    return (
        weights.dense + (weights.cjk_dense - weights.dense) * share,
        weights.lexical + (weights.cjk_lexical - weights.lexical) * share,
    )


def cjk_share(text: str) -> float:
    """Part of the letters and digits that are CJK characters, 0 to 1."""
    letters = [ord(char) for char in text if char.isalnum()]
    if not letters:
        return 0.0
    return sum(any(low <= code <= high for low, high in _CJK) for code in letters) / len(letters)


def _moments(values: Collection[float], count: int) -> tuple[float, float]:
    """Mean and deviation over ``count`` values, of which those not given are 0."""
    if not count:
        return 0.0, 0.0
    mean = sum(values) / count
    squares = sum(value * value for value in values) / count
    return mean, sqrt(max(0.0, squares - mean * mean))
