"""What every store promises (``drivers.contracts.Store``), on each one there is."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from drivers.contracts import Batch, Mismatch, Store
from drivers.store.changes import BUCKETS
from drivers.store.lmdb import open_store
from drivers.store.memory import MemoryStore
from syscalls.errors import EAGAIN, EIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    Opener = Callable[[Path], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def in_lmdb(folder: Path) -> AsyncIterator[Store]:
    async with await open_store(folder / "store") as store:
        yield store


@asynccontextmanager
async def in_memory(folder: Path) -> AsyncIterator[Store]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture(params=[in_lmdb, in_memory], ids=["lmdb", "memory"])
def opener(request: pytest.FixtureRequest) -> Opener:
    found: Opener = request.param
    return found


@pytest.fixture
async def store(opener: Opener, tmp_path: Path) -> AsyncIterator[Store]:
    with trio.fail_after(60):
        async with opener(tmp_path) as opened:
            yield opened


async def test_a_store_begins_empty(store: Store) -> None:
    for bucket in BUCKETS:
        items = store.scan(bucket, b"\0", b"\xff" * 500)
        assert items == ([(b"format", b"1")] if bucket == "meta" else [])
    assert store.last(0) == 0
    assert store.journal(0, 0, 10) == []
    assert store.statistics().seq == 0


async def test_puts_are_read_back_from_their_bucket_only(store: Store) -> None:
    await store.commit(Batch(puts=[("records", b"k", b"one"), ("versions", b"k", b"two")]))
    assert store.get("records", b"k") == b"one"
    assert store.get("versions", b"k") == b"two"
    assert store.get("keys", b"k") is None
    assert store.get_many("records", [b"none", b"k", b"k"]) == [None, b"one", b"one"]


async def test_values_may_be_empty_and_large(store: Store) -> None:
    large = bytes(range(256)) * 4096
    await store.commit(Batch(puts=[("records", b"empty", b""), ("records", b"large", large)]))
    assert store.get("records", b"empty") == b""
    assert store.get("records", b"large") == large


async def test_keys_of_1_to_500_bytes_are_taken_and_no_others(store: Store) -> None:
    longest = b"\xff" * 500
    await store.commit(Batch(puts=[("records", b"\0", b"a"), ("records", longest, b"b")]))
    assert store.get("records", longest) == b"b"
    for key in (b"", b"x" * 501):
        with pytest.raises(ValueError, match="key"):
            await store.commit(Batch(puts=[("records", b"other", b""), ("records", key, b"")]))
        with pytest.raises(ValueError, match="key"):
            await store.commit(Batch(deletes=[("records", key)]))
        with pytest.raises(ValueError, match="key"):
            await store.commit(Batch(expect=[("records", key, None)]))
        with pytest.raises(ValueError, match="key"):
            store.get("records", key)
    assert store.get("records", b"other") is None


async def test_an_unknown_bucket_and_an_impossible_stream_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="bucket"):
        await store.commit(Batch(puts=[("nowhere", b"k", b"v")]))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="stream"):
        await store.commit(Batch(journal=[(-1, b"")]))
    assert store.statistics().seq == 0


async def test_deletes_happen_before_puts_and_of_an_absent_key_are_nothing(store: Store) -> None:
    await store.commit(Batch(puts=[("mail", b"a", b"1"), ("mail", b"b", b"2")]))
    await store.commit(
        Batch(
            deletes=[("mail", b"a"), ("mail", b"b"), ("mail", b"absent")],
            puts=[("mail", b"b", b"3")],
        )
    )
    assert store.scan("mail", b"\0", b"\xff") == [(b"b", b"3")]


async def test_the_last_put_of_a_key_counts(store: Store) -> None:
    await store.commit(Batch(puts=[("mail", b"a", b"1"), ("mail", b"a", b"2")]))
    assert store.get("mail", b"a") == b"2"


async def test_expectations_hold_exact_values_or_absence(store: Store) -> None:
    await store.commit(Batch(expect=[("idem", b"k", None)], puts=[("idem", b"k", b"1")]))
    await store.commit(Batch(expect=[("idem", b"k", b"1")], puts=[("idem", b"k", b"2")]))
    for wrong in (None, b"1", b""):
        with pytest.raises(Mismatch):
            await store.commit(Batch(expect=[("idem", b"k", wrong)], puts=[("idem", b"k", b"3")]))
    assert store.get("idem", b"k") == b"2"
    assert store.statistics().mismatches == 3


async def test_a_mismatch_names_the_expectation_and_undoes_everything(store: Store) -> None:
    await store.commit(Batch(puts=[("keys", b"a", b"1")]))
    with pytest.raises(Mismatch) as caught:
        await store.commit(
            Batch(
                expect=[("keys", b"a", b"1"), ("keys", b"b", b"1")],
                puts=[("keys", b"c", b"1")],
                deletes=[("keys", b"a")],
                journal=[(1, b"never")],
            )
        )
    assert caught.value.index == 1
    assert store.scan("keys", b"\0", b"\xff") == [(b"a", b"1")]
    assert store.last(1) == 0
    assert await store.commit(Batch(journal=[(1, b"first")])) == [1]


async def test_a_batch_of_expectations_alone_is_answered(store: Store) -> None:
    assert await store.commit(Batch(expect=[("keys", b"a", None)])) == []
    assert await store.commit(Batch()) == []


async def test_scan_is_half_open_ordered_limited_and_reversible(store: Store) -> None:
    keys = [bytes([n]) for n in (3, 1, 2, 255, 128)] + [b"\x02\x00", b"\xff\xff"]
    await store.commit(Batch(puts=[("spaces", key, b"v" + key) for key in keys]))
    items = [(key, b"v" + key) for key in sorted(keys)]
    assert store.scan("spaces", b"\0", b"\xff\xff\xff") == items
    assert store.scan("spaces", b"\0", b"\xff\xff\xff", reverse=True) == items[::-1]
    assert store.scan("spaces", b"\0", b"\xff\xff\xff", limit=2) == items[:2]
    assert store.scan("spaces", b"\0", b"\xff\xff\xff", limit=2, reverse=True) == items[:-3:-1]
    assert store.scan("spaces", b"\x02", b"\x03") == items[1:3]
    assert store.scan("spaces", b"\x02", b"\x03", reverse=True) == items[2:0:-1]
    assert store.scan("spaces", b"\x04", b"\x05") == []
    assert store.scan("spaces", b"\x05", b"\x04") == []
    assert store.scan("spaces", b"", b"\x02") == items[:1]


async def test_the_journal_numbers_entries_across_streams_in_order(store: Store) -> None:
    top = (1 << 64) - 1
    assert await store.commit(Batch(journal=[(7, b"a"), (top, b"b"), (7, b"c")])) == [1, 2, 3]
    assert await store.commit(Batch(journal=[(0, b"d"), (7, b"e")])) == [4, 5]
    assert store.journal(7, 0, 10) == [(1, b"a"), (3, b"c"), (5, b"e")]
    assert store.journal(7, 1, 1) == [(3, b"c")]
    assert store.journal(7, 5, 10) == []
    assert store.journal(7, 0, 0) == store.journal(7, 0, 10)
    assert store.journal(7, top, 10) == []
    assert store.journal(top, 0, 10) == [(2, b"b")]
    assert [store.last(stream) for stream in (0, 6, 7, 8, top)] == [4, 0, 5, 0, 2]
    assert store.statistics().seq == 5


async def test_batches_are_applied_in_the_order_of_the_calls(store: Store) -> None:
    """Each batch expects what the one before it has put."""
    results: dict[int, list[int]] = {}

    async def one(n: int) -> None:
        before = str(n - 1).encode() if n else None
        results[n] = await store.commit(
            Batch(
                expect=[("procs", b"n", before)],
                puts=[("procs", b"n", str(n).encode())],
                journal=[(1, str(n).encode())],
            )
        )

    async with trio.open_nursery() as nursery:
        for n in range(40):
            nursery.start_soon(one, n)
            # A turn of the loop: the task has called before the next one is started.
            await trio.lowlevel.checkpoint()
    assert results == {n: [n + 1] for n in range(40)}
    assert store.get("procs", b"n") == b"39"
    assert [payload for _, payload in store.journal(1, 0, 0)] == [b"%d" % n for n in range(40)]


async def test_one_failing_batch_does_not_harm_those_beside_it(store: Store) -> None:
    outcomes: list[str] = []

    async def one(n: int) -> None:
        expect: list[tuple[object, bytes, bytes | None]] = []
        if n % 3 == 0:
            expect = [("records", b"never", b"there")]
        batch = Batch(
            expect=expect,  # type: ignore[arg-type]
            puts=[("records", b"%d" % n, b"")],
            journal=[(1, b"%d" % n)],
        )
        try:
            await store.commit(batch)
        except Mismatch:
            outcomes.append("mismatch")
        else:
            outcomes.append("done")

    async with trio.open_nursery() as nursery:
        for n in range(30):
            nursery.start_soon(one, n)
    assert sorted(outcomes) == ["done"] * 20 + ["mismatch"] * 10
    kept = {key for key, _ in store.scan("records", b"\0", b"\xff")}
    assert kept == {b"%d" % n for n in range(30) if n % 3}
    assert [seq for seq, _ in store.journal(1, 0, 0)] == list(range(1, 21))
    figures = store.statistics()
    assert (figures.batches, figures.mismatches, figures.pending) == (20, 10, 0)


async def test_a_cancelled_call_does_no_more_than_its_batch(store: Store) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.commit(Batch(puts=[("records", b"a", b"")]))
    assert scope.cancelled_caught
    await store.commit(Batch(puts=[("records", b"b", b"")]))
    assert store.get("records", b"b") == b""


async def test_statistics_count(store: Store) -> None:
    await store.commit(Batch(puts=[("records", b"a", b"x" * 100)], journal=[(1, b"y")]))
    figures = store.statistics()
    assert (figures.commits, figures.batches, figures.largest_group) == (1, 1, 1)
    assert figures.bytes_used > 100


async def test_a_closed_store_takes_nothing(opener: Opener, tmp_path: Path) -> None:
    async with opener(tmp_path) as store:
        await store.aclose()
        with pytest.raises(EIO) as caught:
            await store.commit(Batch(puts=[("records", b"a", b"")]))
        assert caught.value.detail["driver"] == "store"
        await store.aclose()


async def test_what_is_frozen_does_not_change(store: Store) -> None:
    before = Batch(puts=[("records", b"a", b"1"), ("mail", b"b", b"2")], journal=[(7, b"x")])
    (seq,) = await store.commit(before)
    frozen = store.freeze()
    await store.commit(
        Batch(
            puts=[("records", b"a", b"changed"), ("records", b"c", b"3")],
            deletes=[("mail", b"b")],
            journal=[(7, b"y")],
        )
    )
    assert frozen.scan("records", b"\0", b"\xff") == [(b"a", b"1")]
    assert frozen.get_many("mail", [b"b", b"c"]) == [b"2", None]
    assert (frozen.last(7), frozen.journal(7, 0, 0)) == (seq, [(seq, b"x")])
    assert store.get("records", b"a") == b"changed"
    frozen.close()
    frozen.close()


async def test_a_store_that_grows_ends_what_is_frozen(tmp_path: Path) -> None:
    async with await open_store(tmp_path / "store", map_size=1 << 20) as store:
        frozen = store.freeze()
        await store.commit(Batch(puts=[("blobs", b"k", b"v" * (4 << 20))]))
        with pytest.raises(EAGAIN):
            frozen.get("blobs", b"k")
        assert store.freeze().get("blobs", b"k") is not None  # closed with the store
