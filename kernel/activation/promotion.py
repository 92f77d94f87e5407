"""Which prefixes are pinned by themselves, and which of those are let go again: policy.

    generations of a process      [manual][facts][question 1]
                                  [manual][facts][question 2]
                                  [manual][facts][question 3]
                                   └── the same three times: pinned as ``auto-N`` ──┘

It pays where uses times tokens saved are worth the bytes. A prefix that grows with every turn
is pinned anew when it has become half as long again, so that a conversation costs a logarithm
of its length in pins. One that nobody begins with any more goes back to text, which its process
has anyway: the sooner, the less it was used. Nothing here touches what was pinned on purpose.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from syscalls.shapes import ChatMessage
from ums.working import estimate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ums.prefixes import Prefix

SEEN = 3
"""Generations in a row that begin alike."""
LEAST = 160
"""Tokens below which computing anew is cheaper than keeping; by the estimate."""
GROWTH = 1.5
"""How much longer than what is pinned already a beginning must be."""
IDLE = 900.0
"""Seconds without use after which one that was never of use is let go."""
WEAK = 0.5
"""Uses, halved with each idle ``IDLE``, below which one makes room for another."""
REST = 600.0
"""Seconds for which a beginning that could not be pinned is not tried again."""
PROCESSES = 256
WORD = 64
"""Characters within which a blank is looked for; what is cut to fewer is left out."""
LONGEST = 1 << 20
"""Characters of a generation that are followed."""
MOST = 16 << 20
"""Characters that are kept of all processes together; those that were seen last."""


class Wish(msgspec.Struct, frozen=True):
    """A beginning that is worth pinning."""

    messages: list[ChatMessage]
    flat: str


def flat(messages: Iterable[ChatMessage]) -> str:
    """Messages as one text, such that a beginning of the ones is a beginning of the other."""
    return "".join(f"\0{one.role}\0{one.content}" for one in messages)


class Promotion:
    """What is seen of the generations of each process, and what follows from it."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, deque[str]] = OrderedDict()
        self._held = 0
        self._declined: OrderedDict[bytes, float] = OrderedDict()

    def saw(
        self, apid: int, messages: Sequence[ChatMessage], covered: int, now: float
    ) -> Wish | None:
        """A process has had a text made of these; what is worth pinning by now.

        ``covered`` are the characters at the beginning that are pinned already.
        """
        whole = flat(messages)
        if len(whole) > LONGEST or any(one.images for one in messages):
            return None
        last = self._note(apid, whole)
        if len(last) < SEEN:
            return None
        common = _common(last)
        if common < max(LEAST, GROWTH * covered):
            return None
        found = _beginning(messages, common)
        text = flat(found)
        if sum(estimate(one.content) for one in found) < LEAST or len(text) < GROWTH * covered:
            return None
        if now - self._declined.get(_digest(text), -math.inf) < REST:
            return None
        return Wish(found, text)

    def _note(self, apid: int, whole: str) -> deque[str]:
        """The last texts of a process, with this one; others make room."""
        last = self._seen.setdefault(apid, deque())
        self._seen.move_to_end(apid)
        last.append(whole)
        self._held += len(whole)
        if len(last) > SEEN:
            self._held -= len(last.popleft())
        while len(self._seen) > PROCESSES or (self._held > MOST and len(self._seen) > 1):
            self.drop(next(iter(self._seen)))
        return last

    def declined(self, wish: Wish, now: float) -> None:
        """A wish could not be granted."""
        self._declined[text := _digest(wish.flat)] = now
        self._declined.move_to_end(text)
        while len(self._declined) > PROCESSES:
            self._declined.popitem(last=False)

    def forget(self) -> None:
        """Something was forgotten: what was seen may have its words."""
        self._seen.clear()
        self._held = 0
        self._declined.clear()

    def drop(self, apid: int) -> None:
        """A process has ended."""
        self._held -= sum(map(len, self._seen.pop(apid, ())))

    # --- letting go

    def cold(self, prefixes: Iterable[Prefix], now: float) -> list[Prefix]:
        """The promotions that are to go back to text."""
        return [
            one
            for one in prefixes
            if one.made_by == "promotion" and _idle(one, now) > IDLE * math.log2(2 + one.hits)
        ]

    def victim(
        self, prefixes: Iterable[Prefix], now: float, *, newcomer: bool = False
    ) -> Prefix | None:
        """The promotion that is worth least; None where there is none.

        For a ``newcomer`` that is a promotion itself only one that is of little use by now goes:
        else two that do not fit together would take turns.
        """
        promoted = [
            one
            for one in prefixes
            if one.made_by == "promotion" and not (newcomer and _vigour(one, now) >= WEAK)
        ]
        return min(promoted, key=lambda one: worth(one, now), default=None)


def worth(prefix: Prefix, now: float) -> float:
    """Seconds of computing a byte is worth: what it saved, halved with each idle ``IDLE``."""
    kept = prefix.kept[0] if prefix.kept else None
    if kept is None or not kept.bytes:
        return 0.0
    return _vigour(prefix, now) * kept.prefill / kept.bytes


def _vigour(prefix: Prefix, now: float) -> float:
    return (1 + prefix.hits) * math.exp2(-_idle(prefix, now) / IDLE)


def _idle(prefix: Prefix, now: float) -> float:
    return max(0.0, now - max(prefix.used, prefix.created))


def _digest(text: str) -> bytes:
    """A text is known by this: it may be a megabyte long."""
    return blake2b(text.encode(), digest_size=16).digest()


def _common(texts: Collection[str]) -> int:
    """How many characters texts begin with in common."""
    first, last = min(texts), max(texts)
    low, high = 0, min(len(first), len(last))
    while low < high:  # slices compare faster than characters
        middle = (low + high + 1) // 2
        if first[:middle] == last[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _beginning(messages: Sequence[ChatMessage], length: int) -> list[ChatMessage]:
    """The messages that the first ``length`` characters of them, flat, are.

    The last one may be cut; then between words where there are blanks, because tokens end there.
    """
    found: list[ChatMessage] = []
    for one in messages:
        length -= len(one.role) + 2
        if length >= len(one.content):
            found.append(one)
            length -= len(one.content)
            continue
        cut = one.content[: max(0, length)]
        between = max(
            cut.rfind(" ", max(0, len(cut) - WORD)), cut.rfind("\n", max(0, len(cut) - WORD))
        )
        cut = cut[:between] if between >= 0 else cut[:-1]
        if len(cut) >= WORD:
            found.append(ChatMessage(one.role, cut))
        break
    return found
