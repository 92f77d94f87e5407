"""Accounts: sums along a tree, limits that refill, what is kept on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from drivers.llm.contract import GenerateRequest
from drivers.store.memory import MemoryStore
from kernel.accounting import quotas
from kernel.accounting.account import KINDS, Account
from kernel.accounting.accounts import Accounts
from kernel.accounting.quotas import FLOWS
from kernel.settings import Settings
from procs.process import Process
from syscalls.capability import compiled
from syscalls.errors import EDQUOT, EINVAL, EPERM
from syscalls.quota import Allowance, Quota
from syscalls.shapes import Usage
from userland.bin.quota import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

ME = os.geteuid()
PLACE = b"account/user/%d" % ME


@dataclass
class Clock:
    """A clock that a test moves."""

    time: float = 1e9

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@dataclass
class Kernel:
    """What accounts need of a kernel."""

    settings: Settings = field(default_factory=Settings)
    clock: Clock = field(default_factory=Clock)
    store: Any = field(default_factory=MemoryStore)
    lines: list[str] = field(default_factory=list)
    told: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def machine(self) -> Any:
        return SimpleNamespace(store=self.store)

    def log(self, _level: str, _source: str, text: str) -> None:
        self.lines.append(text)

    def start_soon(self, _work: Any, *arguments: Any) -> None:
        self.told.append(arguments)


def process(apid: int, parent: int, kind: Any = "python", quota: Quota | None = None) -> Process:
    default = quotas.default(Settings())
    return Process(
        apid, f"p{apid}", kind, parent, 2, "", "", [], compiled(frozenset()),
        quotas.merged(default, quota or Quota()), 0, 0.0,
    )  # fmt: skip


def family(kernel: Kernel, *limits: Quota | None) -> tuple[Accounts, list[Process]]:
    """A session, and below it a line of processes with these limits."""
    accounts = Accounts(kernel)  # type: ignore[arg-type]
    line = [process(2, 1, "session")]
    line += [process(3 + at, 2 + at, quota=one) for at, one in enumerate(limits)]
    for one in line:
        accounts.open(one)
    return accounts, line


# --- sums


class Tree(RuleBasedStateMachine):
    """Births, ends and charges in any order: every tree is what is charged below it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel()
        self.accounts, self.live = family(self.kernel)
        self.everybody = [self.accounts.of(self.live[0])]
        self.charged = dict.fromkeys(KINDS, 0)
        self.number = 2

    @rule(at=st.integers(0, 99), limit=st.none() | st.integers(0, 50))
    def spawn(self, at: int, limit: int | None) -> None:
        parent = self.live[at % len(self.live)]
        self.number += 1
        quota = None if limit is None else Quota(tokens=limit, per={"tokens": 10.0})
        child = process(self.number, parent.apid, quota=quota)
        self.everybody.append(self.accounts.open(child))
        self.live.append(child)

    @rule(at=st.integers(0, 99))
    def end(self, at: int) -> None:
        if len(self.live) > 1:
            self.accounts.close(self.live.pop(1 + at % (len(self.live) - 1)))

    @rule(at=st.integers(0, 99), kind=st.sampled_from(FLOWS), amount=st.integers(0, 40))
    def use(self, at: int, kind: str, amount: int) -> None:
        self.accounts.of(self.live[at % len(self.live)]).charge(kind, amount)
        self.charged[kind] += amount

    @rule(seconds=st.floats(-5, 20))
    def wait(self, seconds: float) -> None:
        self.kernel.clock.time += seconds

    @invariant()
    def sums_hold(self) -> None:
        user = self.everybody[0].parent
        assert user is not None
        for kind in FLOWS:
            assert user.tree[kind] == self.charged[kind]
        assert user.tree["children"] == len(self.live)
        for account in (user, *self.everybody):
            below = [each for each in self.everybody if each.parent is account]
            for kind in KINDS:
                assert account.tree[kind] == account.own[kind] + sum(b.tree[kind] for b in below)
                assert account.tree[kind] >= 0
                assert account.used(kind) >= 0


TestTree = Tree.TestCase


def test_who_ends_leaves_what_flowed_to_those_above_and_no_more() -> None:
    kernel = Kernel()
    accounts, (session, parent, child) = family(kernel, Quota(tokens=10), None)
    accounts.served(child, Usage(prompt=6, cached=2, completion=3))
    accounts.of(child).charge("inflight", 1)
    accounts.of(child).charge("inflight", -1)
    accounts.close(child)
    above = accounts.of(parent).info(tree=True)
    assert (above.tokens, above.prompt, above.cached, above.completion) == (7, 6, 2, 3)
    assert (above.children, above.inflight) == (0, 0)
    assert accounts.of(session).info(tree=False).tokens == 0
    accounts.served(child, Usage(prompt=-1))  # the correction of a generation that ended late
    assert accounts.of(parent).tree["tokens"] == 6


def test_no_descendant_escapes_though_its_parent_has_ended() -> None:
    kernel = Kernel()
    accounts, (_, top, child, grandchild) = family(kernel, Quota(tokens=10), None, None)
    accounts.close(child)
    accounts.close(top)
    grandchild.parent = 1  # init has adopted it
    accounts.served(grandchild, Usage(completion=10))
    with pytest.raises(EDQUOT) as refused:
        accounts.of(grandchild).check("tokens")
    assert refused.value.detail["whose"] == f"subtree of {top.apid}"
    late = process(99, grandchild.apid)
    accounts.open(late)
    with pytest.raises(EDQUOT):
        accounts.of(late).check("tokens")


def test_what_replaces_a_supervised_process_goes_on_with_its_account() -> None:
    kernel = Kernel()
    accounts, (session, *_) = family(kernel)
    first, second = (process(n, session.apid, quota=Quota(tokens=5)) for n in (10, 11))
    accounts.open(first, name="scribe")
    accounts.served(first, Usage(completion=5))
    accounts.close(first)
    accounts.open(second, name="scribe")
    with pytest.raises(EDQUOT):
        accounts.of(second).check("tokens")
    assert accounts.of(session).tree["children"] == 1


# --- limits


@given(
    hard=st.integers(1, 1000),
    per=st.floats(0.1, 1e4),
    steps=st.lists(st.tuples(st.integers(0, 300), st.floats(0, 1e4)), max_size=30),
)
def test_a_bucket_never_gives_more_than_it_holds_and_what_came_back(
    hard: int, per: float, steps: list[tuple[int, float]]
) -> None:
    clock = Clock()
    account = Account(None, clock.now, lambda _account, _allowance: None, apid=3)
    account.bind(Quota(calls=hard, per={"calls": per}))
    began, taken = clock.time, 0
    for amount, seconds in steps:
        try:
            account.check("calls", amount)
        except EDQUOT as error:
            if amount <= hard:
                clock.time += float(error.detail["retry_after"]) * (1 + 1e-9) + 1e-3
                account.check("calls", amount)  # it was told the truth
            else:
                assert "retry_after" not in error.detail
                continue
        account.charge("calls", amount)
        taken += amount
        clock.time += seconds
        assert 0 <= account.used("calls") <= hard + 1e-6
        assert taken <= hard + (clock.time - began) * hard / per + 1e-3


def test_a_refusal_says_which_how_much_whose_and_when() -> None:
    kernel = Kernel()
    accounts, (_, agent) = family(kernel, Quota(tokens=100, per={"tokens": 50}))
    accounts.served(agent, Usage(completion=90))
    with pytest.raises(EDQUOT) as refused:
        accounts.of(agent).check("tokens", 20)
    detail = refused.value.detail
    assert (detail["quota"], detail["limit"], detail["used"]) == ("tokens", 100, 90)
    assert detail["whose"] == "process 3"
    assert detail["retry_after"] == pytest.approx(5.0)
    assert detail["refills"] == pytest.approx(kernel.clock.time + 45)
    kernel.clock.time += 5
    accounts.of(agent).check("tokens", 20)


def test_a_soft_limit_warns_once_for_each_time_it_is_passed() -> None:
    kernel = Kernel()
    accounts, (_, agent) = family(
        kernel, Quota(tokens=100, soft={"tokens": 50, "records": 2}, per={"tokens": 100})
    )
    account = accounts.of(agent)
    for _ in range(3):
        accounts.served(agent, Usage(completion=30))
    assert [told[1].used for told in kernel.told] == [60]
    kernel.clock.time += 60
    accounts.served(agent, Usage(completion=5))
    assert len(kernel.told) == 1
    accounts.served(agent, Usage(completion=30))
    assert len(kernel.told) == 2
    for amount in (3, -2, 2):
        account.charge("records", amount)
    assert [told[1].quota for told in kernel.told[2:]] == ["records", "records"]
    assert isinstance(kernel.told[0][1], Allowance)
    assert len(kernel.lines) == 4


def test_a_generation_gets_what_is_left_and_sets_it_aside() -> None:
    kernel = Kernel()
    accounts, (_, top, agent) = family(kernel, Quota(tokens=100), Quota(completion=80))
    first, second, third = (GenerateRequest(prompt="x", max_tokens=60) for _ in range(3))
    with accounts.generating(agent, first) as reserved:
        accounts.served(agent, Usage(prompt=10))
        with accounts.generating(agent, second):
            assert (first.max_tokens, second.max_tokens) == (60, 20)
            with pytest.raises(EDQUOT) as refused, accounts.generating(agent, third):
                pass
            assert refused.value.detail["retry_after"] > 0
        for _ in range(60):
            reserved.spend(1)
            accounts.served(agent, Usage(completion=1))
    assert accounts.of(top).tree["tokens"] == 70
    with accounts.generating(agent, third):
        assert third.max_tokens == 20
    accounts.served(top, Usage(prompt=30))
    with pytest.raises(EDQUOT) as refused, accounts.generating(agent, third):
        pass
    assert refused.value.detail["whose"] == f"subtree of {top.apid}"
    assert accounts.statistics().refused == 2


def test_the_life_of_who_descends_is_no_longer() -> None:
    kernel = Kernel()
    accounts, (_, top, child) = family(kernel, Quota(life=60), Quota(life=1000))
    now = kernel.clock.time
    assert accounts.of(child).deadline == now + 60
    top.quota = quotas.merged(top.quota, Quota(life=30))
    accounts.bind(top)
    assert accounts.of(child).deadline == now + 30


def test_the_settings_bind_one_process_each_and_not_what_it_starts() -> None:
    accounts, (session, agent) = family(Kernel(), None)
    assert accounts.limit(agent, "records") == Settings().agent_records
    assert accounts.of(session).limits == accounts.of(agent).limits == {}


# --- users, on disk


async def test_what_a_user_has_used_up_outlives_the_kernel() -> None:
    kernel = Kernel(Settings(user_tokens=100, user_tokens_per=100.0))
    accounts, (_, agent) = family(kernel, None)
    accounts.served(agent, Usage(prompt=50, cached=10, completion=60))
    await accounts.flush()
    accounts.bind_user(ME, Quota(calls=7))
    await accounts.flush()
    commits = kernel.store.get("meta", PLACE)
    await accounts.flush()  # nothing has changed
    assert kernel.store.get("meta", PLACE) is commits

    kernel.clock.time += 10
    again = Kernel(kernel.settings, kernel.clock, kernel.store)
    after, (_, other) = family(again, None)
    user = after.user(ME)
    assert (user.tree["tokens"], user.tree["prompt"], user.tree["children"]) == (100, 50, 2)
    with pytest.raises(EDQUOT) as refused:
        after.of(other).check("tokens", 20)
    assert refused.value.detail["whose"] == f"user {ME}"
    assert user.used("tokens") == pytest.approx(90)
    assert user.limits["calls"].hard == 7
    stricter = Kernel(Settings(user_tokens=50), kernel.clock, kernel.store)
    limits = Accounts(stricter).user(ME).limits  # type: ignore[arg-type]
    assert (limits["tokens"].hard, limits["calls"].hard) == (50, 7)


# --- quotas as data

QUOTAS = st.builds(
    Quota,
    tokens=st.none() | st.integers(0, 50),
    records=st.none() | st.integers(0, 50),
    per=st.dictionaries(st.just("tokens"), st.floats(0, 100)),
    soft=st.dictionaries(st.sampled_from(["tokens", "records"]), st.floats(0, 50)),
)


@given(held=QUOTAS, wanted=QUOTAS)
def test_nobody_gets_more_by_asking(held: Quota, wanted: Quota) -> None:
    try:
        quotas.refuse_more(held, wanted)
    except EPERM:
        return
    got = quotas.merged(held, wanted)
    for name in ("tokens", "records"):
        before, after = getattr(held, name), getattr(got, name)
        assert before is None or (after is not None and after <= before)
        if name in held.soft:
            assert got.soft[name] <= held.soft[name]
    if held.tokens is not None:
        assert _rate(got) <= _rate(held) + 1e-9


def _rate(quota: Quota) -> float:
    per = quota.per.get("tokens", 0.0)
    return (quota.tokens or 0) / per if per else 0.0


@given(one=QUOTAS, other=QUOTAS)
def test_the_lower_of_two_is_no_more_than_either(one: Quota, other: Quota) -> None:
    low = quotas.lower(one, other)
    for each in (one, other):
        for name in ("tokens", "records"):
            limit = getattr(each, name)
            assert limit is None or getattr(low, name) <= limit
        for kind, limit in each.soft.items():
            assert low.soft[kind] <= limit


def test_quotas_are_typed_with_units_and_periods() -> None:
    said = parse(["tokens=50k/1h", "soft.tokens=40k", "life=10m", "soft.life=5m", "records=3"])
    assert said == Quota(
        tokens=50_000, per={"tokens": 3600}, soft={"tokens": 40_000, "life": 300}, life=600,
        records=3,
    )  # fmt: skip
    wrong: Sequence[str] = ("tokens", "nosuch=1", "tokens=many", "tokens=1/soon", "soft.nosuch=1")
    for word in wrong:
        with pytest.raises(EINVAL):
            parse([word])


def test_a_quota_survives_the_wire() -> None:
    quota = Quota(tokens=5, per={"tokens": 60.0}, soft={"life": 3.0})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(quota), type=Quota) == quota
