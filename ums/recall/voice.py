"""Who said a record, in which conversation, and when: what makes a record part of a talk.

Taken from what any writer can say, the first that is there:

    speaker    meta "speaker" (or "author", "from", "role"), or the name a line begins with
    session    meta "session" (or "conversation", "thread"; or these with "_id"), or the stamp
    when       valid_from, or meta "date" (or "time", "timestamp": seconds or a date), or the
               date of the stamp, or when it was written

A line is a line of a chat as most programs save it: ``[stamp] Name: what was said``; only in
the segments *working* and *episodic*, since elsewhere a colon has other uses. A record with a
speaker or a session is *spoken*; others stand alone, and none of this concerns them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from ums import records as form
from ums.recall.dates import moment_in
from ums.recall.query import FUNCTION_WORDS
from ums.records import TAGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from drivers.contracts import Store
    from ums.records import Stored

SPEAKER: Final = ("speaker", "author", "from", "role")
SESSION: Final = (
    *("session", "conversation", "thread"),
    *("session_id", "conversation_id", "thread_id"),
)
DATE: Final = ("date", "time", "timestamp")
TALKING: Final = frozenset({TAGS["working"], TAGS["episodic"]})
SAMPLE: Final = 1000
"""Records of a layer that are looked at to learn who speaks in it, at most."""
KNOWN_LAYERS: Final = 512
KNOWN_NAMES: Final = 1000

_LINE: Final = re.compile(
    r"\s*(?:\[(?P<stamp>[^\]\n]{4,48})\]\s*)?"
    r"(?:(?P<name>[^\W\d_][\w.'\u2019-]{0,30}(?: [^\W\d_][\w.'\u2019-]{0,30})?)\s?[:：]\s)?"
)
_NOTE: Final = re.compile(r"\s*[\[(（][^\])）]*[\])）]\s*$")
_WORD: Final = re.compile(r"[^\W_]+")


class Voice(NamedTuple):
    """What a record says of itself as a part of a conversation."""

    speaker: str
    """Lower case; empty when nobody is named."""
    session: str
    when: float

    @property
    def spoken(self) -> bool:
        """Whether it is part of a conversation."""
        return bool(self.speaker or self.session)


def voice_of(stored: Stored, tag: int) -> Voice:
    """Who said a record, in which session, and when; ``tag`` is its segment's number."""
    speaker, session = _given(stored.meta, SPEAKER), _given(stored.meta, SESSION)
    when = _moment(stored)
    line = _LINE.match(stored.content) if tag in TALKING else None
    if line is not None and (line["stamp"] or line["name"]):
        name = line["name"] or ""
        if not speaker and (name[:1].isupper() or not name.isascii()):
            speaker = name
        stamp = line["stamp"] or ""
        moment = moment_in(stamp) if stamp else None
        if moment is not None:
            session = session or stamp
            when = moment if when is None else when
    return Voice(speaker.casefold(), session, stored.created if when is None else when)


def _moment(stored: Stored) -> float | None:
    """When it was, where the record says so beside its text."""
    if stored.valid_from is not None or not stored.meta:
        return stored.valid_from
    given = next((stored.meta[key] for key in DATE if key in stored.meta), None)
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given)
    return moment_in(given[:100]) if isinstance(given, str) else None


def asks(content: str) -> bool:
    """Whether a text is a question: it ends as one, notes in brackets aside."""
    return _NOTE.sub("", content[-400:]).rstrip().endswith(("?", "？"))


def names_in(speaker: str) -> list[str]:
    """The words by which somebody may be called."""
    return [word for word in _WORD.findall(speaker) if len(word) > 1]


def named(text: str, known: Iterable[str]) -> frozenset[str]:
    """Which of some names a text contains; one that is a common word only with a capital."""
    folded = text.casefold()
    words: dict[str, bool] = {}
    for found in _WORD.finditer(text):
        word = found[0]
        capital = word[0].isupper() and found.start() > 0
        words[word.casefold()] = words.get(word.casefold(), False) or capital
    return frozenset(
        name
        for name in known
        if (name in words and (words[name] or name not in FUNCTION_WORDS))
        or (not name.isascii() and name in folded)
    )


def without(text: str, names: Iterable[str]) -> str:
    """A text without some names (and their possessive endings)."""
    for name in names:
        pattern = rf"\b{re.escape(name)}(?:['\u2019]s)?\b" if name.isascii() else re.escape(name)
        text = re.sub(pattern, " ", text, flags=re.IGNORECASE)
    return " ".join(text.split())


def _given(meta: Mapping[str, object], keys: Iterable[str]) -> str:
    for key in keys if meta else ():
        value = meta.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
            return str(value)[:200]
    return ""


class Speakers:
    """The names of those who speak in each layer, learnt from its newest records.

    A layer is read once, its newest ``SAMPLE`` records, and from then on what is new in its
    journal. Nothing is lost when it is forgotten: it is read again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[int, tuple[int, dict[str, None]]] = OrderedDict()

    def of(self, layer: int) -> Iterable[str]:
        """The words of their names, lower case."""
        last = self._store.last(layer)
        seq, names = self._known.pop(layer, (0, {}))
        if last > seq:
            self._learn(layer, seq, names)
        self._known[layer] = last, names
        if len(self._known) > KNOWN_LAYERS:
            self._known.popitem(last=False)
        return names

    def _learn(self, layer: int, seq: int, names: dict[str, None]) -> None:
        prefix = form.space_key(layer)
        entries = self._store.journal(layer, seq, SAMPLE) if seq else []
        if not seq or len(entries) == SAMPLE:
            stop = form.after(prefix)
            page = self._store.scan("records", prefix, stop, limit=SAMPLE, reverse=True)
            values: list[bytes | None] = [value for _, value in page]
        else:
            rids = {form.decode_change(payload).rid for _, payload in entries}
            values = self._store.get_many("records", [prefix + rid for rid in rids])
        for value in values:
            if value is not None and not form.is_packed(value):
                voice = voice_of(form.decode(value), form.tag_of(value))
                names.update(dict.fromkeys(names_in(voice.speaker)))
        while len(names) > KNOWN_NAMES:
            del names[next(iter(names))]
