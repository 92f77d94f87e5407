"""proc.checkpoint and proc.restore: a process as a file, and back, on real kernels."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from syscalls.errors import EEXIST, EINVAL, ENOENT, ESRCH
from syscalls.shapes import Quota
from tests.harness import BOUND, RunningKernel, running
from tests.models import tiny_llm
from userland.client import BlockingClient

KEEPER = """
async def main(agent):
    if agent.state is None:
        await agent.declare({"step": 1})
    async for message in agent.messages():
        if message.body == "quiet":
            await agent.remember("a fact that waited")
        elif message.body == "state":
            found = await agent.recall("a fact", k=50)
            await agent.reply(message, [agent.state, sorted(hit.content for hit in found)])
        elif message.body == "sleep":
            await agent.reply(message, "sleeping")
            await agent.recv(type="wake")
        elif message.body == "image":
            done = await agent.checkpoint("mine")
            await agent.reply(message, [done.path, done.records])
        elif message.body == "call":
            await agent.reply(message, "called")
        else:
            await agent.remember(message.body, key=f"fact {message.body}"[:60], tags=["told"])
            await agent.declare({"step": agent.state["step"] + 1})
            await agent.reply(message, "kept")
"""
BUSY = """
async def main(agent):
    if agent.state is not None:
        kept, page = [], await agent.read(limit=1000)
        while page:
            kept += [one.content for one in page]
            page = await agent.read(limit=1000, before=page[-1].rid)
        lost = {f"record {number}" for number in range(agent.state)}.difference(kept)
        return [agent.state, len(kept), sorted(lost)[:9]]
    number = 0
    while True:
        await agent.remember(f"record {number}")
        number += 1
        await agent.declare(number)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "keeper.py").write_text(KEEPER)
    (folder / "busy.py").write_text(BUSY)
    with running(folder / "data") as kernel:
        yield kernel


@pytest.fixture
def client(kernel: RunningKernel) -> Iterator[BlockingClient]:
    with kernel.client() as client:
        yield client


def ask(client: BlockingClient, apid: int, body: object) -> object:
    number = client.ipc.send(to=apid, body=body).id
    return client.ipc.recv(sender=apid, reply_to=number, timeout=BOUND).message.body


def start(kernel: RunningKernel, client: BlockingClient, program: str = "keeper") -> int:
    return client.proc.spawn(program=str(kernel.data.parent / f"{program}.py")).apid


def end(client: BlockingClient, apid: int) -> None:
    with suppress(ESRCH):
        client.proc.signal(target=apid, signal="KILL")
        client.proc.wait(target=apid, timeout=BOUND)


def test_a_process_goes_on_from_its_image(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = start(kernel, client)
    assert ask(client, apid, "a fact of before") == "kept"
    done = client.proc.checkpoint(target=apid)
    assert (done.path, done.records, done.messages, done.missing) == (str(apid), 1, 0, [])
    assert ask(client, apid, "a fact of after") == "kept"
    again = client.proc.restore(path=str(apid), name="again")
    assert (again.records, again.missing) == (1, [])
    assert ask(client, again.apid, "state") == [{"step": 2}, ["a fact of before"]]
    assert ask(client, apid, "state") == [{"step": 3}, ["a fact of after", "a fact of before"]]
    info = client.proc.info(target=again.apid)
    assert info.name == "again"
    assert info.space != client.proc.info(target=apid).space
    record = client.mem.read(key="fact a fact of before", space=info.space).records[0]
    assert record.tags == ["told"]
    end(client, apid)
    end(client, again.apid)


def test_messages_wait_in_the_image(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = start(kernel, client)
    assert ask(client, apid, "sleep") == "sleeping"
    ids = [client.ipc.send(to=apid, body="call", type=f"t{n}").id for n in range(40)]
    assert client.proc.checkpoint(target=apid, path="sleeper").messages == 40
    end(client, apid)
    again = client.proc.restore(path="sleeper")
    assert again.messages == 40
    for number in ids:  # in order, and under their ids
        message = client.ipc.recv(sender=again.apid, timeout=BOUND).message
        assert (message.reply_to, message.body) == (number, "called")
    assert client.ipc.send(to=again.apid, body="call").id == ids[-1] + 1
    end(client, again.apid)


def test_the_same_number(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = start(kernel, client)
    client.proc.checkpoint(target=apid, path="numbered")
    with pytest.raises(EEXIST, match="alive"):
        client.proc.restore(path="numbered", apid="same")
    client.proc.signal(target=apid, signal="KILL")
    client.proc.wait(target=apid, timeout=BOUND)
    assert client.proc.restore(path="numbered", apid="same").apid == apid
    assert ask(client, apid, "call") == "called"
    assert client.proc.info(target=apid).state != "ZOMBIE"
    end(client, apid)
    assert client.proc.restore(path="numbered", apid="same").apid == apid  # and again
    end(client, apid)


def test_an_image_under_load_is_of_one_moment(
    kernel: RunningKernel, client: BlockingClient
) -> None:
    """What is declared is in the records, and at most one record is ahead of it."""
    apid = start(kernel, client, "busy")
    space = client.proc.info(target=apid).space
    for least in (1, 20, 100, 400, 1200):  # the last is more than a page
        while client.mem.stat(space=space).records < least:
            time.sleep(0.01)
        client.proc.checkpoint(target=apid, path="busy")
        again = client.proc.restore(path="busy").apid
        ended = client.proc.wait(target=again, timeout=BOUND)
        assert ended.status == 0, client.proc.output(target=again).data.decode()
        number, kept, lost = ended.value
        assert lost == []
        assert number <= kept <= number + 1
    end(client, apid)


def test_on_another_data_directory(kernel: RunningKernel, tmp_path: Path) -> None:
    image = str(tmp_path / "keeper.image")
    with kernel.client() as client:
        for _ in range(8):  # a number that is free elsewhere
            apid = start(kernel, client)
            end(client, apid)
        apid = start(kernel, client)
        ask(client, apid, "a fact that travels")
        ask(client, apid, "sleep")
        client.ipc.send(to=apid, body="quiet")
        client.proc.checkpoint(target=apid, path=image)
        end(client, apid)
    with running(tmp_path / "elsewhere") as other:
        with other.client() as client:
            again = client.proc.restore(path=image, apid="same")
            assert (again.apid, again.records, again.messages) == (apid, 1, 1)
            facts = ["a fact that travels", "a fact that waited"]
            assert ask(client, apid, "state") == [{"step": 2}, facts]
            later = [client.proc.spawn(program="echo").apid for _ in range(3)]
            assert apid not in later
            with pytest.raises(EEXIST):
                client.proc.restore(path=image, apid="same")
        other.kill()
        other.reboot()
        with other.client() as client:
            with pytest.raises(EEXIST, match="another"):  # its number is used up here
                client.proc.restore(path=image, apid="same")
            assert client.proc.restore(path=image).records == 1


def test_the_context_and_the_prefix_come_along(tmp_path: Path) -> None:
    model = tiny_llm(tmp_path / "model", template=True, context=2048)
    flags = ("--embedder", "local-hash:128", "--model", str(model), "--engine", "transformers")
    (tmp_path / "thinker.py").write_text(
        """
from syscalls.shapes import ChatMessage

async def main(agent):
    if agent.state is None:
        rid = await agent.remember("the password is swordfish " + "and so on " * 60)
        await agent.kv.pin(rids=[rid], name="facts")
        await agent.kv.attach(handle="facts")
        await agent.llm.generate(prompt="hello there", context=True, max_tokens=3)
        await agent.declare("thought")
        await agent.send(int(agent.args[0]), "thought")
        await agent.recv()
    kept = (await agent.proc.context()).messages
    held = (await agent.kv.list()).prefixes
    said = await agent.llm.generate(prompt="go on", context=True, max_tokens=3)
    return [[one.role for one in kept], [one.attached for one in held], [one.text for one in held],
            agent.apid]
"""
    )
    image = str(tmp_path / "thinker.image")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        apid = client.proc.spawn(
            program=str(tmp_path / "thinker.py"), args=[str(client.sys.info().apid)]
        ).apid
        client.ipc.recv(sender=apid, timeout=BOUND)
        client.proc.checkpoint(target=apid, path=image)
        end(client, apid)
    with running(tmp_path / "elsewhere", *flags) as kernel, kernel.client() as client:
        again = client.proc.restore(path=image)
        assert again.missing == []
        ended = client.proc.wait(target=again.apid, timeout=BOUND)
        assert ended.status == 0, client.proc.output(target=again.apid).data.decode()
        roles, attached, texts, apid = ended.value
        assert roles == ["user", "assistant"]
        assert attached == [[apid]]
        assert "swordfish" in texts[0]


def test_damaged_images_are_refused(
    kernel: RunningKernel, client: BlockingClient, tmp_path: Path
) -> None:
    apid = start(kernel, client)
    ask(client, apid, "a fact")
    image = tmp_path / "whole.image"
    client.proc.checkpoint(target=apid, path=str(image))
    whole = image.read_bytes()
    before = client.proc.list(all=True).processes, client.proc.info().space
    bad = tmp_path / "bad.image"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data in (b"", whole[:100], whole[:-1], bytes(flipped), whole + b"\0", whole + whole):
        bad.write_bytes(data)
        with pytest.raises(EINVAL):
            client.proc.restore(path=str(bad))
    with pytest.raises(ENOENT):
        client.proc.restore(path="no-such-image")
    with pytest.raises(EINVAL):
        client.proc.restore(path=str(tmp_path))
    after = client.proc.list(all=True).processes, client.proc.info().space
    assert [one.apid for one in before[0]] == [one.apid for one in after[0]]
    end(client, apid)


def test_a_kernel_that_dies_leaves_the_old_image_or_the_new(tmp_path: Path) -> None:
    (tmp_path / "keeper.py").write_text(KEEPER)
    with running(tmp_path / "data") as kernel:
        for turn in range(3):
            with kernel.client() as client:
                apid = start(kernel, client)
                for n in range(4):
                    ask(client, apid, f"turn {turn} fact {n} " + "x" * 500_000)
                image = kernel.data / "images" / "one.image"
                before = image.read_bytes() if image.exists() else b""
                thread = threading.Thread(target=_checkpoint, args=(kernel, apid))
                thread.start()
                part = kernel.data / "images" / ".one.image.part"
                while thread.is_alive() and not part.exists():
                    pass
                kernel.kill()
                thread.join(BOUND)
            kernel.reboot()
            with kernel.client() as client:
                if before or image.exists():  # the old one or the new one: both are whole
                    assert client.proc.restore(path="one").records == 4


def _checkpoint(kernel: RunningKernel, apid: int) -> None:
    with suppress(Exception), kernel.client() as client:  # the kernel dies under it
        client.proc.checkpoint(target=apid, path="one")


def test_rights(kernel: RunningKernel, client: BlockingClient, tmp_path: Path) -> None:
    apid = start(kernel, client)
    assert ask(client, apid, "image") == ["mine", 0]
    program = tmp_path / "stranger.py"
    program.write_text(
        f"""
from syscalls.errors import EDQUOT, EEXIST, EPERM
async def main(agent):
    said = []
    for make in (
        lambda: agent.proc.checkpoint(target={apid}),
        lambda: agent.proc.checkpoint(path="/tmp/elsewhere.image"),
        lambda: agent.proc.checkpoint(path="mine"),
        lambda: agent.proc.restore(path="mine"),
        lambda: agent.proc.restore(path="mine", apid="same"),
    ):
        try:
            await make()
            said.append("done")
        except Exception as error:
            said.append(type(error).__name__)
    try:
        for n in range(20):
            await agent.checkpoint(f"image-{{agent.apid}}-{{n}}")
    except EDQUOT as error:
        said.append(error.detail["limit"])
    again = await agent.proc.restore(path=f"image-{{agent.apid}}-0")
    said.append((await agent.proc.wait(target=again.apid)).status)
    return said
"""
    )
    caps = ["mem.*", "proc.checkpoint", "proc.restore", "proc.spawn", "proc.wait", "sys.clock"]
    child = client.proc.spawn(program=str(program), caps=caps, quota=Quota(children=4)).apid
    ended = client.proc.wait(target=child, timeout=BOUND)
    assert ended.value is not None, client.proc.output(target=child).data.decode()
    assert ended.value[:5] == ["EPERM", "EPERM", "EEXIST", "EPERM", "EPERM"]
    assert ended.value[5] == 8
    with pytest.raises(EINVAL, match="runs no program"):
        client.proc.checkpoint()
    with pytest.raises(EINVAL):
        client.proc.checkpoint(target=apid, path=str(kernel.data / "store" / "data.mdb"))
    precious = tmp_path / "letter.txt"
    precious.write_text("dear")
    with pytest.raises(EEXIST):
        client.proc.checkpoint(target=apid, path=str(precious))
    assert precious.read_text() == "dear"
    end(client, apid)
    with pytest.raises(ESRCH):
        client.proc.checkpoint(target=apid)


def test_what_is_forgotten_is_in_no_image(kernel: RunningKernel, client: BlockingClient) -> None:
    apid = start(kernel, client)
    ask(client, apid, "a secret")
    client.proc.checkpoint(target=apid, path="secretive")
    space = client.proc.info(target=apid).space
    rid = client.mem.read(key="fact a secret", space=space).records[0].rid
    client.mem.delete(rid=rid, space=space)
    with pytest.raises(ENOENT):
        client.proc.restore(path="secretive")
    end(client, apid)


def test_into_a_space_that_is_there(kernel: RunningKernel, client: BlockingClient) -> None:
    program = str(kernel.data.parent / "keeper.py")
    apid = client.proc.spawn(program=program, space="the-keeper").apid
    ask(client, apid, "one")
    client.proc.checkpoint(target=apid, path="merged")
    ask(client, apid, "two")
    end(client, apid)
    again = client.proc.restore(path="merged", space="the-keeper")
    assert again.records == 0  # they are there
    facts = ask(client, again.apid, "state")
    assert facts == [{"step": 2}, ["one", "two"]]
    end(client, again.apid)
