"""LLM time: which requests are in an engine, and whose turn it is next.

    ask ──> WAITING ── a slot, and room for keys and values ──> RUNNING ──> DONE
      │        ^ ^                                                 │ │
      │        │ └────────────── suspended for another ────────────┘ │
      │        └── released, or read again ── PARKED <───────────────┘ stopped, or not read
      └── nobody waits and there is room: RUNNING

There is one scheduler for each engine. It holds requests back; the engine batches those that
it has been given. Who goes next is decided by a policy (``fairness.py``), what the
engine's cache holds is estimated (``locality.py``). A request that nobody competes with
passes at the cost of some arithmetic.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.llm.contract import Suspends
from kernel.turns.fairness import LEAD, Boost, cost, works
from kernel.turns.locality import Locality
from kernel.turns.served import SchedulerStatistics, Speed
from kernel.turns.ticket import Ticket
from kernel.turns.waiting import Waiting
from syscalls.errors import EAGAIN, EIO, ETIME, EngramError
from syscalls.shapes import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drivers.contracts import Clock
    from drivers.llm.contract import LLM, GenerateRequest, Piece
    from kernel.turns.fairness import Ask, Policy
    from kernel.turns.ticket import Client
    from procs.process import Process

SLOTS = 16
"""Generations in an engine that does not say how many it takes."""
OVERALL = 32
"""Requests that may wait in all, in full queues of single processes."""
SHORT = 5.0
"""Seconds: a request whose deadline is no farther off counts as interactive."""
TICK = 0.1
"""Seconds between two looks at deadlines and readers, while somebody waits."""
AHEAD = 0.05
"""Seconds of computing prompts that the engine is given at once: what comes next, a shell's
question above all, waits for no more than these."""
STALLED = 0.5
"""Seconds that a reader may leave a piece unread before its slot is given to another."""


class Limits(msgspec.Struct, frozen=True):
    """What is set for a scheduler."""

    slots: int = 0
    """Generations in the engine at once; 0 for what the engine takes."""
    queue: int = 128
    """Requests of one process that may wait."""


class Scheduler:
    """Gives the slots of one engine to requests."""

    def __init__(
        self,
        engine: LLM,
        policy: Policy,
        clock: Clock,
        limits: Limits | None = None,
        held: set[int] | None = None,
    ) -> None:
        """``held``: the processes that are stopped, kept by who stops them."""
        self.on_served: list[Callable[[Process, Usage], None]] = []
        """Told what a process was served, in parts; their sum is exact at the end of each
        generation, so that a part can be negative."""
        self.now = clock.monotonic
        self._engine = engine
        self._suspends: Suspends | None = None
        self._policy = policy
        self._limits = limits or Limits()
        self._boost = Boost()
        self._locality = Locality()
        self._speed = Speed(self.now)
        self._queue = Waiting(policy, set() if held is None else held)
        self._running: dict[Ticket, None] = {}
        self._parked = self._number = 0
        self._computing = 0
        """Tokens of prompts that the engine is computing now; whole ones, so that nothing is
        left of a sum when the last has gone."""
        self._admitted = self._ahead = self._preemptions = self._refusals = self._expired = 0
        self._ticking = self._sized = False
        self.slots = self.ordinary = self._limits.slots or SLOTS

    def _size(self) -> None:
        """Learn from the engine how much it takes, once it has said."""
        info = self._engine.info
        if info is None:
            return
        self._sized = True
        self.slots = self._limits.slots or info.slots or SLOTS
        spare = max(self.slots // 8, 1) if self._policy.lanes and self.slots > 1 else 0
        self.ordinary = self.slots - spare
        self._locality.tokens = info.kv_tokens
        if info.suspends and isinstance(self._engine, Suspends):
            self._suspends = self._engine

    # --- a request

    @contextmanager
    def ask(
        self, process: Process, request: GenerateRequest, patience: float = inf
    ) -> Iterator[Ticket]:
        """A place in the queue, or at once in the engine, until the end of the block.

        ``patience``: seconds until the caller's deadline. Raises EAGAIN with ``retry_after``
        (too many wait), ETIME (it cannot be done in time).
        """
        if not self._sized:
            self._size()
        client = self._queue.client(process)
        ticket = self._ticket(client, request, patience)
        if self._queue.count or client.node.held or not self._room(ticket):
            self._bounded(client)
            self.check(ticket)
            self._queue.push(ticket)
        client.tickets.append(ticket)
        try:
            if ticket.node.asks:
                self._pump()
            else:
                self._policy.unrivalled(client.node)
                self._start(ticket)
            yield ticket
        except EngramError as error:
            self._failed(ticket, error)
            raise
        finally:
            self._leave(ticket)

    def _ticket(self, client: Client, request: GenerateRequest, patience: float) -> Ticket:
        self._number += 1
        chain, prompt = self._locality.chain(request)
        now = self.now()
        return Ticket(
            client.node,
            self._number,
            prompt=prompt,
            most=request.max_tokens,
            arrived=now,
            deadline=now + patience,
            interactive=client.process.kind == "session" or patience <= SHORT,
            scheduler=self,
            client=client,
            request=request,
            chain=chain,
        )

    def _bounded(self, client: Client) -> None:
        """Raises EAGAIN where a queue is full."""
        own, whole = len(client.node.asks), self._limits.queue * OVERALL
        if own < self._limits.queue and self._queue.count < whole:
            return
        self._refusals += 1
        client.refusals += 1
        before = self._queue.rivals if own >= self._limits.queue else 1
        raise EAGAIN(
            f"{own} generations of process {client.process.apid} wait for the model already, "
            f"{self._queue.count} of all processes",
            retry_after=min(max(self._speed.after(before), 0.05), 60.0),
            limit=self._limits.queue,
        )

    def check(self, ticket: Ticket) -> None:
        """Raises ETIME where not even its prompt could be computed in time."""
        if ticket.deadline == inf or ticket.state != "waiting" or ticket.begun >= 0:
            return
        left = ticket.deadline - self.now()
        if left < self._speed.least(ticket.prompt - self._match(ticket)):
            self._expired += 1
            raise ETIME(
                f"the prompt takes the model longer than the {left:.3g} s that are left",
                left=left,
                waiting=self._queue.count,
            )

    def charge(self, ticket: Ticket, piece: Piece) -> None:
        """Count a piece of a running ticket; the last one brings the exact usage."""
        told, whole = ticket.reported, piece.usage
        if ticket.computing:
            self._speed.spoke(ticket.computing, self.now() - ticket.since)
            self._computed(ticket)
            self._pump()
        if whole is None:
            if piece.tokens:
                self._account(ticket, 0, 0, piece.tokens)
            return
        chars = ticket.prompt * self._locality.chars
        self._locality.learn(chars, ticket.expected, ticket.stamp, whole)
        self._account(
            ticket,
            whole.prompt - told.prompt,
            whole.cached - told.cached,
            whole.completion - told.completion,
        )

    def _account(self, ticket: Ticket, prompt: int, cached: int, completion: int) -> None:
        """So much more was served: the process pays, and observers are told."""
        told, client = ticket.reported, ticket.client
        before = cost(told.prompt, told.cached, told.completion)
        for total in (told, client.usage):
            total.prompt += prompt
            total.cached += cached
            total.completion += completion
        spent = cost(told.prompt, told.cached, told.completion) - before
        self._policy.charge(client.node, spent)
        self._boost.served(spent, ahead=ticket.ahead)
        self._speed.served(spent)
        for observer in self.on_served:
            observer(client.process, Usage(prompt, cached, completion))

    def _failed(self, ticket: Ticket, error: EngramError) -> None:
        """The engine gave nothing: nothing is to be paid."""
        told = ticket.reported
        if not told.completion:
            self._account(ticket, -told.prompt, -told.cached, 0)
        if isinstance(error, EIO):
            self._locality.clear()  # it may have been lost, with all that it kept

    def _leave(self, ticket: Ticket) -> None:
        """A ticket has come to its end, whatever that was."""
        client = ticket.client
        client.tickets.remove(ticket)
        if ticket.state == "running":
            self._stop(ticket)
        elif ticket.state == "waiting":
            self._queue.pull(ticket)
        else:
            self._parked -= 1
        ticket.state = "done"
        if ticket.begun >= 0 and ticket.reported.completion:
            self._speed.finished(self.now() - ticket.begun, ticket.reported)
        if client.gone:
            self.ended(client.process.apid)
        self._pump()

    # --- choosing

    def _pump(self) -> None:
        """Start what can be started."""
        while self._queue.count:
            ticket = self._hurried() or self._next()
            if ticket is None:
                return
            if (oldest := ticket.node.asks[0]) is not ticket:
                oldest.overtaken += 1
            self._queue.pull(ticket)
            self._start(ticket)

    def _room(self, ticket: Ticket, *, ahead: bool = False) -> bool:
        """Whether the engine can take it now."""
        if len(self._running) >= (self.slots if ahead else self.ordinary):
            return False
        if self._policy.lanes and not ahead and self._computing:
            coming = ticket.prompt - self._match(ticket)
            if self._computing + coming > (AHEAD * self._speed.prefill or inf):
                return False
        completion = min(float(ticket.most), 2 * self._speed.completion)
        rest = ticket.prompt - self._locality.tokens_of(len(ticket.chain))
        ticket.own = max(rest, 0.0) + completion
        return self._locality.fits(ticket.chain, ticket.own)

    def _match(self, ask: Ask) -> float:
        assert isinstance(ask, Ticket)
        return self._locality.tokens_of(self._locality.match(ask.chain))

    def _hurried(self) -> Ticket | None:
        """One that goes ahead of its turn: the most urgent, or else an interactive one."""
        if not self._queue.lanes or not self._policy.lanes or not self._boost.allows:
            return None
        ready = [each for each in self._queue.lanes if not each.node.held]
        dated = [each for each in ready if each.deadline < inf and self._urgent(each)]
        best = min(dated, key=lambda each: each.deadline, default=None) or next(
            (each for each in ready if each.interactive), None
        )
        if best is None or not self._seated(best):
            return None
        best.ahead = True
        return best

    def _urgent(self, ticket: Ticket) -> bool:
        takes = self._speed.estimate(ticket.prompt - self._match(ticket), ticket.most)
        return ticket.deadline - self.now() < 2 * takes

    def _seated(self, ticket: Ticket) -> bool:
        """Whether there is room for one that goes ahead, if need be by suspending another."""
        if len(self._running) >= self.slots:
            victims = self._victims()
            if not victims:
                return False
            self._suspend(max(victims, key=lambda each: each.begun))
        return self._room(ticket, ahead=True)

    def _next(self) -> Ticket | None:
        """Whose turn it is, if there is room for it."""
        full = len(self._running) >= self.ordinary
        victims = self._victims() if full and self._ticking else []
        if full and not victims:
            return None
        picked = self._policy.pick(self._queue.root, self._match)
        if picked is None:
            return None
        assert isinstance(picked, Ticket)
        if full:
            node = picked.node
            victim = max(victims, key=lambda each: self._policy.lead(each.node, node))
            if self._policy.lead(victim.node, node) <= LEAD:
                return None
            self._suspend(victim)
        return picked if self._room(picked) else None

    def _victims(self) -> list[Ticket]:
        """Those that can be suspended for another."""
        if self._suspends is None:
            return []
        return [each for each in self._running if not each.ahead]

    # --- the engine

    def _start(self, ticket: Ticket) -> None:
        """Give a ticket its slot."""
        locality = self._locality
        first = ticket.begun < 0
        chunks = locality.match(ticket.chain)
        if first:
            ticket.begun = self.now()
            ticket.client.waits.append(ticket.begun - ticket.arrived)
            ticket.expected = min(locality.tokens_of(chunks), ticket.prompt)
            ticket.stamp = locality.stamp_of(ticket.chain, chunks)
            self._admitted += 1
            self._ahead += ticket.ahead
        locality.begin(ticket.chain, ticket.own)
        self._running[ticket] = None
        works(ticket.node, 1)
        ticket.computing = max(int(ticket.prompt - locality.tokens_of(chunks)), 0)
        self._computing += ticket.computing
        ticket.since = self.now()
        ticket.state = "running"
        self._speed.working(len(self._running))
        if first:
            self._account(ticket, int(ticket.prompt), int(ticket.expected), 0)
        else:
            self._tell(ticket, on=False)
        ticket.wake()

    def _stop(self, ticket: Ticket) -> None:
        """Take its slot from a ticket."""
        del self._running[ticket]
        works(ticket.node, -1)
        self._computed(ticket)
        self._locality.end(ticket.chain, ticket.own)
        self._speed.working(len(self._running))

    def _computed(self, ticket: Ticket) -> None:
        """Its prompt is no longer being computed."""
        self._computing -= ticket.computing
        ticket.computing = 0

    def _suspend(self, ticket: Ticket) -> None:
        """Have one that runs wait; what it has generated is kept, and it goes on from there."""
        self._preemptions += 1
        ticket.client.preemptions += 1
        self._park(ticket)
        self._unpark(ticket)

    def _park(self, ticket: Ticket) -> None:
        self._stop(ticket)
        ticket.state = "parked"
        self._parked += 1
        self._tell(ticket, on=True)

    def _unpark(self, ticket: Ticket) -> None:
        self._parked -= 1
        self._queue.push(ticket)

    def _tell(self, ticket: Ticket, *, on: bool) -> None:
        if self._suspends is not None:
            self._suspends.suspend(ticket.request, on=on)

    def requeue(self, ticket: Ticket) -> None:
        """Have a parked ticket wait for a slot, to go on."""
        self._unpark(ticket)
        self._pump()

    # --- processes

    def hold(self, apid: int) -> None:
        """A process is stopped: nothing of it starts, and what runs is suspended and kept."""
        client = self._queue.clients.get(apid)
        if client is None or client.node.held:
            return
        client.node.held = True
        self._queue.touch(client.node)
        for ticket in client.tickets:
            if ticket.state == "running":
                self._park(ticket)
        self._pump()

    def release(self, apid: int) -> None:
        """It goes on: what was suspended waits for a slot, before what is newer."""
        client = self._queue.clients.get(apid)
        if client is None or not client.node.held:
            return
        client.node.held = False
        self._queue.touch(client.node)
        for ticket in reversed(client.tickets):
            if ticket.state == "parked":
                self._unpark(ticket)
            ticket.wake()
        self._pump()

    def ended(self, apid: int) -> None:
        """A process has ended: it is forgotten when its calls have ended too."""
        self._queue.forget(apid)

    # --- time

    async def run(self) -> None:
        """Look at deadlines and readers while somebody waits; until cancelled."""
        while True:
            if not self._queue.count:
                self._queue.some = trio.Event()
                await self._queue.some.wait()
            await trio.sleep(TICK)
            self.tick()

    def tick(self) -> None:
        """One look: slots that nobody reads from are given away, who is too late is told."""
        now = self.now()
        for ticket in [each for each in self._running if now - each.unread > STALLED]:
            self._park(ticket)
        for ticket in self._queue.lanes:
            if ticket.deadline < inf:
                ticket.wake()
        self._ticking = True
        self._pump()
        self._ticking = False

    # --- figures

    def statistics(self) -> SchedulerStatistics:
        """Figures for ``/proc``, ``top`` and metrics."""
        return SchedulerStatistics(
            self._policy.name,
            self.slots,
            self.ordinary,
            len(self._running),
            self._queue.count,
            self._parked,
            self._computing,
            int(self._locality.used),
            self._locality.tokens,
            self._speed.rate,
            self._admitted,
            self._ahead,
            self._preemptions,
            self._refusals,
            self._expired,
            [client.served() for client in self._queue.clients.values()],
        )
