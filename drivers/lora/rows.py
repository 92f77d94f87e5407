"""Rows of token ids as tensors, and what a model makes of them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Row = tuple[list[int], list[int]]
"""Ids, and as many labels: the id where it counts, else ``UNCOUNTED``."""
UNCOUNTED = -100
MEASURED = 16
"""Rows of a batch when nothing is learnt from it."""


def answers(model: Any, rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor]:
    """Logits and labels, each where the next token counts: (rows, places, words), (rows, places).

    Rows are filled up on the right; where a label is ``UNCOUNTED`` the logits mean nothing.
    """
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), UNCOUNTED)
    for at, (row, counted) in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        mask[at, : len(row)] = 1
        labels[at, : len(row)] = torch.tensor(counted)
    first = int((labels != UNCOUNTED).any(0).nonzero().min())
    keep = width - max(first - 1, 0)  # a place's logits are about the token after it
    more: dict[str, Any] = {"logits_to_keep": keep} if _keeps(model) else {}
    device = model.get_input_embeddings().weight.device
    logits: Tensor = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **more
    ).logits
    return logits[:, -keep:-1], labels[:, -keep + 1 :].to(device)


def _keeps(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def loss(model: Any, rows: Sequence[Row], pad: int) -> Tensor:
    """Mean negative log-likelihood of a label, in nats."""
    logits, labels = answers(model, rows, pad)
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=UNCOUNTED
    )


def likelihood(model: Any, rows: Sequence[Row], pad: int) -> float:
    """The mean loss of a label over many rows; 0 for none."""
    total = tokens = 0.0
    for start in range(0, len(rows), MEASURED):
        some = rows[start : start + MEASURED]
        count = sum(label != UNCOUNTED for _, labels in some for label in labels[1:])
        total += float(loss(model, some, pad)) * count
        tokens += count
    return total / tokens if tokens else 0.0


def exact(model: Any, rows: Sequence[Row], pad: int) -> list[bool]:
    """Whether greedy decoding would write just the labels of each row.

    Given the right tokens so far the most likely next one is the right one, at every place: then
    and only then is that what greedy decoding writes. So one pass answers for all tokens.
    """
    found: list[bool] = []
    for start in range(0, len(rows), MEASURED):
        logits, labels = answers(model, rows[start : start + MEASURED], pad)
        same = (logits.argmax(-1) == labels) | (labels == UNCOUNTED)
        found += same.all(1).tolist()
    return found
