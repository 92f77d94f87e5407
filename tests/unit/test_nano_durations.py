"""Durations and whole numbers in words."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.nano import corpus, durations, numerals

UNITS = {"seconds": 1, "sec": 1, "minutes": 60, "min": 60, "hours": 3600, "h": 3600, "days": 86400}
HAN_UNITS = {"秒": 1, "分钟": 60, "小时": 3600, "天": 86400, "周": 604800}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10 minutes", 600), ("ten minutes", 600), ("a quarter of an hour", 900),
        ("half an hour", 1800), ("an hour and a half", 5400), ("one and a half hours", 5400),
        ("two and a half hours", 9000), ("three quarters of an hour", 2700), ("1h30m", 5400),
        ("1h 30min", 5400), ("90 secs", 90), ("2.5 hours", 9000), ("twenty-five minutes", 1500),
        ("a couple of minutes", 120), ("3600", 3600), ("1:00:05", 3605), ("PT45M", 2700),
        ("2½ hours", 9000), ("1/2 hour", 1800), ("fourty five mintues", 2700), ("tomorrow", 86400),
        ("1 minute of", 60), ("20 minutes from now", 1200),
        ("a minute", 60), ("one hour and ten minutes", 4200), ("a fortnight", 1209600),
        ("两个半小时", 9000), ("半小时", 1800), ("一刻钟", 900), ("三刻钟", 2700),
        ("一分二十秒", 80),
        ("1小时30分", 5400), ("1.5个小时", 5400), ("十五分鐘", 900), ("２０分钟", 1200),
        ("一个半钟头", 5400), ("三天", 259200), ("明天", 86400), ("一百二十秒", 120),
        ("半个钟头后", 1800),
    ],
)  # fmt: skip
def test_said_seconds(text: str, seconds: int) -> None:
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "the bread", "at six", "soon", "0 minutes", "10 bananas", "苹果", "1/0 h"]
)
def test_what_is_no_duration(text: str) -> None:
    assert durations.seconds(text) is None


@given(st.integers(1, 999), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_digits_and_units(number: int, unit: str, gap: str) -> None:
    assert durations.seconds(f"{number}{gap}{unit}") == number * UNITS[unit]


@given(st.integers(1, 99), st.integers(1, 59), st.integers(1, 59))
def test_sums(hours: int, minutes: int, seconds: int) -> None:
    total = hours * 3600 + minutes * 60 + seconds
    assert durations.seconds(f"{hours} hours, {minutes} minutes and {seconds} seconds") == total
    assert durations.seconds(f"{hours}小时{minutes}分{seconds}秒") == total
    assert durations.seconds(f"{hours}:{minutes:02}:{seconds:02}") == total


@given(st.integers(1, 500), st.sampled_from(sorted(HAN_UNITS)))
def test_chinese_numerals(number: int, unit: str) -> None:
    assert durations.seconds(chinese(number) + unit) == number * HAN_UNITS[unit]
    assert numerals.integer("负" + chinese(number)) == -number


@given(st.integers(1, 999))
def test_english_numerals(number: int) -> None:
    assert durations.seconds(english(number) + " days") in (number * 86400, None)
    assert numerals.integer(f"minus {english(number)}") == -number


@given(st.text(max_size=40))
def test_any_text_gives_a_sane_answer(text: str) -> None:
    seconds = durations.seconds(text)
    assert seconds is None or 1 <= seconds <= durations.LONGEST


@pytest.mark.parametrize("language", corpus.LANGUAGES)
@pytest.mark.parametrize(
    ("kind", "count"), [("after", durations.seconds), ("nice", numerals.integer)]
)
def test_fillers_of_the_corpus(language: str, kind: str, count: object) -> None:
    assert callable(count)
    rows = corpus.fillers(language)[kind]
    wrong = [row for row in rows if count(row.rsplit(" | ", 1)[0]) != int(row.rsplit(" | ", 1)[1])]
    assert not wrong


def test_nothing_heavy_is_imported() -> None:
    source = Path(durations.__file__).read_text(encoding="utf-8")
    assert not re.search(r"import (torch|numpy|transformers)", source)


def chinese(number: int) -> str:
    """1 to 9999 in Chinese numerals, as they are taught at school."""
    digits, out, gap = "零一二三四五六七八九", "", False
    for scale, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // scale % 10
        if digit:
            out += ("零" if gap and out else "") + digits[digit] + name
        gap = digit == 0
    return out


def english(number: int) -> str:
    """1 to 999 in English words."""
    ones = {value: word for word, value in numerals.ONES.items() if word not in {"a", "an"}}
    tens = {value: word for word, value in numerals.TENS.items() if word != "fourty"}
    if number < 20:
        return ones[number]
    if number < 100:
        rest = number % 10
        return tens[number - rest] + (f"-{ones[rest]}" if rest else "")
    rest = number % 100
    return f"{ones[number // 100]} hundred" + (f" and {english(rest)}" if rest else "")
