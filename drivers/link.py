"""A ``Port`` in trio: one task waits for the descriptor, anybody sends and receives.

    sender ── post ─┐                      ┌─ receive ── reader
                    ├── turn() on the Port ┤
    pump ── fd ─────┘                      └─ wakes whoever is parked

Only the pump waits on the descriptor (trio allows one). Everyone else calls ``turn``
synchronously, which leaves the descriptor armed again (see ``port``).
"""

import trio
from trio import lowlevel

from drivers.port import BrokenLink, Port, PortStatistics
from drivers.protocol import Message

STUCK = 0.01
"""Seconds between turns while a port is ``stuck``."""


class Link:
    """Messages to and from one peer, in order, never lost and never twice."""

    def __init__(self, port: Port, *, outbox: int = 64) -> None:
        self._port = port
        self._outbox = outbox
        self._broken: BrokenLink | None = None
        self._closed = False
        self._wait = trio.CancelScope()
        self._readers = lowlevel.ParkingLot()
        self._writers = lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pump until cancelled, closed, or the peer is gone (BrokenLink)."""
        self._turn()
        task_status.started()
        while True:
            self._check()
            with trio.CancelScope() as self._wait:
                self._hurry()
                await lowlevel.wait_readable(self._port.fd)
            self._turn()

    def post(self, message: Message) -> None:
        """Send without waiting for room: for what credit bounds already, and for control."""
        self._check()
        self._port.post(message)
        self._turn()

    async def send(self, message: Message) -> None:
        """Send, once the outbox has room. Raises BrokenLink, trio.ClosedResourceError."""
        await lowlevel.checkpoint()
        while len(self._port.outbox) >= self._outbox:
            self._check()
            await self._writers.park()
        self.post(message)

    async def receive(self) -> Message:
        """The next message. Raises BrokenLink, trio.ClosedResourceError."""
        await lowlevel.checkpoint()
        while not self._port.inbox:
            self._check()
            await self._readers.park()
        full = len(self._port.inbox) >= self._port.limit
        message = self._port.inbox.popleft()
        if full and not self._closed and not self._broken:
            self._turn()  # the socket may hold more, and its edge is already spent
        return message

    def close(self) -> None:
        """Close the socket and wake whoever waits. What was received can still be read."""
        if self._closed:
            return
        self._closed = True
        lowlevel.notify_closing(self._port.fd)
        self._port.close()
        self._wake_all()

    def statistics(self) -> PortStatistics:
        """Figures of the port."""
        return self._port.statistics()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this link was closed")
        if self._broken:
            raise BrokenLink(str(self._broken)) from self._broken

    def _turn(self) -> None:
        self._check()
        try:
            self._port.turn()
        except BrokenLink as error:
            self._broken = error
            self._wait.cancel()  # whoever found out, the pump must end
            self._wake_all()
            raise
        self._hurry()
        if self._port.inbox:
            self._readers.unpark(count=len(self._port.inbox))
        if len(self._port.outbox) < self._outbox:
            self._writers.unpark(count=self._outbox - len(self._port.outbox))

    def _hurry(self) -> None:
        """Bound the pump's wait where no edge is to be expected."""
        if self._port.stuck:
            self._wait.deadline = trio.current_time() + STUCK

    def _wake_all(self) -> None:
        self._readers.unpark_all()
        self._writers.unpark_all()
