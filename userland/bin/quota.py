"""quota: what was used of what, and other limits."""

import argparse

from syscalls.calls.proc import Accounts, Limit, UsageCall
from syscalls.errors import EINVAL
from syscalls.quota import AccountInfo, Allowance, Quota
from userland.context import Context, reference
from userland.screen import duration, size

COUNTED = (
    "tokens", "prompt", "cached", "completion", "calls", "records", "bytes", "kv", "inflight",
    "children", "life",
)  # fmt: skip
SIZES = ("bytes", "kv")
TABLES = ("soft", "per")
TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
THOUSANDS = {"k": 1000, "M": 1000**2, "G": 1000**3}


def quota_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose, and what is to change."""
    parser.add_argument("--user", action="store_true", help="of all that this user does")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[TARGET] [NAME=VALUE]",
        help="APID or name (default: this session); tokens=50k/1h, soft.tokens=40k, life=10m",
    )


def quota(context: Context, options: argparse.Namespace) -> int:
    """Change what is said, then show what was used and the limits in force."""
    words = list(options.words)
    target = reference(words.pop(0)) if words and "=" not in words[0] else None
    if options.user and target is not None:
        raise EINVAL("give a process or --user")
    if words:
        changed = parse(words)
        user = None
        if options.user:
            user = int(context.client.call(UsageCall()).user.whose.rpartition(" ")[2])
        context.client.call(Limit(target=target, quota=changed, user=user))
    found: Accounts = context.client.call(UsageCall(target=target))
    if context.json:
        context.value(found)
        return 0
    shown = [found.user] if options.user else [found.process, found.tree, found.user]
    rows = [[name, *(_amount(name, getattr(one, name)) for one in shown)] for name in COUNTED]
    context.screen.table(["used", *(one.whose for one in shown)], rows)
    limits = _limits([found.user] if options.user else [found.tree, found.user])
    if limits:
        context.screen.line("")
        context.screen.table(["limit of", "quota", "used", "soft", "hard", "back in"], limits)
    return 0


def _limits(shown: list[AccountInfo]) -> list[list[object]]:
    return [
        [
            one.whose,
            limit.quota,
            _amount(limit.quota, limit.used),
            "-" if limit.soft is None else _amount(limit.quota, limit.soft),
            "-" if limit.hard is None else _amount(limit.quota, limit.hard),
            _back(limit),
        ]
        for one in shown
        for limit in one.limits
    ]


def _back(limit: Allowance) -> str:
    if not limit.per:
        return "never" if limit.quota in COUNTED[:5] else "-"
    return f"{duration(limit.refills)}, all in {duration(limit.per)}"


def _amount(name: str, amount: float) -> str:
    if name in SIZES:
        return size(amount)
    return duration(amount) if name == "life" else f"{amount:.0f}"


def parse(words: list[str]) -> Quota:
    """Limits as they are typed: ``tokens=50k/1h`` is short for tokens and per.tokens.

    Raises EINVAL.
    """
    said: dict[str, object] = {}
    tables: dict[str, dict[str, float]] = {table: {} for table in TABLES}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise EINVAL(f"{word!r} is not NAME=VALUE", hint="engram quota 12 tokens=50k/1h")
        table, dot, kind = name.partition(".")
        amount, slash, period = value.partition("/")
        if slash:
            tables["per"][name] = _number(name, period, timed=True)
        if dot and table in TABLES and not slash:
            tables[table][kind] = _number(name, value, timed=table == "per" or kind == "life")
        else:
            number = _number(name, amount, timed=name == "life")
            said[name] = number if name == "life" else int(number)
    known = set(Quota.__struct_fields__) - set(TABLES)
    unknown = (said.keys() | tables["soft"].keys() | tables["per"].keys()) - known
    if unknown:
        raise EINVAL(
            f"there is no quota {min(unknown)!r}", hint=f"they are {', '.join(sorted(known))}"
        )
    return Quota(**said, **tables)  # type: ignore[arg-type]


def _number(name: str, text: str, *, timed: bool) -> float:
    units = TIMES if timed else THOUSANDS
    digits, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "")
    try:
        return float(digits) * (units[unit] if unit else 1)
    except ValueError as error:
        kinds = ", ".join(units)
        raise EINVAL(f"{name}={text!r} is no number", hint=f"with a unit: {kinds}") from error
