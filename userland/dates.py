"""Dates as people write them on a command line, also before 1970."""

import argparse
import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHORT = re.compile(r"(\d{4})(?:-(\d{1,2}))?")


def moment(text: str) -> float:
    """Seconds since 1970 of a date (2024, 2024-05, 2024-05-01, 2024-05-01T12:30, in local time
    unless it says otherwise) or of a number of seconds with a sign or an ``@`` before it.
    """
    if text[:1] in "@+-":
        try:
            return float(text.removeprefix("@"))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from error
    short = _SHORT.fullmatch(text)
    try:
        if short is not None:
            when = datetime(int(short[1]), int(short[2] or 1), 1).astimezone()
        else:
            when = datetime.fromisoformat(text).astimezone()
        return (when - EPOCH).total_seconds()
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date: 2024, 2024-05-01, 2024-05-01T12:30, or @SECONDS"
        ) from error


def shown(at: float | None) -> str:
    """A time in UTC, as a date where it is midnight; a dash for none."""
    if at is None:
        return "-"
    try:
        when = EPOCH + timedelta(seconds=at)
    except OverflowError:
        return f"@{at:g}"
    midnight = (when.hour, when.minute, when.second) == (0, 0, 0)
    return when.strftime("%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M")


def add_times(parser: argparse.ArgumentParser) -> None:
    """``--as-of`` and ``--known-at``."""
    parser.add_argument("--as-of", type=moment, metavar="DATE", help="what was so then")
    parser.add_argument("--known-at", type=moment, metavar="DATE", help="what was believed then")
