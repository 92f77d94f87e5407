"""Policies by themselves: work-conserving, bounded, without starvation, by weight."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.turns.fairness import (
    OVERTAKEN,
    QUANTUM,
    Ask,
    Boost,
    Dlpm,
    Node,
    Vtc,
    make_policy,
    weight,
)

if TYPE_CHECKING:
    from kernel.turns.fairness import Order, Policy

DEAR = 1500.0
"""The most that one request costs here."""
KINDS = 4
"""Prefixes, of which some are cached better than others."""


class Server:
    """Serves one request at a time by a policy, and keeps what is to be held against it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.root = Node(0)
        self.sessions: dict[int, Node] = {}
        self.nodes: dict[tuple[int, int], Node] = {}
        self.costs: dict[int, float] = {}
        self.kinds: dict[int, int] = {}
        self.total = 0.0
        self.had: dict[int, float] = {}
        """Cost by process."""
        self.born: dict[int, float] = {}
        """What had been served in all when a request came."""
        self._number = 0

    def node(self, session: int, process: int, nice: int = 0) -> Node:
        if (session, process) not in self.nodes:
            top = self.sessions.setdefault(session, Node(session, self.root))
            self.nodes[session, process] = Node(process, top, weight(nice))
        return self.nodes[session, process]

    def arrive(self, node: Node, cost: float, kind: int) -> Ask:
        self._number += 1
        ask = Ask(node, self._number)
        self.costs[ask.number], self.kinds[ask.number] = cost, kind
        self.born[ask.number] = self.total
        node.asks.append(ask)
        self._touch(node)
        return ask

    def serve(self) -> Ask | None:
        """The next one, charged at once."""
        ask = self.policy.pick(self.root, lambda each: 100.0 * self.kinds[each.number])
        if ask is None:
            return None
        node = ask.node
        if node.asks[0] is not ask:
            node.asks[0].overtaken += 1
        node.asks.remove(ask)
        spent = self.costs[ask.number]
        self.policy.charge(node, spent)
        self.total += spent
        self.had[node.key] = self.had.get(node.key, 0.0) + spent
        self._touch(node)
        return ask

    def _touch(self, node: Node) -> None:
        top = node.parent
        assert top is not None
        for parent, each in ((top, node), (self.root, top)):
            wants = bool(node.asks if each is node else top.active)
            if wants and each.key not in parent.active:
                self.policy.joined(each)
                parent.active[each.key] = each
            elif not wants:
                parent.active.pop(each.key, None)


def bound(processes: int, sessions: int, before: int) -> float:
    """Cost that may be served before a request with ``before`` others of its process is.

    Its process may serve each of those ``OVERTAKEN`` later ones first. For each quantum that
    it, and then its session, is served, a round passes in which every other has one too, and
    overshoots it by one request.
    """
    own = (OVERTAKEN + 1) * (before + 1) * DEAR
    step = QUANTUM + DEAR
    session = own + (processes - 1) * (ceil(own / QUANTUM) + 2) * step
    return session + (sessions - 1) * (ceil(session / QUANTUM) + 2) * step


Arrival = tuple[int, int, float, int, int]

arrivals = st.lists(
    st.tuples(
        st.integers(1, 3),  # session
        st.integers(1, 3),  # process in it
        st.floats(1, DEAR),
        st.integers(0, KINDS - 1),
        st.integers(0, 2),  # served after it
    ),
    min_size=1,
    max_size=120,
)


@pytest.mark.parametrize("order", ["dlpm", "vtc", "fcfs"])
@given(events=arrivals)
@settings(max_examples=60, deadline=None)
def test_nobody_starves_and_nothing_is_left_waiting(order: Order, events: list[Arrival]) -> None:
    server = Server(make_policy(order))
    before: dict[int, int] = {}
    waiting = 0

    def serve() -> None:
        nonlocal waiting
        ask = server.serve()
        assert (ask is None) == (waiting == 0), "it is work-conserving"
        if ask is not None:
            waiting -= 1
            waited = server.total - server.costs[ask.number] - server.born[ask.number]
            assert waited <= bound(3, 3, before[ask.number])

    for session, process, cost, kind, served in events:
        node = server.node(session, 10 * session + process)
        before[server.arrive(node, cost, kind).number] = len(node.asks) - 1
        waiting += 1
        for _ in range(served):
            serve()
    while waiting:
        serve()
    serve()


@pytest.mark.parametrize("order", ["dlpm", "vtc"])
@given(
    costs=st.lists(st.tuples(st.floats(1, DEAR), st.integers(0, KINDS - 1)), min_size=40),
    processes=st.lists(st.integers(1, 4), min_size=2, max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_what_backlogged_sessions_had_differs_by_a_bound(
    order: Order, costs: list[tuple[float, int]], processes: list[int]
) -> None:
    """However many processes each has: more children give no more."""
    server = Server(make_policy(order))
    had = dict.fromkeys(range(len(processes)), 0.0)
    for session, count in enumerate(processes):
        for process in range(count):
            for cost, kind in costs[:10]:
                server.arrive(server.node(session, 10 * session + process), cost, kind)
    for cost, kind in costs:
        ask = server.serve()
        assert ask is not None
        had[ask.node.key // 10] += server.costs[ask.number]
        server.arrive(ask.node, cost, kind)  # so that nobody's queue runs empty
        most = QUANTUM + DEAR if order == "dlpm" else DEAR
        assert max(had.values()) - min(had.values()) <= most + 1e-6


def _backlogged(policy: Policy, nodes: list[tuple[int, int, int]], served: int) -> Server:
    """Sessions, processes and nice levels that always have three requests waiting."""
    server = Server(policy)
    for session, process, nice in nodes:
        for _ in range(3):
            server.arrive(server.node(session, process, nice), 200.0, 0)
    for _ in range(served):
        ask = server.serve()
        assert ask is not None
        server.arrive(ask.node, 200.0, 0)
    return server


@pytest.mark.parametrize("order", ["dlpm", "vtc"])
def test_nice_levels_share_by_weight(order: Order) -> None:
    server = _backlogged(make_policy(order), [(1, 11, 0), (1, 12, 5)], 2000)
    ratio = server.had[11] / server.had[12]
    assert ratio == pytest.approx(weight(0) / weight(5), rel=0.1)
    assert weight(0) / weight(1) == pytest.approx(1.25)


@pytest.mark.parametrize("order", ["dlpm", "vtc"])
def test_who_was_idle_has_no_credit_for_it(order: Order) -> None:
    server = _backlogged(make_policy(order), [(1, 11, 0)], 1000)
    late = server.node(2, 21)
    for _ in range(200):
        server.arrive(late, 200.0, 0)
    before = server.had[11]
    for _ in range(200):
        ask = server.serve()
        assert ask is not None
        if ask.node.key == 11:
            server.arrive(ask.node, 200.0, 0)
    share = (server.had[11] - before) / (200 * 200.0)
    assert share == pytest.approx(0.5, abs=QUANTUM / (200 * 200.0))


@pytest.mark.parametrize("policy", [Dlpm(), Vtc()])
def test_who_was_alone_owes_nothing_for_it(policy: Policy) -> None:
    server = Server(policy)
    alone, late = server.node(1, 11), server.node(2, 21)
    for _ in range(1000):
        policy.unrivalled(alone)
        policy.charge(alone, 500.0)
    for _ in range(100):
        server.arrive(alone, 200.0, 0)
        server.arrive(late, 200.0, 0)
    first = [ask.node.key for ask in (server.serve() for _ in range(80)) if ask is not None]
    assert first.count(11) >= 80 * 0.5 - (QUANTUM + 500) / 200


def test_a_debt_is_paid_by_rounds_and_not_by_idling() -> None:
    policy = Dlpm()
    server = Server(policy)
    debtor, other = server.node(1, 11), server.node(1, 12)
    policy.charge(debtor, 10 * QUANTUM)
    assert policy.lead(debtor, other) == pytest.approx(10 * QUANTUM)
    for _ in range(60):
        server.arrive(debtor, 1000.0, KINDS)
        server.arrive(other, 1000.0, 0)
    taken = [ask.node.key for ask in (server.serve() for _ in range(40)) if ask is not None]
    assert taken.count(11) == 0, "it is cached best, but the other is owed ten quanta"


def test_the_best_cached_goes_first_until_the_oldest_was_overtaken_too_often() -> None:
    server = Server(Dlpm(quantum=1e9))
    node = server.node(1, 11)
    oldest = server.arrive(node, 10.0, 0)
    order = []
    for _ in range(OVERTAKEN + 2):
        server.arrive(node, 10.0, 1)
        ask = server.serve()
        assert ask is not None
        order.append(ask)
    assert order[OVERTAKEN] is oldest
    assert all(ask is not oldest for ask in order[:OVERTAKEN])


def test_going_ahead_is_paid_out_of_what_the_others_are_served() -> None:
    boost = Boost(burst=1000, part=0.25)
    while boost.allows:
        boost.served(300, ahead=True)
    assert boost.left == -200
    boost.served(800, ahead=False)
    assert not boost.allows
    boost.served(8, ahead=False)
    assert boost.allows
    boost.served(1e9, ahead=False)
    assert boost.left == 1000, "and not hoarded"
