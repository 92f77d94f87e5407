"""proc.fork: a child with its parent's memory, context and state as they are at one moment."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from syscalls.errors import EINVAL, EPERM, ESRCH
from syscalls.shapes import ChatMessage, Quota
from tests.harness import BOUND, RunningKernel, running
from tests.models import tiny_llm
from userland.client import BlockingClient

PROGRAM = """
from syscalls.shapes import ChatMessage

async def main(agent):
    if agent.forked:
        found = await agent.recall("a fact", k=10)
        kept = (await agent.proc.context()).messages
        return [agent.forked, agent.goal, agent.state, sorted(hit.content for hit in found),
                [one.content for one in kept]]
    await agent.remember("a fact from before")
    await agent.declare({"step": 3})
    async for message in agent.messages():
        if message.body == "write":
            await agent.remember("a fact from after")
        if message.body == "fork":
            child = await agent.fork("branch", "by-itself")
            await agent.reply(message, (await child.wait()).value)
        else:
            await agent.reply(message, "ok")
"""
THINKER = """
async def main(agent):
    words = " ".join(f"word{n}" for n in range(400))
    async def ask(text):
        return await agent.llm.generate(prompt=text, context=True, max_tokens=4)
    if agent.forked:
        said = await ask("and now?")
        return [said.usage.prompt, said.usage.cached]
    first = await ask(words)
    second = await ask("go on")
    await agent.send(int(agent.args[0]), [second.usage.prompt + second.usage.completion])
    await agent.recv()
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("fork")
    (folder / "parent.py").write_text(PROGRAM)
    with running(folder / "data") as kernel:
        yield kernel


def ask(client: BlockingClient, apid: int, body: object) -> object:
    number = client.ipc.send(to=apid, body=body).id
    return client.ipc.recv(sender=apid, reply_to=number, timeout=BOUND).message.body


@pytest.fixture
def parent(kernel: RunningKernel) -> Iterator[tuple[BlockingClient, int]]:
    with kernel.client() as client:
        program = str(kernel.data.parent / "parent.py")
        apid = client.proc.spawn(program=program, goal="trunk", quota=Quota(children=3)).apid
        assert ask(client, apid, "hello") == "ok"
        yield client, apid
        with suppress(ESRCH):  # a test may have ended it
            client.proc.signal(target=apid, signal="KILL", tree=True)


def test_a_child_sees_the_past_and_not_what_comes(parent: tuple[BlockingClient, int]) -> None:
    client, apid = parent
    child = client.proc.fork(target=apid, goal="branch").apid
    ask(client, apid, "write")
    ended = client.proc.wait(target=child, timeout=BOUND)
    assert ended.status == 0, client.proc.output(target=child).data.decode()
    assert ended.value == [apid, "branch", {"step": 3}, ["a fact from before"], []]
    late = client.proc.fork(target=apid).apid
    facts = client.proc.wait(target=late, timeout=BOUND).value[3]
    assert facts == ["a fact from after", "a fact from before"]


def test_a_child_has_no_more_than_its_parent(parent: tuple[BlockingClient, int]) -> None:
    client, apid = parent
    before = client.proc.info(target=apid)
    child = client.proc.info(target=client.proc.fork(target=apid, name="copy").apid)
    assert (child.name, child.parent, child.caps) == ("copy", apid, before.caps)
    assert child.space != before.space
    assert client.mem.stat(space=child.space).owner == child.apid
    assert client.mem.stat(space=child.space).origin == before.space


def test_an_agent_forks_itself(parent: tuple[BlockingClient, int]) -> None:
    client, apid = parent
    assert ask(client, apid, "fork") == [apid, "branch", {"step": 3}, ["a fact from before"], []]


def test_who_cannot_be_forked(parent: tuple[BlockingClient, int]) -> None:
    client, apid = parent
    with pytest.raises(EINVAL, match="runs no program"):
        client.proc.fork()
    with pytest.raises(EINVAL, match="runs no program"):
        client.proc.fork(target=1)
    client.proc.signal(target=apid, signal="KILL")
    client.proc.wait(target=apid, timeout=BOUND)
    with pytest.raises(ESRCH):
        client.proc.fork(target=apid)


def test_strangers_may_not_fork_it(parent: tuple[BlockingClient, int], tmp_path: Path) -> None:
    client, apid = parent
    stranger = tmp_path / "stranger.py"
    stranger.write_text(f"async def main(agent):\n    await agent.proc.fork(target={apid})\n")
    ended = client.proc.wait(target=client.proc.spawn(program=str(stranger)).apid, timeout=BOUND)
    assert EPERM.__name__ in ended.reason


def test_the_context_is_kept_and_cleared(tmp_path: Path) -> None:
    """Through a real model: what was said comes first, and the answer is added."""
    model = tiny_llm(tmp_path / "model", template=True, context=2048)
    flags = ("--embedder", "local-hash:128", "--model", str(model), "--engine", "transformers")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        first = client.llm.generate(
            messages=[ChatMessage("user", "hello " * 30)], context=True, max_tokens=3
        )
        second = client.llm.generate(prompt="again", context=True, max_tokens=3)
        assert second.usage.prompt > first.usage.prompt
        assert second.usage.cached >= first.usage.prompt
        kept = client.proc.context().messages
        assert [one.role for one in kept] == ["user", "assistant", "user", "assistant"]
        assert kept[1].content == first.text
        client.proc.context(clear=True)
        assert client.proc.context().messages == []
        alone = client.llm.generate(prompt="again", max_tokens=3)
        assert alone.usage.prompt < first.usage.prompt


@pytest.mark.model
def test_on_vllm_a_child_finds_its_parents_context_computed(tmp_path: Path) -> None:
    model = tiny_llm(tmp_path / "model", template=True, context=8192)
    (tmp_path / "thinker.py").write_text(THINKER)
    flags = ("--embedder", "local-hash:128", "--model", str(model), "--engine", "vllm")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        own = client.sys.info().apid
        apid = client.proc.spawn(program=str(tmp_path / "thinker.py"), args=[str(own)]).apid
        context = client.ipc.recv(sender=apid, timeout=4 * BOUND).message.body[0]
        child = client.proc.fork(target=apid).apid
        ended = client.proc.wait(target=child, timeout=BOUND)
        assert ended.status == 0, client.proc.output(target=child).data.decode()
        prompt, cached = ended.value
        assert prompt > context
        assert cached >= 0.95 * context


def test_the_memory_of_the_best_branch_comes_back(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        apid = client.proc.spawn(program="explore", args=["4 8 15 16 23 42"], space="trunk").apid
        ended = client.proc.wait(target=apid, timeout=BOUND)
        said = client.proc.output(target=apid).data.decode()
        assert ended.status == 0, said
        differences = [int(line.split()[-1]) for line in said.splitlines() if "differ by" in line]
        best = min(differences[:5])
        assert ended.value[0].endswith(f"they differ by {best}")
        assert "took 1 records" in said
        records = client.mem.read(space="trunk", limit=10).records
        assert len(records) == 2  # the task, and what one branch found: not those of the others
