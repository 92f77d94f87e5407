"""Declared agents on a real kernel: a scripted model that follows schemas, a random real one."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syscalls.errors import EINVAL, ENOENT
from tests.fake_model import FakeModel, Messages, fake_model
from tests.harness import BOUND, RunningKernel, running
from tests.models import tiny_llm
from userland.client import BlockingClient

CALCULATOR = """
async def main(agent):
    @agent.offer
    async def add(left: int, right: int) -> int:
        "The sum of two numbers."
        return left + right

    @agent.offer
    async def halt() -> str:
        "Never answers."
        import trio
        agent.print("halting")
        await trio.sleep_forever()

    await agent.serve()
"""
TUTOR = """+++
tools = ["add", "halt"]
space = "lessons"
serve = {serve}
steps = 6
+++
You are a patient tutor.
"""


def step(do: str, **fields: Any) -> dict[str, Any]:
    return {"thought": "so", "do": do, **fields}


def choose(messages: Messages) -> Any:
    """The script: by the task, and by how many steps were made."""
    tasks = [one["content"] for one in messages if one["role"] == "user"]
    asked = tasks[0].rpartition("</data>")[2]  # what was recalled comes before it
    steps, last = len(tasks) - 1, tasks[-1]
    if "add 2 and 3" in asked:
        if steps == 0:
            return step("tool", tool="add", args={"left": 2, "right": 3})
        if steps == 1:
            assert '<data from="tool add">5</data>' in last, last
            return step("remember", content="Two and three make five.")
        return step("reply", text="It is 5.")
    if "what did we learn" in asked:
        if steps == 0:
            return step("recall", query="two and three")
        return step("reply", text=f"We learned: {'five' in last}")
    if "halt" in asked:
        if steps == 0:
            return step("tool", tool="halt", args={})
        return step("reply", text=f"interrupted: {'may have taken effect' in last}")
    if "babble" in asked:
        return "not even {json"
    if "for ever" in asked:
        return step("remember", content="again")
    return step("reply", text="What shall we do?")


@pytest.fixture(scope="module")
def model() -> Iterator[FakeModel]:
    with fake_model(choose) as model:
        yield model


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory, model: FakeModel) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("declared")
    for name, serve in (("tutor", "false"), ("teacher", "true")):
        (folder / f"{name}.md").write_text(TUTOR.format(serve=serve))
    (folder / "calculator.py").write_text(CALCULATOR)
    flags = ("--embedder", "local-hash:128", "--model", model.spec)
    with running(folder / "data", *flags) as kernel, kernel.client() as client:
        client.proc.spawn(program=str(folder / "calculator.py"), name="calculator")
        until(lambda: len(client.tool.list().tools) == 2, "no tools")
        yield kernel


def until(holds: Any, otherwise: str) -> None:
    end = time.monotonic() + BOUND
    while not holds():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)


def program(kernel: RunningKernel, name: str) -> str:
    return str(kernel.data.parent / f"{name}.md")


def done(client: BlockingClient, apid: int) -> Any:
    ended = client.proc.wait(target=apid, timeout=BOUND)
    assert ended.status == 0, client.proc.output(target=apid).data.decode()
    return ended.value


def test_it_thinks_calls_remembers_and_answers(kernel: RunningKernel, model: FakeModel) -> None:
    with kernel.client() as client:
        first = client.proc.spawn(program=program(kernel, "tutor"), goal="add 2 and 3")
        assert done(client, first.apid) == "It is 5."
        records = client.mem.search(query="two and three", space="lessons").hits
        assert "Two and three make five." in [hit.content for hit in records]
        system = model.asked[-1][0]["content"]
        assert system.startswith("You are a patient tutor.")
        assert "- add: The sum of two numbers." in system
        # Another process on the same space remembers.
        second = client.proc.spawn(program=program(kernel, "tutor"), goal="what did we learn?")
        assert done(client, second.apid) == "We learned: True"
        info = client.proc.info(target="calculator")
        assert info.state != "ZOMBIE"


def test_it_has_what_it_declared_and_no_more(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        apid = client.proc.spawn(program=program(kernel, "teacher"), name="t").apid
        info = client.proc.info(target=apid)
        assert "tool.call:tool/add" in info.caps
        assert not any(grant.startswith("proc.spawn") for grant in info.caps)
        client.proc.signal(target=apid, signal="KILL")
        # What it declares is more than this one may give.
        poor = client.proc.spawn(program=spawner(kernel), caps=["mem.*", "proc.spawn"]).apid
        ended = client.proc.wait(target=poor, timeout=BOUND)
        assert ended.status == 1
        assert "EPERM: cannot grant what the parent does not hold" in ended.reason


def spawner(kernel: RunningKernel) -> str:
    """An agent that spawns the tutor with less than the tutor asks for."""
    path = kernel.data.parent / "spawner.py"
    declared = program(kernel, "tutor")
    path.write_text(f"async def main(agent):\n    await agent.spawn({declared!r}, goal='x')\n")
    return str(path)


def test_it_serves_and_answers_who_asked(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        apid = client.proc.spawn(program=program(kernel, "teacher"), name="teacher").apid
        number = client.ipc.send(to=apid, body="please add 2 and 3").id
        reply = client.ipc.recv(sender=apid, reply_to=number, timeout=BOUND).message
        assert reply.body == "It is 5."
        client.proc.signal(target=apid, signal="TERM")
        client.proc.wait(target=apid, timeout=BOUND)


def test_it_goes_on_where_it_was_killed(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        calls = client.proc.output(target="calculator").at
        first = client.proc.spawn(program=program(kernel, "tutor"), goal="use halt")
        until(
            lambda: b"halting" in client.proc.output(target="calculator", since=calls).data,
            "the tool was not called",
        )
        client.proc.signal(target=first.apid, signal="KILL")
        client.proc.wait(target=first.apid, timeout=BOUND)
        again = client.proc.spawn(program=program(kernel, "tutor"), goal="use halt")
        assert done(client, again.apid) == "interrupted: True"


def test_a_model_that_makes_no_sense_is_given_up(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        babbling = client.proc.spawn(program=program(kernel, "tutor"), goal="babble")
        assert "I could not go on" in done(client, babbling.apid)
        endless = client.proc.spawn(program=program(kernel, "tutor"), goal="for ever")
        assert done(client, endless.apid) == "I stopped after 6 steps without an answer."


def test_it_says_what_it_lacks(kernel: RunningKernel, tmp_path: Path) -> None:
    (tmp_path / "needy.md").write_text("+++\ntools = ['telescope']\n+++\nLook.")
    (tmp_path / "broken.md").write_text("+++\nsteps = 'many'\n+++\nLook.")
    with kernel.client() as client:
        apid = client.proc.spawn(program=str(tmp_path / "needy.md")).apid
        ended = client.proc.wait(target=apid, timeout=BOUND)
        assert ended.status == 1
        assert "nobody offers the tool telescope" in ended.reason
        with pytest.raises(EINVAL, match="steps"):
            client.proc.spawn(program=str(tmp_path / "broken.md"))
        with pytest.raises(ENOENT):
            client.proc.spawn(program=str(tmp_path / "none.md"))


def test_nano_alone_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "tutor.md").write_text("+++\n+++\nTeach.")
    with running(tmp_path / "data") as kernel, kernel.client() as client:
        apid = client.proc.spawn(program=str(tmp_path / "tutor.md"), goal="x").apid
        ended = client.proc.wait(target=apid, timeout=BOUND)
        assert ended.status == 1
        assert "needs a general language model" in ended.reason
        assert "nano only turns intents into calls" in ended.reason


def test_a_random_real_model_keeps_to_the_form(tmp_path: Path) -> None:
    """What it says is nonsense; each step is one all the same, or is told to be none."""
    folder = tiny_llm(tmp_path / "model", template=True, context=4096)
    (tmp_path / "dice.md").write_text("+++\nsteps = 2\ntokens = 40\nmemory = 64\n+++\nTalk.")
    flags = ("--embedder", "local-hash:128", "--model", str(folder), "--engine", "transformers")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        apid = client.proc.spawn(program=str(tmp_path / "dice.md"), goal="say hello").apid
        value = done(client, apid)
        assert isinstance(value, str)
        assert value
        lines = client.sys.trace(call="llm.generate").lines
        assert lines
        assert all(line.ok for line in lines)
