"""With the model's host dead every call but ``llm.*`` is the same."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from syscalls.errors import EIO, EngramError
from tests.harness import BOUND, running
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import RunningKernel
    from userland.client import BlockingClient

RID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b")
CHANGING = {"pid", "rss", "calls", "micros", "score", "created", "updated", "sent", "started"}
ECHO = """
async def main(agent):
    message = await agent.recv()
    await agent.reply(message, {"heard": message.body})
    return message.body
"""


def steady(value: Any) -> Any:
    """A reply without what differs between any two runs: times, pids and record ids."""
    if isinstance(value, dict):
        return {k: steady(v) for k, v in value.items() if k not in CHANGING}
    if isinstance(value, list):
        return [steady(item) for item in value]
    if isinstance(value, str):
        return RID.sub("RID", value)
    return "time" if isinstance(value, float) and value > 1e9 else value


class Notebook:
    """What came of the calls of a workload, in order."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client
        self.seen: list[Any] = []

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Make a call and note its reply or its error."""
        group, _, verb = name.partition(".")
        made: Callable[..., Any] = getattr(getattr(self._client, group), verb)
        try:
            reply = made(**arguments)
        except EngramError as error:
            self.seen.append((name, error.code, steady(error.message)))
            return None
        self.seen.append((name, "ok", steady(msgspec.to_builtins(reply))))
        return reply


def workload(client: BlockingClient, program: Path) -> list[Any]:
    """Some of every group but ``llm``: what goes well and what goes wrong."""
    book = Notebook(client)
    book.call("sys.session", name="worker")
    first = book.call("mem.write", segment="semantic", content="tea is at five", key="tea")
    book.call(
        "mem.write_many",
        notes=[{"segment": "episodic", "content": f"day {number}"} for number in range(5)],
    )
    book.call("mem.search", query="tea", k=3)
    book.call("mem.update", rid=first.rid, content="tea is at six", expect=1)
    book.call("mem.update", rid=first.rid, content="tea is at four", expect=1)
    book.call("mem.read", key="tea")
    book.call("mem.history", rid=first.rid)
    child = book.call("proc.spawn", program=str(program), name="echo")
    book.call("ipc.send", to="echo", body="hello")
    book.call("ipc.recv", timeout=BOUND)
    book.call("proc.wait", target=child.apid, timeout=BOUND)
    book.call("proc.info", target="nobody")
    book.call("proc.signal", target=999_999)
    book.call("ipc.subscribe", topic="news")
    book.call("ipc.publish", topic="news", body={"n": 1})
    book.call("ipc.recv", topic="news", timeout=BOUND)
    book.call("sys.alarm", after=0.05, message="now")
    book.call("ipc.recv", type="alarm", timeout=BOUND)
    book.call("mem.delete", rid=first.rid)
    book.call("mem.read", rid=first.rid)
    book.call("mem.pin", query="tea")
    book.call("tool.list")
    book.call("proc.nice", target=child.apid, nice=3)
    book.call("sys.sessions")
    return book.seen


def kill_for_good(kernel: RunningKernel) -> None:
    """Kill the model's host until its supervisor gives up."""
    deadline = time.monotonic() + BOUND
    with kernel.client() as client:
        while time.monotonic() < deadline:
            state = client.sys.stats().stats["llm"]["host"]
            if state["state"] == "failed":
                with pytest.raises(EIO):
                    client.llm.generate(prompt="hello")
                return
            if state["pid"]:
                os.kill(state["pid"], signal.SIGKILL)
            time.sleep(0.05)
    raise AssertionError(kernel.stderr())


def test_a_dead_model_changes_nothing_but_llm(tmp_path: Path) -> None:
    program = tmp_path / "echo.py"
    program.write_text(ECHO)
    model = tiny_llm(tmp_path / "model", context=2048)
    flags = ["--embedder", "local-hash:64", "--model", str(model), "--engine", "transformers"]
    flags += ["--policy", "model", "--mind", "model"]
    seen = []
    for dead in (False, True):
        with running(tmp_path / f"data-{dead}", *flags) as kernel:
            if dead:
                kill_for_good(kernel)
            else:
                with kernel.client() as client:
                    client.llm.generate(prompt="hello", max_tokens=2)
            with kernel.client() as client:
                seen.append(workload(client, program))
    alive, without = seen
    assert len(alive) > 20
    for one, other in zip(alive, without, strict=True):
        assert one == other
