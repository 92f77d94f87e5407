"""Mailboxes: durable, bounded, one a process.

    mail  apid (8 bytes)                       -> last id given out in this mailbox
          apid (8 bytes) + id (8 bytes)        -> the message

A message is in the store before its sender hears of it, and out of the store before its
receiver does: a message is received once or not at all. In memory there is only what
``recv`` selects by, so that finding a message touches no disk.

A mailbox is read from the store when it is first used, so a reboot loads nothing; what
waits for an APID waits until the process takes it or ``drop`` ends the mailbox.

A process that is started again and again under new APIDs can be given a mailbox that outlives
it (``keep``), under a number that is no process's: what it did not take its successor gets.
What such a process takes stays on disk, in its hand, until it asks for the next one or ends by
itself; when it is killed, or the kernel is, the successor gets that too.
"""

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import islice

import msgspec
import trio

from drivers.contracts import Batch, Bucket, Clock, Frozen, Store
from syscalls.errors import EAGAIN, ESRCH, ETIME
from syscalls.shapes import Message

BOUND = 1000
PAGE = 16
"""Messages of one batch, when many are put or read at once."""
RETRY_AFTER = 0.1
"""Seconds; what a sender is told when the mailbox is full."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Selector(msgspec.Struct, frozen=True):
    """Which messages a receiver wants; None is any."""

    sender: int | None = None
    topic: str | None = None
    type: str | None = None
    reply_to: int | None = None

    def fits(self, entry: "_Entry") -> bool:
        """Whether a message is wanted."""
        return (
            (self.sender is None or self.sender == entry.sender)
            and (self.topic is None or self.topic == entry.topic)
            and (self.type is None or self.type == entry.type)
            and (self.reply_to is None or self.reply_to == entry.reply_to)
        )


ANY = Selector()


class MailboxStatistics(msgspec.Struct, frozen=True):
    """Figures of all mailboxes since boot."""

    mailboxes: int
    """Used since boot."""
    waiting: int
    receivers: int
    """Receivers that wait for a message."""
    sent: int
    received: int
    refused: int
    """Sends that found a mailbox full."""


class _Entry(msgspec.Struct, frozen=True, order=True):
    """A waiting message; ordered by its id."""

    id: int
    sender: int
    topic: str
    type: str
    reply_to: int


class _Receiver:
    """A ``recv`` that waits."""

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.woken = trio.Event()
        self.entry: _Entry | None = None
        self.closed = False


class _Box:
    """One mailbox in memory."""

    def __init__(self, apid: int, last: int) -> None:
        self.apid = apid
        self.last = last
        self.entries: list[_Entry] = []
        self.committing = 0
        """Sends on their way to the disk, and receipts on their way back: they count."""
        self.receivers: list[_Receiver] = []
        self.dropped = False
        self.hand: list[_Entry] = []
        """Taken by the process that has it, where it is kept, and not done with."""
        self.spent: list[_Entry] = []
        """Done with, and to be deleted."""

    @property
    def load(self) -> int:
        return len(self.entries) + self.committing

    def put(self, entry: _Entry) -> None:
        """Hand a message to the first receiver that wants it, or keep it in its place."""
        for receiver in self.receivers:
            if receiver.selector.fits(entry):
                self.receivers.remove(receiver)
                receiver.entry = entry
                self.committing += 1
                receiver.woken.set()
                return
        insort(self.entries, entry)

    def give_back(self, entry: _Entry) -> None:
        """Undo a ``take``: the next one that fits the message gets it."""
        self.committing -= 1
        if not self.dropped:
            self.put(entry)

    def close(self) -> None:
        """End the waits of a process that has ended; the messages stay for its successor."""
        for receiver in self.receivers:
            receiver.closed = True
            receiver.woken.set()
        self.receivers.clear()

    def take(self, selector: Selector) -> _Entry | None:
        """Take the oldest message that fits out of the index."""
        for at, entry in enumerate(self.entries):
            if selector.fits(entry):
                del self.entries[at]
                self.committing += 1
                return entry
        return None


class Mailboxes:
    """All mailboxes."""

    def __init__(self, store: Store, clock: Clock, *, bound: int = BOUND) -> None:
        self._store = store
        self._clock = clock
        self._bound = bound
        self._boxes: dict[int, _Box] = {}
        self._kept: dict[int, int] = {}
        """Numbers of the mailboxes that outlive their processes, by those."""
        self._sent = self._received = self._refused = 0

    # --- sending

    async def send(
        self,
        apid: int,
        message: Message,
        *,
        bound: int | None = None,
        beside: Batch | None = None,
    ) -> int:
        """Put a message into a mailbox, durably; returns its id there.

        ``message.id`` is set by this. ``bound`` is the most that may wait. ``beside`` happens
        in the same commit, or not at all. Raises EAGAIN (full), ESRCH (dropped meanwhile), EIO.
        Not cancellable once it is on its way.
        """
        delivered, _dropped = await self.send_many([(apid, bound)], message, beside)
        if not delivered:
            raise EAGAIN(
                f"the mailbox of process {apid} is full",
                retry_after=RETRY_AFTER,
                limit=bound or self._bound,
            )
        if delivered[0] == 0:
            raise ESRCH(f"process {apid} ended before it got the message")
        return delivered[0]

    async def send_many(
        self,
        receivers: Iterable[tuple[int, int | None]],
        message: Message,
        beside: Batch | None = None,
    ) -> tuple[list[int], list[int]]:
        """Put one message into several mailboxes, ``(apid, bound)`` each, in one commit.

        ``beside`` is done with it, where anybody takes it.
        Returns the ids of those that took it (0 where the mailbox was dropped meanwhile),
        and the APIDs whose mailbox was full. Raises EIO, and then nobody got it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        now = self._clock.now()
        puts: list[tuple[Bucket, bytes, bytes]] = []
        entries: list[tuple[_Box, _Entry]] = []
        full: list[int] = []
        for apid, bound in receivers:
            box = self._box(apid)
            if box.load >= (bound or self._bound):
                full.append(apid)
                continue
            box.last += 1
            box.committing += 1
            own = msgspec.structs.replace(message, id=box.last, sent=message.sent or now)
            puts += [
                ("mail", _key(box.apid), _number(box.last)),
                ("mail", _key(box.apid, box.last), _encode(own)),
            ]
            entries.append((box, _entry(own)))
        self._refused += len(full)
        if not entries:
            return [], full
        try:
            # The change may happen whether or not its caller stays, so the index must learn
            # of it: a few milliseconds without a way out.
            with trio.CancelScope(shield=True):
                deletes = list(beside.deletes) if beside else []
                puts += beside.puts if beside else []
                await self._store.commit(Batch(puts=puts, deletes=deletes))
        finally:
            for box, _ in entries:
                box.committing -= 1
        gone = [(box.apid, entry.id) for box, entry in entries if box.dropped]
        for box, entry in entries:
            if not box.dropped:
                box.put(entry)
        await self._erase(gone)
        self._sent += len(entries) - len(gone)
        return [0 if box.dropped else entry.id for box, entry in entries], full

    # --- receiving

    async def recv(
        self, apid: int, selector: Selector = ANY, timeout: float | None = None
    ) -> Message:
        """Take the oldest message that fits, waiting for one; receivers are served in order.

        ``timeout`` is in seconds; 0 only looks. A message is not lost by a cancellation:
        what was not returned stays in its place. Raises ETIME, ESRCH (dropped), EIO.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        box = self._box(apid)
        kept = apid in self._kept
        if kept:
            box.spent += box.hand
            box.hand.clear()
            await self.sweep(box.apid)
        entry = box.take(selector)
        if entry is None:
            entry = await self._await(box, selector, timeout)
        return await (self._hand if kept else self._deliver)(box, entry)

    async def _await(self, box: _Box, selector: Selector, timeout: float | None) -> _Entry:
        receiver = _Receiver(selector)
        box.receivers.append(receiver)
        try:
            with trio.move_on_after(float("inf") if timeout is None else timeout):
                await receiver.woken.wait()
        except trio.Cancelled:
            # A message may have been handed over after the cancellation, before this line.
            if receiver.entry is not None:
                box.give_back(receiver.entry)
            raise
        finally:
            if receiver in box.receivers:
                box.receivers.remove(receiver)
        if box.dropped or receiver.closed:
            raise ESRCH(f"the mailbox of process {box.apid} was closed")
        if receiver.entry is None:
            raise ETIME(f"no message came within {timeout:g} s")
        return receiver.entry

    async def _hand(self, box: _Box, entry: _Entry) -> Message:
        """A message that stays on disk until its process asks for the next."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:  # it came with the cancellation: nobody hears of it
            box.give_back(entry)
            raise
        value = self._store.get("mail", _key(box.apid, entry.id))
        box.committing -= 1
        if value is None:
            raise ESRCH(f"the mailbox of process {box.apid} was closed")
        box.hand.append(entry)
        self._received += 1
        return _decode(value)

    async def _deliver(self, box: _Box, entry: _Entry) -> Message:
        """Remove a taken message from the store, then return it; or put it back."""
        key = _key(box.apid, entry.id)
        value = self._store.get("mail", key)
        try:
            if value is None:
                raise ESRCH(f"the mailbox of process {box.apid} was closed")
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                await self._store.commit(Batch(deletes=[("mail", key)]))
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
            except trio.Cancelled:
                if not box.dropped:
                    with trio.CancelScope(shield=True):
                        await self._store.commit(Batch(puts=[("mail", key, value)]))
                raise
        except BaseException:
            box.give_back(entry)
            raise
        box.committing -= 1
        self._received += 1
        return _decode(value)

    # --- images

    def held(self, apid: int, frozen: Frozen) -> tuple[int, Iterator[Message]]:
        """The last id given out, and what had not been taken, of a moment: which is now.

        The messages are read as they are asked for. What a process has in its hand is not done
        with, and counts as not taken.
        """
        number = self.number(apid)
        box = self._boxes.get(number)
        spent = {entry.id for entry in box.spent} if box is not None else set()
        last = int.from_bytes(frozen.get("mail", _key(number)) or b"", "big")
        return last, _messages(frozen, number, spent)

    def begin(self, apid: int, last: int) -> None:
        """Have the ids of a new mailbox begin above those of the messages that it will be given."""
        self._box(apid).last = last

    async def fill(self, apid: int, messages: Iterable[Message]) -> int:
        """Put messages of before into a mailbox that has begun; how many. Raises EIO."""
        box, count = self._box(apid), 0
        for page in batched(messages, PAGE):
            puts: list[tuple[Bucket, bytes, bytes]] = [("mail", _key(apid), _number(box.last))]
            puts += [("mail", _key(apid, one.id), _encode(one)) for one in page]
            await self._store.commit(Batch(puts=puts))
            for one in page:
                insort(box.entries, _entry(one))
            count += len(page)
        return count

    # --- the rest

    def waiting(self, apid: int) -> int:
        """Messages that wait for a process."""
        apid = self._kept.get(apid, apid)
        if apid not in self._boxes and self._store.get("mail", _key(apid)) is None:
            return 0
        return len(self._box(apid).entries)

    def last(self, apid: int) -> int:
        """Id of the last message that was sent to a process; 0 where none was."""
        return int.from_bytes(self._store.get("mail", _key(self.number(apid))) or b"", "big")

    async def drop(self, apid: int) -> None:
        """End a mailbox for good: its messages are deleted, its receivers get ESRCH.

        Of one that is kept only the receivers end, which were those of the process.
        """
        if apid in self._kept:
            kept = self._boxes.get(self._kept[apid])
            if kept is not None:
                kept.close()
            return
        box = self._boxes.pop(apid, None)
        if box is not None:
            box.dropped = True
            for receiver in box.receivers:
                receiver.woken.set()
        start, stop = _key(apid), _key(apid + 1)
        keys = [key for key, _ in self._store.scan("mail", start, stop)]
        if keys:
            with trio.CancelScope(shield=True):
                await self._store.commit(Batch(deletes=[("mail", key) for key in keys]))

    def keep(self, apid: int, number: int) -> None:
        """Have a process send and receive in the mailbox ``number``, which outlives it.

        Before its first message; one process at a time has a mailbox.
        """
        self._kept[apid] = number

    def number(self, apid: int) -> int:
        """The number of a process's mailbox: its APID, unless it is a kept one."""
        return self._kept.get(apid, apid)

    def release(self, apid: int, *, interrupted: bool = False) -> None:
        """The process has ended, and nobody sends to it any more.

        What it had in its hand is for its successor where it was ``interrupted``; else it is
        done with, and ``sweep`` is to follow.
        """
        box = self._boxes.get(self._kept.pop(apid, 0))
        if box is not None:
            hand, box.hand = box.hand, []
            if interrupted:
                for entry in hand:
                    insort(box.entries, entry)
            else:
                box.spent += hand

    async def sweep(self, number: int) -> None:
        """Delete what is done with in a kept mailbox."""
        box = self._boxes.get(number)
        if box is not None and box.spent:
            spent, box.spent = box.spent, []
            deletes: list[tuple[Bucket, bytes]] = [("mail", _key(number, e.id)) for e in spent]
            try:
                with trio.CancelScope(shield=True):
                    await self._store.commit(Batch(deletes=deletes))
            except BaseException:
                box.spent += spent
                raise

    def statistics(self) -> MailboxStatistics:
        """Figures for ``/proc`` and metrics."""
        boxes = self._boxes.values()
        return MailboxStatistics(
            mailboxes=len(boxes),
            waiting=sum(len(box.entries) for box in boxes),
            receivers=sum(len(box.receivers) for box in boxes),
            sent=self._sent,
            received=self._received,
            refused=self._refused,
        )

    def _box(self, apid: int) -> _Box:
        apid = self._kept.get(apid, apid)
        box = self._boxes.get(apid)
        if box is None:
            last = self._store.get("mail", _key(apid))
            box = _Box(apid, int.from_bytes(last, "big") if last else 0)
            if last is not None:
                found = self._store.scan("mail", _key(apid, 0), _key(apid + 1))
                box.entries = [_entry(_decode(value)) for _, value in found]
            self._boxes[apid] = box
        return box

    async def _erase(self, gone: Sequence[tuple[int, int]]) -> None:
        """Delete what arrived on disk after its mailbox was dropped."""
        if gone:
            deletes: list[tuple[Bucket, bytes]] = []
            for apid, number in gone:
                deletes += [("mail", _key(apid)), ("mail", _key(apid, number))]
            with trio.CancelScope(shield=True):
                await self._store.commit(Batch(deletes=deletes))


def _messages(frozen: Frozen, number: int, without: Set[int]) -> Iterator[Message]:
    start, stop = _key(number, 0), _key(number + 1)
    while page := frozen.scan("mail", start, stop, limit=PAGE):
        for key, value in page:
            if int.from_bytes(key[8:], "big") not in without:
                yield _decode(value)
        start = page[-1][0] + b"\0"


def batched(messages: Iterable[Message], size: int) -> Iterator[list[Message]]:
    """The messages in lists of ``size``."""
    rest = iter(messages)
    while page := list(islice(rest, size)):
        yield page


def _entry(message: Message) -> _Entry:
    return _Entry(message.id, message.sender, message.topic, message.type, message.reply_to)


def _key(apid: int, number: int | None = None) -> bytes:
    key = apid.to_bytes(8, "big")
    return key if number is None else key + _number(number)


def _number(number: int) -> bytes:
    return number.to_bytes(8, "big")
