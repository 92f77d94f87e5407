"""Supervision on a virtual clock: restarts, readiness, links, alarms, schedules, reboots."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from drivers.store.memory import MemoryStore
from kernel.supervision.identities import Identities
from syscalls.calls.supervise import Service
from syscalls.errors import EINVAL, ENOENT, ESRCH
from syscalls.launch import Launch
from tests.simulation import Program, World, run_seeded, simulated
from userland.channel import Channel

EPOCH = 1_700_000_000.0
"""Where every simulated clock begins: twenty past ten of the evening."""
Main = Callable[[World, Channel], Awaitable[None]]


class Heard:
    """What programs did: who started, and what each took out of its mailbox."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.got: list[tuple[str, Any]] = []

    async def listener(self, channel: Channel, launch: Launch) -> None:
        """Takes messages until it is told to fail."""
        self.started.append(launch.name)
        while True:
            message = (await channel.ipc.recv()).message
            self.got.append((launch.name, message.body))
            if message.body == "fail":
                raise ValueError("as told")
            if message.body == "end":
                return

    async def crash(self, _channel: Channel, launch: Launch) -> None:
        """Fails at once."""
        self.started.append(launch.name)
        raise RuntimeError("always")

    async def announcer(self, channel: Channel, launch: Launch) -> None:
        """Is ready after ten seconds."""
        self.started.append(launch.name)
        await trio.sleep(10)
        await channel.proc.ready()
        await trio.sleep_forever()

    async def once(self, _channel: Channel, launch: Launch) -> None:
        """Ends well."""
        self.started.append(launch.name)

    def programs(self) -> dict[str, Program]:
        names = ("listener", "crash", "announcer", "once")
        return {name: getattr(self, name) for name in names}


class Machine:
    """What outlives a kernel."""

    def __init__(self, folder: Path, text: str) -> None:
        self.heard = Heard()
        self.store = MemoryStore()
        self.file = folder / "init.toml"
        self.file.write_text(text)

    def boot(self, main: Main, **settings: Any) -> None:
        """Run a kernel until ``main`` is done."""

        async def run() -> None:
            system = simulated(
                1, self.heard.programs(), store=self.store, init=str(self.file), **settings
            )
            async with system as world:
                shell = world.attach()
                try:
                    await main(world, shell)
                finally:
                    shell.close()

        run_seeded(1, run)


def child(name: str, program: str = "listener", **fields: Any) -> str:
    lines = [f"name = {name!r}", f"program = {program!r}"]
    lines += [f"{key} = {value!r}" for key, value in fields.items()]
    return "\n".join(["[[child]]", *lines, ""])


async def rows(shell: Channel) -> dict[str, Service]:
    found = await shell.proc.supervise()
    return {one.name: one for one in found.services}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds; of virtual time there is plenty."""
    with trio.fail_after(3600):
        holds = await condition()
        while not holds:
            await trio.sleep(0.1)
            holds = await condition()


async def state(shell: Channel, name: str, wanted: str) -> None:
    async def reached() -> bool:
        return (await rows(shell))[name].state == wanted

    await until(reached)


def test_a_crash_loop_is_ended_and_the_others_go_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "intensity = 3\n" + child("loop", "crash") + child("calm"))

    async def main(_world: World, shell: Channel) -> None:
        await state(shell, "loop", "failed")
        found = await rows(shell)
        assert found["loop"].restarts == 3
        assert found["loop"].last is not None and found["loop"].last.cause is not None
        assert found["loop"].last.cause.kind == "exception"
        assert found["calm"].state == "up"
        assert machine.heard.started.count("loop") == 4
        await shell.proc.supervise(action="start", name="loop")
        await state(shell, "loop", "failed")
        assert machine.heard.started.count("loop") == 8

    machine.boot(main)


def test_children_wait_for_those_before_and_the_late_are_given_up(tmp_path: Path) -> None:
    machine = Machine(
        tmp_path,
        child("slow", "announcer", ready="ready")
        + child("next")
        + child("never", ready="ready", patience=5, restart="temporary")
        + child("last"),
    )

    async def main(_world: World, shell: Channel) -> None:
        await trio.sleep(8)
        assert machine.heard.started == ["slow"]
        await state(shell, "last", "up")
        assert machine.heard.started == ["slow", "next", "never", "last"]
        assert (await rows(shell))["never"].state == "done"

    machine.boot(main)


def test_what_a_process_did_not_take_its_successor_gets(tmp_path: Path) -> None:
    machine = Machine(tmp_path, child("keeper", delay=5))

    async def first(world: World, shell: Channel) -> None:
        await state(shell, "keeper", "up")
        before = await shell.proc.info(target="keeper")
        assert (before.supervisor, before.restarts) == ("init", 0)
        for body in ("one", "fail", "two"):
            await shell.ipc.send(to="keeper", body=body)
        await state(shell, "keeper", "down")
        await shell.ipc.send(to="keeper", body="three")  # there is no such process now
        await until(partial(_heard, machine, ("keeper", "three")))
        after = await shell.proc.info(target="keeper")
        assert after.apid > before.apid
        assert (after.space, after.restarts) == (before.space, 1)
        await shell.proc.supervise(action="stop", name="keeper")
        await state(shell, "keeper", "down")
        await shell.ipc.send(to="keeper", body="four")
        with pytest.raises(ENOENT):
            await shell.proc.supervise(action="start", name="nobody")

    async def second(_world: World, shell: Channel) -> None:
        await until(partial(_heard, machine, ("keeper", "four")))
        bodies = [body for _, body in machine.heard.got]
        assert bodies == ["one", "fail", "two", "three", "four"]
        machine.file.write_text(child("other"))
        await shell.proc.supervise(action="reload")
        await state(shell, "other", "up")

        async def alone() -> bool:
            return "keeper" not in await rows(shell)

        await until(alone)
        with pytest.raises(ESRCH):
            await shell.ipc.send(to="keeper", body="nobody")
        machine.file.write_text("child = 3")
        with pytest.raises(EINVAL, match="child: Expected"):
            await shell.proc.supervise(action="reload")
        assert (await rows(shell))["other"].state == "up"

    machine.boot(first)
    machine.boot(second)


async def _heard(machine: Machine, what: tuple[str, Any]) -> bool:
    return what in machine.heard.got


def test_spawned_children_are_served_by_init(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")

    async def first(_world: World, shell: Channel) -> None:
        spawned = await shell.proc.spawn(program="listener", name="p", restart="permanent")
        other = await shell.proc.spawn(program="listener", name="t", restart="transient")
        born = await shell.proc.info(target=spawned.apid)
        await shell.ipc.send(to="p", body="fail")
        ended = await shell.proc.wait(target=spawned.apid)
        assert ended.cause is not None and ended.cause.kind == "exception"
        await until(partial(_named, shell, "p"))
        again = await shell.proc.info(target="p")
        assert (again.parent, again.space, again.caps) == (born.parent, born.space, born.caps)
        await shell.ipc.send(to="t", body="end")
        await shell.proc.wait(target=other.apid)

        async def forgotten() -> bool:
            return not any(name.startswith("t#") for name in await rows(shell))

        await until(forgotten)
        await shell.ipc.send(to="p", body="hello")
        await until(partial(_heard, machine, ("p", "hello")))

    async def second(_world: World, shell: Channel) -> None:
        await until(partial(_named, shell, "p"))
        assert (await shell.proc.info(target="p")).supervisor == "spawned"
        assert [one.name for one in await _live(shell)] == ["init", "shell", "p"]
        await shell.proc.supervise(action="stop", name="p")

    async def third(_world: World, shell: Channel) -> None:
        await trio.sleep(5)
        assert [one.name for one in await _live(shell)] == ["init", "shell"]

    machine.boot(first)
    machine.boot(second)
    machine.boot(third)


async def _named(shell: Channel, name: str) -> bool:
    return name in [one.name for one in await _live(shell)]


async def _live(shell: Channel) -> list[Any]:
    found = await shell.proc.list()
    return [one for one in found.processes if one.state != "ZOMBIE"]


def test_who_has_a_space_by_a_share_only_gives_it_to_nobody_for_good(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    refused: list[str] = []

    async def borrower(channel: Channel, launch: Launch) -> None:
        message = (await channel.ipc.recv()).message
        try:
            await channel.proc.spawn(program="listener", restart="permanent", space=message.body)
        except EINVAL as error:
            refused.append(error.message)

    async def main(_world: World, shell: Channel) -> None:
        lent = await shell.proc.spawn(program="borrower", name="b")
        written = await shell.mem.write(segment="semantic", content="mine")
        space = (await shell.proc.info()).space
        await shell.mem.share(to="b", access="write")
        await shell.ipc.send(to="b", body=space)
        await shell.proc.wait(target=lent.apid)
        assert written.rid
        assert len(refused) == 1

    machine.heard.programs = lambda: {  # type: ignore[method-assign]
        "borrower": borrower,
        "listener": machine.heard.listener,
    }
    machine.boot(main)


def test_links_and_monitors_tell_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")

    async def main(_world: World, shell: Channel) -> None:
        one = (await shell.proc.spawn(program="listener", name="one")).apid
        two = (await shell.proc.spawn(program="listener", name="two")).apid
        await shell.proc.monitor(target=one)
        await shell.proc.monitor(target=one)
        await shell.proc.link(target=two, trap=True)
        await shell.ipc.send(to="one", body="end")
        down = (await shell.ipc.recv(type="down", timeout=60)).message
        assert (down.sender, down.body["apid"], down.body["status"]) == (1, one, 0)
        assert down.body["cause"] == {"kind": "normal"}
        await shell.ipc.send(to="two", body="fail")
        told = (await shell.ipc.recv(type="exit", timeout=60)).message
        assert (told.body["apid"], told.body["cause"]["kind"]) == (two, "exception")
        await shell.proc.wait(target=one)
        await shell.proc.wait(target=two)
        await shell.proc.monitor(target=one)  # it is of the past by now
        assert (await shell.ipc.recv(timeout=60)).message.body["apid"] == one
        await shell.proc.link(target=two, trap=True)
        assert (await shell.ipc.recv(timeout=60)).message.type == "exit"
        with pytest.raises(ESRCH, match="has ended"):
            await shell.proc.link(target=two)
        with pytest.raises(ESRCH):
            await shell.proc.monitor(target=4000)
        three = (await shell.proc.spawn(program="listener")).apid
        await shell.proc.monitor(target=three)
        await shell.proc.monitor(target=three, off=True)
        await shell.proc.signal(target=three)
        await shell.proc.wait(target=three)
        assert (await shell.proc.info()).mailbox == 0

    machine.boot(main, mailbox=1)


def test_a_failure_goes_along_links_and_stops_where_it_is_trapped(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    told: list[dict[str, Any]] = []

    async def chain(channel: Channel, launch: Launch) -> None:
        """Spawns the next of the chain and links to it; the first one traps."""
        depth = int(launch.args[0])
        if depth:
            next_one = await channel.proc.spawn(program="chain", args=[str(depth - 1)])
            await channel.proc.link(target=next_one.apid, trap=depth == 3)
        else:
            await trio.sleep(5)
            raise ValueError("the last one")
        if depth < 3:
            await trio.sleep_forever()
        told.append((await channel.ipc.recv(type="exit")).message.body)

    async def main(_world: World, shell: Channel) -> None:
        spawned = await shell.proc.spawn(program="chain", args=["3"])
        ended = await shell.proc.wait(target=spawned.apid, timeout=60)
        assert ended.status == 0
        assert [body["cause"]["kind"] for body in told] == ["linked"]
        past = (await shell.proc.list(all=True)).processes
        causes = [one.exit.cause for one in past if one.exit and one.name == "chain"]
        assert sorted(cause.kind for cause in causes if cause) == [
            "exception",
            "linked",
            "linked",
            "normal",
        ]

    machine.heard.programs = lambda: {"chain": chain}  # type: ignore[method-assign]
    machine.boot(main)


def test_a_durable_alarm_rings_once_after_a_reboot(tmp_path: Path) -> None:
    machine = Machine(tmp_path, child("sleeper"))
    machine.heard.listener = partial(_alarmed, machine.heard)  # type: ignore[method-assign]

    async def first(_world: World, shell: Channel) -> None:
        await state(shell, "sleeper", "up")
        await trio.sleep(1)
        with pytest.raises(EINVAL, match="nobody starts"):
            await shell.sys.alarm(after=1, durable=True)

    async def second(_world: World, shell: Channel) -> None:
        await trio.sleep(200)
        assert machine.heard.got == [("sleeper", "soon"), ("sleeper", "later")]

    machine.boot(first)
    assert machine.heard.got == []
    machine.boot(second)
    machine.boot(second)  # and not again


async def _alarmed(heard: Heard, channel: Channel, launch: Launch) -> None:
    heard.started.append(launch.name)
    if len(heard.started) == 1:
        await channel.sys.alarm(after=100, message="later", durable=True)
        await channel.sys.alarm(after=90, message="soon", durable=True)
        await channel.sys.alarm(after=80, message="lost")
    while True:
        heard.got.append((launch.name, (await channel.ipc.recv(type="alarm")).message.body))


@pytest.mark.parametrize(("missed", "runs"), [("skip", 0), ("once", 1)])
def test_schedules_run_at_their_times_and_what_was_missed_as_said(
    tmp_path: Path, missed: str, runs: int
) -> None:
    schedule = f"""
        [[schedule]]
        name = "post"
        cron = "*/10 * * * *"
        to = "box"
        body = "tick"
        missed = "{missed}"

        [[schedule]]
        name = "job"
        cron = "@hourly"
        program = "once"
    """
    machine = Machine(tmp_path, child("box") + schedule)

    async def first(world: World, shell: Channel) -> None:
        await state(shell, "box", "up")
        planned = (await shell.proc.supervise()).schedules
        assert [one.name for one in planned] == ["post", "job"]
        now = world.kernel.clock.now()
        assert all(one.next > now for one in planned)
        await trio.sleep(planned[1].next - now + 1)
        assert machine.heard.started.count("job") == 1
        assert len(machine.heard.got) in range(1, 8)
        assert world.kernel.clock.now() - (await shell.proc.supervise()).schedules[1].last < 60

    async def second(_world: World, shell: Channel) -> None:
        await state(shell, "box", "up")
        await trio.sleep(5)

    machine.boot(first)
    heard = len(machine.heard.got)
    # As if it had been off for hours: what ran last, ran long ago.
    long_ago = Identities(machine.store).ran("post", EPOCH - 5 * 3600)
    trio.run(machine.store.commit, long_ago)
    machine.boot(second)
    assert len(machine.heard.got) == heard + runs
    machine.boot(second)
    assert len(machine.heard.got) == heard + runs
