"""Schedules as of cron: five fields, and the next moment that fits them.

    minute  hour  day of month  month  day of week        "*/5 9-17 * * mon-fri"

A field is ``*``, or values, ranges ``a-b`` and steps ``*/n``, ``a-b/n``, ``a/n``, separated by
commas; months and days of the week also have their English names of three letters, and the
seventh day is Sunday as the zeroth is. Where both days are given a moment fits by either, as
in Paul Vixie's cron. ``@hourly``, ``@daily``, ``@weekly``, ``@monthly`` and ``@yearly`` stand
for the usual five.

Times are those of a time zone. An hour that comes twice in autumn counts once; a time that
spring leaves out comes as much later as the clock was put forward.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from syscalls.errors import EINVAL

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of week", 0, 7, DAYS),
)
HORIZON = 366 * 41
"""Days in which every date of the calendar comes on every day of the week."""


class Cron:
    """One schedule. Equal texts make equal schedules."""

    def __init__(self, text: str, zone: str = "UTC") -> None:
        """Raises EINVAL, which says what does not fit; also for a date that never comes."""
        self.text = text
        self._zone = _zone(zone)
        words = ALIASES.get(text.strip().lower(), text).split()
        if len(words) != len(FIELDS):
            raise EINVAL(
                f"a schedule has five fields, and {text!r} has {len(words)}",
                hint="minute hour day-of-month month day-of-week, such as */5 * * * *",
            )
        fields = [
            _field(word, name, (least, most), names)
            for word, (name, least, most, names) in zip(words, FIELDS, strict=True)
        ]
        self._minutes, self._hours = sorted(fields[0]), sorted(fields[1])
        self._dates, self._months = fields[2], fields[3]
        self._days = frozenset(day % 7 for day in fields[4])
        self._either = not words[2].startswith("*") and not words[4].startswith("*")
        if not any(self._on(date(2000, 1, 1) + timedelta(days=n)) for n in range(HORIZON)):
            raise EINVAL(f"the date of {text!r} never comes")

    def after(self, moment: float) -> float:
        """The first fitting moment after ``moment``; both in seconds since the epoch."""
        local = datetime.fromtimestamp(moment, UTC).astimezone(self._zone).replace(tzinfo=None)
        # From an hour before, for an hour that comes twice; what is not later is passed over.
        at = local.replace(second=0, microsecond=0) - timedelta(hours=1)
        day, minute = at.date(), at.hour * 60 + at.minute
        while True:
            if self._on(day):
                for hour in self._hours:
                    for one in self._minutes:
                        found = self._epoch(day, hour, one) if hour * 60 + one >= minute else 0.0
                        if found > moment:
                            return found
            day, minute = day + timedelta(days=1), 0

    def _on(self, day: date) -> bool:
        if day.month not in self._months:
            return False
        by_date, by_day = day.day in self._dates, day.isoweekday() % 7 in self._days
        return by_date or by_day if self._either else by_date and by_day

    def _epoch(self, day: date, hour: int, minute: int) -> float:
        return datetime(day.year, day.month, day.day, hour, minute, tzinfo=self._zone).timestamp()


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # which needs no data base of time zones
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise EINVAL(
            f"there is no time zone {name!r}", hint="UTC, or one such as Europe/Berlin"
        ) from error


def _field(text: str, name: str, bounds: tuple[int, int], names: Sequence[str]) -> frozenset[int]:
    """The values that one field allows."""
    values: set[int] = set()
    for part in text.lower().split(","):
        values |= _part(part, name, bounds, names)
    return frozenset(values)


def _part(part: str, name: str, bounds: tuple[int, int], names: Sequence[str]) -> set[int]:
    """The values of a value, a range or a step."""
    least, most = bounds
    span, slash, step = part.partition("/")
    first, dash, last = span.partition("-")
    if span == "*":
        low, high = least, most - (name == "day of week")
    else:
        low = _value(first, name, bounds, names)
        high = _value(last, name, bounds, names) if dash else most if slash else low
    if low > high:
        raise EINVAL(f"{name} {part!r} goes backwards")
    if slash and (not _digits(step) or int(step) == 0):
        raise EINVAL(f"the step of {name} {part!r} is no positive number")
    return set(range(low, high + 1, int(step) if slash else 1))


def _value(text: str, name: str, bounds: tuple[int, int], names: Sequence[str]) -> int:
    """A number or a name within its bounds."""
    least, most = bounds
    if text in names:
        return names.index(text) + least
    if not _digits(text) or not least <= int(text) <= most:
        words = f", or {names[0]} to {names[-1]}" if names else ""
        raise EINVAL(f"{name} {text!r} is not within {least} and {most}{words}")
    return int(text)


def _digits(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
