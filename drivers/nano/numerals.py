"""Numbers as people write them, in English and Chinese: "12", "twenty-five", "两百三十", "负五".

Pure and deterministic: the model copies the words, this module counts.
"""

import re

ONES = {
    word: value
    for value, words in enumerate(
        [
            "zero",
            "a an one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
    for word in words.split()
}
TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
} | {"fourty": 40}
SCALES = {"hundred": 100, "thousand": 1000}
VAGUE = {"couple": 2, "few": 3, "dozen": 12}
WORDS = frozenset(ONES) | frozenset(TENS) | frozenset(SCALES) | frozenset(VAGUE)

HAN_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {
    "〇": 0, "两": 2, "兩": 2, "俩": 2, "倆": 2, "壹": 1, "贰": 2, "叁": 3,
}  # fmt: skip
HAN_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10000, "萬": 10000}
HAN = "".join(HAN_DIGITS) + "".join(HAN_SCALES)

_SIGN = re.compile(r"^(?:minus|negative|负数?|負數?|减|零下|[-−–])\s*(?=\S)")


def english(words: list[str]) -> int | None:
    """``["one", "hundred", "and", "five"]`` -> 105; None when a word is no numeral."""
    total = current = 0
    seen = False
    for word in words:
        if word in {"and", "of"}:
            continue
        if word in ONES:
            # "a couple", "a hundred": the article only counts when nothing follows it
            current += ONES[word] if word not in {"a", "an"} or len(words) == 1 else 0
        elif word in TENS:
            current += TENS[word]
        elif word in VAGUE:
            current = max(1, current) * VAGUE[word]
        elif word in SCALES:
            current = max(1, current) * SCALES[word]
            if word == "thousand":
                total, current = total + current, 0
        else:
            return None
        seen = True
    return total + current if seen else None


def chinese(text: str) -> int | None:
    """``"一百零五"`` -> 105, ``"二五"`` -> 25; None when a character is no numeral."""
    if not text or any(c not in HAN for c in text):
        return None
    if not any(c in HAN_SCALES for c in text):
        return int("".join(str(HAN_DIGITS[c]) for c in text))
    total = current = 0
    for c in text:
        if c in HAN_DIGITS:
            current = HAN_DIGITS[c]
        elif HAN_SCALES[c] == 10000:
            total, current = (total + current) * 10000, 0
        else:
            total, current = total + max(1, current) * HAN_SCALES[c], 0
    return total + current


def integer(text: str) -> int | None:
    """A whole number with its sign, or None: ``"minus five"`` -> -5, ``"+10"`` -> 10."""
    plain = text.strip().casefold().rstrip(".,;!?。，！？")
    sign = 1
    found = _SIGN.match(plain)
    if found:
        sign, plain = -1, plain[found.end() :].strip()
    plain = re.sub(r"^(?:plus\b|[+正])\s*", "", plain)
    if re.fullmatch(r"[0-9]+", plain):
        return sign * int(plain)
    value = chinese(plain)
    if value is None:
        value = english(re.findall(r"[a-z]+", plain)) if re.fullmatch(r"[a-z\s-]+", plain) else None
    return None if value is None else sign * value
