"""What may be forgotten first: tiers, and the worth of what a record says.

Tiers, from what is at hand to what is only kept:

    hot      pinned, in the working segment, or used so much and so lately that it will be again
    warm     found by meaning and by words: its vector is in memory
    cold     found by its words only; nothing of it is in memory
    archive  compressed, in no index, restorable byte for byte

How soon something is needed again, its uses tell (``ums.activation``). But most of what is
said is not used between its writing and the day it is asked for, and then only what it says
can tell whether it will be: names, numbers and times, what somebody says of himself, rare
words, and what nothing else that is kept says. Questions, greetings and words of assent are
what nobody asks for later. That the odds of need follow from such statistics of the
environment is the thesis of Anderson and Schooler (1991). How much each trait counts was fitted,
by logistic regression, to what is asked for of two dialogues, and holds in others
(benchmarks/forgetting.py).

Everything here is pure: it reads texts and figures, and changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from math import exp, log, log1p
from typing import TYPE_CHECKING, Literal

import msgspec

from ums.activation import DAY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syscalls.shapes import RecordState, Segment

Tier = Literal["hot", "warm", "cold", "archive"]

HOT = -4.0
"""Activation above which a record is hot: as after one use within the last hour."""
WINDOW = 200
"""Records before it that a record is compared with for novelty."""


def tier(state: RecordState, segment: Segment, activation: float, *, cold: bool = False) -> Tier:
    """Where a record is."""
    if state in ("archived", "merged", "forgotten"):
        return "archive"
    if state == "frozen" or segment == "working" or activation >= HOT:
        return "hot"
    return "cold" if cold else "warm"


class Traits(msgspec.Struct, frozen=True, gc=False):
    """What of a text tells whether it will be asked for; each 0 or more."""

    length: float
    """Logarithm of the number of words."""
    rarity: float
    """Mean inverse document frequency of its words, in the texts read before."""
    novelty: float
    """Part of its information that no text of the window has, 0 to 1."""
    numbers: float
    times: float
    names: float
    self: float
    """What the speaker says of himself."""
    you: float
    """What is said to another."""
    questions: float
    """Part of the sentences that are questions, 0 to 1."""
    quotes: float
    phatic: float
    """Whether it begins as a greeting, thanks or assent do."""


class Weights(msgspec.Struct, frozen=True):
    """How much each trait counts, in logits."""

    length: float = 0.55
    rarity: float = 0.5
    novelty: float = 2.4
    numbers: float = 0.25
    times: float = 0.6
    names: float = 0.3
    self: float = 0.2
    you: float = -0.35
    questions: float = -0.5
    quotes: float = 1.4
    phatic: float = -0.3
    bias: float = -5.7


_NUMBER = re.compile(
    r"\d[\d,.:/-]*|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty"
    r"|fifty|hundred|thousand|million|first|second|third)\b|[一二三四五六七八九十百千万两]+[个年月日岁天次]",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|ago|last|next|since|until|weekend|week|month|year|summer"
    r"|winter|spring|autumn|fall|monday|tuesday|wednesday|thursday|friday|saturday|sunday|january"
    r"|february|march|april|june|july|august|september|october|november|december|morning|evening"
    r"|recently|birthday|anniversary)s?\b|昨天|今天|明天|去年|今年|明年|上周|下周|上个?月|下个?月|周末|生日"
    r"|星期|最近|以前",
    re.IGNORECASE,
)
_SELF = re.compile(
    r"\b(?:I|my|mine|myself|we|our|ours)\b|我们?|咱们",
)
_YOU = re.compile(r"\b(?:you|your|yours)\b|你们?|您", re.IGNORECASE)
_NAME = re.compile(r"(?<![.!?:\]\n\"'(]\s)(?<!^)(?<![.\w])[A-Z][\w'’-]+|《[^》]+》")
_QUOTE = re.compile(r"[\"“”「『][^\"“”」』]{3,}[\"“”」』]")
_PHATIC = re.compile(
    r"(?:[\w .'’-]{1,40}: )?(?:hey|hi|hello|wow|thanks|thank|yeah|yep|yes|no|ok|okay|sure|that's"
    r"|awesome"
    r"|cool|great|nice|bye|see you|sounds|take care|congrat\w*|no problem|you're welcome|absolutely"
    r"|totally|definitely|glad|oh|haha\w*|lol|谢谢|好的|嗯|哈哈|是的|对|没问题|再见|你好|不客气)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")
_CAPITAL_WORDS = frozenset({"I", "I'm", "I've", "I'd", "I'll", "OK"})


class Reader:
    """Reads texts in the order of time and tells the worth of each, from those before it.

    A text is compared with what was read and is still kept: tell it with ``drop`` what is not.
    A few hundred microseconds a text.
    """

    def __init__(self, weights: Weights | None = None) -> None:
        from drivers.lexical.words import Words

        self._cut: Callable[[str], list[str]] = Words()
        self.weights = weights or Weights()
        self._texts = 0
        self._seen: Counter[str] = Counter()
        self._window: deque[frozenset[str]] = deque(maxlen=WINDOW)

    def worth(self, text: str) -> float:
        """How likely it is, 0 to 1, that what a text says is asked for later."""
        traits, weights = self.traits(text), self.weights
        total = weights.bias
        for name in Traits.__struct_fields__:
            total += getattr(weights, name) * getattr(traits, name)
        return 1 / (1 + exp(-total))

    def traits(self, text: str) -> Traits:
        """What there is in a text; it is read with that."""
        text = text[:20_000]
        words = frozenset(self._cut(text))
        rarity = self._rarity(words)
        body = sum(rarity.values())
        held = max((self._held(rarity, other) for other in self._window), default=0.0)
        self._texts += 1
        self._seen.update(words)
        self._window.append(words)
        sentences = _SENTENCE.findall(text) or [""]
        names = {name for name in _NAME.findall(text) if name not in _CAPITAL_WORDS}
        return Traits(
            log1p(_length(text)),
            body / (1 + len(words)),
            1 - held / body if body else 0.0,
            min(3.0, len(_NUMBER.findall(text))),
            min(3.0, len(_TIME.findall(text))),
            min(4.0, len(names)),
            min(4.0, len(_SELF.findall(text))),
            min(3.0, len(_YOU.findall(text))),
            sum(s.rstrip().endswith(("?", "？")) for s in sentences) / len(sentences),
            float(_QUOTE.search(text) is not None),
            float(_PHATIC.match(text) is not None),
        )

    def _rarity(self, words: frozenset[str]) -> dict[str, float]:
        total = self._texts + 2
        return {word: log(total / (self._seen[word] + 1)) for word in words}

    @staticmethod
    def _held(rarity: dict[str, float], other: frozenset[str]) -> float:
        """How much of a text's information another text has."""
        return sum(rarity[word] for word in rarity.keys() & other)


def _length(text: str) -> int:
    """Words; of scripts without spaces two characters count as one."""
    return len(text.split()) + sum(char > "\u2e7f" for char in text) // 2


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What the policy knows of one record."""

    rid: str
    worth: float
    """Of what it says, 0 to 1."""
    importance: float
    """The writer's word, or a model's, 0 to 1; 0.5 is none."""
    activation: float
    age: float
    """Seconds since it was written."""
    uses: int = 0
    protected: bool = False
    """Pinned, or in the working segment: never chosen."""


class Keeping(msgspec.Struct, frozen=True):
    """When records are demoted; ages in seconds. The policy's figures."""

    grace: float = 0.0
    """Records younger than this are not archived for room."""
    archive_age: float = 180 * DAY
    """A record may be archived when nobody has used it for so long."""
    archive_below: float = 0.15
    """And its ``score`` is less."""
    cold_age: float = 90 * DAY
    """A record may become cold when nobody has used it for so long."""
    cold_above: int = 50_000
    """Records of a space from which on there are cold ones: below, memory is no matter."""
    forget_age: float = 0.0
    """Archived so long, it is forgotten; 0 for never."""


def score(standing: Standing) -> float:
    """How much is lost with a record, 0 to 1 and more with use: the least goes first.

    Uses weigh as the activation that they add to that of a record of the same age; a
    writer's importance moves the worth up or down.
    """
    from ums.activation import DECAY

    unused = -DECAY * log(max(1.0, standing.age))
    gain = max(0.0, standing.activation - unused)
    return standing.worth + 0.8 * (standing.importance - 0.5) + 0.1 * gain


def least(standings: Sequence[Standing], count: int) -> list[Standing]:
    """The ``count`` that would be missed least, the least first; the older among equals."""
    free = [one for one in standings if not one.protected]
    return sorted(free, key=lambda one: (score(one), one.rid))[:count]


def idle(standing: Standing) -> float:
    """Seconds for which a record was, as it were, unused: the age at which a record that was
    only written has the same activation."""
    return min(standing.age, exp(-standing.activation * 2))
