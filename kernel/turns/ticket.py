"""One request for the model on its way through the scheduler, and the process it is of."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal

import trio

from kernel.turns.fairness import Ask, Node
from kernel.turns.served import Served, part
from syscalls.shapes import Usage

if TYPE_CHECKING:
    from drivers.llm.contract import GenerateRequest, Piece
    from kernel.turns.locality import Chain
    from kernel.turns.scheduler import Scheduler
    from procs.process import Process

WAITS = 256
"""Waits of which percentiles are kept, for each process."""

State = Literal["waiting", "running", "parked", "done"]


@dataclass(slots=True, eq=False)
class Client:
    """What is kept of one process."""

    process: Process
    node: Node
    tickets: list[Ticket] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=WAITS))
    preemptions: int = 0
    refusals: int = 0
    gone: bool = False
    """Whether it has ended."""

    def served(self) -> Served:
        """Its figures."""
        usage = self.usage
        return Served(
            self.process.apid,
            self.process.session,
            usage.prompt,
            usage.cached,
            usage.completion,
            len(self.node.asks),
            sum(ticket.state == "running" for ticket in self.tickets),
            part(self.waits, 0.5),
            part(self.waits, 0.95),
            self.preemptions,
            self.refusals,
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket(Ask):
    """One request on its way through the scheduler."""

    scheduler: Scheduler
    client: Client
    request: GenerateRequest
    chain: Chain
    state: State = "waiting"
    own: float = 0.0
    """Tokens of keys and values set aside for it that its chain does not stand for."""
    expected: float = 0.0
    """Cached tokens that were expected when it began."""
    stamp: int = 0
    computing: int = 0
    """Tokens of its prompt that the engine is computing now."""
    begun: float = -1.0
    """When it first went to the engine, by the clock."""
    since: float = 0.0
    """When it last went to the engine."""
    ahead: bool = False
    """Whether it has its slot out of turn."""
    reported: Usage = field(default_factory=Usage)
    """What accounts and observers were told so far."""
    unread: float = inf
    """Since when its reader has a piece and has not asked for the next."""
    turn: trio.Event | None = None

    async def admitted(self) -> None:
        """Wait until it may go to the engine. Raises ETIME when it cannot be done in time."""
        while self.state != "running":
            self.turn = trio.Event()
            await self.turn.wait()
            self.scheduler.check(self)

    async def took(self, piece: Piece) -> None:
        """A piece has come: charge for it, and keep it while the process is stopped."""
        self.scheduler.charge(self, piece)
        while self.node.held:
            self.turn = trio.Event()
            await self.turn.wait()
        self.unread = self.scheduler.now()

    def read(self) -> None:
        """The reader wants the next piece."""
        self.unread = inf
        if self.state == "parked" and not self.node.held:
            self.scheduler.requeue(self)

    def wake(self) -> None:
        """Have its task look again."""
        if self.turn is not None:
            self.turn.set()
