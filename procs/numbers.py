"""Agent process ids: never given out twice, whatever happens in between.

A number may be handed out only when a reservation at or above it is on disk. Reservations
are made a block at a time, so that a spawn waits for no commit; after a crash the unused
rest of the block is lost, which costs nothing.

    meta  "apid/" + limit (8 bytes, big-endian)  ->  b""

Each reservation is a key of its own: one that is committed late can then not undo a later
one, as a single counter could.

A process that is restored from an image may have its old number again, which may be one that
has not come up yet: it is claimed, and passed over when its turn comes.

    meta  "apid-claimed/" + number (8 bytes)  ->  b""
"""

import trio

from drivers.contracts import Batch, Store
from syscalls.errors import EAGAIN, EIO

INIT = 1
BLOCK = 4096
RETRY = 1.0
"""Seconds before a reservation that the store refused is tried again."""
PREFIX = b"apid/"
CLAIMED = b"apid-claimed/"


class Numbers:
    """Hands out APIDs. ``open`` first; ``run`` keeps reserved ones in stock."""

    def __init__(self, store: Store, block: int = BLOCK) -> None:
        self._store = store
        self._block = block
        self._next = 0
        self._limit = 0
        self._claimed: set[int] = set()
        self._low = trio.Event()
        self._failure = ""

    async def open(self) -> None:
        """Reserve the first block, above all that earlier boots reserved. One commit."""
        stale = [key for key, _ in self._store.scan("meta", PREFIX, _after(PREFIX))]
        before = max((_number(key) for key in stale), default=INIT)
        claims = [key for key, _ in self._store.scan("meta", CLAIMED, _after(CLAIMED))]
        stale += [key for key in claims if _number(key, CLAIMED) <= before]
        self._claimed = {number for key in claims if (number := _number(key, CLAIMED)) > before}
        # The new reservation and the end of the old ones are one atomic change.
        await self._store.commit(
            Batch(
                puts=[("meta", _key(before + self._block), b"")],
                deletes=[("meta", key) for key in stale],
            )
        )
        self._next, self._limit = before + 1, before + self._block

    def take(self) -> int:
        """The next number. Raises EAGAIN when the store is too slow, or refuses, to reserve."""
        if self._limit - self._next < self._block // 2:
            self._low.set()
        if self._next > self._limit:
            raise EAGAIN(
                "no process id can be given out before the store has reserved more"
                + (f": {self._failure}" if self._failure else ""),
                retry_after=RETRY if self._failure else 0.05,
            )
        self._next += 1
        if self._next - 1 in self._claimed:
            self._claimed.discard(self._next - 1)
            return self.take()
        return self._next - 1

    async def claim(self, number: int) -> bool:
        """Have a number that was never handed out yet; False where it was. Raises EIO."""
        if number < self._next or number in self._claimed:
            return False
        self._claimed.add(number)
        try:
            key = CLAIMED + number.to_bytes(8, "big")
            await self._store.commit(Batch(puts=[("meta", key, b"")]))
        except BaseException:
            self._claimed.discard(number)
            raise
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reserve the next block whenever half of one is left, until cancelled."""
        task_status.started()
        while True:
            await self._low.wait()
            limit = self._limit + self._block
            try:
                await self._store.commit(Batch(puts=[("meta", _key(limit), b"")]))
            except EIO as error:  # a full disk may get room; until then ``take`` says why
                self._failure = error.message
                await trio.sleep(RETRY)
                continue
            self._failure = ""
            self._limit = limit
            if self._limit - self._next >= self._block // 2:
                self._low = trio.Event()


def _key(limit: int) -> bytes:
    return PREFIX + limit.to_bytes(8, "big")


def _number(key: bytes, prefix: bytes = PREFIX) -> int:
    return int.from_bytes(key[len(prefix) :], "big")


def _after(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])
