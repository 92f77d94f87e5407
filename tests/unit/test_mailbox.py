"""Mailboxes: durable, bounded, selective, fair; nothing is lost or received twice."""

import random
from pathlib import Path

import pytest
import trio
import trio.testing

from drivers.contracts import Batch
from drivers.store.memory import MemoryStore
from procs.mailbox import ANY, Mailboxes, Selector
from syscalls.errors import EAGAIN, EIO, ESRCH, ETIME
from syscalls.shapes import Message


class Clock:
    """Always noon."""

    def now(self) -> float:
        return 12.0

    def monotonic(self) -> float:
        return 12.0


class SlowStore(MemoryStore):
    """Acknowledges when told to, as a disk does: later."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()
        self.gate.set()
        self.full = False

    def hold(self) -> None:
        self.gate = trio.Event()

    async def commit(self, batch: Batch) -> list[int]:
        await self.gate.wait()
        if self.full:
            raise EIO("the disk is full", driver="store")
        return await super().commit(batch)


def message(body: object, **fields: object) -> Message:
    return Message(id=0, sender=7, name="sender", body=body, sent=0.0, **fields)  # type: ignore[arg-type]


async def test_messages_come_in_order_with_ids_and_the_time() -> None:
    boxes = Mailboxes(MemoryStore(), Clock())
    assert [await boxes.send(2, message(body)) for body in "abc"] == [1, 2, 3]
    assert boxes.waiting(2) == 3
    got = [await boxes.recv(2, timeout=0) for _ in range(3)]
    assert [(one.id, one.body, one.sent) for one in got] == [
        (1, "a", 12.0), (2, "b", 12.0), (3, "c", 12.0)
    ]  # fmt: skip
    with pytest.raises(ETIME):
        await boxes.recv(2, timeout=0)


async def test_each_mailbox_is_its_own() -> None:
    boxes = Mailboxes(MemoryStore(), Clock())
    await boxes.send(2, message("for 2"))
    with pytest.raises(ETIME):
        await boxes.recv(3, timeout=0)
    assert boxes.waiting(3) == 0


@pytest.mark.parametrize(
    "selector",
    [Selector(sender=9), Selector(topic="news"), Selector(type="order"), Selector(reply_to=4)],
)
async def test_what_does_not_fit_stays_in_order(selector: Selector) -> None:
    boxes = Mailboxes(MemoryStore(), Clock())
    await boxes.send(2, message("first"))
    wanted = message("wanted", topic="news", type="order", reply_to=4)
    wanted.sender = 9
    await boxes.send(2, wanted)
    await boxes.send(2, message("last"))
    assert (await boxes.recv(2, selector, 0)).body == "wanted"
    with pytest.raises(ETIME):
        await boxes.recv(2, selector, 0)
    assert [(await boxes.recv(2, ANY, 0)).body for _ in range(2)] == ["first", "last"]


async def test_a_full_mailbox_says_when_to_try_again() -> None:
    boxes = Mailboxes(MemoryStore(), Clock(), bound=2)
    for _ in range(2):
        await boxes.send(2, message("x"))
    with pytest.raises(EAGAIN) as caught:
        await boxes.send(2, message("one too many"))
    assert caught.value.retry_after > 0
    assert await boxes.send(2, message("a higher bound"), bound=3) == 3
    await boxes.recv(2)
    await boxes.recv(2)
    assert await boxes.send(2, message("room again")) == 4
    assert boxes.statistics().refused == 1


async def test_what_is_being_committed_counts() -> None:
    store = SlowStore()
    boxes = Mailboxes(store, Clock(), bound=3)
    refused = 0

    async def send() -> None:
        nonlocal refused
        try:
            await boxes.send(2, message("x"))
        except EAGAIN:
            refused += 1

    store.hold()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert refused == 7
        assert boxes.waiting(2) == 0  # not before it is on disk
        store.gate.set()
    assert boxes.waiting(2) == 3


async def test_a_failed_commit_delivers_nothing_and_frees_its_place() -> None:
    store = SlowStore()
    boxes = Mailboxes(store, Clock(), bound=1)
    store.full = True
    for _ in range(3):
        with pytest.raises(EIO):
            await boxes.send(2, message("x"))
    store.full = False
    await boxes.send(2, message("y"))
    store.full = True
    with pytest.raises(EIO):
        await boxes.recv(2)
    store.full = False
    assert (await boxes.recv(2, timeout=0)).body == "y"


async def test_receivers_are_served_in_the_order_they_came() -> None:
    boxes = Mailboxes(MemoryStore(), Clock())
    got: list[tuple[str, object]] = []

    async def receive(name: str, selector: Selector) -> None:
        got.append((name, (await boxes.recv(2, selector)).body))

    async with trio.open_nursery() as nursery:
        for name, selector in [("picky", Selector(type="t")), ("first", ANY), ("second", ANY)]:
            nursery.start_soon(receive, name, selector)
            await trio.testing.wait_all_tasks_blocked()
        assert boxes.statistics().receivers == 3
        await boxes.send(2, message(1))
        await boxes.send(2, message(2))
        await boxes.send(2, message(3, type="t"))
    assert sorted(got) == [("first", 1), ("picky", 3), ("second", 2)]


async def test_timeouts(autojump_clock: trio.testing.MockClock) -> None:
    boxes = Mailboxes(MemoryStore(), Clock())
    began = trio.current_time()
    with pytest.raises(ETIME, match="20 s"):
        await boxes.recv(2, timeout=20)
    assert trio.current_time() - began == pytest.approx(20)
    assert boxes.statistics().receivers == 0
    await boxes.send(2, message("later"))
    assert (await boxes.recv(2)).body == "later"


async def test_cancelled_while_it_waits_leaves_the_message_for_the_next() -> None:
    """The message is handed over in the very moment in which the receiver is cancelled."""
    boxes = Mailboxes(MemoryStore(), Clock(), bound=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boxes.recv, 2)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as sender:
            sender.start_soon(boxes.send, 2, message("kept"))
            nursery.cancel_scope.cancel()
            sender.cancel_scope.shield = True
    assert (await boxes.recv(2, timeout=0)).body == "kept"
    await boxes.send(2, message("the place is free"))


@pytest.mark.parametrize("kept", [False, True])
async def test_cancelled_when_it_has_the_message_and_has_not_run_yet_leaves_it(kept: bool) -> None:
    boxes = Mailboxes(MemoryStore(), Clock(), bound=1)
    if kept:
        boxes.keep(2, 900)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boxes.recv, 2)
        await trio.testing.wait_all_tasks_blocked()
        await boxes.send(2, message("kept"))
        nursery.cancel_scope.cancel()
    assert (await boxes.recv(2, timeout=0)).body == "kept"


async def test_cancelled_during_the_receipts_commit_leaves_it_too() -> None:
    store = SlowStore()
    boxes = Mailboxes(store, Clock(), bound=1)
    await boxes.send(2, message("kept"))
    store.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boxes.recv, 2)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        store.gate.set()
    assert boxes.waiting(2) == 1
    assert (await Mailboxes(store, Clock()).recv(2, timeout=0)).body == "kept"


async def test_messages_and_ids_survive_a_reboot() -> None:
    store = MemoryStore()
    boxes = Mailboxes(store, Clock())
    for body in range(5):
        await boxes.send(2, message(body))
    for _ in range(5):
        if boxes.waiting(2) > 1:
            await boxes.recv(2)

    boxes = Mailboxes(store, Clock())
    assert boxes.waiting(2) == 1
    assert (await boxes.recv(2)).body == 4
    boxes = Mailboxes(store, Clock())
    assert await boxes.send(2, message("new")) == 6  # though no message was left to tell


async def test_a_dropped_mailbox_is_gone_for_good() -> None:
    store = MemoryStore()
    boxes = Mailboxes(store, Clock())
    await boxes.send(2, message("x"))
    await boxes.send(3, message("another's"))
    errors: list[str] = []

    async def receive() -> None:
        try:
            await boxes.recv(2, Selector(type="never"))
        except ESRCH as error:
            errors.append(error.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await boxes.drop(2)
    assert errors == ["ESRCH"]
    assert boxes.waiting(2) == 0
    assert boxes.waiting(3) == 1
    assert all(key[:8] == (3).to_bytes(8, "big") for key, _ in store.scan("mail", b"", b"\xff"))
    await boxes.drop(2)


async def test_dropped_while_a_message_is_on_its_way() -> None:
    store = SlowStore()
    boxes = Mailboxes(store, Clock())
    boxes.waiting(2)
    errors: list[str] = []

    async def send() -> None:
        try:
            await boxes.send(2, message("x"))
        except ESRCH as error:
            errors.append(error.code)

    store.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(boxes.drop, 2)
        await trio.testing.wait_all_tasks_blocked()
        store.gate.set()
    assert errors == ["ESRCH"]
    assert store.scan("mail", b"", b"\xff") == []


async def test_one_commit_for_all_subscribers() -> None:
    store = MemoryStore()
    boxes = Mailboxes(store, Clock(), bound=1)
    await boxes.send(4, message("full now"))
    before = store.statistics().batches
    ids, full = await boxes.send_many([(2, None), (3, 5), (4, None), (4, 2)], message("news"))
    assert ids == [1, 1, 2]
    assert full == [4]
    assert store.statistics().batches == before + 1
    assert await boxes.send_many([], message("to nobody")) == ([], [])


async def test_a_storm_loses_and_doubles_nothing() -> None:
    """Senders, receivers and cancellations in a random order; every message arrives once."""
    store, rng = SlowStore(), random.Random(4)
    boxes = Mailboxes(store, Clock(), bound=50)
    got: list[object] = []
    total = 400

    async def send(first: int) -> None:
        for body in range(first, total, 4):
            while True:
                try:
                    await boxes.send(2, message(body, type="even" if body % 2 == 0 else "odd"))
                    break
                except EAGAIN:
                    await trio.lowlevel.checkpoint()

    async def receive(selector: Selector) -> None:
        while True:
            with trio.move_on_after(rng.choice([0.0, 0.0005, 1])):
                one = await boxes.recv(2, selector)
                got.append(one.body)  # no checkpoint between: what was returned is counted
            await trio.lowlevel.checkpoint()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for selector in (ANY, ANY, Selector(type="even"), Selector(type="odd")):
                nursery.start_soon(receive, selector)
            async with trio.open_nursery() as senders:
                for first in range(4):
                    senders.start_soon(send, first)
            while len(got) < total:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert sorted(got) == list(range(total))  # type: ignore[type-var]
    assert boxes.waiting(2) == 0
    assert len(store.scan("mail", b"", b"\xff")) == 1  # the counter


async def test_on_a_real_store(tmp_path: Path) -> None:
    from drivers.store.lmdb import open_store

    class Threads:
        async def __call__(self, work):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
            return await trio.to_thread.run_sync(work)

    with trio.fail_after(60):
        store = await open_store(tmp_path / "store", offload=Threads())
        boxes = Mailboxes(store, Clock())
        await boxes.send(2, message({"text": "喜欢简洁", "bytes": b"\x00\xff"}))
        await store.aclose()
        store = await open_store(tmp_path / "store", offload=Threads())
        got = await Mailboxes(store, Clock()).recv(2, timeout=0)
        assert got.body == {"text": "喜欢简洁", "bytes": b"\x00\xff"}
        await store.aclose()


async def test_a_kept_mailbox_outlives_its_process_and_the_kernel() -> None:
    store = MemoryStore()
    boxes = Mailboxes(store, Clock())
    boxes.keep(5, 900)
    assert (boxes.number(5), boxes.number(6)) == (900, 6)
    await boxes.send(5, message("one"))
    await boxes.send(900, message("two"))
    assert boxes.waiting(5) == boxes.waiting(900) == 2
    assert (await boxes.recv(5, timeout=0)).body == "one"

    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(ESRCH):
                await boxes.recv(5, Selector(type="never"))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await boxes.drop(5)  # its process has ended
    boxes.release(5)
    await boxes.send(900, message("three"))
    boxes.keep(6, 900)
    assert (await boxes.recv(6, timeout=0)).body == "two"

    reborn = Mailboxes(store, Clock())  # the kernel died while it had the second in its hand
    await reborn.drop(5)
    await reborn.drop(6)
    reborn.keep(4097, 900)
    assert [(await reborn.recv(4097, timeout=0)).id for _ in range(2)] == [2, 3]
    assert await reborn.send(4097, message("four")) == 4
    reborn.release(4097, interrupted=True)
    reborn.keep(4098, 900)
    assert (await reborn.recv(4098, timeout=0)).id == 3
    reborn.release(4098, interrupted=False)
    await reborn.sweep(900)
    assert (await Mailboxes(store, Clock()).recv(900, timeout=0)).id == 4
    reborn.keep(4099, 900)
    await reborn.drop(900)
    assert store.scan("mail", b"\0", b"\xff") == []


async def test_what_is_beside_a_message_happens_with_it_or_not_at_all() -> None:
    store = SlowStore()
    boxes = Mailboxes(store, Clock())
    beside = Batch(puts=[("meta", b"k", b"v")])
    assert await boxes.send(2, message("x"), beside=beside) == 1
    assert store.get("meta", b"k") == b"v"
    store.full = True
    with pytest.raises(EIO):
        await boxes.send(2, message("y"), beside=Batch(deletes=[("meta", b"k")]))
    assert store.get("meta", b"k") == b"v"
    with pytest.raises(EAGAIN):
        await boxes.send(2, message("z"), bound=1, beside=Batch(deletes=[("meta", b"k")]))
    assert store.get("meta", b"k") == b"v"
