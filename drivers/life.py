"""One life of a driver host: its link, and the calls that it has not answered.

A call is an ``Exchange``: chunks, then exactly one end, which is the host's answer, its
error, or the death of the host. Sequence numbers, slots and credits begin anew with each
life, so nothing from an earlier one can be taken for an answer.
"""

import contextlib
from collections import deque

import msgspec
import trio
from msgspec import Raw
from trio import lowlevel

from drivers.link import Link
from drivers.port import BrokenLink
from drivers.protocol import (
    Call,
    Cancel,
    Chunk,
    Credit,
    Done,
    Failed,
    Hello,
    Message,
    Ping,
    Pong,
    Progress,
    Suspend,
    pack,
)
from syscalls.errors import EngramError, from_value


class Exchange:
    """One call in flight on a host. Use it as an async iterator, then ``result``."""

    def __init__(self, life: "Life", seq: int, credit: int) -> None:
        self._life = life
        self._seq = seq
        self._credit = credit
        self._owed = 0
        self._chunks: deque[Raw] = deque()
        self._end: Raw | EngramError | None = None
        self._lot = lowlevel.ParkingLot()

    def __aiter__(self) -> "Exchange":
        return self

    async def __anext__(self) -> Raw:
        """The next chunk, still encoded. Raises what the call failed with."""
        await lowlevel.checkpoint()
        while not self._chunks:
            if isinstance(self._end, EngramError):
                raise self._end
            if self._end is not None:
                raise StopAsyncIteration
            await self._lot.park()
        self._owed += 1
        if self._owed * 2 >= self._credit and self._end is None:
            self._life.credit(self._seq, self._owed)
            self._owed = 0
        return self._chunks.popleft()

    async def result(self) -> Raw:
        """The answer, still encoded; chunks not read are dropped. Raises likewise."""
        async for _ in self:
            continue
        assert isinstance(self._end, Raw), "the iteration ends only with an answer"
        return self._end

    def close(self) -> None:
        """Cancel the call if it has not ended. To be called in any case; never waits."""
        if self._end is None:
            self._life.cancel(self._seq)

    def suspend(self, *, on: bool) -> None:
        """Have the host's work on it stand still, or go on. Never waits."""
        if self._end is None:
            self._life.suspend(self._seq, on=on)

    def chunk(self, value: Raw) -> None:
        """Take a chunk from the host."""
        self._chunks.append(value)
        self._lot.unpark_all()

    def end(self, how: Raw | EngramError) -> None:
        """Take the end; the first one counts."""
        if self._end is None:
            self._end = how
            self._lot.unpark_all()


class Life:
    """The kernel's view of one running host."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.hello: Hello | None = None
        self.refusal: EngramError | None = None
        """Why the engine could not be loaded."""
        self.progress = ""
        self.missed = 0
        """Pings in a row that were not answered."""
        self._exchanges: dict[int, Exchange] = {}
        self._cancelled: set[int] = set()
        self._seq = 0
        self._slots = lowlevel.ParkingLot()
        self._over = False

    @property
    def inflight(self) -> int:
        """Calls that hold a slot of the host."""
        return len(self._exchanges)

    async def slot(self) -> bool:
        """Wait until a call may begin; False when this life is over."""
        await lowlevel.checkpoint()
        while not self._over:
            if self.hello is not None and len(self._exchanges) < self.hello.window:
                return True
            await self._slots.park()
        return False

    def begin(self, method: str, arguments: msgspec.Struct, credit: int) -> Exchange:
        """Send a call; ``slot`` must have said True without a wait in between."""
        self._seq += 1
        exchange = self._exchanges[self._seq] = Exchange(self, self._seq, credit)
        self._post(Call(self._seq, method, pack(arguments), credit))
        return exchange

    def cancel(self, seq: int) -> None:
        """Tell the host that nobody waits. Its slot is free once it has let go."""
        if seq in self._exchanges and seq not in self._cancelled and not self._over:
            self._cancelled.add(seq)
            self._post(Cancel(seq))

    def credit(self, seq: int, more: int) -> None:
        """Allow the host more chunks."""
        if seq in self._exchanges and not self._over:
            self._post(Credit(seq, more))

    def suspend(self, seq: int, *, on: bool) -> None:
        """Tell the host to let a call stand still, or go on."""
        if seq in self._exchanges and not self._over:
            self._post(Suspend(seq, on))

    async def beat(self, interval: float, misses: int) -> str:
        """Ping until ``misses`` pings in a row went unanswered; the reason to give it up.

        Pings are counted, not seconds: when this process itself was held up for a minute
        (a debugger, a suspended machine), the host is not to blame.
        """
        number = 0
        while self.missed < misses:
            number += 1
            self.missed += 1
            self.link.post(Ping(number))
            await trio.sleep(interval)
        return f"no heartbeat for {misses * interval:g} s"

    def handle(self, message: Message) -> None:
        """Take one message of the host."""
        match message:
            case Pong():
                self.missed = 0
            case Progress(text):
                self.progress = text
            case Hello():
                self.hello = message
                self._slots.unpark_all()
            case Chunk(seq, value):
                if exchange := self._exchanges.get(seq):
                    exchange.chunk(value)
            case Done(seq, value):
                self._finish(seq, value)
            case Failed(0, number, error):
                self.refusal = from_value(number, error)
            case Failed(seq, number, error):
                self._finish(seq, from_value(number, error))

    def over(self, error: EngramError) -> None:
        """The host is gone: everything in flight ends with ``error``."""
        self._over = True
        self._slots.unpark_all()
        for exchange in self._exchanges.values():
            exchange.end(from_value(error.number, error.to_value()))
        self._exchanges.clear()

    def _post(self, message: Message) -> None:
        with contextlib.suppress(BrokenLink):  # the pump reports it, and ``over`` follows
            self.link.post(message)

    def _finish(self, seq: int, how: Raw | EngramError) -> None:
        exchange = self._exchanges.pop(seq, None)
        self._cancelled.discard(seq)
        if exchange is not None:
            exchange.end(how)
            self._slots.unpark(count=1)
