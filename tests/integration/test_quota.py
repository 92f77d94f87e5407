"""Quotas in real kernels: hard and soft, of a process, of what it starts, of a user."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from typing import TYPE_CHECKING, Any

import pytest

from syscalls.calls import capsule, kv
from syscalls.errors import EDQUOT
from syscalls.quota import Quota
from syscalls.shapes import ChatMessage
from tests.harness import BOUND, running
from tests.models import tiny_llm
from userland import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import RunningKernel
    from userland.client import BlockingClient

WORKER = """
import msgspec, trio
from syscalls.errors import EngramError
from syscalls.quota import Quota

async def do(agent, what, nursery):
    match what:
        case ["write", text]:
            return await agent.remember(text)
        case ["generate", tokens]:
            made = await agent.llm.generate(prompt="the agent remembers", max_tokens=tokens)
            return msgspec.to_builtins(made.usage) | {"finish": made.finish}
        case ["spawn", quota]:
            child = await agent.spawn(__file__, quota=msgspec.convert(quota, Quota))
            return child.apid
        case ["limit", quota]:
            return msgspec.to_builtins(
                await agent.proc.limit(quota=msgspec.convert(quota, Quota)))
        case ["block", count]:
            for _ in range(count):
                nursery.start_soon(agent.recv, None)
            return count
        case ["clock"]:
            await agent.sys.clock()
            return 0

async def main(agent):
    async with trio.open_nursery() as nursery:
        async for message in agent.messages(type="do"):
            try:
                value = await do(agent, message.body, nursery)
            except EngramError as error:
                value = {"code": error.code, "text": str(error), **error.detail}
            await agent.send(message.sender, value)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("quota")
    model = tiny_llm(folder / "model", context=1024)
    (folder / "worker.py").write_text(WORKER)
    flags = ("--embedder", "none", "--engine", "transformers", "--model", str(model))
    with running(folder / "data", *flags, "--adapters", "0", "--mind", "none") as kernel:
        with kernel.client() as client:
            client.llm.generate(prompt="the", max_tokens=1, deadline=BOUND)
        yield kernel


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as client:
        yield client


def worker(kernel: RunningKernel, client: BlockingClient, quota: Quota | None = None) -> int:
    path = kernel.data.parent / "worker.py"
    return int(client.proc.spawn(program=str(path), quota=quota).apid)


def ask(client: BlockingClient, apid: int, *what: Any) -> Any:
    client.ipc.send(to=apid, body=list(what), type="do")
    return client.ipc.recv(sender=apid, timeout=BOUND).message.body


def dismiss(client: BlockingClient, apid: int) -> None:
    client.proc.signal(target=apid, signal="TERM")
    client.proc.wait(target=apid, timeout=BOUND)


def warning(client: BlockingClient) -> dict[str, Any]:
    found: dict[str, Any] = client.ipc.recv(type="quota", timeout=BOUND).message.body
    return found


# --- tokens


def test_a_generation_is_cut_to_what_is_left_and_then_refused(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = worker(kernel, client, Quota(tokens=60, soft={"tokens": 20}))
    made = ask(client, apid, "generate", 500)
    assert made["finish"] == "length"
    assert made["completion"] <= 60
    account = client.proc.usage(target=apid)
    assert account.process.completion == made["completion"]
    assert account.process.prompt == made["prompt"]
    assert account.user.tokens >= account.tree.tokens == account.process.tokens
    told = warning(client)
    assert (told["whose"], told["allowance"]["quota"]) == (f"process {apid}", "tokens")
    assert told["allowance"]["soft"] == 20
    refused: Any = made
    for _ in range(60):
        refused = ask(client, apid, "generate", 500)
        if "code" in refused:
            break
    assert (refused["code"], refused["quota"], refused["limit"]) == ("EDQUOT", "tokens", 60)
    assert refused["used"] >= 60
    assert "retry_after" not in refused
    text = "\n".join(line.text for line in client.sys.log(limit=200).lines)
    assert f"process {apid} is over the soft limit tokens=20" in text


def test_tokens_come_back(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = worker(kernel, client, Quota(completion=10, per={"completion": 20.0}))
    assert ask(client, apid, "generate", 100)["completion"] <= 10
    refused = ask(client, apid, "generate", 100)
    while "code" not in refused:
        refused = ask(client, apid, "generate", 100)
    assert 0 < refused["retry_after"] <= 20.0
    assert refused["refills"] > time.time() - BOUND
    time.sleep(refused["retry_after"] + 0.05)
    assert ask(client, apid, "generate", 1)["completion"] == 1


def test_no_one_escapes_by_starting_others(kernel: RunningKernel, client: BlockingClient) -> None:
    top = worker(kernel, client, Quota(completion=8))
    child = ask(client, top, "spawn", {})
    grandchild = ask(client, child, "spawn", {"completion": 8})
    assert ask(client, grandchild, "generate", 100)["completion"] == 8
    for one in (grandchild, child, top):
        refused = ask(client, one, "generate", 1)
        assert refused["code"] == "EDQUOT"
    assert refused["whose"] == f"subtree of {top}"
    for one in (child, top):  # the grandchild is adopted by init
        dismiss(client, one)
    assert client.proc.info(target=grandchild).parent == 1
    late = ask(client, grandchild, "spawn", {})
    refused = ask(client, late, "generate", 1)
    assert (refused["code"], refused["limit"]) == ("EDQUOT", 8)
    more = ask(client, late, "limit", {"completion": 100})
    assert more["code"] == "EPERM"


# --- what is stored


def test_records_and_bytes_of_a_whole_subtree(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    top = worker(kernel, client, Quota(records=4, bytes=2000, soft={"records": 2}))
    child = ask(client, top, "spawn", {})
    for one in (top, child, child):
        assert isinstance(ask(client, one, "write", "x"), str)
    assert warning(client)["allowance"]["quota"] == "records"
    rid = ask(client, child, "write", "y")
    refused = ask(client, top, "write", "z")
    assert (refused["quota"], refused["used"], refused["limit"]) == ("records", 4, 4)
    assert refused["whose"] == f"subtree of {top}"
    client.mem.delete(rid=rid)
    refused = ask(client, top, "write", "z" * 2000)
    assert (refused["quota"], refused["limit"]) == ("bytes", 2000)
    assert isinstance(ask(client, top, "write", "z"), str)
    account = client.proc.usage(target=top)
    sizes = [client.mem.stat(space=client.proc.info(target=one).space) for one in (top, child)]
    assert account.tree.records == sum(one.records for one in sizes) == 4
    assert account.tree.bytes == sum(one.bytes for one in sizes)
    dismiss(client, child)
    assert client.proc.usage(target=top).tree.records == 4, "its space is still there"


def test_originals_are_stored_bytes_too(client: BlockingClient) -> None:
    client.sys.session(space="originals")
    client.proc.limit(quota=Quota(bytes=5000))
    data = b"original " * 1000
    name = f"sha256:{hashlib.sha256(data).hexdigest()}"
    upload = capsule.Upload(hash=name, size=len(data), at=0, data=data)
    with pytest.raises(EDQUOT) as refused:
        client.call(upload)
    assert refused.value.detail["quota"] == "bytes"


def test_pinned_keys_and_values(client: BlockingClient) -> None:
    client.sys.session(space="pins")
    words = "the manual says what the agent remembers and what the user said. "
    first = _pin(client, words * 10)
    assert client.proc.usage().tree.kv == first.bytes > 0
    client.proc.limit(quota=Quota(kv=first.bytes + 1))
    with pytest.raises(EDQUOT) as refused:
        _pin(client, "what the user said " * 50)
    assert refused.value.detail["quota"] == "kv"
    client.kv.drop(handle=first.handle)
    assert client.proc.usage().tree.kv == 0


def _pin(client: BlockingClient, text: str) -> Any:
    return client.call(kv.Pin(messages=[ChatMessage("system", text)]))


# --- what is there at the moment


def test_children_of_a_subtree(kernel: RunningKernel, client: BlockingClient) -> None:
    top = worker(kernel, client, Quota(children=2))
    child = ask(client, top, "spawn", {})
    grandchild = ask(client, child, "spawn", {})
    refused = ask(client, child, "spawn", {})
    assert (refused["code"], refused["quota"], refused["used"]) == ("EDQUOT", "children", 2)
    dismiss(client, grandchild)
    assert isinstance(ask(client, child, "spawn", {}), int)


def test_calls_in_flight_of_a_session(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = worker(kernel, client)
    assert ask(client, apid, "block", 2) == 2
    deadline = time.monotonic() + BOUND
    while client.proc.usage(target=apid).tree.inflight < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.proc.limit(quota=Quota(inflight=3))
    with pytest.raises(EDQUOT) as refused:
        client.ipc.recv(timeout=0)
    session = client.proc.usage().tree
    assert session.inflight == 3
    assert refused.value.detail["whose"] == session.whose
    client.proc.limit(quota=Quota(inflight=2))  # no quota refuses that


def test_calls_are_counted_and_refused_but_not_the_last_one(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    apid = worker(kernel, client, Quota(calls=12, soft={"calls": 6}))
    for _ in range(2):
        assert ask(client, apid, "clock") == 0
    for _ in range(9):
        client.ipc.send(to=apid, body=["clock"], type="do")
    ended = client.proc.wait(target=apid, timeout=BOUND)
    assert "calls" in ended.reason
    assert ended.status == 1, "it could still say how it ended"
    assert warning(client)["allowance"]["quota"] == "calls"


def test_a_life_is_over_with_all_that_it_started(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    top = worker(kernel, client)
    child = ask(client, top, "spawn", {"life": 1e6})
    lived = client.proc.usage(target=top).process.life
    client.proc.limit(target=top, quota=Quota(life=lived + 4, soft={"life": lived + 1}))
    told = warning(client)
    assert (told["whose"], told["allowance"]["quota"]) == (f"subtree of {top}", "life")
    for apid in (top, child):
        ended = client.proc.wait(target=apid, timeout=BOUND)
        assert ended.reason.startswith("signal TERM (quota life")
        assert ended.cause is not None
        assert (ended.cause.kind, ended.cause.detail) == ("signal", "TERM")


# --- users


def test_a_users_quota_outlives_the_kernel(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--embedder", "none", "--user-records", "3") as kernel:
        with kernel.client() as client:
            uid = int(client.proc.usage().user.whose.split()[1])
            client.sys.session(space="notes")
            for number in range(2):
                client.mem.write(segment="semantic", content=f"note {number}")
            client.proc.limit(user=uid, quota=Quota(bytes=1 << 20, soft={"calls": 1e6}))
            assert _told(client, tmp_path) == "EPERM"
        assert kernel.terminate() == 0
        kernel.reboot()
        with kernel.client() as client:
            before = client.proc.usage().user
            assert (before.records, before.calls > 5) == (2, True)
            assert {one.quota: one.hard for one in before.limits}["bytes"] == 1 << 20
            client.mem.write(segment="semantic", content="another", space="notes")
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client, pytest.raises(EDQUOT) as refused:
            assert client.proc.usage().user.records == 3
            client.mem.write(segment="semantic", content="one too many")
        assert refused.value.detail["whose"] == f"user {uid}"


def _told(client: BlockingClient, folder: Path) -> str:
    """What an agent is told that changes the limits of its user."""
    program = folder / "greedy.py"
    program.write_text(
        "from syscalls.quota import Quota\n"
        "async def main(agent):\n"
        "    try:\n"
        "        await agent.proc.limit(user=0, quota=Quota(bytes=1 << 40))\n"
        "    except Exception as error:\n"
        "        return error.code\n"
    )
    apid = client.proc.spawn(program=str(program)).apid
    return str(client.proc.wait(target=apid, timeout=BOUND).value)


def test_what_is_started_again_does_not_begin_anew(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    program = kernel.data.parent / "spender.py"
    program.write_text(
        "async def main(agent):\n"
        "    made = await agent.llm.generate(prompt='the', max_tokens=4)\n"
        "    await agent.send(int(agent.args[0]), made.usage.completion)\n"
        "    raise RuntimeError('again')\n"
    )
    own = client.sys.session().session
    client.proc.spawn(
        program=str(program), args=[str(own)], restart="permanent", quota=Quota(completion=10)
    )
    made = [client.ipc.recv(timeout=BOUND, type="").message.body for _ in range(3)]
    assert made == [4, 4, 2]


# --- shown


def test_it_is_shown(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = worker(kernel, client, Quota(tokens=50_000, per={"tokens": 3600.0}))
    ask(client, apid, "generate", 3)
    found = client.sys.cat(path=f"/proc/{apid}/usage").value
    assert found["process"]["completion"] == 3
    assert found["tree"]["limits"][0]["hard"] == 50_000
    everybody = client.proc.usage(all=True).all
    assert {apid, 1} <= {one.apid for one in everybody}
    out = _typed(kernel, "quota", str(apid), "soft.tokens=40k", "calls=1k/1m")
    assert f"SUBTREE OF {apid}" in out
    assert "40000" in out
    assert client.proc.limit(target=apid).per == {"tokens": 3600.0, "calls": 60.0}
    assert "EDQUOT" not in _typed(kernel, "quota", "--user")
    table = _typed(kernel, "top", "--once").splitlines()
    assert "TOK/S" in table[1]
    assert all(len(line) <= 100 for line in table[1:])


def _typed(kernel: RunningKernel, *words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["--data", str(kernel.data), *words]) == 0
    return out.getvalue()
