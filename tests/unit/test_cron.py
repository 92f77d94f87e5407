"""Schedules as of cron: what fits, what comes next, what is refused."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from procs.cron import ALIASES, DAYS, FIELDS, MONTHS, Cron
from syscalls.errors import EINVAL

BOUNDS = [(least, most) for _, least, most, _ in FIELDS]


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@st.composite
def fields(draw: st.DrawFn, least: int, most: int) -> tuple[str, set[int]]:
    """A field's text, and the values that it stands for by its definition."""
    texts, values = [], set()
    for _ in range(draw(st.integers(1, 3))):
        step = draw(st.none() | st.integers(1, 20))
        first = draw(st.integers(least, most))
        last = draw(st.integers(first, most))
        form = draw(st.sampled_from(["star", "one", "range"]))
        low, high = {"star": (least, most), "one": (first, first), "range": (first, last)}[form]
        text = {"star": "*", "one": f"{first}", "range": f"{first}-{last}"}[form]
        if step is not None:
            text += f"/{step}"
            high = most if form == "one" else high
        texts.append(text)
        values |= set(range(low, high + 1, step or 1))
    return ",".join(texts), values


@settings(max_examples=150, deadline=None)
@given(st.tuples(*(fields(*bounds) for bounds in BOUNDS)), st.integers(0, 2_000_000_000))
def test_the_next_moment_fits_and_none_before_it_does(
    parts: tuple[tuple[str, set[int]], ...], moment: int
) -> None:
    text = " ".join(part[0] for part in parts)
    minutes, hours, dates, months, days = (part[1] for part in parts)
    try:
        cron = Cron(text)
    except EINVAL:
        assert not any(
            month in months and number in dates
            for month, length in enumerate((31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), 1)
            for number in range(1, length + 1)
        )
        return

    def fits(when: datetime) -> bool:
        by_date, by_day = when.day in dates, when.isoweekday() % 7 in {day % 7 for day in days}
        both = parts[2][0].startswith("*") or parts[4][0].startswith("*")
        on = by_date and by_day if both else by_date or by_day
        return on and when.minute in minutes and when.hour in hours and when.month in months

    found = cron.after(moment)
    assert found > moment
    assert fits(datetime.fromtimestamp(found, UTC))
    one = datetime.fromtimestamp(moment, UTC).replace(second=0) + timedelta(minutes=1)
    for _ in range(2000):  # every minute of more than a day
        if one.timestamp() >= found:
            break
        assert not fits(one)
        one += timedelta(minutes=1)
    assert cron.after(found - 1) == found


@pytest.mark.parametrize(
    ("text", "moment", "then"),
    [
        ("*/5 * * * *", at(2026, 3, 1, 12, 1), at(2026, 3, 1, 12, 5)),
        ("*/5 * * * *", at(2026, 3, 1, 12, 5), at(2026, 3, 1, 12, 10)),
        ("0 4 * * *", at(2026, 12, 31, 4, 0), at(2027, 1, 1, 4, 0)),
        ("30 9 * * mon-fri", at(2026, 3, 6, 9, 30), at(2026, 3, 9, 9, 30)),
        ("0 0 * * 7", at(2026, 3, 2), at(2026, 3, 8)),
        ("0 0 29 feb *", at(2026, 1, 1), at(2028, 2, 29)),
        ("0 0 13 * fri", at(2026, 3, 7), at(2026, 3, 13)),
        ("0 0 13 * fri", at(2026, 3, 13), at(2026, 3, 20)),
        ("@hourly", at(2026, 3, 1, 12, 59), at(2026, 3, 1, 13, 0)),
        ("@Weekly", at(2026, 3, 2), at(2026, 3, 8)),
        ("0 0 1 JAN,jul *", at(2026, 3, 2), at(2026, 7, 1)),
        ("50/5 23 * * *", at(2026, 3, 2), at(2026, 3, 2, 23, 50)),
    ],
)
def test_what_comes_next(text: str, moment: float, then: float) -> None:
    assert Cron(text).after(moment) == then


def test_times_are_of_a_zone_and_the_clock_put_forward_or_back_moves_nothing_else() -> None:
    berlin = Cron("30 2 * * *", "Europe/Berlin")
    times, moment = [], at(2026, 3, 27, 12)
    for _ in range(3):
        moment = berlin.after(moment)
        times.append(moment)
    # On the 29th there is no half past two: it is half past three by then.
    assert times == [at(2026, 3, 28, 1, 30), at(2026, 3, 29, 1, 30), at(2026, 3, 30, 0, 30)]
    autumn = berlin.after(at(2026, 10, 24, 12))
    assert autumn == at(2026, 10, 25, 0, 30)  # the first of two
    assert berlin.after(autumn) == at(2026, 10, 26, 1, 30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("* * * *", "five fields"),
        ("", "five fields"),
        ("60 * * * *", "minute '60'"),
        ("* 24 * * *", "hour '24'"),
        ("* * 0 * *", "day of month '0'"),
        ("* * * 13 *", "month '13'"),
        ("* * * * 8", "day of week '8'"),
        ("5-1 * * * *", "backwards"),
        ("*/0 * * * *", "step"),
        ("*/x * * * *", "step"),
        ("1, * * * *", "minute ''"),
        ("-1 * * * *", "minute ''"),
        ("mon * * * *", "minute 'mon'"),
        ("² * * * *", "minute '²'"),
        ("0 0 30 feb *", "never comes"),
        ("@reboot", "five fields"),
    ],
)
def test_what_does_not_fit_is_named(text: str, words: str) -> None:
    with pytest.raises(EINVAL, match=words.replace("(", r"\(")):
        Cron(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789*/,-@ abcdefghijklmnopqrstuvwxyz", max_size=30))
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    try:
        cron = Cron(text)
    except EINVAL:
        return
    assume(text.split())
    assert cron.after(0.0) > 0


def test_names_stand_for_numbers_and_words_for_fields() -> None:
    for number, name in enumerate(MONTHS, 1):
        assert Cron(f"0 0 1 {name} *").after(0) == Cron(f"0 0 1 {number} *").after(0)
    for number, name in enumerate(DAYS):
        assert Cron(f"0 0 * * {name}").after(0) == Cron(f"0 0 * * {number}").after(0)
    for word, text in ALIASES.items():
        assert Cron(word).after(0) == Cron(text).after(0)
    with pytest.raises(EINVAL, match="no time zone"):
        Cron("* * * * *", "Europe/Atlantis")
