"""Activation memory in a real kernel with a real model: restarts, isolation, forgetting."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from syscalls.calls import kv, llm
from syscalls.errors import ENOENT, EngramError
from syscalls.shapes import ChatMessage
from tests.harness import BOUND, ROOT, RunningKernel, running
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from userland.client import BlockingClient

MANUAL = "the manual says what the agent remembers and what the user said. " * 8
SECRET = "the code of the safe in the cellar is 4711"
FLAGS = ("--embedder", "none", "--engine", "transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("model"), template=True, context=2048)


@pytest.fixture(scope="module")
def kernel(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    data = tmp_path_factory.mktemp("kernel") / "data"
    with running(data, *FLAGS, "--model", str(model)) as kernel:
        yield kernel


def home(kernel: RunningKernel, name: str = "home") -> BlockingClient:
    """A session in a space that stays."""
    client = kernel.client()
    client.sys.session(space=name)
    return client


def listed(client: BlockingClient) -> dict[str, kv.Prefix]:
    found: kv.Listed = client.kv.list()
    return {one.handle: one for one in found.prefixes}


def asked(client: BlockingClient, text: str = "hello") -> llm.Generated:
    call = llm.Generate(messages=[ChatMessage("user", text)], max_tokens=8, deadline=BOUND)
    made: llm.Generated = client.call(call)
    return made


def files(kernel: RunningKernel) -> list[Path]:
    return list((kernel.data / "kv").glob("*/??/*.safetensors"))


def until(true: object, *, bound: float = BOUND) -> None:
    """Wait until a function says so."""
    end = time.monotonic() + bound
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def test_equal_prompts_of_two_spaces_never_hit(kernel: RunningKernel) -> None:
    with home(kernel, "one") as one, home(kernel, "two") as two:
        for client in (one, two):
            pinned = client.kv.pin(messages=[ChatMessage("system", MANUAL)], name="manual")
            assert pinned.cached == 0
        call = llm.Generate(
            messages=[ChatMessage("system", MANUAL), ChatMessage("user", "hello")], max_tokens=4
        )
        made = [client.call(call) for client in (one, two)]
        assert made[0].text == made[1].text
        assert min(each.usage.cached for each in made) >= pinned.tokens
        one.kv.drop(handle="manual")
        assert listed(two)["manual"].tier != "none"
        assert two.call(call).usage.cached >= pinned.tokens
    with home(kernel, "three") as three:
        assert three.call(call).usage.cached == 0


def test_a_busy_process_has_its_beginning_pinned(kernel: RunningKernel) -> None:
    with home(kernel, "busy") as client:
        for number in range(4):
            messages = [ChatMessage("system", 2 * MANUAL), ChatMessage("user", f"{number}?")]
            client.llm.generate(messages=messages, max_tokens=2)
        until(lambda: "auto-1" in listed(client) and listed(client)["auto-1"].state == "kept")
        made = client.llm.generate(messages=messages, max_tokens=2)
        row = listed(client)["auto-1"]
        assert made.usage.cached >= row.tokens > 0
        assert row.hits >= 1
        assert row.saved > 0


def test_the_commands(kernel: RunningKernel) -> None:
    def engram(*words: str) -> str:
        command = [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return done.stdout

    assert engram("kv", "list").splitlines()[-1].startswith("0.0 of "), "nothing is pinned yet"
    assert engram("kv", "pin", "--text", "--name", "manual", MANUAL).startswith("manual: ")
    rid = json.loads(engram("--json", "mem", "write", f"{SECRET}; {MANUAL}"))["rid"]
    assert engram("kv", "pin", rid).startswith("pin-1: ")
    shown = json.loads(engram("--json", "kv", "list"))
    assert [row["handle"] for row in shown["prefixes"]] == ["manual", "pin-1"]
    assert "manual" in engram("kv", "list")
    assert "is attached until this command ends" in engram("kv", "attach", "manual")
    with home(kernel) as client:
        said = ChatMessage("user", f"in the same space; {MANUAL}")
        pinned = client.kv.pin(messages=[said], name="asked")
    made = json.loads(engram("--json", "llm", "generate", "--chat", "--max-tokens=2", said.content))
    assert made["usage"]["cached"] >= pinned.tokens > 0, "it works in the space of the commands"
    assert "is dropped" in engram("kv", "drop", "asked")
    assert "is now record" in engram("kv", "cool", "pin-1")
    assert "is dropped" in engram("kv", "drop", "manual")


def test_nothing_of_a_forgotten_record_can_be_attached_again(kernel: RunningKernel) -> None:
    """And what is pinned lasts, over the death of kernel and engine and the loss of all files."""
    with home(kernel, "memory") as client:
        rids = [client.mem.write(segment="semantic", content=MANUAL).rid]
        rids.append(client.mem.write(segment="semantic", content=f"{SECRET}; {MANUAL}").rid)
        kept = client.kv.pin(rids=rids[:1], name="manual")
        client.kv.pin(rids=rids, name="both")
        client.kv.attach(handle="both")
        before = asked(client).usage.prompt
        until(lambda: len(files(kernel)) > 1)
        names = {path.name for path in files(kernel)}
        client.mem.forget(rid=rids[1])
        assert sorted(listed(client)) == ["manual"]
        assert asked(client).usage.prompt < before / 4
        assert {path.name for path in files(kernel)} < names
        client.kv.attach(handle="manual")
        first = asked(client)
    kernel.kill()
    kernel.reboot()
    with home(kernel, "memory") as client:
        assert sorted(listed(client)) == ["manual"]
        with pytest.raises(ENOENT):
            client.kv.attach(handle="both")
        client.kv.attach(handle="manual")
        again = asked(client)
        assert again.usage.cached >= kept.tokens
        assert again.text == first.text
        until(lambda: listed(client)["manual"].tier == "engine")
    kernel.kill()
    for path in files(kernel):
        path.unlink()
    kernel.reboot()
    with home(kernel, "memory") as client:
        client.kv.attach(handle="manual")
        assert asked(client).text == first.text
        until(lambda: files(kernel))


def test_damaged_files_are_counted_where_a_person_looks(kernel: RunningKernel) -> None:
    with home(kernel, "damage") as client:
        kept = client.kv.pin(messages=[ChatMessage("system", f"whole; {MANUAL}")], name="manual")
        client.kv.attach(handle="manual")
        first = asked(client)
        assert first.usage.cached >= kept.tokens
    kernel.kill()
    damaged = files(kernel)
    for path in damaged:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    kernel.reboot()
    with home(kernel, "damage") as client:
        client.kv.attach(handle="manual")
        assert asked(client).text == first.text
        until(lambda: listed(client)["manual"].tier == "engine")
        assert client.sys.stats().stats["pins"]["tiers"]["corrupt"] >= 1
        assert "pins.tiers.corrupt" in engram_stats(kernel)


def engram_stats(kernel: RunningKernel) -> str:
    """What ``engram stats`` shows."""
    command = [sys.executable, "-m", "userland.cli", "--data", str(kernel.data), "stats"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_kernel_dies_while_it_forgets(model: Path, tmp_path: Path) -> None:
    """Whatever is on disk then: a record that is gone has no pin, and soon no block."""
    with running(tmp_path / "data", *FLAGS, "--model", str(model)) as kernel:
        with home(kernel) as client:
            rids = [
                client.mem.write(segment="semantic", content=f"{number} {SECRET}; {MANUAL}").rid
                for number in range(3)
            ]
            for number, rid in enumerate(rids):
                client.kv.pin(rids=[rid], name=f"secret-{number}")
            until(lambda: len(files(kernel)) > 2)
        kernel.flags = FLAGS  # the kernel erases without an engine
        for rid, after in zip(rids, (0.0, 0.002, 0.01), strict=True):
            with home(kernel) as client:
                forgetting = threading.Thread(target=_forget, args=(client, rid))
                forgetting.start()
                time.sleep(after)
                kernel.kill()
                forgetting.join(BOUND)
            kernel.reboot()
            with home(kernel) as client:
                left = {rid for one in listed(client).values() for rid in one.sources}
                try:
                    client.mem.read(rid=rid)
                except ENOENT:
                    assert rid not in left
                else:
                    assert rid in left
                    client.mem.forget(rid=rid)
                assert rid not in {r for one in listed(client).values() for r in one.sources}
        until(lambda: not files(kernel))


def _forget(client: BlockingClient, rid: str) -> None:
    with contextlib.suppress(EngramError, OSError):
        client.mem.forget(rid=rid)
