"""What waits for a model: the tree of sessions and processes that the policies look at."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from kernel.turns.fairness import Node, weight
from kernel.turns.ticket import Client

if TYPE_CHECKING:
    from kernel.turns.fairness import Policy
    from kernel.turns.ticket import Ticket
    from procs.process import Process


class Waiting:
    """The queues of all processes, and the accounts of those that have none now."""

    def __init__(self, policy: Policy, held: set[int]) -> None:
        """``held``: the processes that are stopped."""
        self.root = Node(0)
        self.clients: dict[int, Client] = {}
        self.lanes: dict[Ticket, None] = {}
        """Those that are interactive or have a deadline, in the order of their arrival."""
        self.count = 0
        self.some = trio.Event()
        self._policy = policy
        self._held = held
        self._sessions: dict[int, Node] = {}

    @property
    def rivals(self) -> int:
        """Processes that want something."""
        return sum(len(session.active) for session in self.root.active.values())

    def client(self, process: Process) -> Client:
        """What is kept of a process; its weight is brought up to date."""
        client = self.clients.get(process.apid)
        if client is None:
            session = self._sessions.get(process.session)
            if session is None:
                session = self._sessions[process.session] = Node(process.session, self.root)
            session.members += 1
            node = Node(process.apid, session, held=process.apid in self._held)
            client = self.clients[process.apid] = Client(process, node)
        client.node.weight = weight(process.nice)
        return client

    def push(self, ticket: Ticket) -> None:
        """Put a ticket into its queue; one that was begun goes to the front."""
        if ticket.begun < 0:
            ticket.node.asks.append(ticket)
        else:
            ticket.node.asks.appendleft(ticket)
        ticket.state = "waiting"
        ticket.ahead = False
        self.count += 1
        if ticket.interactive or ticket.deadline < inf:
            self.lanes[ticket] = None
        self.touch(ticket.node)
        self.some.set()

    def pull(self, ticket: Ticket) -> None:
        """Take a ticket out of its queue."""
        ticket.node.asks.remove(ticket)
        self.count -= 1
        self.lanes.pop(ticket, None)
        self.touch(ticket.node)

    def touch(self, node: Node) -> None:
        """Bring the active nodes up to date: a process's queue or its being held has changed."""
        session = node.parent
        assert session is not None, "a process has a session"
        self._set_active(session, node, wants=bool(node.asks) and not node.held)
        self._set_active(self.root, session, wants=bool(session.active))

    def _set_active(self, parent: Node, node: Node, *, wants: bool) -> None:
        if wants == (node.key in parent.active):
            return
        if wants:
            self._policy.joined(node)
            parent.active[node.key] = node
        else:
            del parent.active[node.key]

    def forget(self, apid: int) -> None:
        """A process has ended: it is forgotten when the last of its requests has gone.

        A session's account goes with the session and the last of its processes, so that
        nobody is rid of a debt by starting another process.
        """
        numbers = [apid]
        if (client := self.clients.get(apid)) is not None:
            client.gone = True
            if client.tickets:
                return
            del self.clients[apid]
            self._sessions[client.process.session].members -= 1
            numbers.append(client.process.session)
        for number in numbers:
            session = self._sessions.get(number)
            if session is None:
                continue
            session.over = session.over or number == apid
            if session.over and not session.members:
                del self._sessions[number]
