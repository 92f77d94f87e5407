"""The store on LMDB: groups, faults of the disk, damage, formats."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import lmdb
import pytest
import trio
import trio.testing

from drivers.contracts import Batch, Mismatch
from drivers.store.lmdb import LmdbStore, open_store
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


class Disk:
    """An offload that can be held up and can fail."""

    def __init__(self) -> None:
        self.gate: trio.Event | None = None
        self.error: Exception | None = None
        self.calls = 0

    async def __call__(self, work: Callable[[], T]) -> T:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return work()


def put(key: bytes, *expect: tuple[bytes, bytes | None]) -> Batch:
    return Batch(
        puts=[("records", key, b"v")],
        expect=[("records", name, value) for name, value in expect],
        journal=[(1, key)],
    )


class Caller:
    """Commits in a task of its own and keeps what came of it."""

    def __init__(self, store: LmdbStore, batch: Batch) -> None:
        self.store, self.batch = store, batch
        self.result: list[int] | BaseException | None = None
        self.scope = trio.CancelScope()

    async def __call__(self) -> None:
        with self.scope:
            try:
                self.result = await self.store.commit(self.batch)
            except (Mismatch, EIO) as error:
                self.result = error
        if self.scope.cancelled_caught:
            self.result = None


async def call(nursery: trio.Nursery, store: LmdbStore, *batches: Batch) -> list[Caller]:
    """Commit batches in that order and return when all wait."""
    callers = [Caller(store, batch) for batch in batches]
    for caller in callers:
        nursery.start_soon(caller)
        await trio.testing.wait_all_tasks_blocked()
    return callers


async def test_batches_that_wait_share_a_commit_and_see_each_other(tmp_path: Path) -> None:
    disk = Disk()
    async with await open_store(tmp_path / "s", offload=disk) as store:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                disk.gate = trio.Event()
                callers = await call(
                    nursery,
                    store,
                    put(b"first"),
                    put(b"a"),
                    put(b"b", (b"a", b"v"), (b"first", b"v")),
                    put(b"c", (b"a", None)),
                    put(b"d", (b"c", None)),
                )
                assert store.get("records", b"first") is None, "nothing before it is durable"
                assert store.statistics().pending == 4
                disk.gate.set()
        results = [caller.result for caller in callers]
        assert isinstance(results[3], Mismatch)
        assert results[3].index == 0
        assert results[:3] + results[4:] == [[1], [2], [3], [4]]
        assert [key for key, _ in store.scan("records", b"\0", b"\xff")] == [
            b"a", b"b", b"d", b"first",
        ]  # fmt: skip
        figures = store.statistics()
        assert (figures.commits, figures.largest_group, figures.batches) == (2, 4, 4)


async def test_a_failing_disk_fails_its_group_whole_and_only_it(tmp_path: Path) -> None:
    disk = Disk()
    async with await open_store(tmp_path / "s", offload=disk) as store:
        await store.commit(put(b"before"))
        for fault in (
            OSError(errno.ENOSPC, "no space left"),
            OSError(errno.EIO, "input/output error"),
            lmdb.DiskError("mdb_txn_commit", errno.ENOSPC),
        ):
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    disk.gate, disk.error = trio.Event(), fault
                    callers = await call(nursery, store, put(b"x"), put(b"y"), put(b"z"))
                    disk.gate.set()
            for caller in callers:
                assert isinstance(caller.result, EIO)
                assert caller.result.detail["driver"] == "store"
            disk.gate = disk.error = None
            assert store.statistics().seq == store.last(1) >= 1
            assert store.scan("records", b"x", b"{") == []
            await store.commit(put(b"after"))
        assert store.statistics().batches == 4
    async with await open_store(tmp_path / "s") as store:
        assert [key for _, key in store.journal(1, 0, 0)] == [b"before"] + [b"after"] * 3


async def test_a_bug_in_the_offload_reaches_every_caller(tmp_path: Path) -> None:
    """Nobody is left waiting, whatever goes wrong."""
    disk = Disk()
    store = await open_store(tmp_path / "s", offload=disk)
    disk.gate, disk.error = trio.Event(), RuntimeError("bug")
    failed = []

    async def commit(key: bytes) -> None:
        try:
            await store.commit(put(key))
        except RuntimeError as error:
            failed.append(str(error))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for key in (b"a", b"b", b"c"):
                nursery.start_soon(commit, key)
            await trio.testing.wait_all_tasks_blocked()
            disk.gate.set()
        assert failed == ["bug"] * 3
        disk.error = None
        assert await store.commit(put(b"d")) == [1]
        await store.aclose()


async def test_a_queued_batch_is_decided_whoever_cancels(tmp_path: Path) -> None:
    disk = Disk()
    async with await open_store(tmp_path / "s", offload=disk) as store:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                disk.gate = trio.Event()
                leader, second, third = await call(
                    nursery, store, put(b"1"), put(b"2"), put(b"3", (b"1", None))
                )
                late = Caller(store, put(b"4"))
                late.scope.cancel()
                nursery.start_soon(late)
                for caller in (leader, second, third):
                    caller.scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                disk.gate.set()
        # A caller that was cancelled before it asked has changed nothing; the others know.
        assert late.result is None
        assert (leader.result, second.result) == ([1], [2])
        assert isinstance(third.result, Mismatch)
        assert [key for _, key in store.journal(1, 0, 0)] == [b"1", b"2"]


async def test_closing_finishes_what_is_pending(tmp_path: Path) -> None:
    disk = Disk()
    store = await open_store(tmp_path / "s", offload=disk)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            disk.gate = trio.Event()
            callers = await call(nursery, store, put(b"1"), put(b"2"))
            nursery.start_soon(store.aclose)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(EIO, match="closed"):
                await store.commit(put(b"late"))
            disk.gate.set()
    assert [caller.result for caller in callers] == [[1], [2]]
    async with await open_store(tmp_path / "s") as store:
        assert store.last(1) == 2


async def test_the_map_grows_while_it_is_read(tmp_path: Path) -> None:
    value = os.urandom(100_000)
    async with await open_store(tmp_path / "s", map_size=1 << 17) as store:
        for n in range(60):
            await store.commit(Batch(puts=[("records", b"%d" % n, value)]))
            assert store.get("records", b"0") == value
        assert store.statistics().bytes_used > 60 * len(value)
    async with await open_store(tmp_path / "s", map_size=1 << 17) as store:
        assert store.get("records", b"59") == value
        await store.commit(Batch(puts=[("records", b"more", value * 10)]))


async def test_a_full_map_is_an_error_and_room_can_be_made(tmp_path: Path) -> None:
    value = os.urandom(30_000)
    async with await open_store(tmp_path / "s", map_size=1 << 20, max_map_size=1 << 20) as store:
        written = 0
        with pytest.raises(EIO, match="FULL") as caught:
            while True:
                await store.commit(Batch(puts=[("records", b"%d" % written, value)]))
                written += 1
        assert caught.value.detail["driver"] == "store"
        assert written > 10
        assert store.get("records", b"%d" % written) is None
        await store.commit(Batch(deletes=[("records", b"%d" % n) for n in range(10)]))
        for n in range(3):  # what one commit frees, a later one can use
            await store.commit(Batch(puts=[("meta", b"small", b"%d" % n)]))
        for n in range(5):
            await store.commit(Batch(puts=[("records", b"again%d" % n, value)]))
        assert store.get("records", b"%d" % (written - 1)) == value


FULL = """
import resource, sys
from pathlib import Path
import trio
from drivers.contracts import Batch
from drivers.store.lmdb import open_store
from syscalls.errors import EIO

async def main(folder):
    value = bytes(20_000)
    async with await open_store(folder) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        failed = []
        async def write(task):
            for n in range(20):
                try:
                    await store.commit(
                        Batch(puts=[("records", b"%d.%d" % (task, n), value)], journal=[(1, b"")])
                    )
                except EIO as error:
                    assert error.detail["driver"] == "store", error
                    failed.append((task, n))
        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(write, task)
        assert 0 < len(failed) < 80, failed
        for task in range(4):
            for n in range(20):
                there = store.get("records", b"%d.%d" % (task, n)) is not None
                assert there == ((task, n) not in failed), (task, n)
        assert store.last(1) == store.statistics().seq == 80 - len(failed)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await store.commit(Batch(puts=[("records", b"after", value)]))
    async with await open_store(folder) as store:
        assert len(store.scan("records", b"0", b"z")) == 81 - len(failed)

trio.run(main, Path(sys.argv[1]))
"""


def test_a_full_disk_is_an_error_and_nothing_is_half_done(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the same error, anywhere."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "s")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- opening


async def filled(folder: Path) -> bytes:
    """A store with some hundred pages; its file's content."""
    async with await open_store(folder) as store:
        for n in range(20):
            puts = [("records", b"%d.%d" % (n, m), os.urandom(200)) for m in range(50)]
            await store.commit(Batch(puts=puts, journal=[(1, b"p")]))  # type: ignore[arg-type]
    return (folder / "data.mdb").read_bytes()


async def refused(folder: Path) -> EIO:
    with pytest.raises(EIO) as caught:
        await open_store(folder)
    assert caught.value.detail == {"driver": "store", "path": str(folder)}
    return caught.value


async def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    for file in (tmp_path / "s").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


async def test_a_file_cut_off_anywhere_is_refused_and_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    whole = await filled(folder)
    for size in (0, 1, 100, 4095, 4096, 8191, 8192, 20_000, len(whole) // 2, len(whole) - 4096):
        (folder / "data.mdb").write_bytes(whole[:size])
        error = await refused(folder)
        assert "backup" in error.hint
        assert (folder / "data.mdb").read_bytes() == whole[:size]
    (folder / "data.mdb").write_bytes(whole)
    async with await open_store(folder) as store:
        assert store.last(1) == 20


async def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    whole = await filled(folder)
    for content in (b"x" * 100_000, bytes(100_000), b"\0" * 16 + b"\xde\xc0\xef\xbe" * 4096):
        (folder / "data.mdb").write_bytes(content)
        await refused(folder)
    for page in (0, 4096):
        torn = bytearray(whole)
        torn[page + 16] ^= 0xFF
        (folder / "data.mdb").write_bytes(torn)
        await refused(folder)


async def test_another_database_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "s"), max_dbs=2) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    assert "not a store" in (await refused(tmp_path / "s")).message
    with lmdb.open(str(tmp_path / "s"), max_dbs=2) as env:
        env.open_db(b"meta")
    assert "not a store" in (await refused(tmp_path / "s")).message


async def test_a_newer_format_is_refused_with_a_hint(tmp_path: Path) -> None:
    async with await open_store(tmp_path / "s") as store:
        assert store.get("meta", b"format") == b"1"
        await store.commit(Batch(puts=[("meta", b"format", b"2")]))
    error = await refused(tmp_path / "s")
    assert "format 2" in error.message
    assert "version" in error.hint


async def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    await refused(tmp_path / "file")
    await refused(tmp_path / "file" / "below")


async def test_a_creation_that_was_interrupted_is_begun_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "data.mdb").write_bytes(b"half")
    async with await open_store(folder) as store:
        await store.commit(put(b"a"))
    assert sorted(file.name for file in folder.iterdir()) == ["data.mdb", "lock.mdb"]


async def test_a_free_end_that_was_never_written_is_no_damage(tmp_path: Path) -> None:
    """LMDB may count free pages beyond the end of the file."""
    folder = tmp_path / "s"
    async with await open_store(folder) as store:
        await store.commit(Batch(puts=[("records", b"k", bytes(200_000))]))
        for n in range(5):
            await store.commit(Batch(deletes=[("records", b"k")], puts=[("keys", b"%d" % n, b"")]))
    data = (folder / "data.mdb").read_bytes()
    (folder / "data.mdb").write_bytes(data[: len(data) - 8 * 4096])
    try:
        store = await open_store(folder)
    except EIO as error:
        pytest.fail(f"the pages cut off were free: {error}")
    async with store:
        assert store.get("keys", b"4") == b""
        await store.commit(Batch(puts=[("records", b"k", bytes(400_000))]))
        assert store.get("records", b"k") == bytes(400_000)
