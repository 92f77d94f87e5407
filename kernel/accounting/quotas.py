"""Quotas as data: the defaults, and what becomes of two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from syscalls.errors import EPERM
from syscalls.shapes import Quota

if TYPE_CHECKING:
    from kernel.settings import Settings

HARD = tuple(name for name in Quota.__struct_fields__ if name not in ("per", "soft"))
"""The limits, without what is said about them."""
FLOWS = ("tokens", "prompt", "cached", "completion", "calls")
"""What is used up."""
LEVELS = ("records", "bytes", "kv", "inflight", "children")
"""What is there at the moment."""


def default(settings: Settings) -> Quota:
    """The limits of each process that is given no others."""
    return Quota(
        memory=settings.agent_memory,
        files=settings.agent_files,
        children=settings.agent_children,
        inflight=settings.inflight,
        mailbox=settings.mailbox,
        records=settings.agent_records,
        kv=settings.agent_kv,
    )


def of_users(settings: Settings) -> Quota:
    """The limits of each user."""
    per = settings.user_tokens_per
    return Quota(
        tokens=settings.user_tokens or None,
        records=settings.user_records or None,
        bytes=settings.user_bytes or None,
        kv=settings.user_kv or None,
        per={"tokens": per} if per else {},
    )


def merged(base: Quota, change: Quota) -> Quota:
    """``base`` with what ``change`` says."""
    given = {name: said for name in HARD if (said := getattr(change, name)) is not None}
    per, soft = {**base.per, **change.per}, {**base.soft, **change.soft}
    return msgspec.structs.replace(base, **given, per=per, soft=soft)


def lower(one: Quota, other: Quota) -> Quota:
    """Limit by limit the lower; None is no limit. What comes back does so by the slower."""
    limits = {}
    for name in HARD:
        said = [limit for limit in (getattr(one, name), getattr(other, name)) if limit is not None]
        limits[name] = min(said) if said else None
    soft, per = dict(other.soft), {}
    for kind, limit in one.soft.items():
        soft[kind] = min(limit, soft.get(kind, limit))
    for flow in (*one.per, *other.per):
        asked = [each for each in (one, other) if getattr(each, flow) is not None]
        slow = [each.per.get(flow, 0.0) for each in asked or (one, other)]
        per[flow] = 0.0 if 0.0 in slow else max(slow)
    return Quota(**limits, soft=soft, per=per)


def refuse_more(held: Quota, wanted: Quota) -> None:
    """Raises EPERM where ``wanted`` allows more than ``held``, gives it back sooner, or warns
    later."""
    for name in HARD:
        new, old = getattr(wanted, name), getattr(held, name)
        if new is not None and old is not None and new > old:
            raise EPERM(
                f"the quota {name}={new} is more than the giver's own {old}",
                quota=name,
                limit=old,
            )
    for kind, limit in wanted.soft.items():
        if limit > held.soft.get(kind, limit):
            raise EPERM(f"the soft limit {kind}={limit:g} is more than the giver's own", quota=kind)
    for flow, period in wanted.per.items():
        old, before = getattr(held, flow), held.per.get(flow, 0.0)
        new = getattr(wanted, flow)
        amount = old if new is None else new
        if old is not None and period and (not before or amount / period > old / before):
            raise EPERM(
                f"the quota {flow}={amount} in {period:g} s comes back sooner than the giver's own",
                quota=flow,
                limit=old,
                per=before,
            )


def beyond(quota: Quota, default: Quota) -> Quota:
    """Of a process's limits those that are not the default: they bind what descends from it."""
    own = {name: None for name in HARD if getattr(quota, name) == getattr(default, name)}
    return msgspec.structs.replace(quota, **own)
