"""A supervised host: real processes that crash, hang, refuse and are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

from drivers.protocol import EngineSpec
from drivers.supervisor import Host, HostSettings
from syscalls.errors import EINVAL, EIO, ETIME
from tests.probe import PLACE, Order, ProbeInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from syscalls.shapes import Level

ROOT = Path(__file__).resolve().parents[2]
QUICK = HostSettings(heartbeat=0.2, misses=25, backoff=0.01, failures=3, grace=10)


class WallClock:
    """The machine's own."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Bench:
    """A host under test, and what it logged."""

    def __init__(self, run_dir: Path, options: dict[str, Any], settings: HostSettings) -> None:
        self.lines: list[tuple[Level, str]] = []
        self.host = Host(
            "probe",
            EngineSpec("embedder", PLACE, "", options),
            run_dir=run_dir,
            log=lambda level, _, text: self.lines.append((level, text)),
            clock=WallClock(),
            settings=settings,
        )

    async def call(self, method: str, value: object = None, **options: Any) -> Any:
        raw = await self.host.call(method, Order(value), **options)
        return msgspec.msgpack.decode(raw)

    async def pid(self) -> int:
        return msgspec.msgpack.decode(await self.host.ready(), type=ProbeInfo).pid


@asynccontextmanager
async def running(
    run_dir: Path, settings: HostSettings = QUICK, **options: Any
) -> AsyncIterator[Bench]:
    """A bench whose host is supervised; on the way out it is stopped."""
    bench = Bench(run_dir, options, settings)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(bench.host.run)
            yield bench
            nursery.cancel_scope.cancel()


def gone(pid: int) -> bool:
    """Whether there is no such process (or only its corpse)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return text.rpartition(")")[2].split()[0] in ("Z", "X")


async def until_gone(pid: int) -> None:
    with trio.fail_after(20):
        while not gone(pid):  # noqa: ASYNC110 - a process of others
            await trio.sleep(0.02)


async def test_it_serves_and_stops(tmp_path: Path) -> None:
    async with running(tmp_path / "run", closed=str(tmp_path / "closed")) as bench:
        pid = await bench.pid()
        assert bench.host.state == "ready"
        assert await bench.call("echo", {"a": [1, "é", b"\0"]}) == {"a": [1, "é", b"\0"]}
        assert bench.host.statistics().pid == pid
    assert bench.host.statistics().state == "stopped"
    assert gone(pid)
    assert (tmp_path / "closed").exists(), "the engine was not asked to close"
    assert list((tmp_path / "run").iterdir()) == [], "a socket was left behind"
    with pytest.raises(EIO, match="is stopped"):
        await bench.call("echo")


async def test_nothing_leaks_over_many_lives(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass  # whatever is opened once, is open now
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with running(tmp_path) as bench:
            pid = await bench.pid()
        assert gone(pid)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_typed_errors_come_through(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        with pytest.raises(EINVAL, match="as you wished") as caught:
            await bench.call("invalid", 7)
        assert caught.value.detail == {"wish": 7}
        assert caught.value.hint == "wish for something else"
        with pytest.raises(EIO, match="bug failed") as failed:
            await bench.call("bug")
        assert failed.value.detail["retryable"] is False
        assert await bench.call("echo", 1) == 1, "a failed call must not stop the others"
        assert any("RuntimeError: as you wished" in text for _, text in bench.lines)


async def test_output_of_an_engine_is_logged_and_harms_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.call("print", "from Python\n" + "x" * 50_000)
        with trio.fail_after(20):
            while ("info", "from C") not in bench.lines:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert ("info", "from Python") in bench.lines
        assert sum(text.count("x") for _, text in bench.lines if set(text) == {"x"}) == 50_000


async def test_a_killed_host_fails_its_calls_and_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        first = await bench.pid()
        with pytest.raises(EIO, match="SIGKILL") as caught:
            await bench.call("die")
        assert caught.value.detail == {"driver": "probe", "retryable": True}
        second = await bench.pid()
        assert second != first
        assert await bench.call("echo", "back") == "back"
        assert bench.host.statistics().deaths == 1
        assert bench.host.statistics().starts == 2


async def test_a_safe_call_is_replayed_once(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        raw = await bench.host.call("die", Order(marker=str(tmp_path / "died")), replays=1)
        assert msgspec.msgpack.decode(raw) == await bench.pid()
        assert bench.host.statistics().replayed == 1
        with pytest.raises(EIO, match="SIGKILL"):
            await bench.call("die", replays=1)


async def test_an_engine_that_refuses_fails_typed_and_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, refuse=True) as bench:
        with pytest.raises(EIO, match="nothing to load") as caught:
            await bench.host.ready()
        assert caught.value.hint == "give it something"
        assert caught.value.detail["cause"] == "ENODEV"
        assert caught.value.detail["retryable"] is False
        assert bench.host.state == "failed"
        with pytest.raises(EIO, match="nothing to load"):
            await bench.call("echo")
        assert bench.host.statistics().starts == 1


async def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, QUICK)
    bench.host.spec = EngineSpec("llm", "abacus")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(bench.host.run)
            with pytest.raises(EIO, match="no llm engine 'abacus'"):
                await bench.host.ready()
            nursery.cancel_scope.cancel()


async def test_an_engine_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, crash=True) as bench:
        with pytest.raises(EIO, match=r"exit status 9.*about to crash"):
            await bench.host.ready()
        assert bench.host.state == "failed"
        assert bench.host.statistics().starts == QUICK.failures
        assert ("error", "gave up after 3 deaths") in bench.lines


async def test_lost_heartbeats_restart_the_host(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, heartbeat=0.05, misses=20)
    async with running(tmp_path, settings) as bench:
        first = await bench.pid()
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(EIO, match="no heartbeat"):
            await bench.call("echo", 1)
        assert gone(first)
        assert await bench.call("echo", 2) == 2
        assert await bench.pid() != first


async def test_heartbeats_go_on_while_the_engine_computes(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, heartbeat=0.05, misses=20)
    async with running(tmp_path, settings) as bench:
        await bench.call("sleep", 3.0)  # three times what the heart may be silent
        assert bench.host.statistics().deaths == 0


async def test_a_cancelled_caller_cancels_the_call(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.host.ready()
        with trio.move_on_after(0.2) as scope:
            await bench.call("hold")
        assert scope.cancelled_caught
        assert await bench.call("cancelled") == 1
        with pytest.raises(ETIME):
            await bench.call("hold", timeout=0.1)
        assert await bench.call("cancelled") == 2
        assert bench.host.statistics().inflight == 0


async def test_calls_wait_for_a_slot_of_the_host(tmp_path: Path) -> None:
    async with running(tmp_path, window=2) as bench:
        await bench.host.ready()
        done = trio.Event()

        async def echo() -> None:
            await bench.call("echo")
            done.set()

        async with trio.open_nursery() as nursery:
            holders = [trio.CancelScope(), trio.CancelScope()]

            async def hold(scope: trio.CancelScope) -> None:
                with scope:
                    await bench.call("hold")

            for scope in holders:
                nursery.start_soon(hold, scope)
            while bench.host.statistics().inflight < 2:  # noqa: ASYNC110 - a counter, no event
                await trio.sleep(0.01)
            nursery.start_soon(echo)
            await trio.sleep(0.2)
            assert not done.is_set()
            holders[0].cancel()
            await done.wait()
            holders[1].cancel()


async def test_a_stream_runs_no_further_than_its_credit(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        exchange = await bench.host.begin("stream", Order(100), credit=4)
        before = bench.host.statistics().link
        await bench.call("echo")  # the engine has had its turn at the stream
        await trio.sleep(0.2)
        after = bench.host.statistics().link
        assert before is not None
        assert after is not None
        assert after.received - before.received < 20
        got = [msgspec.msgpack.decode(raw, type=int) async for raw in exchange]
        assert got == list(range(100))
        assert msgspec.msgpack.decode(await exchange.result()) == 100
        exchange.close()


async def test_an_endless_stream_is_aborted(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        exchange = await bench.host.begin("stream", Order(-1), credit=4)
        async for raw in exchange:
            if msgspec.msgpack.decode(raw, type=int) == 20:
                break
        exchange.close()
        assert await bench.call("cancelled") == 1
        assert bench.host.statistics().inflight == 0


async def test_stopping_ends_what_is_in_flight(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {}, QUICK)
    with trio.fail_after(30):
        async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
            await nursery.start(bench.host.run)
            pid = await bench.pid()

            async def hold() -> None:
                with pytest.raises(EIO, match="was stopped"):
                    await bench.call("hold")

            callers.start_soon(hold)
            while not bench.host.statistics().inflight:  # noqa: ASYNC110 - a counter
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert gone(pid)


async def test_a_host_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, grace=0.2)
    async with running(tmp_path, settings) as bench:
        pid = await bench.pid()
        os.kill(pid, signal.SIGSTOP)
    assert gone(pid)


async def test_over_tcp_with_keys(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, url="tcp://127.0.0.1:*")
    async with running(tmp_path, settings) as bench:
        assert await bench.call("echo", "far") == "far"


async def test_a_folder_with_a_long_path(tmp_path: Path) -> None:
    async with running(tmp_path / ("deep" * 40)) as bench:
        assert await bench.call("echo", 1) == 1


PARENT = """
import sys, time, trio
from pathlib import Path
from drivers.protocol import EngineSpec
from drivers.supervisor import Host
from tests.probe import PLACE

class Clock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

async def main():
    host = Host("probe", EngineSpec("embedder", PLACE), run_dir=Path(sys.argv[1]),
                log=lambda *line: None, clock=Clock())
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        await host.ready()
        print(host.statistics().pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_host_never_outlives_its_kernel(tmp_path: Path, stopped: bool) -> None:
    with subprocess.Popen(  # noqa: ASYNC220 - a start, not a wait
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        pid = int(await trio.to_thread.run_sync(parent.stdout.readline))
        assert not gone(pid)
        if stopped:
            os.kill(pid, signal.SIGSTOP)  # it cannot even see its standard input close
        parent.kill()
    await until_gone(pid)
