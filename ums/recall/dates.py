"""Dates that a text names, as it names them: a day, a month, a year, or some time ago.

    "8 May 2023", "May 8th, 2023", "2023-05-08", "2023年5月8日"    one day
    "May 2023", "2023-05", "2023年5月"                             one month
    "in May", "5月"                                                that month of any year
    "2023", "2023年"                                               one year
    "yesterday", "last week", "3 days ago", "昨天", "上周"          counted from now

Days are those of UTC. What is no date in the calendar is no date here.
"""

import re
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

_NAMES = "january february march april may june july august september october november december"
_MONTHS = {name: number for number, name in enumerate(_NAMES.split(), 1)}
_MONTHS |= {name[:3]: number for name, number in _MONTHS.items()} | {"sept": 9}
_WORDS = {"may", "march", "mar", "jan", "jun", "dec", "sept", "oct", "sep"}
"""Months that are also words or parts of names: only with a capital."""

_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_CALENDAR = re.compile(
    rf"""
      (?<![\d.])\b(?P<y1>\d{{4}})[-/.](?P<m1>\d{{1,2}})(?:[-/.](?P<d1>\d{{1,2}}))?(?![\d-])
    | \b(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\ (?:of\ )?(?P<m2>{_MONTH})\b\.?(?:,?\ (?P<y2>\d{{4}})\b)?
    | \b(?P<m3>{_MONTH})\b\.?(?:\ (?P<d3>\d{{1,2}})(?:st|nd|rd|th)?(?!\d))?
          (?:,?\ (?P<y3>\d{{4}})\b)?
    | (?:(?P<y4>\d{{4}})年)?(?<!\d)(?P<m4>\d{{1,2}})月(?:(?P<d4>\d{{1,2}})[日号])?
    | (?P<y5>\d{{4}})年
    | (?<![\d.,:/-])(?P<y6>1[89]\d\d|20\d\d)(?![\d.,:/-]*\d)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_AGO = re.compile(
    r"\b(?P<n>\d{1,3}|an?|one|two|three|four|five|six|seven|eight|nine|ten|a few|a couple of)"
    r" (?P<unit>day|week|month|year)s? ago\b|(?P<zn>\d{1,3})(?P<zu>天|周|个月|年)前",
    re.IGNORECASE,
)
_COUNT = "one two three four five six seven eight nine ten"
_NUMBERS = {word: number for number, word in enumerate(_COUNT.split(), 1)}
_NUMBERS |= {"a": 1, "an": 1, "a few": 3, "a couple of": 2}
_UNITS = {"day": 1, "week": 7, "month": 30, "year": 365}
_UNITS |= {"天": 1, "周": 7, "个月": 30, "年": 365}
_NEAR = {
    "today": (0, 1),
    "tonight": (0, 1),
    "yesterday": (1, 1),
    "this week": (6, 7),
    "last week": (13, 13),
    "this month": (30, 31),
    "last month": (61, 60),
    "this year": (365, 366),
    "last year": (730, 700),
    "今天": (0, 1),
    "昨天": (1, 1),
    "前天": (2, 1),
    "这周": (6, 7),
    "上周": (13, 13),
    "上星期": (13, 13),
    "这个月": (30, 31),
    "上个月": (61, 60),
    "今年": (365, 366),
    "去年": (730, 700),
}
"""Words for a time: how many days ago it begins, and how many it lasts."""
_RELATIVE = re.compile(rf"\b(?:{'|'.join(k for k in _NEAR if k.isascii())})\b", re.IGNORECASE)
_RELATIVE_CJK = re.compile("|".join(k for k in _NEAR if not k.isascii()))
TOLD_WITHIN = 7
"""Days after an event in which it is still told as news."""
_EPOCH = date(1970, 1, 1)


class Dates(NamedTuple):
    """What a text says of time; days are counted from 1970-01-01 and may be negative."""

    spans: tuple[tuple[int, int], ...] = ()
    """First day and the day after the last one."""
    months: frozenset[int] = frozenset()
    """Months of any year, 1 to 12."""

    def __bool__(self) -> bool:
        return bool(self.spans or self.months)

    def fit(self, at: float) -> float:
        """How well a moment (seconds since 1970) fits, 0 to 1.

        What happened on a day is told on that day or in the week after; the rest of the
        month is worth half.
        """
        day = int(at // 86400)
        best = 0.0
        for start, stop in self.spans:
            if stop - start > 1:
                best = max(best, float(start <= day < stop))
            elif start <= day <= start + TOLD_WITHIN:
                return 1.0
            elif _month(day) == _month(start):
                best = max(best, 0.5)
        if best < 1.0 and self.months and _month(day)[1] in self.months:
            return 1.0
        return best


def dates_in(text: str, now: float | None = None) -> Dates:
    """The dates that a text names. ``now`` (seconds) is for those counted from it."""
    spans: list[tuple[int, int]] = []
    months: set[int] = set()
    for found in _CALENDAR.finditer(text):
        year, month, day = _fields(found)
        if month is None and year is None:
            continue
        if year is None and month is not None:
            months.add(month)
        elif year is not None and (span := _span(year, month, day)):
            spans.append(span)
    if now is not None:
        spans += _relative(text, int(now // 86400))
    return Dates(tuple(spans), frozenset(months))


def moment_in(text: str) -> float | None:
    """The one moment (the begin of its day) that a stamp such as "1:56 pm on 8 May, 2023" names."""
    spans, months = dates_in(text)
    return None if months or len(spans) != 1 else spans[0][0] * 86400.0


def _fields(found: re.Match[str]) -> tuple[int | None, int | None, int | None]:
    """Year, month and day of a match; None for what is not said, or is no date."""
    group = found.groupdict()
    year = next((int(group[f"y{n}"]) for n in range(1, 7) if group.get(f"y{n}")), None)
    day = next((int(group[f"d{n}"]) for n in range(1, 5) if group.get(f"d{n}")), None)
    word = group["m2"] or group["m3"]
    if word:
        bare = word.lower() in _WORDS and not word[0].isupper()
        return (None, None, None) if bare and day is None else (year, _MONTHS[word.lower()], day)
    digits = group["m1"] or group["m4"]
    month = int(digits) if digits else None
    if month is not None and not 1 <= month <= 12:
        return None, None, None
    return year, month, day


def _span(year: int, month: int | None, day: int | None) -> tuple[int, int] | None:
    if not 1 <= year <= 9998:
        return None
    if month is None:
        return _days(year, 1, 1), _days(year + 1, 1, 1)
    last = monthrange(year, month)[1]
    if day is None:
        return _days(year, month, 1), _days(year, month, last) + 1
    if not 1 <= day <= last:
        return None
    start = _days(year, month, day)
    return start, start + 1


def _relative(text: str, today: int) -> list[tuple[int, int]]:
    spans = []
    for found in (*_RELATIVE.finditer(text), *_RELATIVE_CJK.finditer(text)):
        ago, lasts = _NEAR[found[0].lower()]
        spans.append((today - ago, today - ago + lasts))
    for found in _AGO.finditer(text):
        number = found["n"] or found["zn"]
        count = int(number) if number.isdigit() else _NUMBERS[number.lower()]
        unit = _UNITS[(found["unit"] or found["zu"]).lower()]
        slack = unit // 2  # "two weeks ago" is seldom meant to the day
        start = today - count * unit - slack
        spans.append((start, start + 2 * slack + 1))
    return spans


def _days(year: int, month: int, day: int) -> int:
    return (date(year, month, day) - _EPOCH).days


def _month(day: int) -> tuple[int, int]:
    try:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)
    except OverflowError:
        return 0, 0
    return at.year, at.month
