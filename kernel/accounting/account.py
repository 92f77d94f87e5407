"""One account: what was used by somebody alone, and by all that descend from him.

    user 1000     own -    tree = the sum of all below     limits: of all together
      session 2   own + tree
        agent 3   own + tree      limits: of itself and what it starts
          agent 4
        (agent 5, ended: its tokens stay in the trees above it, its calls in flight do not)

A charge goes up the line of births, at constant cost for each step; who ends leaves it to those
below to be counted above, so nobody escapes a limit by starting others, or by ending.

What flows (tokens, calls) may come back: then the limit is a bucket that empties evenly, the
generic cell rate algorithm's reading of a token bucket (ITU-T I.371).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import msgspec

from kernel.accounting.quotas import FLOWS, LEVELS
from syscalls.errors import EDQUOT
from syscalls.quota import AccountInfo, Allowance, Quota

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = (*FLOWS, *LEVELS)


class Kept(msgspec.Struct, omit_defaults=True):
    """What is kept of an account on disk."""

    own: dict[str, int] = {}
    tree: dict[str, int] = {}
    buckets: dict[str, tuple[float, float]] = {}
    """How full each was, and when."""
    quota: Quota | None = None
    """The limits that it was given in place of the settings."""


class Limit:
    """The limit of one kind in one account."""

    __slots__ = ("at", "hard", "level", "per", "reserved", "soft", "warned")

    def __init__(self) -> None:
        self.hard = self.soft = inf
        self.per = 0.0
        """Seconds in which the whole comes back; 0 for never."""
        self.level = 0.0
        """How full the bucket was ``at`` that time, where it empties."""
        self.at = 0.0
        self.reserved = 0
        """Set aside for generations under way."""
        self.warned = False

    def full(self, now: float) -> float:
        """How full the bucket is. A clock that was set back stops it, and no more."""
        return max(0.0, self.level - max(0.0, now - self.at) * self.rate)

    @property
    def rate(self) -> float:
        """What comes back in a second."""
        whole = self.hard if self.hard < inf else self.soft
        return whole / self.per if self.per and whole < inf else 0.0

    def pour(self, amount: float, now: float) -> None:
        """Fill the bucket; a negative amount takes back what was too much."""
        self.level, self.at = max(0.0, self.full(now) + amount), now


class Account:
    """The account of a process or a user."""

    __slots__ = (
        "_now", "_passed", "apid", "began", "dirty", "key", "life", "limits", "name", "own",
        "parent", "quota", "tree", "uid",
    )  # fmt: skip

    def __init__(
        self,
        parent: Account | None,
        now: Callable[[], float],
        passed: Callable[[Account, Allowance], None],
        *,
        apid: int = 0,
        uid: int = -1,
        name: str = "",
    ) -> None:
        """``passed`` is told when a soft limit is passed; ``now`` is in seconds since the epoch."""
        self.parent = parent
        self.apid, self.uid, self.name = apid, uid, name
        self.own = dict.fromkeys(KINDS, 0)
        self.tree = dict.fromkeys(KINDS, 0)
        self.limits: dict[str, Limit] = {}
        self.quota: Quota | None = None
        """What the limits are made from."""
        self.began = now()
        self.life = inf
        """Seconds until it is ended."""
        self.key = b""
        """Under which it is kept on disk; empty where it is not."""
        self.dirty = False
        self._now = now
        self._passed = passed

    def line(self) -> Iterator[Account]:
        """It and those above it."""
        account: Account | None = self
        while account is not None:
            yield account
            account = account.parent

    @property
    def deadline(self) -> float:
        """When its life is over, or that of one that it descends from; since the epoch."""
        return min(account.began + account.life for account in self.line())

    # --- charging

    def charge(self, kind: str, amount: int) -> None:
        """Count so much more (or less, if negative), here and in every account above."""
        self.own[kind] += amount
        account: Account | None = self
        while account is not None:
            account.tree[kind] += amount
            if account.limits:
                account._watch(kind, amount)
            account.dirty = True
            account = account.parent

    def _watch(self, kind: str, amount: int) -> None:
        limit = self.limits.get(kind)
        if limit is None:
            return
        now = self._now()
        if limit.per:
            limit.warned = limit.warned and limit.full(now) > limit.soft
            limit.pour(amount, now)
        over = self.used(kind) > limit.soft
        if over and not limit.warned:
            self._passed(self, self.allowance(kind))
        limit.warned = over

    def used(self, kind: str) -> float:
        """What counts against a limit."""
        limit = self.limits.get(kind)
        return limit.full(self._now()) if limit is not None and limit.per else self.tree[kind]

    def check(self, kind: str, amount: int = 1) -> None:
        """Raises EDQUOT where so much more is over a limit, here or in an account above."""
        account: Account | None = self
        while account is not None:
            if account.limits and (limit := account.limits.get(kind)) is not None:
                used = account.used(kind)
                if used + amount > limit.hard:
                    raise account.refusal(kind, used, amount)
            account = account.parent

    def refusal(self, kind: str, used: float, amount: float) -> EDQUOT:
        """What the one who wants so much more is told."""
        limit, detail = self.limits[kind], {}
        if limit.rate and amount <= limit.hard:
            wait = round(max((used + amount - limit.hard) / limit.rate, 0.001), 3)
            detail = {"retry_after": wait, "refills": round(self._now() + used / limit.rate, 3)}
        when = f"; enough of it is back in {detail['retry_after']:.3g} s" if detail else ""
        hint = "try again after detail.retry_after seconds" if detail else ""
        return EDQUOT(
            f"the quota {kind} of {self.whose} is {limit.hard:.0f}, and {used:.0f} are used{when}",
            hint=hint,
            quota=kind,
            limit=int(limit.hard),
            used=round(used),
            whose=self.whose,
            **detail,
        )

    # --- limits

    def bind(self, quota: Quota) -> None:
        """Put limits in force; what was used stays used."""
        self.quota = quota
        limits: dict[str, Limit] = {}
        for kind in KINDS:
            hard, soft = getattr(quota, kind), quota.soft.get(kind)  # type: ignore[call-overload]
            if hard is None and soft is None:
                continue
            limit = limits[kind] = self.limits.get(kind) or Limit()
            if limit.per:
                limit.pour(0.0, self._now())  # what came back so far did so at the old pace
            limit.hard = inf if hard is None else hard
            limit.soft = inf if soft is None else soft
            limit.per = quota.per.get(kind, 0.0)  # type: ignore[call-overload]
        self.limits = limits

    def allowance(self, kind: str) -> Allowance:
        """A limit as it is shown."""
        limit, used = self.limits[kind], self.used(kind)
        return Allowance(
            quota=kind,  # type: ignore[arg-type]
            used=round(used, 1),
            hard=None if limit.hard == inf else limit.hard,
            soft=None if limit.soft == inf else limit.soft,
            per=limit.per,
            refills=round(used / limit.rate, 3) if limit.rate else 0.0,
        )

    # --- showing

    @property
    def whose(self) -> str:
        """In words: whom its limits are for."""
        if not self.apid:
            return f"user {self.uid}"
        alone = self.own == self.tree
        return f"process {self.apid}" if alone else f"subtree of {self.apid}"

    def info(self, *, tree: bool) -> AccountInfo:
        """As it is shown: it alone, or with all below it, and the limits that bind both."""
        counted = self.tree if tree else self.own
        whose = f"process {self.apid}" if self.apid else f"user {self.uid}"
        info = AccountInfo(
            f"subtree of {self.apid}" if tree and self.apid else whose,
            self.apid,
            self.name,
            **counted,  # type: ignore[arg-type]
            life=round(max(0.0, self._now() - self.began), 3) if self.apid else 0.0,
        )
        if tree or not self.apid:
            info.limits = [self.allowance(kind) for kind in self.limits]
        if self.quota is not None and self.apid and (allowed := self._life(info.life)) is not None:
            info.limits.append(allowed)
        return info

    def _life(self, lived: float) -> Allowance | None:
        assert self.quota is not None
        soft = self.quota.soft.get("life")
        deadline = self.deadline
        if deadline == inf and soft is None:
            return None
        hard = None if deadline == inf else round(deadline - self.began, 3)
        return Allowance(quota="life", used=lived, hard=hard, soft=soft)

    # --- disk

    def kept(self) -> Kept:
        """What is to be on disk of it."""
        flows = {kind: self.tree[kind] for kind in FLOWS}
        own = {kind: self.own[kind] for kind in FLOWS}
        full = {kind: (one.level, one.at) for kind, one in self.limits.items() if one.per}
        return Kept(own, flows, full)

    def restore(self, kept: Kept) -> None:
        """Take over what was on disk; before anything is charged, after ``bind``."""
        self.own.update(kept.own)
        self.tree.update(kept.tree)
        for kind, (level, at) in kept.buckets.items():
            if (limit := self.limits.get(kind)) is not None:
                limit.level, limit.at = level, at
