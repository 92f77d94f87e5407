"""What stands in the slots: hand-written fillers, and made-up words so that copying is learnt.

A model that has only seen the fillers would learn them by heart. So names, words, numbers,
paths and rare characters are made up, words inside fillers are exchanged, and either language
borrows from the other.
"""

import json
import random
import re
from collections.abc import Sequence

from drivers.nano import corpus, lexicon
from drivers.nano.corpus import Argument, Piece
from drivers.nano.dialect import KEYS

NAMES = frozenset(("proc", "program", "topic", "adapter", "tool"))
FREE = ("fact", "pref", "event", "howto", "query", "goal", "body", "message", "prompt")
KIN = {
    "fact": ("pref",),
    "pref": ("fact",),
    "event": (),
    "howto": (),
    "query": ("query",),
    "goal": ("goal",),
    "body": ("fact", "event", "message", "howto", "goal"),
    "message": ("goal", "body"),
    "prompt": (),
}
"""Other kinds whose fillers make sense in a slot."""

HANZI = [
    bytes((row, cell)).decode("gb2312")
    for row in range(0xB0, 0xD8)
    for cell in range(0xA1, 0xFF)
    if not (row == 0xD7 and cell > 0xF9)
]
"""The 3755 most frequent characters of Chinese (GB 2312, level 1)."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SYLLABLES = _words(
    "ba ko ri ten mu lar si dex no vi qu za pel tro gi hun fa wer lo mi sta cor ny ex op ul ed "
    "ar ing ver shi wo pra gle dun ke thy mor bri cal fen ost jah yel ux iz ow ee sch ph kru"
)
_EXTENSIONS = _words("txt md csv json py rs go tex log pdf sql yaml toml html png xlsx sh db zip")
_SUFFIXES = _words("bot agent runner worker job svc daemon pipeline helper 2 v2 test dev prod x")
_JOINS = {
    "en": (" and ", ", ", " because ", " but ", " - ", "; ", ", so ", " with ", " for ", " or "),
    "zh": ("，", "和", "，而且", "，不过", "、", "，因为", "；", "的"),
}


class Slots:
    """Fillers of both languages, and the random generator that picks among them."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._fillers = {language: corpus.fillers(language) for language in corpus.LANGUAGES}
        everything = [
            text
            for kind in (*FREE, "proc", "program", "topic")
            for text in self._fillers["en"].get(kind, [])
        ]
        words = {w for text in everything for w in re.findall(r"[A-Za-z]{2,14}", text)}
        self._own: list[str] = sorted(words)
        self.words = sorted(words | set(lexicon.words()))
        self._names = sorted({p for k in NAMES for n in self._fillers["en"][k]
                              for p in re.split(r"[-_. ]", n) if len(p) > 2})  # fmt: skip
        self._keys = sorted({key for row in self._fillers["en"]["args"]
                             for key in json.loads(row.split(" | ")[2])})  # fmt: skip
        self._quotes: Sequence[str] = ()

    def quote(self, utterances: Sequence[str]) -> None:
        """Utterances that may stand inside free text, where they are only data."""
        self._quotes = utterances

    def fill(self, language: str, kind: str) -> str:
        """The text for a slot of ``kind``."""
        if kind == "apid":
            return self._number_name()
        if kind in {"after", "nice"}:
            return self._counted(language, kind)
        if kind in NAMES:
            return self.name(language, kind)
        return self._free(language, kind)

    def name(self, language: str, kind: str) -> str:
        """A name: from the fillers, of the other language, or made up."""
        rng, pick = self._rng, self._rng.random()
        if kind == "proc" and rng.random() < 0.1:
            return self._number_name()
        if language == "zh" and pick < 0.45:
            return self.name("en", kind)
        if pick < 0.62 or (language == "zh" and pick < 0.85):
            return rng.choice(self._fillers[language][kind])
        if language == "zh":
            made = "".join(rng.choices(HANZI, k=rng.randint(2, 4)))
            return made + rng.choice(("", "", "", "机器人", "助手", "员", "1", "号"))
        return self._made_name(kind)

    def args(self, language: str) -> tuple[str, list[Piece], list[Argument]]:
        """A tool, the words of its arguments in pieces, and the arguments."""
        if self._rng.random() < 0.35:
            return self._made_args(language)
        while True:
            tool, words, values = self._rng.choice(self._fillers[language]["args"]).split(" | ")
            found = _align(words.strip(), json.loads(values))
            if found:
                return tool.strip(), *found

    def _number_name(self) -> str:
        top = self._rng.choice((9, 99, 99, 999, 9999, 99999))
        return str(self._rng.randint(1, top))

    def _made_name(self, kind: str) -> str:
        rng, pick = self._rng, self._rng.random()
        word = rng.choice(self._names) if pick < 0.6 else self.word()
        if pick < 0.35:
            word += rng.choice(("-", "-", "_", "", ".")) + rng.choice(self._names)
        elif pick < 0.55:
            word += rng.choice(("-", "_", "")) + rng.choice(_SUFFIXES)
        elif pick > 0.8:
            word = self.pseudo()
        if rng.random() < 0.2:
            word += rng.choice(("-", "", "_", "-v", ".")) + str(rng.randint(1, 99))
        if kind == "topic" and rng.random() < 0.1:
            word = rng.choice(self._names) + "/" + word
        return str(word.lower() if rng.random() < 0.85 else word.capitalize())

    def word(self) -> str:
        """An English word: one of the fillers, or any other."""
        return self._rng.choice(self._own if self._rng.random() < 0.5 else self.words)

    def pseudo(self) -> str:
        """A word that nobody has ever seen."""
        return "".join(self._rng.choices(_SYLLABLES, k=self._rng.randint(2, 4)))

    def _counted(self, language: str, kind: str) -> str:
        rng = self._rng
        if rng.random() < 0.5:
            return rng.choice(self._fillers[language][kind]).rsplit(" | ", 1)[0].strip()
        if kind == "nice":
            return str(rng.randint(-20, 19))
        number = rng.choice((rng.randint(1, 12), rng.randint(1, 90), 5 * rng.randint(1, 24)))
        if language == "zh":
            unit = rng.choice(("秒", "分钟", "分钟", "个小时", "小时", "天", "分", "秒钟", "周"))
            digits = str(number) if rng.random() < 0.6 else _han(number)
            return digits + rng.choice(("", "", " ")) + unit
        unit = rng.choice(("seconds", "minutes", "minutes", "hours", "days", "weeks", "min", "mins",
                           "sec", "hrs", "hr", "h", "m", "s", "d"))  # fmt: skip
        glue = "" if len(unit) == 1 or rng.random() < 0.15 else " "
        return f"{number}{glue}{unit if number > 1 else unit.removesuffix('s') or 's'}"

    def _free(self, language: str, kind: str) -> str:
        rng, pick = self._rng, self._rng.random()
        own = self._fillers[language][kind]
        if pick < 0.07 and self._quotes:
            return self._quoted(language)
        if pick < 0.14:
            return self._salad(language)
        if pick < 0.20:
            return self.exchange(language, rng.choice(own)) + self._tail(language)
        kin = KIN[kind]
        text = rng.choice(self._fillers[language][rng.choice(kin)] if kin and pick < 0.32 else own)
        if pick > 0.62:
            text = self.exchange(language, text)
        if pick > 0.985 and kind in {"fact", "event", "body", "howto", "prompt"}:
            return self._long(language, text)
        if pick > 0.94:
            text += rng.choice(_JOINS[language]) + rng.choice(own)
        return text

    def _long(self, language: str, text: str) -> str:
        """A whole paragraph that starts with ``text``."""
        rng = self._rng
        stop = ". " if language == "en" else "。"
        kinds = [rng.choice(("fact", "event", "body", "howto")) for _ in range(rng.randint(3, 9))]
        return stop.join([text, *(rng.choice(self._fillers[language][kind]) for kind in kinds)])

    def _quoted(self, language: str) -> str:
        """An utterance that would be a request if it stood alone."""
        text = self._rng.choice(self._quotes)
        style = self._rng.random()
        if style < 0.45:
            return text
        if language == "zh":
            who = self._rng.choice(("小李说", "他写了", "屏幕上显示", "有人喊", "邮件里说"))
            return f"{who}“{text}”" if style < 0.8 else f"“{text}”这句话"
        who = self._rng.choice(("she said", "the sign reads", "he wrote", "they told me"))
        return f'{who} "{text}"' if style < 0.8 else f"the words '{text}'"

    def _salad(self, language: str) -> str:
        """Words without sense: only copying helps."""
        rng = self._rng
        if language == "zh":
            parts = ["".join(rng.choices(HANZI, k=rng.randint(1, 4))) for _ in range(
                rng.randint(1, 4))]  # fmt: skip
            if rng.random() < 0.3:
                parts.insert(rng.randrange(len(parts) + 1), self.oddity())
            return rng.choice(("", "", "，", " ")).join(parts)
        parts = [self.word() for _ in range(rng.randint(2, 9))]
        if rng.random() < 0.5:
            parts[rng.randrange(len(parts))] = self.oddity()
        return " ".join(parts)

    def _tail(self, language: str) -> str:
        rng = self._rng
        other = rng.choice(self._fillers[language][rng.choice(("query", "goal", "fact"))])
        return rng.choice(_JOINS[language]) + other

    def oddity(self) -> str:
        """A path, address, version, time, identifier or unknown word."""
        rng = self._rng
        word, other = self.word().lower(), rng.choice(self._names)
        number = rng.randint(0, 9999)
        made: str = rng.choice((
            lambda: f"/{other}/{word}.{rng.choice(_EXTENSIONS)}",
            lambda: f"~/{word}/{other}",
            lambda: f"{word}_{other}.{rng.choice(_EXTENSIONS)}",
            lambda: f"https://{word}.example/{other}",
            lambda: f"{word}@{other}.example",
            lambda: f"v{rng.randint(0, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}",
            lambda: f"10.{rng.randint(0, 255)}.{rng.randint(0, 9)}.{rng.randint(1, 254)}",
            lambda: f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}",
            lambda: f"{word}_{other}()",
            lambda: f"#{number}",
            lambda: f"{other.upper()}-{number}",
            lambda: str(number),
            lambda: f"{rng.randint(1, 99)}%",
            lambda: f"${rng.randint(1, 900)}",
            lambda: self.pseudo().capitalize(),
            self.pseudo,
        ))()  # fmt: skip
        return made

    def exchange(self, language: str, text: str) -> str:
        """``text`` with a word or two exchanged for others."""
        rng = self._rng
        if language == "zh":
            where = [i for i, c in enumerate(text) if "\u4e00" <= c <= "\u9fff"]
            out = list(text)
            for at in rng.sample(where, min(len(where), rng.randint(1, 3))):
                out[at] = rng.choice(HANZI) if rng.random() < 0.75 else self.oddity()
            return "".join(out)
        words = text.split(" ")
        for at in rng.sample(range(len(words)), min(len(words), rng.randint(1, 3))):
            if re.fullmatch(r"[A-Za-z]{4,}|[0-9]+", words[at]):
                odd = rng.random() < 0.45
                words[at] = self.oddity() if odd else self.word()
        return " ".join(words)

    def _made_args(self, language: str) -> tuple[str, list[Piece], list[Argument]]:
        """A tool with one or two arguments of made-up values under known keys."""
        rng = self._rng
        pairs = []
        for key in rng.sample(self._keys, rng.choice((1, 1, 1, 2, 2, 3))):
            if rng.random() < 0.45:
                value = self.oddity()
            elif rng.random() < 0.5 or not key.isalpha():
                value = self.word() if language == "en" else self._salad("zh")
            else:
                value = self._free(language, "query")
            pairs.append((key, value.strip(" \"'") or "x"))
        form = rng.randrange(5)
        pieces, args = list[Piece](), list[Argument]()
        # key=value · key value · key: value · {"key": "value"} · key is value
        before, middle, after, between = (
            ("", "=", "", rng.choice((" ", ", "))), ("", " ", "", rng.choice((" and ", ", "))),
            ("", ": ", "", ", "), ('"', '": "', '"', ", "),
            ("", " is " if language == "en" else "是", "", ", " if language == "en" else "，"),
        )[form]  # fmt: skip
        for at, (key, value) in enumerate(pairs):
            pieces += [Piece((between if at else "") + before), Piece(key, f"args.k{at}"),
                       Piece(middle), Piece(value, f"args.v{at}"), Piece(after)]  # fmt: skip
            args += [Argument("key", f"args.k{at}", spanned=True),
                     Argument("value", f"args.v{at}", spanned=True)]  # fmt: skip
        if form == 3:
            pieces = [Piece("{"), *pieces, Piece("}")]
        return self.name(language, "tool"), [p for p in pieces if p.text], args


def _align(words: str, values: dict[str, object]) -> tuple[list[Piece], list[Argument]] | None:
    """Find each key and value in the words, in order; None when that fails."""
    pieces, args, at = list[Piece](), list[Argument](), 0
    lower = words.casefold()
    for number, (key, raw) in enumerate(values.items()):
        value = raw if isinstance(raw, str) else json.dumps(raw)
        where = lower.find(key.casefold(), at)
        if where >= 0 and re.match(r"[\w-]", words[where + len(key) : where + len(key) + 1] or " "):
            where = -1 if words[where + len(key)].isascii() else where
        if where >= 0:
            stop = where + len(key)
            pieces += [Piece(words[at:where]), Piece(words[where:stop], f"args.k{number}")]
            args.append(Argument("key", f"args.k{number}", spanned=True))
            at = stop
        elif key in KEYS:
            args.append(Argument("key", f"key:{key}", spanned=False))
        else:
            return None
        where = lower.find(value.casefold(), at)
        if where < 0:
            return None
        stop = where + len(value)
        pieces += [Piece(words[at:where]), Piece(words[where:stop], f"args.v{number}")]
        args.append(Argument("value", f"args.v{number}", spanned=True))
        at = stop
    pieces.append(Piece(words[at:]))
    return [piece for piece in pieces if piece.text], args


def _han(number: int) -> str:
    """A number below 200 in Chinese numerals."""
    digits = "零一二三四五六七八九"
    if number == 2:
        return "两"
    if number >= 100:
        rest = number % 100
        return "一百" + (("零" if rest < 10 else "") + _han(rest) if rest else "")
    tens, ones = divmod(number, 10)
    head = "" if tens == 0 else ("十" if tens == 1 else digits[tens] + "十")
    return head + (digits[ones] if ones or not tens else "")
