"""Activation memory where it meets forks, the mind, the memory fault, promotion and rights.

A simulated kernel on a real engine with a tiny random model; kernels of their own where it is
about settings.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivers.llm import make_llm
from drivers.llm.hosted import HostedLLM
from kernel.activation.promotion import IDLE, LONGEST, MOST, Promotion
from kernel.generation import generate, salt_of
from kernel.machine import SystemClock
from kernel.mind.chat import ChatDialect
from kernel.mind.dialect import Seat
from kernel.mind.loop import Mind
from kernel.nurse import AGENT_CAPS
from syscalls.capability import compiled
from syscalls.errors import EINVAL, ENOENT, EPERM
from syscalls.shapes import ChatMessage
from syscalls.table import TABLE
from tests.fake_model import fake_model
from tests.harness import BOUND, ROOT, running
from tests.minds import system
from tests.models import tiny_llm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from syscalls.calls import kv
    from syscalls.launch import Launch
    from tests.minds import Sys
    from userland.channel import Channel

MANUAL = "the manual says what the agent remembers and what the user said. " * 16
SECRET = "the code of the safe in the cellar is 4711"
QUESTION = [ChatMessage("user", "and now?")]
RIGHTS = ("llm.*", "mem.*", "kv.*", "sys.clock", "proc.info")
"""Of who asks for intents: the manual of few calls is short."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm(tmp_path_factory.mktemp("model"), template=True, context=16384)


@asynccontextmanager
async def world(folder: Path, place: Path) -> AsyncIterator[tuple[Sys, HostedLLM]]:
    """A simulated kernel and a real engine."""
    model = make_llm(
        str(folder),
        engine="transformers",
        run_dir=place,
        log=lambda *_: None,
        clock=SystemClock(),
        options={"kv_dir": str(place / "kv"), "threads": 1},
    )
    assert isinstance(model, HostedLLM)
    with trio.fail_after(4 * BOUND):
        async with system(3, {"agent": agent}) as shown, trio.open_nursery() as nursery:
            await nursery.start(model.run)
            await model.ready()
            kernel = shown.kernel
            kernel.llm = model
            kernel.pins.keeping._folder = place / "kv"
            taken = Seat(ChatDialect(), model)
            kernel.mind = Mind(
                lambda: taken, kernel.act, kernel.processes, kernel.clock, partial(generate, kernel)
            )
            yield shown, model
            nursery.cancel_scope.cancel()


async def agent(channel: Channel, launch: Launch) -> None:
    """Does what it is told to, and says what came of it."""
    calls: dict[str, Any] = {
        "say": lambda **more: channel.llm.generate(messages=QUESTION, max_tokens=4, **more),
        "go on": lambda text: channel.llm.generate(prompt=text, context=True, max_tokens=4),
        "pin": channel.kv.pin,
        "attach": channel.kv.attach,
        "list": channel.kv.list,
        "write": channel.mem.write,
        "read": channel.mem.read,
        "update": channel.mem.update,
        "forget": channel.mem.forget,
    }
    while True:
        message = (await channel.ipc.recv(timeout=4 * BOUND)).message
        what, arguments = message.body
        answer = await calls[what](**arguments)
        await channel.ipc.send(to=message.sender, body=answer, reply_to=message.id)


class Agent:
    """An agent, as its user has it."""

    def __init__(self, shell: Channel, apid: int) -> None:
        self.shell, self.apid = shell, apid

    async def __call__(self, what: str, **arguments: Any) -> Any:
        """What came of it, as plain data."""
        sent = await self.shell.ipc.send(to=self.apid, body=[what, arguments])
        got = await self.shell.ipc.recv(sender=self.apid, reply_to=sent.id, timeout=BOUND)
        return got.message.body

    async def fork(self) -> Agent:
        return Agent(self.shell, (await self.shell.proc.fork(target=self.apid)).apid)


async def home(shown: Sys, *grants: str) -> Channel:
    """A shell with a space."""
    shell = shown.attach(*grants)
    await shell.mem.write(segment="semantic", content="so that it has a space")
    return shell


async def test_activation_memory_and_its_neighbours(folder: Path, tmp_path: Path) -> None:
    """One host for all of these: loading the library takes longer than the rest."""
    async with world(folder, tmp_path) as (shown, model):
        await a_fork_goes_on_where_its_parent_is(shown)
        await forgetting_reaches_forks(shown)
        await a_fork_sees_its_records_as_they_were(shown)
        await intents_of_two_owners_share_nothing(shown)
        await the_memory_fault_of_two_owners_shares_nothing(shown)
        await a_beginning_is_promoted_and_forgotten(shown, model)


async def a_fork_goes_on_where_its_parent_is(shown: Sys) -> None:
    shell = shown.attach()
    parent = Agent(shell, (await shell.proc.spawn(program="agent")).apid)
    await parent("pin", messages=[{"role": "system", "content": MANUAL}], name="manual")
    await parent("attach", handle="manual")
    said = await parent("go on", text="hello " * 40)
    context = said["usage"]["prompt"] + said["usage"]["completion"]
    child, other = await parent.fork(), await parent.fork()
    processes = shown.kernel.processes
    assert salt_of(processes.get(child.apid)) == salt_of(processes.get(parent.apid))
    await shell.proc.signal(target=parent.apid, signal="KILL")
    await shell.proc.wait(target=parent.apid, timeout=BOUND)
    for each in (child, other):
        said = await each("go on", text="and now?")
        assert said["usage"]["prompt"] > context
        assert said["usage"]["cached"] >= 0.95 * context, "it is its first generation"
    stranger = Agent(shell, (await shell.proc.spawn(program="agent")).apid)
    said = await stranger("go on", text="hello " * 40)
    assert said["usage"]["cached"] == 0


async def forgetting_reaches_forks(shown: Sys) -> None:
    shell = shown.attach()
    parent = Agent(shell, (await shell.proc.spawn(program="agent")).apid)
    source = (await parent("write", segment="semantic", content=SECRET))["rid"]
    rid = (await parent("write", segment="semantic", content=MANUAL, sources=[source]))["rid"]
    await parent("pin", rids=[rid], name="manual")
    await parent("attach", handle="manual")
    whole = (await parent("say"))["usage"]["prompt"]
    bare, first, second = await parent.fork(), await parent.fork(), await parent.fork()
    for each in (first, second):
        said = (await each("say"))["usage"]
        assert (said["prompt"], said["cached"]) == (whole, said["cached"])
        assert said["cached"] > whole / 2
    await first("forget", rid=rid)
    assert (await first("say"))["usage"]["prompt"] < whole / 4
    await bare("forget", rid=source)  # what the record was made from
    assert (await bare("say"))["usage"]["prompt"] < whole / 4
    for each in (parent, second):
        assert (await each("say"))["usage"]["prompt"] == whole
    late = await first.fork()
    assert (await late("say"))["usage"]["prompt"] < whole / 4
    await parent("forget", rid=source)
    for each in (parent, second):
        assert (await each("say"))["usage"]["prompt"] < whole / 4
    assert (await parent("list"))["prefixes"] == []
    with pytest.raises(ENOENT):
        await shell.kv.attach(handle="manual", target=second.apid)


async def a_fork_sees_its_records_as_they_were(shown: Sys) -> None:
    """As the rest of its memory: what its parent corrects later is not in it."""
    shell = shown.attach()
    parent = Agent(shell, (await shell.proc.spawn(program="agent")).apid)
    rid = (await parent("write", segment="semantic", content=MANUAL))["rid"]
    await parent("pin", rids=[rid], name="manual")
    await parent("attach", handle="manual")
    child = await parent.fork()
    before = (await child("say"))["usage"]["prompt"]
    await parent("update", rid=rid, content=MANUAL + "And it was said again. " * 20)
    assert (await parent("say"))["usage"]["prompt"] > before
    said = await child("say")
    assert said["usage"]["prompt"] == before
    pins, process = shown.kernel.pins, shown.kernel.processes.get(child.apid)
    assert "again" not in str(pins.shown_to(process))
    await child("update", rid=rid, content=MANUAL + "The child knows better. " * 20)
    assert "knows better" in str(pins.shown_to(process))
    assert "again" not in str(pins.shown_to(process))
    text = f"You know: {MANUAL}The child knows better."
    await child("read", rid=rid)
    await child("pin", messages=[{"role": "system", "content": text}], name="own")
    (row,) = (await child("list"))["prefixes"]
    assert row["sources"] == [rid]
    await child("forget", rid=rid)
    assert (await child("list"))["prefixes"] == []


async def intents_of_two_owners_share_nothing(shown: Sys) -> None:
    """The mind is a general model here; what it computes for one is not the other's."""
    mind = shown.kernel.mind

    async def cached(shell: Channel, text: str) -> int:
        before = mind.statistics().cached_tokens
        await shell.llm.intent(text=text, execute=False)
        return int(mind.statistics().cached_tokens - before)

    one, two = await home(shown, *RIGHTS), await home(shown, *RIGHTS)
    for shell in (one, two):
        assert await cached(shell, "what time is it?") == 0
    for shell in (one, two):
        assert await cached(shell, "what time is it?") > 200


async def the_memory_fault_of_two_owners_shares_nothing(shown: Sys) -> None:
    """Equal records, equal questions: the prompts are equal, and no token is shared."""
    shells = [await home(shown) for _ in range(3)]
    fact = "the key of the cellar lies under the third stone of the garden wall, says the user. "
    question = [ChatMessage("system", MANUAL), ChatMessage("user", "where is the key?")]
    made: list[Any] = []
    for shell in shells:
        await shell.mem.write(segment="semantic", content=fact)
        made.append(await shell.llm.generate(messages=question, max_tokens=4, memory="auto"))
    assert all(len(one.usage.paged) > 0 for one in made)
    assert {one.usage.cached for one in made} == {0}
    assert len({(one.text, one.usage.prompt) for one in made}) == 1
    again = await shells[0].llm.generate(messages=question, max_tokens=4, memory="auto")
    assert again.usage.cached > 200
    rows: kv.Listed = await shells[1].kv.list()
    assert (rows.saved, rows.prefixes) == (0.0, [])


async def a_beginning_is_promoted_and_forgotten(shown: Sys, model: HostedLLM) -> None:
    kernel = shown.kernel
    shell = await home(shown)
    rid = (await shell.mem.write(segment="semantic", content=SECRET)).rid
    await shell.mem.read(rid=rid)
    text = f"{MANUAL}And know: {SECRET}. " + "so it is and so it stays. " * 30

    async def turn(number: int, *, system: str = text) -> None:
        messages = [ChatMessage("system", system), ChatMessage("user", f"{number} {'x ' * 200}?")]
        await shell.llm.generate(messages=messages, max_tokens=2)
        await kernel.pins.habits.round()

    async def rows() -> list[kv.Prefix]:
        found: kv.Listed = await shell.kv.list()
        return list(found.prefixes)

    async def promoted() -> kv.Prefix:
        """The longest, once it has been computed."""
        while True:
            found = await rows()
            if found and all(one.state == "kept" for one in found):
                return max(found, key=lambda one: one.tokens)
            await trio.sleep(0.02)

    for number in range(3):
        await turn(number)
    row = await promoted()
    assert (row.made_by, row.state, row.tier, row.hits) == ("promotion", "kept", "engine", 0)
    assert rid in row.sources
    saved = [row.saved]
    for number in range(3, 6):
        await turn(number)
        saved.append((await rows())[0].saved)
    assert saved == sorted(set(saved)), "each use has saved some"
    await shell.mem.forget(rid=rid)
    assert await rows() == []
    assert not [one for one in (await model.held())[0] if one.handle.startswith(f"{row.handle}@")]
    for number in range(6, 10):
        await turn(number)
    assert await rows() == [], "what was forgotten is not promoted again"
    other = text.replace(SECRET, "nothing of the kind")
    for number in range(10, 14):
        await turn(number, system=other)
    row = await promoted()
    await kernel.pins.habits.flush()
    policy, there = kernel.pins.habits.policy, kernel.memory.prefixes.all()
    assert policy.cold(there, kernel.clock.now()) == []
    cold = policy.cold(there, kernel.clock.now() + 20 * IDLE)
    assert row.handle in [one.handle for one in cold]
    cooled = await shell.kv.cool(handle=row.handle)
    assert (await shell.mem.read(rid=cooled.rid)).records[0].content in other
    assert row.handle not in [one.handle for one in await rows()]


# --- kernels of their own


def test_promotion_can_be_switched_off(folder: Path, tmp_path: Path) -> None:
    flags = ("--embedder=none", "--engine=transformers", f"--model={folder}", "--promote=off")
    with running(tmp_path / "data", *flags) as kernel, kernel.client() as client:
        client.sys.session(space="home")
        for number in range(5):
            messages = [ChatMessage("system", MANUAL), ChatMessage("user", f"{number}?")]
            client.llm.generate(messages=messages, max_tokens=2)
        found = client.kv.list()
        assert (found.prefixes, found.promote) == ([], False)
        assert client.sys.stats().stats["pins"]["promoted"] == 0
        _commands_say_what_is_wrong(kernel.data)


def _commands_say_what_is_wrong(data: Path) -> None:
    """Each error with its code and what to do about it."""

    def engram(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "userland.cli", "--data", str(data), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.returncode, done.stderr

    for words, code, hint in (
        (("kv", "attach", "nothing"), "ENOENT", "kv.list"),
        (("kv", "drop", "nothing"), "ENOENT", "kv.list"),
        (("kv", "cool", "nothing"), "ENOENT", "kv.list"),
        (("kv", "pin", "--text", "short"), "EINVAL", "longer"),
        (("lora", "attach", "nothing"), "ENOENT", "lora list"),
        (("lora", "drop", "nothing"), "ENOENT", "lora list"),
        (("lora", "rollback", "nothing"), "ENOENT", "lora list"),
        (("lora", "attach", "@"), "EINVAL", "NAME@VERSION"),
    ):
        status, said = engram(*words)
        assert status != 0, words
        assert code in said, (words, said)
        assert hint in said, (words, said)


def test_a_model_elsewhere_gets_no_pins_and_nothing_fails(tmp_path: Path) -> None:
    with (
        fake_model(lambda _: "hello") as served,
        running(tmp_path / "data", "--embedder=none", f"--model={served.spec}") as kernel,
        kernel.client() as client,
    ):
        client.sys.session(space="home")
        with pytest.raises(EINVAL, match="keeps") as caught:
            client.kv.pin(messages=[ChatMessage("system", MANUAL)], name="manual")
        assert "--model" in caught.value.hint
        for number in range(6):
            messages = [ChatMessage("system", MANUAL), ChatMessage("user", f"{number}?")]
            made = client.llm.generate(messages=messages, max_tokens=2, deadline=BOUND)
            assert (made.text, made.usage.cached) == ("hello", 0)
        assert client.kv.list().prefixes == []
        figures = client.sys.stats().stats["pins"]
        assert (figures["promoted"], figures["computed"], figures["erasing"]) == (0, 0, 0)
        assert not [
            line for line in kernel.stderr().splitlines() if "kv" in line and "error" in line
        ]


def test_what_is_seen_of_generations_is_bounded() -> None:
    """Many long conversations: those that were seen last are known."""
    policy, most = Promotion(), 0
    for number in range(3 * MOST // LONGEST):
        for apid in (number, 10_000):
            policy.saw(apid, [ChatMessage("user", f"{number} " + "x" * (LONGEST - 100))], 0, 0.0)
        held = {apid: sum(map(len, texts)) for apid, texts in policy._seen.items()}
        assert sum(held.values()) == policy._held <= MOST
        assert 10_000 in held
        most = max(most, policy._held)
    assert most > MOST / 2
    policy.forget()
    assert (policy._held, len(policy._seen)) == (0, 0)


# --- rights


def test_what_an_agent_may_do_by_default_and_what_is_asked_about() -> None:
    caps = compiled(AGENT_CAPS)
    for name in ("kv.pin", "kv.attach", "kv.detach", "kv.drop", "lora.attach", "lora.list"):
        assert caps.own(name), name
    for name in ("lora.train", "lora.drop"):
        assert not caps.may(name), name
    changing = {entry.name for entry in TABLE if entry.destructive}
    assert {"kv.drop", "lora.drop"} <= changing
    assert not {"kv.pin", "kv.attach", "kv.detach", "lora.attach", "lora.rollback"} & changing


async def test_others_pins_are_out_of_reach() -> None:
    """A stranger, a reader, and one who works there by a share for reading."""
    from tests.remembering import Remembering

    async with system(3, {}) as shown:
        shown.kernel.llm = Remembering()
        owner, stranger = await home(shown), await home(shown, *AGENT_CAPS)
        await owner.kv.pin(messages=[ChatMessage("system", MANUAL)], name="manual")
        apids = [(await one.proc.info()).apid for one in (owner, stranger)]
        for call in (stranger.kv.attach, stranger.kv.drop, stranger.kv.cool):
            with pytest.raises(ENOENT):
                await call(handle="manual")
        with pytest.raises(EPERM):
            await stranger.kv.attach(handle="manual", target=apids[0])
        with pytest.raises(EPERM):
            await stranger.kv.detach(target=apids[0])
        with pytest.raises(EPERM):
            await stranger.lora.detach(target=apids[0])
        with pytest.raises(EPERM) as caught:
            await owner.kv.attach(handle="manual", target=apids[1])
        assert caught.value.hint
        await owner.mem.share(to=apids[1], access="read")
        process = shown.kernel.processes.get(apids[1])
        process.space = (await owner.proc.info()).space
        shown.kernel.memory.sharing.lend(process.apid, process.space)
        await stranger.kv.attach(handle="manual")  # what it may read it may have before it
        for call in (stranger.kv.drop, stranger.kv.cool):
            with pytest.raises(EPERM):
                await call(handle="manual")
        with pytest.raises(EPERM):
            await stranger.kv.pin(messages=[ChatMessage("system", MANUAL)], name="manual")
        for name in ("train", "drop"):
            with pytest.raises(EPERM):
                await getattr(stranger.lora, name)(
                    **{"name" if name == "train" else "adapter": "x"}
                )
