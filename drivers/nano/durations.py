"""How long a piece of text says, in whole seconds: "a quarter of an hour", "1h30m", "两个半小时".

The model copies the words of a duration out of the user's text and this module counts, so a
sum is never the model's. Nothing here knows the clock: "at six" is not a duration.
"""

import difflib
import re
import unicodedata

from drivers.nano import numerals

MINUTE, HOUR, DAY, WEEK, MONTH, YEAR = 60, 3600, 86400, 604800, 2592000, 31536000
LONGEST = 10 * YEAR

_UNITS = {
    unit: seconds
    for seconds, names in (
        (1, "s sec secs second seconds"),
        (MINUTE, "m min mins minute minutes"),
        (HOUR, "h hr hrs hour hours"),
        (DAY, "d day days"),
        (WEEK, "w wk wks week weeks"),
        (2 * WEEK, "fortnight fortnights"),
        (MONTH, "mo month months"),
        (YEAR, "y yr yrs year years"),
    )
    for unit in names.split()
}
_PLURALS = [unit for unit in _UNITS if len(unit) >= 4]
_NUMERALS = [word for word in numerals.WORDS if len(word) >= 4]
_FIXED = {
    "tomorrow": DAY, "overmorrow": 2 * DAY, "明天": DAY, "明日": DAY, "后天": 2 * DAY,
    "後天": 2 * DAY, "大后天": 3 * DAY, "next week": WEEK, "下周": WEEK, "下星期": WEEK,
    "下礼拜": WEEK, "下禮拜": WEEK,
}  # fmt: skip
_HAN_UNITS = (
    ("秒钟|秒鐘|秒", 1),
    ("刻钟|刻鐘|刻", 15 * MINUTE),
    ("分钟|分鐘|分|minutes?|mins?", MINUTE),
    ("小时|小時|钟头|鐘頭|钟点|钟|鐘|时辰|hours?|h", HOUR),
    ("天|日", DAY),
    ("星期|礼拜|禮拜|周|週", WEEK),
    ("月", MONTH),
    ("年", YEAR),
)
_HAN_PART = re.compile(
    r"(?P<half>半)?(?P<number>[0-9]+(?:\.[0-9]+)?|[" + numerals.HAN + r"]+(?:点[" + numerals.HAN
    + r"]+)?)?(?P<more>[个個]?半|半[个個]?)?[个個]?\s*(?P<unit>"
    + "|".join(f"(?P<u{i}>{names})" for i, (names, _) in enumerate(_HAN_UNITS))
    + r")(?P<tail>半(?!$)?|半)?[零又]?"
)  # fmt: skip
_TOKEN = re.compile(r"[0-9]+/[0-9]+|[0-9]+(?:[.,][0-9]+)?|[a-z]+|½|¼|¾")
_FRACTIONS = {"½": 0.5, "¼": 0.25, "¾": 0.75, "half": 0.5, "quarter": 0.25, "quarters": 0.25}
FILLERS = frozenset(
    [
        "of",
        "in",
        "about",
        "another",
        "exactly",
        "the",
        "just",
        "after",
        "and",
        "over",
        "like",
        "for",
        "roughly",
        "approximately",
        "around",
        "nearly",
        "almost",
        "good",
        "some",
        "whole",
        "full",
        "next",
        "more",
        "within",
        "or",
        "so",
        "maybe",
        "say",
        "circa",
    ]
)
_AFTER = frozenset(("from", "now", "later", "time", "today", "please", "when", "that"))
"""What may follow a duration without adding to it."""


def seconds(text: str) -> int | None:
    """Whole seconds, at least 1, or None when ``text`` is no duration.

    A bare number is seconds.
    """
    # "2½" must not become "21/2"
    plain = re.sub(r"(?<=[0-9])(?=[½¼¾])", " ", text)
    plain = unicodedata.normalize("NFKC", plain.translate({0xBD: "½", 0xBC: "¼", 0xBE: "¾"}))
    plain = plain.replace("1\u20442", "½").replace("1\u20444", "¼").replace("3\u20444", "¾")
    plain = plain.casefold().strip(" \t\n.,;:!?'\"。，；！？“”‘’")
    if plain in _FIXED:
        return _FIXED[plain]
    value = _clock(plain)
    if value is None:
        value = _chinese(plain) if re.search(r"[\u3400-\u9fff]", plain) else _english(plain)
    if value is None or not 1 <= round(value) <= LONGEST:
        return None
    return round(value)


def _clock(text: str) -> float | None:
    """A bare number, ``h:mm:ss`` and the compact ISO 8601 form ``pt1h30m``."""
    if re.fullmatch(r"\+?[0-9]+(?:\.[0-9]+)?", text):
        return float(text)
    found = re.fullmatch(r"([0-9]+):([0-9]{2}):([0-9]{2})", text)
    if found:
        hours, minutes, rest = (int(part) for part in found.groups())
        return hours * HOUR + minutes * MINUTE + rest
    found = re.fullmatch(r"([0-9]+):([0-9]{2}) ?(h|hrs?|hours?|m|mins?|minutes?)", text)
    if found:
        large = HOUR if found[3].startswith("h") else MINUTE
        return int(found[1]) * large + int(found[2]) * large // 60
    if re.fullmatch(r"p?t(?:[0-9]+[hms])+", text):
        return _english(text.lstrip("pt"))
    return None


def _word(word: str) -> str:
    """The word, or the unit or numeral that it is a misspelling of."""
    if word in _UNITS or word in numerals.WORDS or word in _FRACTIONS or len(word) < 4:
        return word
    near = difflib.get_close_matches(word, [*_PLURALS, *_NUMERALS, "half", "quarter"], 1, 0.72)
    return near[0] if near else word


def _english(text: str) -> float | None:
    """Sum of the parts: each is a number and a unit, "... and a half" repeats the last unit."""
    words = [_word(token) for token in _TOKEN.findall(text)]
    total, unit, pending = 0.0, 0, list[str]()
    for word in words:
        if word not in _UNITS:
            pending.append(word)
            continue
        unit = _UNITS[word]
        amount = _amount(pending)
        if amount is None:
            return None
        total, pending = total + amount * unit, []
    pending = [word for word in pending if word not in FILLERS and word not in _AFTER]
    if not unit:
        return None
    if pending:  # "an hour and a half", "an hour and ten"
        amount = _amount(pending)
        if amount is None:
            return None
        smaller = {WEEK: DAY, DAY: HOUR, HOUR: MINUTE, MINUTE: 1}.get(unit, unit)
        total += amount * (unit if amount < 1 else smaller)
    return total


def _amount(words: list[str]) -> float | None:
    """``["two", "and", "a", "half"]`` -> 2.5, ``[]`` -> 1.0; None when it is no number."""
    plain = [word for word in words if word not in FILLERS]
    if plain == ["half", "a", "dozen"]:
        return 6.0
    fraction = 0.0
    for name, value in _FRACTIONS.items():
        while name in plain:
            at = plain.index(name)
            before = plain[at - 1] if at else ""
            count = numerals.english([before]) if before not in {"", "a", "an"} else None
            if value == 0.25 and count and count < 4:  # "three quarters"
                fraction += count * value
            else:
                fraction += value
                count = None
            # "a quarter of an hour": articles around a fraction are no ones
            cut = at if count is None and before not in {"a", "an"} else at - 1
            rest = plain[at + 1 :]
            plain = plain[:cut] + (rest[1:] if rest[:1] in (["a"], ["an"]) else rest)
    if not plain:
        return fraction or 1.0
    number = _number(plain)
    return None if number is None else number + fraction


def _number(words: list[str]) -> float | None:
    """Digits, "2 1/2" and numerals."""
    total = 0.0
    letters = list[str]()
    for word in words:
        if "/" in word:
            above, below = word.split("/")
            if int(below) == 0:
                return None
            total += int(above) / int(below)
        elif word[0].isdigit():
            total += float(word.replace(",", "."))
        else:
            letters.append(word)
    if not letters or (total and letters in (["a"], ["an"])):
        return total
    value = numerals.english(letters)
    return None if value is None else total + value


def _chinese(text: str) -> float | None:
    """Sum of parts such as 两个半小时, 一刻钟, 1小时30分."""
    plain = re.sub(r"[\s,，、]|大约|差不多|之?后|以?后|之?後|左右|再过|過|过|整", "", text)
    total, at, unit = 0.0, 0, 0
    while at < len(plain):
        found = _HAN_PART.match(plain, at)
        if not found:
            break
        unit = next(s for i, (_, s) in enumerate(_HAN_UNITS) if found[f"u{i}"])
        number = _han_number(found["number"])
        half = bool(found["half"] or found["more"] or found["tail"])
        if number is None and not half:
            return None
        total += ((number or 0) + 0.5 * half) * unit
        at = found.end()
    rest = plain[at:]
    if not unit:
        return None
    if rest:  # 一分二十
        number = _han_number(rest)
        smaller = {HOUR: MINUTE, MINUTE: 1}.get(unit)
        if number is None or smaller is None:
            return None
        total += number * smaller
    return total


def _han_number(text: str | None) -> float | None:
    if not text:
        return None
    if text[0].isdigit() and text.isascii():
        try:
            return float(text)
        except ValueError:
            return None
    whole, point, rest = text.partition("点")
    value = numerals.chinese(whole)
    if value is None:
        return None
    if not point:
        return value
    tenths = numerals.chinese(rest)
    return None if tenths is None else value + tenths / 10 ** len(rest)
