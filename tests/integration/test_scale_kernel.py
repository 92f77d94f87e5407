"""Very long texts, and a change of embedder, in a real kernel."""

import time
from pathlib import Path

import pytest

from syscalls.errors import EINVAL
from tests.harness import BOUND, running
from userland.client import BlockingClient

LONGEST = 4 * 1024 * 1024
"""Characters of a record's content."""


def indexed(client: BlockingClient) -> None:
    """Return when the space of this session is indexed to its end."""
    deadline = time.monotonic() + 2 * BOUND
    while True:
        stat = client.mem.stat()
        if stat.indexed == {"lexical": stat.seq, "dense": stat.seq}:
            return
        assert time.monotonic() < deadline, stat.indexed
        time.sleep(0.05)


@pytest.mark.parametrize("filler", ["字", "plain words of the text ", "🜂é\u0301\x00 "])
def test_texts_of_many_megabytes(tmp_path: Path, filler: str) -> None:
    ends = "quetzalcoatlus at the beginning", "xylophonist at the end"
    room = LONGEST - len("  ".join(ends))
    text = f"{ends[0]} {(filler * (room // len(filler) + 1))[:room]} {ends[1]}"
    assert len(text) == LONGEST
    with running(tmp_path / "data", "--embedder", "hash:64") as kernel, kernel.client() as client:
        rid = client.mem.write(segment="semantic", content=text).rid
        client.mem.write(segment="semantic", content="a short one")
        for refused in ("", "x" * 10_000_000):
            with pytest.raises(EINVAL):
                client.mem.write(segment="semantic", content=refused)
        indexed(client)
        for query in ("quetzalcoatlus", "xylophonist"):
            hits = client.mem.search(query=query, k=2, explain=True).hits
            by_words = [hit.rid for hit in hits if hit.parts and hit.parts.lexical > 0]
            assert by_words == [rid], "words of its first and of its last line find it"
        assert client.mem.search(query="short", k=1).hits[0].content == "a short one"
        assert client.mem.read(rid=rid).records[0].content == text


def test_a_change_of_embedder(tmp_path: Path) -> None:
    """The old one's vectors serve until those of the new one are complete; then they go."""
    with running(tmp_path / "data", "--embedder", "hash:64") as kernel:
        with kernel.client() as client:
            client.sys.session(space="changing")
            rids = [
                client.mem.write(segment="semantic", content=f"zebra{n} is number {n}").rid
                for n in range(50)
            ]
            indexed(client)
        old = set((tmp_path / "data" / "index").glob("*/vectors-*"))
        assert old
        kernel.flags = ("--embedder", "hash:32", "--embedder-before", "hash:64")
        kernel.terminate()
        kernel.reboot()
        with kernel.client() as client:
            client.sys.session(space="changing")
            assert client.mem.search(query="zebra7", k=1).hits[0].rid == rids[7]
            indexed(client)
            found = client.mem.search(query="zebra9", k=1)
            assert found.hits[0].rid == rids[9]
            assert found.degraded == []
            deadline = time.monotonic() + BOUND
            while any(path.exists() for path in old):
                assert time.monotonic() < deadline, "the old vectors stay"
                time.sleep(0.05)
