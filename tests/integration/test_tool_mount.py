"""MCP servers as tool devices: real processes, with all that can go wrong with them."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivers.mcp import Server
from kernel.machine import SystemClock
from syscalls.calls import tool
from syscalls.errors import EEXIST, EINVAL, EIO, ENOENT, EPERM, ETIME
from tests.harness import BOUND, processes_of, running
from tests.minds import system

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

AGENTS = Path(__file__).parents[1] / "agents"
SMALL = [sys.executable, str(AGENTS / "mcp_server.py")]
LIBRARY = [sys.executable, str(AGENTS / "mcp_sdk_server.py")]


def log(*_line: Any) -> None:
    """Quiet."""


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - nobody tells; the fixture has the bound
        await trio.sleep(0.01)


async def mounted(shell: Any, command: list[str], name: str = "dev") -> list[str]:
    made = await shell.call(tool.Mount(command=command, name=name, deadline=BOUND))
    tools: list[str] = made.tools
    return tools


@pytest.fixture
async def world() -> AsyncIterator[Any]:
    async with system(1, {}) as running_system:
        with trio.fail_after(2 * BOUND):
            yield running_system


async def test_a_server_is_mounted_called_and_unmounted(world: Any) -> None:
    shell = world.attach()
    names = await mounted(shell, SMALL)
    # Three pages of tools, without the one whose schema is none.
    assert names == ["dev.add", "dev.fail", "dev.slow", "dev.die", "dev.grow"]
    pid = world.kernel.tools.statistics().mounts[0].pid
    outcome = await shell.call(tool.CallTool(name="dev.add", args={"a": 2, "b": 3}))
    assert (outcome.ok, outcome.value) == (True, {"sum": 5})
    assert outcome.rid
    failed = await shell.call(tool.CallTool(name="dev.fail", args={"why": "no card_7"}))
    assert (failed.ok, failed.error) == (False, "Error: no card_7")
    with pytest.raises(EINVAL, match="b is missing"):
        await shell.call(tool.CallTool(name="dev.add", args={"a": 2}))
    with pytest.raises(ETIME):
        await shell.call(tool.CallTool(name="dev.slow", deadline=0.2))
    with pytest.raises(EEXIST):
        await mounted(shell, SMALL)
    await shell.call(tool.CallTool(name="dev.grow"))
    await until(lambda: world.kernel.tools.known("dev.more") is not None)
    await shell.call(tool.Unmount(name="dev"))
    assert (await shell.call(tool.ListCall())).tools == []
    with pytest.raises(ENOENT):
        await shell.call(tool.Unmount(name="dev"))
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_a_server_that_dies_is_started_again(world: Any) -> None:
    shell = world.attach()
    await mounted(shell, SMALL)
    figures = world.kernel.tools.statistics().mounts[0]
    with pytest.raises(EIO, match="has ended") as error:
        await shell.call(tool.CallTool(name="dev.die"))
    assert error.value.detail["retryable"] is True
    await until(lambda: world.kernel.tools.statistics().mounts[0].state == "ready")
    again = world.kernel.tools.statistics().mounts[0]
    assert again.starts == 2
    assert again.pid != figures.pid
    outcome = await shell.call(tool.CallTool(name="dev.add", args={"a": 1, "b": 1}))
    assert outcome.value == {"sum": 2}


@pytest.mark.parametrize(
    ("command", "expected", "words"),
    [
        ([*SMALL, "refuse"], EIO, "cannot be mounted: .* no such licence"),
        (["/bin/true"], EIO, "cannot be mounted"),
        (["no-such-program-at-all"], ENOENT, "no program"),
    ],
)
async def test_what_does_not_speak_mcp_is_refused(
    world: Any, command: list[str], expected: type[Exception], words: str
) -> None:
    shell = world.attach()
    with pytest.raises(expected, match=words):
        await mounted(shell, command)
    assert world.kernel.tools.statistics().mounts == []


async def test_a_silent_server_has_a_deadline(world: Any) -> None:
    shell = world.attach()
    with pytest.raises(ETIME):
        await shell.call(tool.Mount(command=[*SMALL, "mute"], name="mute", deadline=1.0))
    assert world.kernel.tools.statistics().mounts == []


async def test_an_agent_may_not_mount(world: Any) -> None:
    agent = world.attach("tool.*")
    with pytest.raises(EPERM, match="may not mount"):
        await mounted(agent, SMALL)
    allowed = world.attach(f"tool.mount:program/{sys.executable}")
    assert await mounted(allowed, SMALL)


async def test_a_call_that_is_given_up_is_cancelled_at_the_server() -> None:
    server = Server("dev", SMALL, log, SystemClock())
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await server.settled.wait()
            with trio.move_on_after(0.05):
                await server.call("slow", {})
            assert server.statistics().inflight == 0
            answer = await server.call("add", {"a": 1, "b": 2})  # it still listens
            assert answer.value == {"sum": 3}
            nursery.cancel_scope.cancel()
    assert server.statistics().state == "stopped"


@pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="needs the mcp package")
async def test_a_server_made_with_the_protocols_own_library(world: Any) -> None:
    shell = world.attach()
    assert await mounted(shell, LIBRARY, "lib") == ["lib.shout", "lib.refuse"]
    outcome = await shell.call(tool.CallTool(name="lib.shout", args={"text": "hello"}))
    assert outcome.ok
    assert "HELLO" in str(outcome.value)
    failed = await shell.call(tool.CallTool(name="lib.refuse", args={"text": "now"}))
    assert not failed.ok
    assert "refuse" in failed.error


def test_a_killed_kernel_leaves_no_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, "--embedder", "none") as kernel, kernel.client() as client:
        client.tool.mount(command=[*SMALL, str(data)], name="dev", deadline=BOUND)
        pid = client.sys.stats().stats["tools"]["mounts"][0]["pid"]
        os.kill(pid, 0)
        kernel.kill()
        deadline = time.monotonic() + BOUND
        while processes_of(data) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert pid not in processes_of(data)
