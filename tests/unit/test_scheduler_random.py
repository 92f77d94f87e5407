"""The scheduler under requests, signals and slow readers in any order: nobody is forgotten."""

from __future__ import annotations

import random
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, cast

import pytest

from drivers.llm.contract import GenerateRequest, LLMInfo, Piece
from kernel.turns.fairness import make_policy
from kernel.turns.scheduler import Limits, Scheduler
from syscalls.errors import EIO, EngramError
from syscalls.shapes import Usage
from tests.load import process

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from drivers.contracts import Clock
    from drivers.llm.contract import LLM
    from kernel.turns.fairness import Order
    from kernel.turns.ticket import Ticket

STEPS = 300
ORDERS: tuple[Order, ...] = ("dlpm", "vtc", "fcfs", "lpm")


class Engine:
    """Says what it takes, and remembers who is suspended."""

    def __init__(self, dice: random.Random) -> None:
        self.info = LLMInfo(
            "model",
            "none",
            100_000,
            slots=dice.choice((0, 1, 2, 5, 16)),
            kv_tokens=dice.choice((0, 50, 600, 5000)),
            suspends=dice.random() < 0.6,
        )
        self.suspended: dict[int, bool] = {}

    def suspend(self, request: GenerateRequest, *, on: bool) -> None:
        """As of ``Suspends``."""
        self.suspended[id(request)] = on


class Requests:
    """A scheduler without a task: what tasks would do is done to it in any order."""

    def __init__(self, dice: random.Random, order: Order) -> None:
        self.dice, self.now = dice, 0.0
        self.engine, self.held = Engine(dice), set[int]()
        limits = Limits(slots=dice.choice((0, 0, 1, 3)), queue=dice.choice((3, 128)))
        self.scheduler = Scheduler(
            cast("LLM", self.engine), make_policy(order), cast("Clock", self), limits, self.held
        )
        self.processes = [
            process(
                10 + number,
                dice.choice((1, 2, 3)),
                kind=dice.choice(("python", "python", "session")),
                nice=dice.choice((0, 0, -20, 19)),
            )
            for number in range(6)
        ]
        self.open: dict[Ticket, tuple[AbstractContextManager[Any], GenerateRequest]] = {}

    def monotonic(self) -> float:
        """The clock's."""
        return self.now

    def among(self, state: str) -> list[Ticket]:
        return [ticket for ticket in self.open if ticket.state == state]

    def step(self) -> None:
        """Something happens."""
        dice, what = self.dice, self.dice.random()
        self.now += dice.random() * dice.choice((0.01, 0.3, 2.0))
        running = self.among("running")
        if what < 0.35:
            self.ask()
        elif what < 0.6 and running:
            ticket = dice.choice(running)
            self.scheduler.charge(ticket, Piece("x", tokens=dice.choice((0, 1, 7))))
            ticket.unread = dice.choice((inf, self.now))
        elif what < 0.72 and self.open:
            self.end(dice.choice(list(self.open)), dice.choice((None, None, EIO("lost"))))
        elif what < 0.8:
            apid = dice.choice(self.processes).apid
            self.held.symmetric_difference_update({apid})
            (self.scheduler.hold if apid in self.held else self.scheduler.release)(apid)
        elif what < 0.86 and self.open:
            dice.choice(list(self.open)).read()
        else:
            self.scheduler.tick()
        for ticket in self.among("waiting"):
            with suppress(EngramError):
                self.scheduler.check(ticket)
                continue
            self.end(ticket, None)

    def ask(self) -> None:
        dice = self.dice
        words = "word " * dice.choice((1, 100, 700, 3000))
        prompt = words + str(dice.randrange(3))
        request = GenerateRequest(prompt=prompt, max_tokens=dice.choice((1, 50, 1000)))
        self.engine.suspended.pop(id(request), None)
        patience = dice.choice((inf, inf, 0.01, 3.0, 60.0))
        asking = self.scheduler.ask(dice.choice(self.processes), request, patience)
        with suppress(EngramError):
            self.open[asking.__enter__()] = asking, request

    def end(self, ticket: Ticket, error: EngramError | None) -> None:
        asking, _request = self.open.pop(ticket)
        if error is None and ticket.state == "running":
            most = max(int(ticket.prompt * self.dice.uniform(0.3, 2)), 1)
            usage = Usage(most, self.dice.randrange(most), ticket.reported.completion)
            self.scheduler.charge(ticket, Piece("", "stop", usage))
        with suppress(EngramError):
            asking.__exit__(None if error is None else type(error), error, None)

    def check(self) -> None:
        """The sums are right, and who could go goes."""
        figures, running = self.scheduler.statistics(), self.among("running")
        waiting = self.among("waiting")
        assert (figures.running, figures.waiting) == (len(running), len(waiting))
        assert figures.parked == len(self.among("parked"))
        assert figures.computing == sum(ticket.computing for ticket in running)
        for ticket, (_asking, request) in self.open.items():
            suspended = self.engine.suspended.get(id(request))
            assert suspended in (None, ticket.state != "running")
        assert running or all(ticket.node.held for ticket in waiting), "it stands still"


@pytest.mark.parametrize("order", ORDERS)
def test_nothing_stands_still_and_nothing_is_left(order: Order) -> None:
    for seed in range(25):
        requests = Requests(random.Random(seed), order)
        for _ in range(STEPS):
            requests.step()
            requests.check()
        for apid in list(requests.held):
            requests.held.discard(apid)
            requests.scheduler.release(apid)
        for _ in range(5000):
            if not requests.open:
                break
            requests.now += 0.2
            requests.scheduler.tick()
            for ticket in requests.among("parked"):
                ticket.read()
            requests.check()
            for ticket in requests.among("running")[:1]:
                requests.end(ticket, None)
        figures = requests.scheduler.statistics()
        assert not requests.open, f"seed {seed}"
        assert (figures.running, figures.waiting, figures.parked) == (0, 0, 0)
        assert (figures.computing, figures.kv_used) == (0, 0)
