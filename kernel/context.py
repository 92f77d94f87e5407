"""The working context of a model: what of a space's memory it is shown, within a budget.

    system  | pinned facts              as long as they are pinned
            | older working memory      what the policy wants most of it ┐ these change only
            | what is not shown         by count, rids and how to read it ┘ when the cut moves
    ------- cut: a multiple of a quarter of the budget, counted from the oldest
            | recent working memory     in order of time; a turn is added at the end
    user    | what was recalled         what fits the question and is not above
            | the question

The stable parts come first and the cut moves in steps, so that from one turn to the next the
beginning stays the same, character by character, and a model's prefix cache stays valid.
Everything remembered is marked as data. Nothing is dropped without a word: what is too long is
cut with a note that names its record, and what is left out is named.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from kernel.counting import TURN, sized
from kernel.mind.prompt import block, escaped
from syscalls.errors import EINVAL
from syscalls.shapes import ChatMessage
from ums.working import estimate as tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.counting import Counter
    from kernel.mind.policy import Policy
    from syscalls.records import Hit, Record
    from ums.working import Laid

PART = 4
"""One part in so many is the step of the cut, what older memory may take, and recalled memory."""
NAMED = 120
"""Tokens that the line about what is not shown may take, its summary without."""
LEAST = 24
"""Tokens below which a record is not cut but left out."""
LADDER = 0.8
"""Where the model counts more than the estimate, the estimate's budget shrinks by steps."""
STEPS = (1.25, 1.0, *(LADDER**step for step in range(1, 12)))
UNBOUNDED = 1 << 40


class Assembled(msgspec.Struct):
    """A context, and what became of each record that could have been in it."""

    messages: list[ChatMessage]
    shown: list[str] = []
    """Rids, in the order in which they are shown."""
    cut: list[str] = []
    """Those of ``shown`` of which only the beginning is shown."""
    left: list[str] = []
    """Rids that did not fit, oldest first; of what was recalled, best first."""
    tokens: int = 0
    exact: bool = False


class Part(msgspec.Struct):
    """One block of data being filled."""

    source: str
    left: int
    """Tokens that it may still take."""
    items: list[str] = []
    rids: list[str] = []
    cut: list[str] = []

    def open(self) -> int:
        """Tokens of the block without items."""
        return tokens(block(self.source, [])) + 1

    def add(self, rid: str, content: str, most: int = UNBOUNDED) -> bool:
        """Add a record, or its beginning; False where it does not fit in ``left``."""
        left = min(self.left - (0 if self.items else self.open()), most)
        item = content
        if cost(item) > left:
            item = shortened(rid, content, left)
        if not item:
            return False
        self.left -= cost(item) + (0 if self.items else self.open())
        self.items.append(item)
        self.rids.append(rid)
        if item is not content:
            self.cut.append(rid)
        return True

    @property
    def text(self) -> str:
        """The block; empty without items."""
        return block(self.source, self.items, UNBOUNDED) if self.items else ""


async def fitted(
    policy: Policy, laid: Laid, hits: Sequence[Hit], query: str, budget: int, counter: Counter
) -> Assembled:
    """The context of at most ``budget`` tokens, as the counter counts them.

    Raises EINVAL where the query alone is more.
    """
    alone = await counter.messages([ChatMessage("user", query)]) if query else 0
    if alone > budget:
        raise EINVAL(
            f"the query alone is {alone} tokens, the budget {budget}", tokens=alone, budget=budget
        )
    for step in STEPS if counter.exact else (1.0,):
        made = assemble(policy, laid, hits, query, int(budget * step))
        made.tokens = await counter.messages(made.messages)
        if made.tokens <= budget:
            made.exact = counter.exact
            return made
        if not counter.exact:  # the model has stopped answering meanwhile
            made = assemble(policy, laid, hits, query, budget)
            made.tokens = sized(made.messages)
            return made
    made = assemble(policy, laid, hits, query, 0)
    made.tokens, made.exact = alone, counter.exact
    return made


def assemble(policy: Policy, laid: Laid, hits: Sequence[Hit], query: str, budget: int) -> Assembled:
    """A context of at most ``budget`` tokens by the estimate; the query is always in it.

    ``hits`` answer ``query``, best first.
    """
    asked = tokens(query) + 2 * TURN if query else TURN
    stable = max(0, min(budget - asked, budget - budget // PART if query else budget))
    parts, left = _stable(policy, laid, stable)
    used = sum(tokens(part.text) + 1 for part in parts)
    recalled = Part("memory that fits the question", max(0, budget - asked - used - 2))
    shown = {rid for part in parts for rid in part.rids}
    known = {record.content for record in (*laid.pinned, *laid.working) if record.rid in shown}
    most = max(LEAST, recalled.left // 2)
    for hit in hits:
        if hit.rid in shown or hit.content in known:
            continue
        if not recalled.add(hit.rid, hit.content, most) and hit.rid not in left:
            left.append(hit.rid)
    messages = []
    if parts:
        messages.append(ChatMessage("system", "\n".join(part.text for part in parts)))
    words = [text for text in (recalled.text, query) if text]
    if query:
        messages.append(ChatMessage("user", "\n\n".join(words)))
    made = [*parts, recalled]
    return Assembled(
        messages,
        [rid for part in made for rid in part.rids],
        [rid for part in made for rid in part.cut],
        [rid for rid in left if rid not in recalled.rids],
    )


def _stable(policy: Policy, laid: Laid, budget: int) -> tuple[list[Part], list[str]]:
    """The blocks that do not depend on the question, and the rids that are in none."""
    pinned = _pinned(policy, laid, budget)
    left = [record.rid for record in laid.pinned if record.rid not in pinned.rids]
    rest = pinned.left
    recent = Part("memory", rest)
    sizes = [cost(record.content) for record in laid.working]
    if sum(sizes) + recent.open() <= rest and not left:
        for record in laid.working:
            recent.add(record.rid, record.content)
        return [part for part in (pinned, recent) if part.items], left
    older = Part("older memory", rest // PART)
    named = Part("memory that is not shown", min(NAMED + rest // (2 * PART), rest // 2))
    recent.left = rest - older.left - named.left
    room = recent.left - recent.open()
    most = max(LEAST, room // 2)
    at = _cut([min(size, most) for size in sizes], room, max(1, rest // PART))
    before = laid.working[:at]
    best = _most_wanted(policy, before, older.left - older.open())
    for record in before:
        if record.rid in best:
            older.add(record.rid, record.content)
    for record in laid.working[at:]:
        recent.add(record.rid, record.content, most)
    shown = {*older.rids, *recent.rids}
    out = [record for record in laid.working if record.rid not in shown]
    left += [record.rid for record in out]
    if left:
        edge = recent.rids[0] if recent.rids else max(left)
        named.add(
            "",
            f"{len(left)} records are not shown, from {min(left)} to {max(left)}: "
            f"mem.read rid=RID, or mem.read segment=working before={edge}",
        )
        if summary := policy.summary(out) if out else "":
            named.add("", summary)
    named.rids.clear()
    named.cut.clear()
    return [part for part in (pinned, older, named, recent) if part.items], left


def _pinned(policy: Policy, laid: Laid, budget: int) -> Part:
    """The pinned records: all of them, or those that the policy wants most."""
    part = Part("pinned memory", budget)
    if sum(cost(record.content) for record in laid.pinned) + part.open() <= budget:
        for record in laid.pinned:
            part.add(record.rid, record.content)
        return part
    room = budget - budget // PART - part.open()
    most = max(LEAST, room // 2)
    sizes = {record.rid: min(cost(record.content), most) for record in laid.pinned}
    chosen = set()
    for rid in policy.page_in(laid.pinned, len(laid.pinned)):
        if sizes[rid] <= room:
            chosen.add(rid)
            room -= sizes[rid]
    for record in laid.pinned:
        if record.rid in chosen:
            part.add(record.rid, record.content, most)
    return part


def _cut(sizes: Sequence[int], budget: int, step: int) -> int:
    """Index of the first recent record: from there on all fit; at least the last one is recent.

    It is the first one that begins at or after a multiple of ``step``, counted in tokens from
    the oldest record, so that it stays while records are added at the end.
    """
    starts = [0, *accumulate(sizes)]
    total = starts.pop()
    edge = 0
    for at, start in enumerate(starts):
        if start >= edge:
            if total - start <= budget:
                return at
            edge = (start // step + 1) * step
    return max(0, len(sizes) - 1)


def _most_wanted(policy: Policy, records: Sequence[Record], budget: int) -> set[str]:
    """Rids of the records that the policy wants most, as far as the budget reaches."""
    sizes = {record.rid: cost(record.content) for record in records}
    chosen: set[str] = set()
    for rid in policy.page_in(records, len(records)):
        if sizes[rid] <= budget:
            chosen.add(rid)
            budget -= sizes[rid]
    return chosen


def cost(item: str) -> int:
    """Tokens that an item of a block takes, its comma included; by the estimate."""
    return tokens(escaped(item)) + 1


def shortened(rid: str, content: str, budget: int) -> str:
    """The beginning of a record with a note that names it; empty where nothing useful fits."""
    if budget < LEAST:
        return ""
    where = f"mem.read rid={rid}" if rid else "summary"
    share = len(content)
    while share:
        share = min(share * 3 // 4, budget * 4)
        text = f"{content[:share]} ... (cut: {share} of {len(content)} characters; {where})"
        if cost(text) <= budget:
            return text
    return ""
