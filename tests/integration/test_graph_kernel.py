"""Facts and the entity graph through real kernels: LMDB, kuzu, kill -9, the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio

from syscalls.calls import mem
from syscalls.errors import ENODEV, ENOENT, EPERM
from syscalls.records import Fact
from tests.harness import ROOT, RunningKernel, running
from tests.simulation import run_seeded, simulated
from userland.client import BlockingClient

pytestmark = pytest.mark.skipif(find_spec("kuzu") is None, reason="kuzu is not installed")

SPACE = "facts"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[RunningKernel]:
    with running(tmp_path / "data", "--embedder", "none") as kernel:
        yield kernel


def attach(kernel: RunningKernel) -> BlockingClient:
    client = kernel.client()
    client.sys.session(name="test", space=SPACE)
    return client


def link(client: BlockingClient, subject: str, relation: str, target: str, **more: Any) -> str:
    written: mem.Written = client.call(
        mem.Link(subject=subject, relation=relation, object=target, **more)
    )
    return written.rid


def tell(client: BlockingClient) -> dict[str, str]:
    """A small world, with a life before 1970."""
    return {
        "moon": link(client, "Neil Armstrong", "works_at", "NASA", valid_from=-1e9, valid_to=0.0),
        "school": link(client, "neil armstrong", "works at", "University of Cincinnati",
                       valid_from=50e6, valid_to=300e6),
        "hq": link(client, "NASA", "located_in", "Washington", valid_from=-3.6e8),
        "alias": link(client, "National Aeronautics and Space Administration", "aka", "NASA"),
        "led": link(client, "Jim Bridenstine", "led",
                    "National Aeronautics and Space Administration", valid_from=1.52e9),
    }  # fmt: skip


def edges(found: mem.Graph) -> set[tuple[str, str, str]]:
    return {(edge.subject, edge.relation, edge.object) for edge in found.edges}


def test_neighbours_hops_paths_and_both_times(kernel: RunningKernel) -> None:
    with attach(kernel) as client:
        rids = tell(client)
        found = client.call(mem.GraphCall(entity="nasa", as_of=-1e8))
        assert edges(found) == {
            ("Neil Armstrong", "works_at", "NASA"),
            ("NASA", "located_in", "Washington"),
        }
        assert [edge.rids for edge in found.edges if edge.relation == "works_at"] == [
            [rids["moon"]]
        ]
        node = found.nodes[0]
        assert (node.name, node.hops) == ("NASA", 0)
        assert node.also == ["national aeronautics and space administration"]
        now = client.call(mem.GraphCall(entity="NATIONAL aeronautics AND space administration"))
        assert {edge[1] for edge in edges(now)} == {"located_in", "led"}

        path = client.call(mem.GraphCall(entity="Neil Armstrong", to="washington", as_of=-1e8))
        assert path.paths == [["Neil Armstrong", "NASA", "Washington"]]
        assert len(path.edges) == 2
        assert not client.call(mem.GraphCall(entity="Neil Armstrong", to="Washington")).paths
        led = client.call(mem.GraphCall(entity="Jim Bridenstine", to="Washington"))
        assert [len(path) for path in led.paths] == [3]
        assert not client.call(
            mem.GraphCall(entity="Jim Bridenstine", to="Washington", hops=1)
        ).paths
        two = client.call(mem.GraphCall(entity="Washington", hops=2))
        assert {node.name: node.hops for node in two.nodes}["Jim Bridenstine"] == 2
        one = client.call(mem.GraphCall(entity="NASA", relation="located in"))
        assert edges(one) == {("NASA", "located_in", "Washington")}
        few = client.call(mem.GraphCall(entity="NASA", limit=1))
        assert (len(few.edges), few.more) == (1, True)
        with pytest.raises(ENOENT):
            client.call(mem.GraphCall(entity="Nobody Known"))
        # Nothing of it was known before it was written.
        before = client.mem.read(rid=rids["moon"]).records[0].created - 1
        past = client.call(mem.GraphCall(entity="NASA", as_of=-1e8, known_at=before))
        assert past.edges == []


def test_superseding_reaches_graph_search_and_facts(kernel: RunningKernel) -> None:
    with attach(kernel) as client:
        old = link(client, "Ann", "lives_in", "Paris", valid_from=-2e9)
        client.call(mem.GraphCall(entity="ann"))
        new = link(client, "ANN", "lives in", "Rome", valid_from=1.6e9)
        assert edges(client.call(mem.GraphCall(entity="ann"))) == {("ANN", "lives_in", "Rome")}
        assert edges(client.call(mem.GraphCall(entity="Ann", as_of=-1e9))) == {
            ("Ann", "lives_in", "Paris")
        }
        between = client.mem.read(rid=old).records[0].updated
        believed = client.call(mem.GraphCall(entity="ann", known_at=between - 1e-4))
        assert edges(believed) == {("Ann", "lives_in", "Paris")}
        facts = client.call(mem.Facts(entity="ann", relation="lives_in", all=True)).records
        assert [fact.rid for fact in facts] == [old, new]
        assert facts[0].superseded_by == new
        assert facts[1].supersedes == old
        hits = client.mem.search(query="where lives ann").hits
        assert [hit.rid for hit in hits] == [new]
        hits = client.mem.search(query="where lives ann", as_of=0.0).hits
        assert [hit.rid for hit in hits] == [old]
        assert client.mem.read(rid=old, as_of=0.0).records[0].valid_to == 1.6e9
        with pytest.raises(ENOENT):
            client.mem.read(rid=old, as_of=1.7e9)
        client.mem.delete(rid=new)
        assert edges(client.call(mem.GraphCall(entity="ann"))) == {("Ann", "lives_in", "Paris")}


def test_mentions(kernel: RunningKernel) -> None:
    with attach(kernel) as client:
        for text in ("Yesterday Caroline met Melanie.", "I saw Melanie and Caroline in Oslo."):
            client.mem.write(segment="episodic", content=text)
        found = client.call(mem.GraphCall(entity="caroline", mentions=True))
        assert {(edge.object, edge.count) for edge in found.edges} == {("Melanie", 2), ("Oslo", 1)}
        assert client.call(mem.GraphCall(entity="caroline")).edges == []


def graph_file(kernel: RunningKernel) -> Path:
    files = list((kernel.data / "graph").glob("*/graph.kuzu"))
    assert len(files) == 1
    return files[0]


@pytest.mark.parametrize(
    "harm", ["nothing", "deleted", "other version", "foreign", "cut", "crashed"]
)
def test_killed_and_harmed_it_answers_the_same(kernel: RunningKernel, harm: str) -> None:
    with attach(kernel) as client:
        tell(client)
        before = client.call(mem.GraphCall(entity="NASA", hops=3, as_of=-1e8))
        assert before.edges
    file = graph_file(kernel)
    kernel.kill()
    if harm == "deleted":
        for one in file.parent.iterdir():
            one.unlink()
    elif harm == "other version":
        with file.open("r+b") as opened:
            opened.seek(4)
            opened.write((7).to_bytes(8, "little"))
    elif harm == "foreign":
        file.write_bytes(b"something else entirely" * 1000)
    elif harm == "cut":
        os.truncate(file, 100)
    elif harm == "crashed":
        file.with_suffix(".opening").touch()
    kernel.reboot()
    with attach(kernel) as client:
        link(client, "Washington", "located_in", "Columbia", valid_from=-5e9)
        after = client.call(mem.GraphCall(entity="NASA", hops=3, as_of=-1e8))
        assert edges(after) == edges(before) | {("Washington", "located_in", "Columbia")}
        assert after.behind == 0
        if harm in ("other version", "foreign", "cut"):
            assert client.call(mem.GraphCall(entity="Columbia")).edges


def test_nothing_of_it_is_loaded_before_it_is_asked(kernel: RunningKernel) -> None:
    def loaded() -> bool:
        maps = Path(f"/proc/{kernel.process.pid}/maps").read_text()
        return "kuzu" in maps

    with attach(kernel) as client:
        tell(client)
        client.mem.search(query="NASA")
        client.call(mem.Facts(entity="NASA"))
        assert not loaded()
        assert not (kernel.data / "graph").exists()
        client.call(mem.GraphCall(entity="NASA"))
        assert loaded()


def test_only_what_is_shared_is_seen() -> None:
    async def main() -> None:
        async with simulated(3, {}) as world:
            owner, other = world.attach(), world.attach("mem.*", "sys.*")
            me = await owner.call(mem.Stat())
            them = (await other.call(mem.Stat())).owner
            first = mem.Link(subject="Ann", relation="lives_in", object="Rome")
            kept = await owner.call(first)
            await owner.call(mem.Link(subject="Ann", relation="likes", object="tea"))
            for call in (
                mem.GraphCall(entity="Ann", space=me.space),
                mem.Facts(entity="Ann", space=me.space),
                mem.Link(subject="Ann", relation="lives_in", object="Mars", space=me.space),
            ):
                with pytest.raises(EPERM):
                    await other.call(call)
            with pytest.raises(ENOENT):
                await other.call(mem.GraphCall(entity="Ann"))
            await owner.call(mem.Share(to=them, rid=kept.rid))
            assert edges(await other.call(mem.GraphCall(entity="ann"))) == {
                ("Ann", "lives_in", "Rome")
            }
            held = (await other.call(mem.Facts(entity="ann", space=me.space))).records
            assert [record.rid for record in held] == [kept.rid]
            await owner.call(mem.Revoke(to=them))
            with pytest.raises(ENOENT):
                await other.call(mem.GraphCall(entity="Ann"))
            for shell in (owner, other):
                shell.close()

    run_seeded(3, main)


def test_the_command_line(kernel: RunningKernel) -> None:
    def engram(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout

    engram("mem", "link", "Ann Lee", "lives_in", "Paris", "--from", "1955-03-01T00:00+00:00")
    engram("mem", "link", "Ann Lee", "lives_in", "Rome", "--from", "2001-05-01T00:00+00:00")
    assert "Rome" in engram("facts", "ann lee")
    assert "Paris" not in engram("facts", "ann lee")
    assert "1955-03-01" in engram("facts", "ann lee", "--as-of", "1960")
    assert "Paris" in engram("facts", "ann lee", "-a")
    assert "Rome" in engram("graph", "ANN LEE")
    answer = json.loads(engram("--json", "graph", "rome", "ann lee"))
    assert answer["paths"] == [["Rome", "Ann Lee"]]
    assert "Paris" in engram("mem", "search", "lives", "--as-of", "1960-01-01")


@pytest.mark.parametrize("kind", ["memory", "none", "ladybug"])
def test_other_kinds(tmp_path: Path, kind: str) -> None:
    if kind == "ladybug" and find_spec(kind) is None:
        pytest.skip("ladybug is not installed")
    with running(tmp_path / "data", "--embedder", "none", "--graph", kind) as kernel:
        with attach(kernel) as client:
            tell(client)
            if kind == "none":
                with pytest.raises(ENODEV):
                    client.call(mem.GraphCall(entity="NASA"))
                assert client.call(mem.Facts(entity="NASA")).records
            else:
                assert client.call(mem.GraphCall(entity="NASA")).edges
        assert kernel.terminate() == 0


def test_the_same_in_a_simulation() -> None:
    async def main() -> list[str]:
        async with simulated(5, {}) as world:
            shell = world.attach()
            for year, city in ((1960, "Bonn"), (1990, "Berlin")):
                await shell.call(
                    mem.Link(
                        subject="The Capital", relation="located_in", object=city,
                        valid_from=(year - 1970) * 31_557_600.0,
                    )
                )  # fmt: skip
            graph = await shell.call(mem.GraphCall(entity="capital", as_of=-1e7))
            with trio.fail_after(60):
                written = await shell.call(
                    mem.Write(segment="semantic", content="x", fact=Fact("Bonn", "near", "Köln"))
                )
                path = await shell.call(mem.GraphCall(entity="capital", to="KÖLN"))
            assert written.rid
            assert path.paths == []
            shell.close()
            return [edge.object for edge in graph.edges]

    assert run_seeded(5, main) == ["Bonn"]
    assert run_seeded(5, main) == ["Bonn"]
