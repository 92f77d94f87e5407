"""The zygote: what a process is born with, how its end is told, what it costs."""

import os
import resource
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from procs.launcher import status_of
from syscalls import wire
from syscalls.calls import mem, proc, sys
from syscalls.errors import EINVAL, EIO, ENOENT, EPERM, EngramError
from syscalls.launch import Launch
from syscalls.records import Record
from syscalls.shapes import Quota
from syscalls.table import TABLE, Empty
from tests.agents.kit import Agent, alive, children, gone, launch, launcher


def fds(pid: int | str = "self") -> set[str]:
    return set(os.listdir(f"/proc/{pid}/fd"))


async def test_a_python_agent_knows_who_it_is(tmp_path: Path) -> None:
    async with launcher() as made:
        agent = await launch(
            made, "hello", "a", "ü", goal="x" * 300_000, env={"EXTRA": "1"}, cwd=str(tmp_path)
        )
        said = await agent.heard()
        status, printed = await agent.ended()
    assert said == {
        "pid": agent.child.pid,
        "sid": agent.child.pid,
        "args": ["a", "ü"],
        "goal": "x" * 300_000,
        "apid": "41",
        "fd": "3",
        "extra": "1",
        "cwd": str(tmp_path),
        "open": [0, 1, 2, 3],
    }
    assert (status, printed) == ((0, "exit"), "")
    assert agent.child.kind == "python"


@pytest.mark.parametrize(
    ("program", "args", "status", "printed"),
    [
        ("status", ["42"], 42, ""),
        ("status", ["300"], 44, ""),
        ("fail", [], 1, "ValueError: on purpose"),
        ("leave", [], 1, "good-bye"),
        ("/bin/sh", ["-c", "echo out; echo err >&2; exit 5"], 5, "out\nerr\n"),
        ("/bin/sh", ["-c", "kill -USR1 $$"], 138, ""),
    ],
)
async def test_the_end_is_told(program: str, args: list[str], status: int, printed: str) -> None:
    async with launcher() as made:
        ended, output = await (await launch(made, program, *args)).ended()
    assert ended.status == status
    assert printed in output
    assert ended.signalled == (ended.reason != "exit")
    assert ended.reason == ("signal USR1" if status == 138 else "exit")


def test_signals_have_names() -> None:
    assert status_of(-9) == (137, "signal KILL")
    assert status_of(-40) == (168, "signal 40")
    assert status_of(0) == (0, "exit")


async def test_programs_that_cannot_run_are_refused_with_the_reason(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("echo no shebang\n")
    plain.chmod(0o755)
    (tmp_path / "locked").write_text("")
    before = fds()
    async with launcher() as made:
        cases: list[tuple[str, dict[str, Any], type[EngramError]]] = [
            ("nobody.knows", {}, ENOENT),
            (str(tmp_path / "locked"), {}, EPERM),
            (str(tmp_path), {}, EINVAL),
            (str(plain), {}, EINVAL),
            ("hello", {"cwd": "/nowhere"}, ENOENT),
            ("hello", {"env": {"A": "\0"}}, EINVAL),
            ("hello", {"env": {"A=B": "C"}}, EINVAL),
            ("puzzle", {}, EINVAL),
        ]
        for program, fields, error in cases:
            with pytest.raises(error):
                await launch(made, program, **fields)
        assert made.statistics().refused == 8
        status, _ = await (await launch(made, "status", "0")).ended()
        assert status.status == 0
        assert made.statistics().restarts == 0
    assert fds() == before


async def test_a_runtime_that_cannot_be_loaded_is_named() -> None:
    async with launcher(runtime="no.such.runtime") as made:
        for _ in range(2):
            with pytest.raises(EIO, match=r"no\.such\.runtime") as caught:
                await launch(made, "hello")
            assert caught.value.detail["driver"] == "zygote"


async def test_limits_hold() -> None:
    quota = Quota(memory=256 << 20, files=32, children=0)
    async with launcher() as made:
        agent = await launch(made, "limits", quota=quota)
        found = await agent.heard()
        await agent.ended()
        assert found["files"] == "OSError"
        assert found["opened"] < 32
        assert found["memory"] == "MemoryError"
        assert found["core"] == 0
        assert found["NoNewPrivs"] == "1"
        assert 0 < found["children"] < resource.getrlimit(resource.RLIMIT_NPROC)[0] % (1 << 64)

        agent = await launch(made, "/bin/sh", "-c", "ulimit -n; grep NoNewPrivs /proc/self/status",
                             quota=quota)  # fmt: skip
        _, printed = await agent.ended()
        assert printed.split() == ["32", "NoNewPrivs:", "1"]


async def test_limits_can_be_lowered_while_it_runs() -> None:
    async with launcher() as made:
        agent = await launch(made, "linger")
        await agent.heard()
        agent.child.limit(Quota(files=17))
        while resource.prlimit(agent.child.pid, resource.RLIMIT_NOFILE) != (17, 17):  # noqa: ASYNC110
            await trio.sleep(0.01)
        await agent.close()
        assert (await agent.child.wait()).status == 7


async def test_a_python_agent_cannot_be_dumped() -> None:
    """What may not be dumped belongs to root in /proc, whoever runs it."""
    async with launcher() as made:
        agent = await launch(made, "linger")
        await agent.heard()
        assert os.stat(f"/proc/{agent.child.pid}/fd").st_uid == 0
        if os.getuid() != 0:
            with pytest.raises(PermissionError):
                os.readlink(f"/proc/{agent.child.pid}/exe")
        await agent.close()


async def test_closing_the_channel_is_seen_by_the_agent() -> None:
    async with launcher() as made:
        agent = await launch(made, "linger")
        await agent.heard()
        await agent.channel.aclose()
        assert await agent.child.wait() == (7, "exit")
        await agent.close()


async def test_a_cancelled_launch_leaves_no_process() -> None:
    async with launcher() as made:
        for delay in (0.0, 0.0005, 0.001, 0.002, 0.004):
            with trio.move_on_after(delay):
                agent = await launch(made, "linger")
                await agent.close()
        agent = await launch(made, "status", "0")
        await agent.ended()
        while made.statistics().alive:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_storm_of_spawns_and_kills_leaves_nothing() -> None:
    rounds, width = 30, 10
    async with launcher() as made:
        warm = await launch(made, "status", "0")
        await warm.ended()
        zygote = made.statistics().zygote
        ours, theirs = fds(), fds(zygote)

        async def one(number: int) -> None:
            agent = await launch(made, *(["linger"], ["/bin/sleep", "1000"])[number % 2])
            agent.child.kill((signal.SIGKILL, signal.SIGTERM)[number // 2 % 2])
            status = await agent.child.wait()
            assert status.reason in ("signal KILL", "signal TERM")
            await agent.close()

        for _ in range(rounds):
            async with trio.open_nursery() as nursery:
                for number in range(width):
                    nursery.start_soon(one, number)
        figures = made.statistics()
        assert (figures.launched, figures.ended, figures.alive) == (301, 301, 0)
        assert children(zygote) == []
        assert fds(zygote) == theirs
        assert fds() == ours


async def test_a_limit_beyond_what_the_system_counts_is_none_and_ends_nobody() -> None:
    most = Quota(memory=2**64 - 1)
    async with launcher() as made:
        agent = await launch(made, "idle")
        await agent.heard()
        agent.child.limit(most)
        status, printed = await (await launch(made, "status", "3", quota=most)).ended()
        assert (status.status, printed) == (3, "")
        assert made.statistics().restarts == 0
        await agent.close()
        await agent.child.wait()


async def test_an_idle_agent_costs_little_memory() -> None:
    async with launcher() as made:
        agents = [await launch(made, "idle") for _ in range(50)]
        private = 0
        for agent in agents:
            assert (await agent.heard())["pid"] == agent.child.pid
        for agent in agents:
            await agent.channel.send_all(b"?")
            private += await agent.heard()
        assert private / len(agents) < 6 << 20
        for agent in agents:
            await agent.close()
            await agent.child.wait()


async def test_who_is_an_agents_process_is_known() -> None:
    async with launcher() as made:
        agent = await launch(made, "daemonize")
        said = await agent.heard()
        assert made.owns(said["pid"])
        assert made.owns(said["daemon"])
        assert not made.owns(os.getpid())
        assert not made.owns(1)
        assert not made.owns(2**22 + 1)
        await agent.close()
        await gone(said["pid"], said["daemon"])


async def test_descriptors_given_stay_the_callers() -> None:
    async with launcher() as made:
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        child = await made.launch(Launch(apid=2, program="status", args=["0"]), theirs, writer)
        await child.wait()
        os.fstat(writer)
        theirs.send(b"still open")
        assert ours.recv(20) == b"still open"
        for close in (ours.close, theirs.close):
            close()
        os.close(reader)
        os.close(writer)


# --- an agent in another language


async def answer(agent: Agent) -> list[str]:
    """Be the kernel for agent.js: answer its calls until it closes; the calls' names."""
    framer, called, content = wire.Framer(), [], ""
    while data := await agent.channel.receive_some():
        for body in framer.feed(bytes(data)):
            request = wire.decode_request(body)
            entry = TABLE.by_number[request.number]
            called.append(entry.name)
            replies: dict[str, object] = {
                "sys.clock": sys.Clock(now=1.5, monotonic=0.5),
                "mem.write": mem.Written(rid="0" * 26),
                "mem.read": mem.Records(
                    [Record(rid="0" * 26, space=1, segment="episodic", content=content)]
                ),
                "proc.exit": Empty(),
            }
            call = msgspec.msgpack.decode(request.arguments, type=entry.call)
            if isinstance(call, mem.Write):
                content = call.content
            elif isinstance(call, proc.ExitCall):
                assert call.value == {"rid": "0" * 26, "now": 1.5, "content": content}
            await agent.channel.send_all(wire.frame([request.seq, 0, replies[entry.name]]))
    return called


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on this machine")
async def test_an_agent_in_javascript_speaks_the_wire_format() -> None:
    program = Path(__file__).parents[1] / "agents" / "agent.js"
    async with launcher() as made:
        agent = await launch(made, str(program), "喜欢简洁代码风格" * 40)
        assert agent.child.kind == "exec"
        assert await answer(agent) == ["sys.clock", "mem.write", "mem.read", "proc.exit"]
        status, printed = await agent.ended()
    assert (status.status, printed) == (0, f"apid 41 remembers: {'喜欢简洁代码风格' * 40}\n")
    assert not alive(agent.child.pid)
