"""Pins, adapters and forks where they meet: a simulated kernel on a real engine.

The model and its adapters are random and made on the spot. What is looked at is which keys and
values are used for whom, and what is left of them: in the table, in files, in the engine.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivers.llm import make_llm
from drivers.llm.hosted import HostedLLM
from drivers.lora.files import digest_of
from kernel.machine import SystemClock
from syscalls.errors import ECONFLICT, ENOENT
from syscalls.shapes import ChatMessage
from tests.minds import system
from tests.models import tiny_adapter, tiny_llm
from ums.adapters import Version, reference
from ums.prefixes import engine_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from syscalls.calls import kv
    from syscalls.launch import Launch
    from syscalls.shapes import Usage
    from tests.minds import Sys
    from tests.simulation import Program
    from userland.channel import Channel

MANUAL = "the manual says what the agent remembers and what the user said. " * 16
SYSTEM = [ChatMessage("system", MANUAL)]
SECRET = "the code of the safe in the cellar is 4711"
BOUND = 240


@asynccontextmanager
async def hosted(folder: Path) -> AsyncIterator[HostedLLM]:
    model = make_llm(
        str(tiny_llm(folder / "model", template=True, context=2048)),
        engine="transformers",
        run_dir=folder,
        log=lambda *_: None,
        clock=SystemClock(),
        options={"kv_dir": str(folder / "kv"), "adapters": 4, "threads": 1},
    )
    assert isinstance(model, HostedLLM)
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            await nursery.start(model.run)
            await model.ready()
            yield model
            nursery.cancel_scope.cancel()


class Joint:
    """A simulated system whose model is the real one."""

    def __init__(self, running: Sys, folder: Path, model: HostedLLM, weights: list[Path]) -> None:
        self.kernel = kernel = running.kernel
        self.system, self.folder, self.model, self.weights = running, folder, model, weights
        kernel.llm = model
        kernel.pins.keeping._folder = folder / "kv"
        kernel.adapters.root = folder / "lora"

    def attach(self) -> Channel:
        return self.system.attach()

    async def version(self, shell: Channel, name: str = "words", *rids: str) -> Version:
        """The next version of an adapter of a shell's space, live; its weights are random."""
        return await self.taught((await shell.proc.info()).space, name, *rids)

    async def taught(self, space: int, name: str, *rids: str) -> Version:
        """The next version of an adapter of a space."""
        versions, info = self.kernel.adapters.versions, self.model.info
        made = await versions.begin(Version(space, name, 0, "model", sources=list(rids)))
        folder = self.kernel.adapters.root / made.folder
        shutil.copytree(self.weights[made.number % len(self.weights)], folder)
        assert info is not None
        made.digest, made.fingerprint = digest_of(folder), info.fingerprint
        return await versions.accept(made)

    async def listed(self, shell: Channel) -> dict[str, kv.Prefix]:
        found: kv.Listed = await shell.kv.list()
        return {one.handle: one for one in found.prefixes}

    def blocks(self, space: int, handle: str) -> list[Path]:
        row = self.kernel.memory.prefixes.find(space, handle)
        assert row is not None
        return [
            self.folder / "kv" / kept.namespace / name[:2] / f"{name}.safetensors"
            for kept in row.kept
            for name in kept.blocks
        ]

    async def held(self) -> set[str]:
        return {one.handle for one in (await self.model.held())[0]}

    async def settled(self) -> None:
        """Nothing is left to be erased."""
        while True:
            if await self.kernel.pins.keeping.settle():
                return
            await trio.sleep(0.02)


async def said(shell: Channel, question: str = "and now?", **more: Any) -> tuple[str, Usage]:
    messages = [ChatMessage("user", question)]
    made = await shell.llm.generate(messages=messages, max_tokens=8, **more)
    return made.text, made.usage


async def home(joint: Joint) -> tuple[Channel, int]:
    """A shell with a space."""
    shell = joint.attach()
    await shell.mem.write(segment="semantic", content="so that it has a space")
    return shell, (await shell.proc.info()).space


async def test_pins_and_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One host for all of these: loading the library takes longer than the rest."""
    monkeypatch.setattr("kernel.activation.keeping.EVERY", 0.2)
    programs: dict[str, Program] = {"branch": branch}
    async with hosted(tmp_path) as model, system(3, programs) as running:
        model_folder = tmp_path / "model"
        weights = [tiny_adapter(model_folder, tmp_path / f"weights{n}", n) for n in range(3)]
        joint = Joint(running, tmp_path, model, weights)
        await it_is_of_use_under_its_adapter_only(joint)
        await it_goes_with_a_version_that_is_rolled_back(joint)
        await it_stays_for_who_has_just_that_version(joint)
        await it_goes_with_a_version_that_is_dropped(joint)
        await it_goes_with_a_record_that_the_version_was_made_from(joint)
        await it_goes_when_the_version_ends_while_it_is_computed(joint)
        await what_a_crash_has_left_is_found(joint)
        await a_fork_has_the_version_of_its_moment(joint)
        await its_folder_may_have_been_moved(joint, tmp_path / "elsewhere")


async def it_is_of_use_under_its_adapter_only(joint: Joint) -> None:
    shell, _ = await home(joint)
    version = await joint.version(shell)
    bare = await shell.kv.pin(messages=SYSTEM, name="bare")
    await shell.lora.attach(adapter="words")
    pinned = await shell.kv.pin(messages=SYSTEM, name="taught")
    assert pinned.cached == 0, "what the base has computed is nothing to it"
    await shell.kv.attach(handle="taught")
    text, usage = await said(shell)
    assert usage.cached >= pinned.tokens > 0
    await shell.lora.detach()
    other, usage = await said(shell)
    assert other != text
    assert usage.cached >= bare.tokens, "the words are the same, the state is the base's"
    rows = await joint.listed(shell)
    assert (rows["taught"].adapter, rows["taught"].hits) == (version.identity, 1)
    assert (rows["bare"].adapter, rows["bare"].hits) == ("", 1)
    fresh = joint.attach()
    await fresh.mem.write(segment="semantic", content="another space")
    messages = [*SYSTEM, ChatMessage("user", "and now?")]
    made = await fresh.llm.generate(messages=messages, max_tokens=8)
    assert (made.text, made.usage.cached) == (other, 0)


async def its_folder_may_have_been_moved(joint: Joint, folder: Path) -> None:
    shell, space = await home(joint)
    version = await joint.version(shell)
    await shell.lora.attach(adapter="words")
    pinned = await shell.kv.pin(messages=SYSTEM, name="taught")
    row = joint.kernel.memory.prefixes.find(space, "taught")
    assert row is not None
    joint.kernel.adapters.root = joint.kernel.adapters.root.rename(folder)
    await joint.model.unload_adapter(version.identity)
    await joint.model.unpin(engine_name(row))
    joint.kernel.pins.keeping.wake()
    with trio.fail_after(30):
        while engine_name(row) not in await joint.held():  # noqa: ASYNC110 - no event
            await trio.sleep(0.05)
    await shell.kv.attach(handle="taught")
    assert (await said(shell))[1].cached >= pinned.tokens


async def it_goes_with_a_version_that_is_rolled_back(joint: Joint) -> None:
    shell, space = await home(joint)
    await joint.version(shell)
    await joint.version(shell)
    await shell.lora.attach(adapter="words")
    await shell.kv.pin(messages=SYSTEM, name="second")
    await shell.kv.pin(messages=SYSTEM, name="first", adapter="words@1")
    await shell.kv.pin(messages=SYSTEM, name="bare", adapter="none")
    await shell.kv.attach(handle="second")
    going = joint.blocks(space, "second")
    row = joint.kernel.memory.prefixes.find(space, "second")
    assert row is not None
    assert all(path.is_file() for path in going)
    await shell.lora.rollback(adapter="words")
    rows = await joint.listed(shell)
    assert (rows["second"].state, rows["second"].attached) == ("stale", [])
    assert "rolled back" in rows["second"].why
    with pytest.raises(ECONFLICT, match="rolled back") as caught:
        await shell.kv.attach(handle="second")
    assert caught.value.hint
    assert MANUAL not in str(await said(shell))
    await joint.settled()
    assert not any(path.exists() for path in going)
    assert engine_name(row) not in await joint.held()
    for handle in ("first", "bare"):
        assert (rows[handle].state, rows[handle].tier) == ("kept", "engine")
        assert all(path.is_file() for path in joint.blocks(space, handle))
    await shell.kv.attach(handle="first")
    assert (await said(shell))[1].cached >= rows["first"].tokens
    await shell.kv.attach(handle="bare")
    assert (await said(shell, adapter="none"))[1].cached >= rows["bare"].tokens


async def it_stays_for_who_has_just_that_version(joint: Joint) -> None:
    shell, _ = await home(joint)
    await joint.version(shell)
    await joint.version(shell)
    await shell.lora.attach(adapter="words@2")
    pinned = await shell.kv.pin(messages=SYSTEM, name="second")
    await shell.kv.attach(handle="second")
    await shell.lora.rollback(adapter="words")
    assert (await said(shell))[1].cached >= pinned.tokens
    await shell.lora.rollback(adapter="words", version=2)  # and forward again
    assert (await joint.listed(shell))["second"].state == "kept"


async def it_goes_with_a_version_that_is_dropped(joint: Joint) -> None:
    shell, space = await home(joint)
    await joint.version(shell)
    await shell.lora.attach(adapter="words")
    await shell.kv.pin(messages=SYSTEM, name="taught")
    await shell.kv.attach(handle="taught")
    going = joint.blocks(space, "taught")
    await shell.lora.drop(adapter="words")
    row = (await joint.listed(shell))["taught"]
    assert (row.state, row.attached, row.bytes) == ("stale", [], 0)
    await joint.settled()
    assert not any(path.exists() for path in going)
    record = await shell.mem.read(rid=(await shell.kv.cool(handle="taught")).rid)
    assert record.records[0].content == MANUAL, "the words were its maker's, and are not lost"


async def it_goes_with_a_record_that_the_version_was_made_from(joint: Joint) -> None:
    shell, space = await home(joint)
    rid = (await shell.mem.write(segment="semantic", content=SECRET)).rid
    await joint.version(shell, "words", rid)
    await shell.lora.attach(adapter="words")
    await shell.kv.pin(messages=SYSTEM, name="taught")
    await shell.kv.pin(messages=SYSTEM, name="bare", adapter="none")
    await shell.kv.attach(handle="taught")
    going = joint.blocks(space, "taught")
    assert rid in (await joint.listed(shell))["taught"].sources
    await shell.mem.forget(rid=rid)
    rows = await joint.listed(shell)
    assert sorted(rows) == ["bare"]
    assert rows["bare"].tier == "engine"
    assert not any(path.exists() for path in going)
    with pytest.raises(ENOENT):
        await shell.kv.attach(handle="taught")
    with pytest.raises((ENOENT, ECONFLICT)):
        await shell.kv.pin(messages=SYSTEM, adapter="words")
    await shell.kv.attach(handle="bare")
    assert (await said(shell))[1].cached >= rows["bare"].tokens


async def it_goes_when_the_version_ends_while_it_is_computed(joint: Joint) -> None:
    shell, space = await home(joint)
    await joint.version(shell)
    version = (await shell.lora.list()).adapters[0]
    pins, engine = joint.kernel.pins, joint.kernel.pins.keeping.engine()
    pin = engine.pin

    async def ended(request: Any) -> Any:
        made = await pin(request)
        await joint.kernel.adapters.versions.drop(
            lambda: joint.kernel.adapters.versions.all(space, "words"), "in the middle"
        )
        await pins.review()
        return made

    engine.pin = ended  # type: ignore[method-assign]
    try:
        with pytest.raises(ENOENT):
            await shell.kv.pin(messages=SYSTEM, name="taught", adapter=version.identity)
    finally:
        engine.pin = pin  # type: ignore[method-assign]
    assert await joint.listed(shell) == {}
    await joint.settled()
    assert not any(name.startswith(f"{space}/") for name in await joint.held())


async def what_a_crash_has_left_is_found(joint: Joint) -> None:
    """The version has ended, and nobody was told."""
    shell, space = await home(joint)
    await joint.version(shell)
    await shell.kv.pin(messages=SYSTEM, name="taught", adapter="words")
    going = joint.blocks(space, "taught")
    versions = joint.kernel.adapters.versions
    await versions.drop(lambda: versions.all(space, "words"), "as if the kernel had died here")
    await joint.kernel.pins.habits.round()
    assert (await joint.listed(shell))["taught"].state == "stale"
    await joint.settled()
    assert not any(path.exists() for path in going)


async def branch(channel: Channel, launch: Launch) -> None:
    """Says what it is told to, and forgets what it is told to."""
    while True:
        message = (await channel.ipc.recv(timeout=BOUND)).message
        what, value = message.body
        answer: Any = None
        if what == "say":
            text, usage = await said(channel)
            answer = [text, usage.cached]
        elif what == "forget":
            await channel.mem.forget(rid=value)
        elif what == "teach":
            answer = (await channel.mem.write(segment="semantic", content=value)).rid
        await channel.ipc.send(to=message.sender, body=answer, reply_to=message.id)


async def asked(shell: Channel, apid: int, what: str, value: Any = None) -> Any:
    number = (await shell.ipc.send(to=apid, body=[what, value])).id
    return (await shell.ipc.recv(sender=apid, reply_to=number, timeout=BOUND)).message.body


async def a_fork_has_the_version_of_its_moment(joint: Joint) -> None:
    shell, _ = await home(joint)
    parent = (await shell.proc.spawn(program="branch")).apid
    rid = await asked(shell, parent, "teach", SECRET)
    kernel = joint.kernel
    process = kernel.processes.get(parent)
    await joint.taught(process.space, "words", rid)
    await kernel.adapters.attach(process, process, reference("words"))
    first, _ = await asked(shell, parent, "say")
    children = [(await shell.proc.fork(target=parent)).apid for _ in range(3)]
    worn = kernel.processes.get(children[0]).adapters["model"]
    assert (worn.ref, worn.inherited) == ("words@1", True)
    await joint.taught(process.space, "words", rid)
    said_then = [await asked(shell, apid, "say") for apid in children]
    assert {text for text, _ in said_then} == {first}, "not what its parent learnt since"
    assert said_then[0][1] > 0, "what it has in common with its parent is not computed again"
    assert (await asked(shell, parent, "say"))[0] != first
    await asked(shell, children[0], "forget", rid)
    assert (await asked(shell, children[0], "say"))[0] != first
    assert kernel.processes.get(children[0]).adapters == {}
    assert (await asked(shell, children[1], "say"))[0] == first, "it forgot for itself only"
    await shell.proc.signal(target=parent, signal="KILL")
    await shell.proc.wait(target=parent, timeout=BOUND)
    assert (await asked(shell, children[1], "say"))[0] == first
    await shell.mem.forget(rid=rid)
    assert (await asked(shell, children[1], "say"))[0] != first
