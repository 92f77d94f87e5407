"""Consolidation and cascades on a real kernel: through the syscalls, restarts and kill -9."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syscalls.calls import learn, mem
from syscalls.errors import EINVAL, ENOENT
from syscalls.records import Evidence, Fact, Note
from tests.harness import BOUND, ROOT, RunningKernel, running
from userland.client import BlockingClient


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[RunningKernel]:
    with running(tmp_path / "data", "--embedder", "none") as kernel:
        yield kernel


def say(client: BlockingClient, text: str, space: int) -> str:
    written = client.call(mem.Write(segment="episodic", content=text, space=space))
    return str(written.rid)


def own_space(client: BlockingClient) -> int:
    return int(client.call(mem.Stat()).space)


def facts(client: BlockingClient, space: int) -> list[str]:
    found = client.call(mem.Read(segment="semantic", limit=1000, space=space))
    return sorted(record.content for record in found.records)


def test_a_hundred_rounds_of_recall_and_store_through_the_kernel(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        space = own_space(client)
        say(client, "I live in Oslo. My sister is called Ann.", space)
        made = client.call(learn.Consolidate()).made
        assert [fact.content for fact in made] == [
            "the user lives in Oslo", "the user's sister is called Ann",
        ]  # fmt: skip
        for number in range(100):
            if number % 2:
                hits = client.call(mem.Search(query="Oslo sister user", k=4)).hits
                text = hits[number % len(hits)].content
            else:
                made_of = client.call(mem.ContextCall(query="Where does the user live? Oslo"))
                text = made_of.messages[-1].content.split("\n\n")[0]
            client.call(mem.Write(segment="episodic", content=text))
            learned = client.call(learn.Consolidate())
            assert (learned.made, learned.supported) == ([], [])
        assert len(facts(client, space)) == 2


def test_a_second_run_and_a_run_after_a_restart_change_nothing(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        space = own_space(client)
        for name in ("Ann", "Bob", "Cid"):
            say(client, f"{name} works at Acme.", space)
        first = client.call(learn.Consolidate(budget=2))
        assert (first.read, first.done) == (2, False)
        info = client.call(mem.Stat())
    kernel.kill()
    kernel.reboot()
    with kernel.client() as client:
        assert client.call(mem.Stat(space=space)).seq == info.seq
        second = client.call(learn.Consolidate(space=space))
        assert (second.read, [fact.content for fact in second.made]) == (1, ["Cid works at Acme"])
        third = client.call(learn.Consolidate(space=space))
        assert (third.read, third.made, third.done) == (0, [], True)


def test_evidence_that_does_not_stand_is_refused_by_mem_write(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        rid = say(client, "I live in Oslo.", own_space(client))
        call = mem.Write(segment="semantic", content="x", fact=Fact("the user", "lives_in", "Rome"))
        call.evidence = [Evidence(rid, 0, 15, "I live in Rome.")]
        with pytest.raises(EINVAL, match=r"'I live in Rome.' \(0 to 15 of record"):
            client.call(call)
        call.evidence = [Evidence(rid, 0, 15, "I live in Oslo.")]
        assert client.call(call).rid


@pytest.mark.parametrize("how", ["delete", "forget", "update"])
def test_what_rests_on_a_record_goes_with_it_before_the_reply(
    kernel: RunningKernel, how: str
) -> None:
    with kernel.client() as client:
        space = own_space(client)
        rid = say(client, "I live in Oslo.", space)
        (fact,) = client.call(learn.Consolidate()).made
        summary = client.call(
            mem.Write(segment="semantic", content="an Oslo resident", sources=[fact.rid])
        ).rid
        if how == "delete":
            client.call(mem.Delete(rid=rid))
        elif how == "forget":
            client.call(mem.Forget(rid=rid))
        else:
            client.call(mem.Update(rid=rid, content="I live in Bergen."))
        found = client.call(mem.Search(query="Oslo resident"))
        assert not {hit.rid for hit in found.hits} & {fact.rid, summary}
        for gone in (fact.rid, summary):
            with pytest.raises(ENOENT):
                client.call(mem.Read(rid=gone))


def test_a_cascade_goes_on_after_kill_9(kernel: RunningKernel) -> None:
    with kernel.client() as client:
        space = own_space(client)
        source = say(client, "the root", space)
        notes = [Note("semantic", f"leaf {n}", sources=[source]) for n in range(1500)]
        leaves = [one.rid for one in client.call(mem.WriteMany(notes=notes)).written]
        tops = [Note("semantic", f"top {n}", sources=[leaves[n]]) for n in range(1500)]
        rids = [one.rid for one in client.call(mem.WriteMany(notes=tops)).written]
        client.call(mem.Delete(rid=source))
        left = client.call(mem.Stat(space=space)).records
        kernel.kill()
    assert left > 500, "it was over before the kill: make it longer"
    kernel.reboot()
    with kernel.client() as client:
        deadline = time.monotonic() + BOUND
        while client.call(mem.Stat(space=space)).records:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for rid in (leaves[0], leaves[-1], rids[0], rids[-1]):
            with pytest.raises(ENOENT):
                client.call(mem.Read(rid=rid))


def test_the_shell_command(kernel: RunningKernel) -> None:
    def engram(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), *arguments],
            capture_output=True,
            text=True,
            timeout=BOUND,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    engram("mem", "write", "--segment", "episodic", "I live in Oslo.")
    tried = engram("mem", "consolidate", "--dry-run")
    assert "the user lives in Oslo" in tried
    assert "1 read, 1 facts, 0 refused" in tried
    made = json.loads(engram("--json", "mem", "consolidate"))
    assert made["made"][0]["evidence"][0]["quote"] == "I live in Oslo."
    assert "0 read, 0 facts" in engram("mem", "consolidate")
