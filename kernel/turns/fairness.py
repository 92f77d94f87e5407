"""Whose request goes to the model next: policies, without clock, waiting or engine.

    root ── session 12 ── process 12   [ask]                 a session is the upper level, so
         │             └─ process 15   [ask][ask][ask]       that more children give no more
         └─ session 40 ── process 41   [ask][ask]

Shares are equal between sessions that want something, and inside one in proportion to the
weights of its processes. What is shared is cost: tokens of the prompt that had to be computed,
and tokens of the completion, weighted. Three orders:

- first come, first served: the baseline;
- the virtual token counter (Sheng et al., arXiv 2401.00588): who has had least goes next;
- deficit longest prefix match (Cao et al., arXiv 2501.14312): who still has some of the quantum
  of this round may go, and of these the request whose prefix is in the engine's cache.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Order = Literal["dlpm", "vtc", "fcfs", "lpm"]

WEIGHT_IN, WEIGHT_OUT = 1.0, 2.0
"""Cost of a computed token of a prompt and of one of a completion (as in arXiv 2401.00588)."""
STEP = 1.25
"""Ratio of the weights of two neighbouring nice levels, as in Linux."""
QUANTUM = 4096.0
"""Cost that a share of weight 1 may be served in one round: more is more locality, less is
closer fairness."""
LEAD = 1.5 * QUANTUM
"""Cost by which a running one must be ahead of a waiting one before it is suspended for it."""
LOOKAHEAD = 128
"""Requests of one process that are compared."""
COMPARED = 256
"""Requests that are compared in all."""
OVERTAKEN = 16
"""Times that a process's oldest request may be overtaken by its later ones."""


def weight(nice: int) -> float:
    """The weight of a nice level: 1 at 0, a fifth less for each level above."""
    return STEP**-nice


def cost(prompt: float, cached: float, completion: float) -> float:
    """What tokens are worth."""
    return WEIGHT_IN * max(prompt - cached, 0.0) + WEIGHT_OUT * completion


@dataclass(slots=True, eq=False)
class Node:
    """Something that has a share: a session, or a process in it."""

    key: int
    parent: Node | None = None
    weight: float = 1.0
    account: float = 0.0
    """What the policy keeps: a deficit that is left, or a counter of what was had."""
    seen: float = 0.0
    """The parent's ``time`` when the account was last brought up to date."""
    time: float = 0.0
    """What has passed for its children: rounds, or virtual tokens."""
    active: dict[int, Node] = field(default_factory=dict)
    """Children for which something waits, in the order in which that began."""
    working: dict[int, Node] = field(default_factory=dict)
    """Children that have something in the engine."""
    running: int = 0
    """Requests in the engine, of a process or of all in a session."""
    asks: deque[Ask] = field(default_factory=deque)
    """Of a process: what waits, oldest first."""
    held: bool = False
    """Of a process: whether it is stopped, and so wants nothing."""
    members: int = 0
    """Of a session: the processes that are known in it."""
    over: bool = False
    """Of a session: whether it has ended."""


@dataclass(slots=True, eq=False)
class Ask:
    """A request for the model, as the policies see it."""

    node: Node
    number: int
    """In the order of arrival."""
    prompt: float = 0.0
    """Tokens, estimated."""
    most: int = 0
    """Tokens of the completion, at most."""
    arrived: float = 0.0
    """Seconds of the clock, as ``deadline``."""
    deadline: float = inf
    interactive: bool = False
    overtaken: int = 0


class Policy(Protocol):
    """Decides who goes next. Asks are in ``Node.asks``; active nodes in ``Node.active``.

    ``match`` says how many tokens of a prompt are believed to be in the engine's cache.
    """

    name: Order
    lanes: bool
    """Whether interactive and urgent requests may go ahead."""

    def joined(self, node: Node) -> None:
        """A process or session wants something again: no credit is left from its idle time."""

    def unrivalled(self, node: Node) -> None:
        """A process is served because nobody waits: it is not to have to pay for it later."""

    def pick(self, root: Node, match: Callable[[Ask], float]) -> Ask | None:
        """The next one of those that wait; None when none does."""

    def charge(self, node: Node, spent: float) -> None:
        """A process was served at this cost; negative where an estimate was too high."""

    def lead(self, node: Node, other: Node) -> float:
        """How far a process is ahead of another, in cost: in its session, or with it."""


class Fcfs:
    """First come, first served."""

    name: Order = "fcfs"
    lanes = False

    def joined(self, node: Node) -> None:
        """Nothing is kept."""

    def unrivalled(self, node: Node) -> None:
        """Likewise."""

    def pick(self, root: Node, match: Callable[[Ask], float]) -> Ask | None:
        """The oldest."""
        firsts = (node.asks[0] for node in _leaves(root))
        return min(firsts, key=lambda ask: ask.number, default=None)

    def charge(self, node: Node, spent: float) -> None:
        """Nothing is kept."""

    def lead(self, node: Node, other: Node) -> float:
        """Nobody is ahead."""
        return 0.0


class Lpm(Fcfs):
    """Longest prefix match alone: the best locality, and no fairness at all. To compare with."""

    name: Order = "lpm"

    def pick(self, root: Node, match: Callable[[Ask], float]) -> Ask | None:
        """The one of which most is cached; the oldest of several."""
        asks = (ask for node in _leaves(root) for ask in node.asks)
        return max(asks, key=lambda ask: (match(ask), -ask.number), default=None)


class Vtc:
    """The virtual token counter, at both levels.

    ``account`` is what was had, divided by the weight. ``time`` of a parent is the account of
    the child last picked: who comes back from idling starts there (the paper's lift).
    """

    name: Order = "vtc"
    lanes = True

    def joined(self, node: Node) -> None:
        """Lift its counter to the time of its siblings."""
        if node.parent is not None:
            node.account = max(node.account, node.parent.time)

    def unrivalled(self, node: Node) -> None:
        """Let the time go with it, so that who comes later does not start far behind."""
        for each in _upwards(node):
            self.joined(each)
            if each.parent is not None:
                each.parent.time = each.account

    def pick(self, root: Node, match: Callable[[Ask], float]) -> Ask | None:
        """The oldest request of the process that has had least, in the session that has."""
        node = root
        while node.active:
            least = min(node.active.values(), key=lambda each: each.account)
            node.time = max(node.time, least.account)
            node = least
        return node.asks[0] if node.asks else None

    def charge(self, node: Node, spent: float) -> None:
        """Count it for the process and its session."""
        for each in _upwards(node):
            each.account += spent / each.weight

    def lead(self, node: Node, other: Node) -> float:
        """By their counters."""
        mine, theirs = _rivals(node, other)
        return mine.account - theirs.account


class Dlpm:
    """Deficit longest prefix match, at both levels.

    ``account`` is the deficit: what may still be had in this round. When nobody has any left,
    a round passes and each gets ``quantum`` by its weight. Debts stay until rounds have paid
    them; what an idle one is given never exceeds one quantum.

    Who has some left, but all that it asked for in the engine, is between two requests: a round
    that passed now would be lost to it. So that no slot is idle the others borrow meanwhile,
    up to a quantum. (The paper's clients always have something waiting.)
    """

    name: Order = "dlpm"
    lanes = True

    def __init__(self, quantum: float = QUANTUM) -> None:
        self.quantum = quantum

    def joined(self, node: Node) -> None:
        """Give it the rounds that have passed, at most one quantum in hand."""
        if node.parent is not None:
            self._settle(node, node.parent)

    def unrivalled(self, node: Node) -> None:
        """Let as many rounds pass as it needs: nobody else wants them."""
        for each in _upwards(node):
            if each.parent is not None:
                self._settle(each, each.parent)
                if each.account <= 0:
                    each.parent.time += self._rounds(each)
                    self._settle(each, each.parent)

    def pick(self, root: Node, match: Callable[[Ask], float]) -> Ask | None:
        """Of the oldest requests of those with a deficit left, the one that is cached best.

        A process whose oldest request was overtaken ``OVERTAKEN`` times has only that one.
        """
        best: Ask | None = None
        most = -1.0
        compared = 0
        for session in self._eligible(root):
            for node in self._eligible(session):
                for ask in _candidates(node):
                    known = match(ask)
                    if known > most or (known == most and best and ask.number < best.number):
                        best, most = ask, known
                    compared += 1
                if compared >= COMPARED:  # the others' turn comes when these have no deficit left
                    return best
        return best

    def charge(self, node: Node, spent: float) -> None:
        """Take it from the process and its session."""
        for each in _upwards(node):
            each.account -= spent

    def lead(self, node: Node, other: Node) -> float:
        """By their deficits, where the weights are taken into account."""
        mine, theirs = _rivals(node, other)
        for each in (mine, theirs):
            if each.parent is not None:
                self._settle(each, each.parent)
        return theirs.account / theirs.weight - mine.account / mine.weight

    def _eligible(self, parent: Node) -> list[Node]:
        """The active children with a deficit left; rounds pass until there is one."""
        for child in parent.active.values():
            self._settle(child, parent)
        found = [child for child in parent.active.values() if child.account > 0]
        if found or not parent.active:
            return found
        if self._absent(parent):
            found = [
                child
                for child in parent.active.values()
                if child.account > -self.quantum * child.weight
            ]
        if not found:
            parent.time += min(self._rounds(child) for child in parent.active.values())
            return self._eligible(parent)
        return found

    def _absent(self, parent: Node) -> bool:
        """Whether somebody who has a deficit left has all its requests in the engine."""
        for child in parent.working.values():
            self._settle(child, parent)
            if child.account > 0:
                return True
        return False

    def _rounds(self, node: Node) -> float:
        """Rounds until one without a deficit left has some."""
        return -node.account // (self.quantum * node.weight) + 1

    def _settle(self, node: Node, parent: Node) -> None:
        if passed := parent.time - node.seen:
            share = self.quantum * node.weight
            node.account = min(node.account + passed * share, max(node.account, share))
            node.seen = parent.time


class Boost:
    """How much may go ahead of its turn: a part of what is served to the others.

    Without a bound a shell, or a program that gives every request a deadline, could starve
    the rest. The budget is filled by serving, not by time, so it needs no clock.
    """

    def __init__(self, burst: float = 2 * QUANTUM, part: float = 0.25) -> None:
        self.burst = burst
        self.part = part
        self.left = burst

    def served(self, spent: float, *, ahead: bool) -> None:
        """Something was served, ahead of its turn or in it."""
        change = -spent if ahead else spent * self.part
        self.left = min(self.left + change, self.burst)

    @property
    def allows(self) -> bool:
        """Whether another may go ahead."""
        return self.left > 0


def works(node: Node, change: int) -> None:
    """One more request of a process is in the engine, or one less."""
    for each in _upwards(node):
        each.running += change
        if each.parent is None:
            continue
        if each.running:
            each.parent.working[each.key] = each
        else:
            each.parent.working.pop(each.key, None)


def make_policy(order: Order) -> Policy:
    """The policy of that name."""
    policies: dict[Order, Callable[[], Policy]] = {
        "dlpm": Dlpm,
        "vtc": Vtc,
        "fcfs": Fcfs,
        "lpm": Lpm,
    }
    return policies[order]()


def _leaves(root: Node) -> Iterator[Node]:
    return (node for session in root.active.values() for node in session.active.values())


def _upwards(node: Node) -> Iterable[Node]:
    """The process and its session; the root has no share of anything."""
    return (node, node.parent) if node.parent is not None else (node,)


def _rivals(node: Node, other: Node) -> tuple[Node, Node]:
    """The two that compete: the processes in one session, else their sessions."""
    if node.parent is other.parent or node.parent is None or other.parent is None:
        return node, other
    return node.parent, other.parent


def _candidates(node: Node) -> Iterator[Ask]:
    for number, ask in enumerate(node.asks):
        if number == LOOKAHEAD:
            return
        yield ask
        if not number and ask.overtaken >= OVERTAKEN:
            return
