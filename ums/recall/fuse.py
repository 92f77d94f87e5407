"""One ranking out of similarities and word scores, and what other signals add to it.

Scores are summed, not ranks: how much better a candidate is counts (Bruch, Gai and Ingber,
"An Analysis of Fusion Functions for Hybrid Retrieval", https://arxiv.org/abs/2210.11934).

    dense    (similarity - mean) / deviation, over the candidates     no vector: 0, the mean
    lexical  BM25, and which share it is of what the query's words are worth

Similarities are standardised, because what is a high one depends on embedder and query. Word
scores are not: BM25 is measured in information, and a query of which only a common word is
found anywhere should count for little, which standardising would undo. The share is for short
queries, where a record that has all the words is meant.

A deviation has a floor, so that among a few like candidates noise stays noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ums.settings import Weights

_CJK = (
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7AF),  # hangul
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


FAR = -2.0
"""Least standardised similarity: what is far is far, when another signal proposes it."""


@dataclass(slots=True, eq=False)
class Candidate:
    """One candidate with what each signal contributed to its score."""

    rid: str
    dense: float
    lexical: float
    words: float = 0.0
    """BM25 by the weight of words: ``lexical`` without the share."""
    more: dict[str, float] = field(default_factory=dict)
    """What other signals added, by the names of ``syscalls.shapes.Parts``."""

    @property
    def base(self) -> float:
        """What the indexes say."""
        return self.dense + self.lexical

    @property
    def score(self) -> float:
        """The sum of all parts."""
        return self.dense + self.lexical + sum(self.more.values())


class Scale:
    """How similarities and word scores count in one search, by its first candidates."""

    def __init__(self, similarities: Collection[float], query: str, weights: Weights) -> None:
        self._mean, deviation = _moments(similarities)
        share = cjk_share(query)
        self._weight = weights.dense + (weights.cjk_dense - weights.dense) * share
        self._dense = self._weight / max(deviation, weights.dense_floor)
        self._lexical = weights.lexical
        self._share = weights.share if weights.lexical else 0.0

    def candidate(
        self, rid: str, similarity: float | None, said: float, ceiling: float
    ) -> Candidate:
        """A candidate with its base; ``ceiling`` is what the query's words are worth."""
        near = 0.0
        if similarity is not None:
            near = max(FAR * self._weight, (similarity - self._mean) * self._dense)
        words = said * self._lexical
        share = min(1.0, said / ceiling) * self._share if ceiling else 0.0
        return Candidate(rid, near, words + share, words)


def fuse(
    dense: Mapping[str, float],
    lexical: Mapping[str, float],
    ceilings: Mapping[str, float],
    query: str,
    weights: Weights,
) -> tuple[list[Candidate], Scale]:
    """All candidates of both signals, best first; among equals the newest first."""
    scale = Scale(dense.values(), query, weights)
    ranked = [
        scale.candidate(rid, dense.get(rid), lexical.get(rid, 0.0), ceilings.get(rid, 0.0))
        for rid in dense.keys() | lexical.keys()
    ]
    ranked.sort(key=lambda one: (one.base, one.rid), reverse=True)  # rids sort by time
    return ranked, scale


def cjk_share(text: str) -> float:
    """Part of the letters and digits that are CJK characters, 0 to 1."""
    letters = [ord(char) for char in text if char.isalnum()]
    if not letters:
        return 0.0
    return sum(any(low <= code <= high for low, high in _CJK) for code in letters) / len(letters)


def _moments(values: Collection[float]) -> tuple[float, float]:
    """Mean and deviation."""
    if not values:
        return 0.0, 0.0
    mean = sum(values) / len(values)
    squares = sum(value * value for value in values) / len(values)
    return mean, sqrt(max(0.0, squares - mean * mean))
