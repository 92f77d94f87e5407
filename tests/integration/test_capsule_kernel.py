"""Capsules through the kernel: who may, what goes out, and what a crash leaves."""

from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from syscalls.calls import capsule, mem
from syscalls.calls.sys import Info, Session
from syscalls.capsule import PIECE, Unsealer, decode
from syscalls.errors import ECONFLICT, EINVAL, ENOENT, EPERM
from syscalls.records import Filter, Note
from tests.harness import running
from tests.simulation import run_seeded, simulated
from userland.channel import Channel
from userland.client import BlockingClient


async def exported(channel: Channel, **fields: Any) -> tuple[bytes, capsule.Exported]:
    """A capsule as a program receives it."""
    data = b""
    async with channel.stream(capsule.Export(**fields)) as stream:
        async for piece in stream:
            assert piece.at == len(data)
            data += piece.data
    reply: capsule.Exported = stream.reply
    return data, reply


async def taken(channel: Channel, data: bytes, **fields: Any) -> capsule.Imported:
    name = f"sha256:{sha256(data).hexdigest()}"
    space = fields.get("space")
    for at in range(0, max(1, len(data)), 4 * PIECE):
        piece = data[at : at + 4 * PIECE]
        await channel.call(
            capsule.Upload(hash=name, size=len(data), at=at, data=piece, space=space)
        )
    done: capsule.Imported = await channel.call(capsule.Import(capsule=name, **fields))
    return done


def contents(data: bytes) -> list[str]:
    cut = Unsealer()
    found = [decode(one).revision.content for one in cut.feed(data) if one.kind == "R"]
    cut.finish()
    return found


async def _rights(one: Channel, two: Channel, weak: Channel) -> None:
    for content, tags in (("for all", ["open"]), ("for me", [])):
        await one.call(mem.Write(segment="semantic", content=content, tags=tags))
    space = (await one.call(mem.Stat())).space
    await two.call(mem.Write(segment="semantic", content="mine"))
    with pytest.raises(EPERM):
        await exported(two, space=space)
    data, _ = await exported(one)
    with pytest.raises(EPERM):
        await taken(two, data, space=space)
    name = (await two.call(Info())).apid
    await one.call(mem.Share(to=name, filter=Filter(tags=["open"])))
    part, told = await exported(two, space=space)
    assert (contents(part), told.records) == (["for all"], 1)
    lines = (await one.call(mem.Audit())).lines
    assert "mem.export" in [line.call for line in lines]
    assert (await taken(two, part)).records == 1
    found = (await two.call(mem.Read())).records
    assert [(one.content, one.call) for one in found] == [
        ("mine", "mem.write"),
        ("for all", "mem.import"),
    ]
    hits = (await two.call(mem.Search(query="for all"))).hits
    assert any(hit.rid == found[1].rid for hit in hits)
    with pytest.raises(ENOENT):
        await two.call(capsule.Import(capsule=f"sha256:{'0' * 64}"))
    with pytest.raises(EPERM):
        await exported(weak)


def test_only_what_may_be_read_goes_out_and_it_is_noted() -> None:
    async def main() -> None:
        async with simulated(1, {}) as world:
            caps = "mem.read", "mem.write", "mem.export", "mem.import", "sys.info"
            with (
                closing(world.attach()) as one,
                closing(world.attach(*caps)) as two,
                closing(world.attach("mem.read")) as weak,
            ):
                await _rights(one, two, weak)

    run_seeded(1, main)


def test_an_export_that_is_given_up_stops() -> None:
    async def main() -> None:
        async with simulated(2, {}) as world:
            with closing(world.attach()) as one:
                for n in range(40):
                    await one.call(mem.Write(segment="semantic", content=f"{n} " * 60_000))
                stream = one.stream(capsule.Export())
                async with stream:
                    async for _ in stream:
                        break
                assert (await one.call(mem.Stat())).records == 40

    run_seeded(2, main)


def blocking_export(client: BlockingClient, **fields: Any) -> bytes:
    with client.stream(capsule.Export(**fields)) as stream:
        return b"".join(piece.data for piece in stream)


def test_an_upload_and_an_import_outlive_kills(tmp_path: Path) -> None:
    with running(tmp_path / "data") as kernel:
        with kernel.client() as client:
            client.call(Session(name="one", space="one"))
            notes = [
                Note(segment="semantic", content=f"record {n} " + "x" * 2000) for n in range(600)
            ]
            for at in range(0, 600, 100):
                client.mem.write_many(notes=notes[at : at + 100])
            kept = client.mem.snapshot(name="kept").space
            data = blocking_export(client, space=kept)
            client.mem.write(segment="semantic", content="later")
            half = len(data) // 2
            digest = sha256(data[:half]).hexdigest()
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            client.call(Session(name="one", space="one"))
            rest = blocking_export(client, space=kept, at=half, digest=digest)
            assert data[:half] + rest == data
            with pytest.raises(ECONFLICT):
                blocking_export(client, at=half, digest=digest)
            client.call(Session(name="one", space="two"))
            name = f"sha256:{sha256(data).hexdigest()}"
            first = data[: 2 * PIECE]
            client.call(capsule.Upload(hash=name, size=len(data), data=first))
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            client.call(Session(name="one", space="two"))
            up = client.call(capsule.Upload(hash=name, size=len(data)))
            assert (up.at, up.done) == (2 * PIECE, False)
            while not up.done:
                piece = data[up.at : up.at + 4 * PIECE]
                up = client.call(capsule.Upload(hash=name, size=len(data), at=up.at, data=piece))
            client.post(capsule.Import(capsule=name))
        kernel.kill()
        kernel.reboot()
        with kernel.client() as client:
            client.call(Session(name="one", space="two"))
            client.call(capsule.Upload(hash=name, size=len(data)))
            done = client.call(capsule.Import(capsule=name))
            assert done.records + done.known == 600
            assert client.mem.stat().records == 600
            bad = data[:-40]
            name = f"sha256:{sha256(bad).hexdigest()}"
            up = client.call(capsule.Upload(hash=name, size=len(bad)))
            while not up.done:
                piece = bad[up.at : up.at + 4 * PIECE]
                up = client.call(capsule.Upload(hash=name, size=len(bad), at=up.at, data=piece))
            client.call(Session(name="one", space="two"))
            with pytest.raises(EINVAL, match="cut off"):
                client.call(capsule.Import(capsule=name))
            assert client.mem.stat().records == 600


def resident(pid: int) -> int:
    """Bytes of a process's own memory; the store's map does not count."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["RssAnon"].split()[0]) * 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_the_capsule(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--embedder", "none") as kernel, kernel.client() as client:
        client.call(Session(name="one", space="one"))
        big = bytes(range(256)) * 4096  # 1 MiB
        whole = sha256()
        for _ in range(96):
            whole.update(big)
        size, name = 96 * len(big), f"sha256:{whole.hexdigest()}"
        for at in range(0, size, len(big)):
            client.call(capsule.Upload(hash=name, size=size, at=at, data=big))
        client.mem.write(segment="semantic", content="a film", meta={"blob": name})
        before = resident(kernel.process.pid)
        grown = total = 0
        with client.stream(capsule.Export()) as stream:
            for piece in stream:
                total += len(piece.data)
                grown = max(grown, resident(kernel.process.pid) - before)
        assert total > size
        assert grown < 40 << 20


def test_the_simulation_is_deterministic_about_capsules() -> None:
    async def main() -> bytes:
        async with simulated(5, {}) as world:
            with closing(world.attach()) as one:
                for n in range(30):
                    await one.call(mem.Write(segment="semantic", content=f"note {n}"))
                    await trio.sleep(0.1)
                return (await exported(one))[0]

    assert run_seeded(5, main) == run_seeded(5, main)
