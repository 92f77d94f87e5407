"""The working context of a model: what of a space's working memory it is shown.

    page in   the records that the policy wants most, as far as the budget reaches
    page out  the rest, as one summary
    recall    what fits the question, where there is one and room is left

The order is that of time, so that the beginning stays the same from one turn to the next and
a model's prefix cache stays valid. Everything remembered is marked as data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel.mind.prompt import block
from syscalls.shapes import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.mind.policy import Policy
    from syscalls.shapes import Hit, Record

PAGED = 200
"""Records of working memory that are looked at."""
KEPT_FREE = 4
"""One part in so many of the budget is kept for the summary, where something is left out."""


def tokens(text: str) -> int:
    """About how many tokens a text is: a character each outside ASCII, else four to one."""
    wide = sum(1 for character in text if ord(character) > 127)
    return wide + (len(text) - wide + 3) // 4


def assemble(
    policy: Policy, records: Sequence[Record], hits: Sequence[Hit], query: str, budget: int
) -> list[ChatMessage]:
    """Messages of about ``budget`` tokens at most, stable prefix first.

    ``records`` are working memory, oldest first; ``hits`` answer ``query``, best first.
    """
    left = budget - tokens(query)
    shown = _paged_in(policy, records, left)
    messages = []
    if shown:
        notes = [record.content for record in records if record.rid in shown]
        messages.append(ChatMessage("system", block("memory", notes)))
        left -= sum(tokens(note) for note in notes)
    out = [record for record in records if record.rid not in shown]
    if out:
        summary = _cut(policy.summary(out), left)
        if summary:
            messages.append(ChatMessage("system", block("memory that was paged out", summary)))
            left -= tokens(summary)
    found = []
    for hit in hits:
        if hit.rid not in shown and tokens(hit.content) <= left:
            found.append(hit.content)
            left -= tokens(hit.content)
    if found:
        messages.append(ChatMessage("system", block("memory that fits the question", found)))
    if query:
        messages.append(ChatMessage("user", query))
    return messages


def _cut(text: str, budget: int) -> str:
    """The beginning of a text, of at most ``budget`` tokens."""
    while text and tokens(text) > budget:
        text = text[: len(text) * 3 // 4]
    return text


def _paged_in(policy: Policy, records: Sequence[Record], budget: int) -> set[str]:
    """Rids of the most wanted records that fit."""
    sizes = {record.rid: tokens(record.content) for record in records}
    if sum(sizes.values()) > budget:
        budget -= budget // KEPT_FREE
    shown: set[str] = set()
    for rid in policy.page_in(records, len(records)):
        if sizes[rid] <= budget:
            shown.add(rid)
            budget -= sizes[rid]
    return shown
