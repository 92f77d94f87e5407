"""The tree that /proc shows: every file can be read, and tells no more than its call does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from kernel.tree import FILES, FOLDERS
from syscalls.errors import EINVAL, ENOENT, EPERM
from syscalls.launch import Launch
from syscalls.shapes import ProcessInfo
from tests.simulation import Program, World, simulated
from userland.bin.tree import branches
from userland.channel import Channel


async def sleeper(channel: Channel, launch: Launch) -> None:
    """Remembers one thing and waits."""
    await channel.mem.write(segment="semantic", content=f"secret of {launch.name}")
    await channel.ipc.send(to=int(launch.args[0]), body="written")
    await channel.ipc.recv()


PROGRAMS: dict[str, Program] = {"sleeper": sleeper}


@asynccontextmanager
async def system(seed: int) -> AsyncIterator[tuple[World, Channel]]:
    """A simulated system, and a session on it."""
    async with simulated(seed, PROGRAMS) as world:
        shell = world.attach()
        try:
            yield world, shell
        finally:
            shell.close()


async def walk(shell: Channel, path: str) -> dict[str, Any]:
    """Every file below a folder, with what it says."""
    found: dict[str, Any] = {}
    for entry in (await shell.sys.ls(path=path)).entries:
        here = f"{path}/{entry.name}"
        if entry.folder:
            found |= await walk(shell, here)
        else:
            found[here] = (await shell.sys.cat(path=here)).value
    return found


async def test_a_session_reads_everything_that_is_listed() -> None:
    async with system(1) as (_world, shell):
        own = (await shell.sys.info()).apid
        spawned = shell.proc.spawn(program="sleeper", name="ada", goal="rest", args=[str(own)])
        apid = (await spawned).apid
        space = (await shell.proc.info(target=apid)).space
        with trio.fail_after(60):
            await shell.ipc.recv(sender=apid)
            found = await walk(shell, "/proc")
        status = found[f"/proc/{apid}/status"]
        assert (status["name"], status["goal"], status["space"]) == ("ada", "rest", space)
        assert found[f"/proc/spaces/{space}/status"]["records"] == 1
        assert found["/proc/kernel/version"]["boot"] == 1
        assert found["/proc/drivers/store"]["state"] == "ready"
        assert found["/proc/kernel/stats/processes"]["alive"] >= 3
        assert found["/proc/self/status"]["apid"] == own
        assert any(line["call"] == "mem.write" for line in found[f"/proc/{apid}/trace"])
        assert found[f"/proc/{apid}/limits"] == found[f"/proc/{apid}/limits"] | {"inflight": 1024}


async def test_every_row_of_the_table_is_reached() -> None:
    """A row whose folder is described nowhere could not be listed."""
    for file in FILES:
        parts = file.path.split("/")
        for length in range(1, len(parts)):
            assert "/".join(parts[:length]) in FOLDERS
        assert file.about


async def test_who_may_not_ask_may_not_read() -> None:
    async with system(2) as (world, shell):
        apid = (await shell.proc.spawn(program="sleeper", args=["1"])).apid
        space = (await shell.proc.info(target=apid)).space
        grants = ("sys.ls", "sys.cat", "proc.info", "mem.*", "proc.list", "sys.info")
        other = world.attach(*grants)
        own = (await other.proc.info()).apid
        names = [entry.name for entry in (await other.sys.ls(path="/proc")).entries]
        assert str(own) in names
        assert str(apid) not in names
        for path in (f"/proc/{apid}/status", f"/proc/spaces/{space}/status", f"{apid}/connection"):
            with pytest.raises(EPERM):
                await other.sys.cat(path=path)
        with pytest.raises(EPERM):
            await other.sys.ls(path=f"/proc/{apid}")
        with pytest.raises(EPERM):
            await other.sys.cat(path="/proc/kernel/settings")
        assert (await other.sys.ls(path="/proc/kernel/stats")).entries == []
        assert (await other.sys.cat(path="/proc/self/capabilities")).value["caps"]
        other.close()


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/proc/99999/status", "ESRCH"),
        ("/proc/spaces/99999/status", "ENOENT"),
        ("/proc/nothing", "ENOENT"),
        ("/proc/drivers/none", "ENOENT"),
        ("/proc/kernel/stats/none", "ENOENT"),
        ("/proc/kernel", "EINVAL"),
        ("/proc/../etc/passwd", "EINVAL"),
        ("", "EINVAL"),
    ],
)
async def test_what_is_not_a_file(path: str, error: str) -> None:
    async with system(3) as (_world, shell):
        with pytest.raises(Exception, match=error) as caught:
            await shell.sys.cat(path=path)
        assert caught.value.code == error  # type: ignore[attr-defined]


async def test_a_file_is_no_folder() -> None:
    async with system(4) as (_world, shell):
        with pytest.raises(EINVAL, match="is a file"):
            await shell.sys.ls(path="/proc/1/status")
        with pytest.raises(ENOENT):
            await shell.sys.ls(path="/proc/1/status/more")


def process(apid: int, parent: int) -> ProcessInfo:
    numbers = dict.fromkeys(("session", "pid", "space", "nice", "calls", "inflight", "mailbox"), 0)
    said = {"program": "", "goal": "", "state": "RUNNING", "kind": "python", "created": 0.0}
    told = {"apid": apid, "parent": parent, "name": f"p{apid}", "caps": [], "children": []}
    return msgspec.convert({**numbers, **said, **told}, ProcessInfo)


def test_the_branches_of_a_tree() -> None:
    one, two, three, four = (process(*pair) for pair in ((1, 0), (2, 1), (3, 2), (4, 1)))
    assert branches(one, {1: [two, four], 2: [three]}) == [
        "1 p1 RUNNING",
        "|- 2 p2 RUNNING",
        "|  `- 3 p3 RUNNING",
        "`- 4 p4 RUNNING",
    ]
