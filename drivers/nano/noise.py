"""What fingers, microphones and moods do to an utterance, piece by piece.

Every change is made inside one piece, so an argument that is spoilt is spoilt in the text and
in the program alike: what is copied is what was typed.
"""

import random
import re
from collections.abc import Mapping, Sequence

from drivers.nano.corpus import Piece

NEAR = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok",
    "o": "ipl", "p": "ol", "a": "qsz", "s": "adwx", "d": "sfec", "f": "dgrv", "g": "fhtb",
    "h": "gjyn", "j": "hkum", "k": "jlim", "l": "kop", "z": "asx", "x": "zsdc", "c": "xdfv",
    "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip
"""Neighbours on the keyboard."""

SOUNDS = (
    ("ie", "ei"), ("ei", "ie"), ("ea", "ee"), ("ee", "ea"), ("ph", "f"), ("ck", "k"), ("ll", "l"),
    ("ss", "s"), ("tt", "t"), ("mm", "m"), ("ou", "u"), ("qu", "kw"), ("ght", "te"), ("er", "ar"),
    ("ar", "er"), ("tion", "shun"), ("c", "k"), ("s", "z"), ("ent", "ant"), ("ble", "bel"),
    ("ing", "in"), ("th", "d"), ("wh", "w"), ("kn", "n"), ("le", "el"), ("e", "a"), ("a", "e"),
)  # fmt: skip
SHORT = {
    "please": "pls", "you": "u", "your": "ur", "are": "r", "thanks": "thx", "for": "4", "to": "2",
    "because": "cuz", "message": "msg", "about": "abt", "with": "w/", "tomorrow": "tmrw",
    "and": "n", "what": "wat", "that": "dat", "the": "da", "minutes": "mins", "process": "proc",
    "okay": "k", "remember": "rmbr", "going to": "gonna", "want to": "wanna", "know": "kno",
}  # fmt: skip
HOMOPHONES = {
    "记": "计", "在": "再", "再": "在", "的": "得", "得": "的", "那": "哪", "哪": "那", "他": "它",
    "做": "作", "作": "做", "像": "象", "帮": "邦", "象": "像", "进": "近", "程": "成", "停": "听",
    "查": "茶", "启": "起", "动": "东", "消": "销", "息": "西", "提": "题", "醒": "行", "存": "村",
    "忘": "望", "复": "付", "制": "治", "杀": "啥", "掉": "吊", "看": "砍", "一": "以", "以": "已",
    "已": "以", "吧": "把", "把": "吧", "给": "跟", "发": "法", "送": "松", "暂": "占", "恢": "灰",
    "缓": "换", "快": "块", "照": "找", "找": "照", "工": "公", "具": "句", "列": "例", "表": "标",
    "请": "清", "让": "嚷", "设": "社", "置": "制", "信": "新", "系": "细", "统": "同", "状": "壮",
    "态": "太", "开": "凯", "始": "使", "算": "蒜", "分": "份", "钟": "中", "小": "晓", "时": "是",
}  # fmt: skip
"""What an input method offers first for the same sound."""

TURN = re.compile(
    r" (?=(?:User|Assistant|Human|AI|System|Bot|Me|Subject|From|To|用户|助手|系统)\s?[:：])"
    r"|(?<=[.!?。！？>]) (?=\S)",
    re.IGNORECASE,
)
"""Where what was pasted may begin a new line: a turn of a conversation, a header, a sentence."""
FILLERS = {
    "en": ("um", "uh", "like", "you know", "so", "er", "I mean", "well", "kinda", "actually",
           "just", "sort of", "basically", "hmm"),
    "zh": ("嗯", "呃", "那个", "就是", "这个", "啊", "然后", "额", "就", "哈"),
}  # fmt: skip
EMOJI = (*"🙂😊🙏👍😅😂🚀✨😭🔥🤖☕🎉🥲👀", "❤️", "xD", ":)", ";)", ":-)", "^^", "<3", "!!!", "..")
FULL = str.maketrans("0123456789,:;!?()", "０１２３４５６７８９，：；！？（）")
HALF = str.maketrans("，。：；！？（）“”‘’", ",.:;!?()\"\"''")


class Noise:
    """Changes pieces at random; ``amount`` scales how often (0 leaves all as it was)."""

    def __init__(
        self,
        rng: random.Random,
        amount: float = 1.0,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """``words`` of each language may take the place of others."""
        self._rng = rng
        self._words = words or {}
        self._amount = amount

    def __call__(self, language: str, register: str, pieces: Sequence[Piece]) -> list[Piece]:
        """The pieces of an utterance as somebody would really have typed or said them."""
        rng = self._rng
        out = [self._blur(language, piece) for piece in pieces] if self._chance(0.4) else pieces
        out = self._english(register, out) if language == "en" else self._chinese(out)
        if self._chance(0.03):
            out.append(Piece(rng.choice((" ", "", " ")) + rng.choice(EMOJI)))
        if self._chance(0.03):
            out = [Piece(p.text.replace(" ", "  ", 1), p.slot) if rng.random() < 0.4 and not p.slot
                   else p for p in out]  # fmt: skip
        if self._chance(0.02):
            out.append(Piece(rng.choice((" ", "\n", "  "))))
        if self._chance(0.5 if register == "adversarial" else 0.02):
            out = [Piece(TURN.sub("\n", piece.text), piece.slot) for piece in out]
        return [piece for piece in out if piece.text]

    def _blur(self, language: str, piece: Piece) -> Piece:
        """Some words left out or exchanged for any others, where they are no argument.

        So no single word decides: other people will use words that are not in the corpus.
        """
        rng = self._rng
        if piece.slot or not self._words:
            return piece
        units = re.split(
            r"([A-Za-z']+)" if language == "en" else "([\u4e00-\u9fff]{2})", piece.text
        )
        words = units[1::2]
        if len(words) < 2:
            return piece
        for at in range(1, len(units), 2):
            if rng.random() < 0.12:
                other = rng.choice(self._words[language])
                units[at] = other if rng.random() < 0.6 or at == 1 else ""
        return Piece("".join(units).replace("  ", " "), piece.slot)

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share * self._amount

    def _english(self, register: str, pieces: Sequence[Piece]) -> list[Piece]:
        out = list(pieces)
        code = register == "programmer"
        spoken = self._chance(0.5 if register == "dictation" else 0.05) and not code
        if spoken:
            out = [_spoken(piece) for piece in out]
        elif self._chance(0.32):
            out = [Piece(piece.text.lower(), piece.slot) for piece in out]
        elif self._chance(0.015) and not code:
            out = [Piece(piece.text.upper(), piece.slot) for piece in out]
        if self._chance(0.3) and not code:
            out = _without_end(out)
        if (spoken and self._chance(0.4)) or self._chance(0.03):
            out = self._hesitate("en", out)
        if self._chance(0.12 if not code else 0.02):
            rate = self._rng.choice((0.08, 0.15, 0.3))
            out = [self._mistype(piece, rate) for piece in out]
        if self._chance(0.06) and not code:
            out = [_apart(piece) for piece in out]
        return out

    def _chinese(self, pieces: Sequence[Piece]) -> list[Piece]:
        out, rng = list(pieces), self._rng
        if self._chance(0.3):
            out = _without_end(out)
        if self._chance(0.05):
            out = self._hesitate("zh", out)
        if self._chance(0.1):
            rate = rng.choice((0.05, 0.1, 0.2))
            out = [self._sound_alike(piece, rate) for piece in out]
        if self._chance(0.06):
            out = [Piece(piece.text.translate(HALF), piece.slot) for piece in out]
        elif self._chance(0.05):
            out = [Piece(re.sub("[，；、]", rng.choice((" ", "")), p.text), p.slot)
                   if not p.slot else p for p in out]  # fmt: skip
        elif self._chance(0.03):
            out = [Piece(piece.text.translate(FULL), piece.slot) for piece in out]
        if self._chance(0.15):
            out = _spaced(out, add=rng.random() < 0.5)
        return out

    def _hesitate(self, language: str, pieces: Sequence[Piece]) -> list[Piece]:
        """An "um" or two between the words that are no argument."""
        out, rng = list[Piece](), self._rng
        left = rng.randint(1, 2)
        for piece in pieces:
            gaps = [m.start() for m in re.finditer(" " if language == "en" else "(?<=[，。])",
                                                   piece.text)]  # fmt: skip
            if piece.slot or not gaps or not left or rng.random() < 0.4:
                out.append(piece)
                continue
            left -= 1
            at, word = rng.choice(gaps), rng.choice(FILLERS[language])
            word = f" {word}" if language == "en" else word
            out.append(Piece(piece.text[:at] + word + piece.text[at:]))
        if left and rng.random() < 0.7:
            word = rng.choice(FILLERS[language])
            out.insert(0, Piece(word + (rng.choice((" ", ", ")) if language == "en" else
                                        rng.choice(("", "，")))))  # fmt: skip
        return out

    def _mistype(self, piece: Piece, rate: float) -> Piece:
        """Misspell some words; arguments less often, names hardly ever."""
        if piece.slot:
            rate *= 0.5 if " " in piece.text else 0.06
        words = re.split(r"([A-Za-z]+)", piece.text)
        for at, word in enumerate(words):
            if word.isalpha() and word.isascii() and self._rng.random() < rate:
                words[at] = self._misspell(word)
        return Piece("".join(words), piece.slot)

    def _misspell(self, word: str) -> str:
        rng = self._rng
        if word.lower() in SHORT and rng.random() < 0.4:
            return SHORT[word.lower()]
        if len(word) < 4:
            return word
        way, at = rng.randrange(6), rng.randrange(1, len(word) - 1)
        if way == 0:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        if way == 1:
            return word[:at] + word[at + 1 :]
        if way == 2:
            return word[:at] + word[at] + word[at:]
        if way == 3:
            near = rng.choice(NEAR.get(word[at].lower(), word[at]))
            return word[:at] + near + word[at + 1 :]
        if way == 4:
            fitting = [pair for pair in SOUNDS if pair[0] in word[1:]]
            if fitting:
                old, new = rng.choice(fitting)
                return word[0] + word[1:].replace(old, new, 1)
        return word[:at] + rng.choice(NEAR.get(word[at].lower(), "e")) + word[at:]

    def _sound_alike(self, piece: Piece, rate: float) -> Piece:
        if piece.slot:
            rate *= 0.3
        text = "".join(
            HOMOPHONES[c] if c in HOMOPHONES and self._rng.random() < rate else c
            for c in piece.text
        )
        return Piece(text, piece.slot)


def _spoken(piece: Piece) -> Piece:
    """Lower case without punctuation, as dictation writes it; names keep theirs."""
    text = piece.text.lower()
    if not piece.slot or " " in text:
        text = re.sub(r"(?<=\w)[,.!?;:]+(?=\s|$)", "", text)
    text = text if piece.slot else re.sub(r"^[,.!?;:]+(?=\s|$)", "", text)
    return Piece(text or " ", piece.slot)


def _without_end(pieces: Sequence[Piece]) -> list[Piece]:
    """Without the punctuation at the end."""
    last = pieces[-1]
    text = last.text.rstrip(".!?。！？~～")
    return [*pieces[:-1], Piece(text, last.slot)] if text else list(pieces[:-1]) or list(pieces)


def _apart(piece: Piece) -> Piece:
    """Without apostrophes: dont, whats, its."""
    return Piece(re.sub(r"(?<=[a-z])'(?=[a-z])", "", piece.text), piece.slot)


def _spaced(pieces: Sequence[Piece], *, add: bool) -> list[Piece]:
    """With or without spaces between Chinese and Latin."""
    out = list[Piece]()
    for piece in pieces:
        text = piece.text
        if not piece.slot:
            text = re.sub(r"(?<=[\u4e00-\u9fff]) (?=\w)|(?<=\w) (?=[\u4e00-\u9fff])", "", text)
            previous = out[-1].text[-1:] if out else ""
            if not add:
                text = re.sub(r"^ (?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff]) $", "", text)
            elif previous.isascii() and previous.isalnum() and "\u4e00" <= text[:1] <= "\u9fff":
                text = " " + text
        elif add and out and not out[-1].slot and _meets(out[-1].text, text):
            out[-1] = Piece(out[-1].text + " ")
        out.append(Piece(text, piece.slot))
    return [piece for piece in out if piece.text]


def _meets(before: str, after: str) -> bool:
    """Whether Chinese stands directly before Latin."""
    return "\u4e00" <= before[-1:] <= "\u9fff" and bool(re.match(r"[A-Za-z0-9]", after))
