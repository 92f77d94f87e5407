"""The intent loop in a simulated system: a scripted model, real calls, real rights."""

from typing import Any

import pytest
import trio

from kernel.mind.nano import NanoDialect
from kernel.trap import HANDLERS
from syscalls.calls import llm, lora
from syscalls.errors import EINVAL, EIO, ENODEV, EPERM, ETIME
from syscalls.launch import Launch
from tests.minds import Scripted, says, seat, system
from tests.simulation import Program
from userland.channel import Channel

BOUND = 30


async def listener(channel: Channel, _launch: Launch) -> None:
    """Lives until it is told to end."""
    await channel.ipc.recv(type="end")


PROGRAMS: dict[str, Program] = {"listener": listener}


async def test_a_program_is_run_and_its_results_are_seen_before_the_reply() -> None:
    async with system(1, PROGRAMS) as world:
        shell = world.attach()
        write = ("mem.write", {"segment": "semantic", "content": "tea is at five"})
        model = seat(
            world.kernel,
            says(write),
            says(("mem.search", {"query": "tea"})),
            says(reply="Noted; it is found."),
        )
        with trio.fail_after(BOUND):
            done = await shell.llm.intent(text="remember that tea is at five, and look it up")
        assert [step.call for step in done.program] == ["mem.write", "mem.search"]
        assert [step.ok for step in done.results] == [True, True]
        assert done.results[1].value["hits"][0]["content"] == "tea is at five"
        assert done.reply == "Noted; it is found."
        last = model.requests[-1].messages
        assert last is not None
        assert '"tea is at five"' in last[1].content and 'from="result 2"' in last[1].content


async def test_a_failed_call_is_an_observation() -> None:
    async with system(2, PROGRAMS) as world:
        shell = world.attach()
        model = seat(
            world.kernel,
            says(("proc.info", {"target": "nobody"})),
            says(reply="There is no nobody."),
        )
        done = await shell.llm.intent(text="how is nobody doing")
        assert not done.results[0].ok
        assert done.results[0].value["name"] == "ESRCH"
        assert done.reply == "There is no nobody."
        messages = model.requests[1].messages
        assert messages is not None and "ESRCH" in messages[1].content


async def test_the_plan_alone_runs_nothing() -> None:
    async with system(3, PROGRAMS) as world:
        shell = world.attach()
        seat(world.kernel, says(("mem.write", {"segment": "semantic", "content": "x"})))
        done = await shell.llm.intent(text="note x", execute=False)
        assert [step.call for step in done.program] == ["mem.write"]
        assert done.results == []
        assert (await shell.mem.read()).records == []


async def test_a_given_program_needs_no_model() -> None:
    async with system(4, PROGRAMS) as world:
        shell = world.attach()
        plan = [
            llm.Planned("proc.spawn", {"program": "listener", "name": "Ear"}),
            llm.Planned("proc.info", {"target": "ear"}),
        ]
        done = await shell.llm.intent(text="start it and look", program=plan)
        assert [step.ok for step in done.results] == [True, True]
        assert done.results[1].args == {"target": "ear"}
        assert done.results[1].value["name"] == "Ear"
        assert "Started listener as process" in done.reply


@pytest.mark.parametrize(
    "planned",
    [
        llm.Planned("mem.wipe", {}),
        llm.Planned("mem.write", {"segment": "elsewhere", "content": "x"}),
        llm.Planned("mem.write", {"segment": "semantic", "content": "x", "extra": 1}),
        llm.Planned("llm.intent", {"text": "again"}),
    ],
)
async def test_a_wrong_program_is_refused_whole(planned: llm.Planned) -> None:
    async with system(5, PROGRAMS) as world:
        shell = world.attach()
        good = llm.Planned("mem.write", {"segment": "semantic", "content": "x"})
        with pytest.raises(EINVAL):
            await shell.llm.intent(text="do it", program=[good, planned])
        assert (await shell.mem.read()).records == []


async def test_the_monitor_checks_what_a_given_program_calls() -> None:
    async with system(6, PROGRAMS) as world:
        root = world.attach()
        secret = await root.mem.write(segment="semantic", content="the code is 1234")
        guest = world.attach("llm.intent", "mem.read", "mem.write")
        plan = [
            llm.Planned("mem.delete", {"rid": secret.rid}),
            llm.Planned("mem.read", {"rid": secret.rid}),
            llm.Planned("sys.shutdown", {}),
            llm.Planned("mem.write", {"segment": "semantic", "content": "mine"}),
        ]
        done = await guest.llm.intent(text="clean up", program=plan)
        told = [step.ok or step.value["name"] for step in done.results]
        assert told == ["EPERM", "EPERM", "ECANCELED", True]
        assert (await root.mem.read(rid=secret.rid)).records[0].content == "the code is 1234"
        assert not world.kernel.shutdown.is_set()


async def test_what_a_model_may_not_say_fails_at_the_monitor_too() -> None:
    """A model that breaks its grammar gains nothing."""
    async with system(7, PROGRAMS) as world:
        guest = world.attach("llm.intent", "mem.read")
        model = seat(
            world.kernel, says(("sys.shutdown", {})), says(("mem.wipe", {})), says(reply="no")
        )
        done = await guest.llm.intent(text="stop everything")
        assert [step.value["name"] for step in done.results] == ["EPERM", "EINVAL"]
        assert not world.kernel.shutdown.is_set()
        schema = model.requests[0].schema
        assert schema is not None and "sys.shutdown" not in str(schema)


async def test_steps_are_limited() -> None:
    async with system(8, PROGRAMS) as world:
        shell = world.attach()
        clock: tuple[str, dict[str, Any]] = ("sys.clock", {})
        model = seat(world.kernel, says(clock, clock), says(clock, clock), says())
        done = await shell.llm.intent(text="tick", max_steps=3)
        assert [step.ok for step in done.results] == [True, True, True, False]
        assert done.results[3].value["name"] == "ECANCELED"
        assert len(model.requests) == 2


async def test_nothing_is_destroyed_after_something_else_has_failed() -> None:
    async with system(9, PROGRAMS) as world:
        shell = world.attach()
        apid = (await shell.proc.spawn(program="listener")).apid
        plan = [
            llm.Planned("proc.exec", {"program": "listener"}),
            llm.Planned("proc.signal", {"target": "listener", "signal": "KILL"}),
        ]
        done = await shell.llm.intent(text="save it, then kill it", program=plan)
        assert [step.value["name"] for step in done.results] == ["EINVAL", "ECANCELED"]
        assert (await shell.proc.info(target=apid)).state != "ZOMBIE"


async def test_one_failed_kill_does_not_spare_the_next() -> None:
    async with system(10, PROGRAMS) as world:
        shell = world.attach()
        apid = (await shell.proc.spawn(program="listener")).apid
        plan = [
            llm.Planned("proc.signal", {"target": "nobody", "signal": "KILL"}),
            llm.Planned("proc.signal", {"target": "listener", "signal": "KILL"}),
        ]
        done = await shell.llm.intent(text="kill both", program=plan)
        assert [step.ok for step in done.results] == [False, True]
        with trio.fail_after(BOUND):
            assert (await shell.proc.wait(target=apid)).status == 137


async def test_a_deadline_says_what_was_done_and_what_was_interrupted() -> None:
    async with system(11, PROGRAMS) as world:
        shell = world.attach()
        write = ("mem.write", {"segment": "semantic", "content": "x"})
        seat(world.kernel, says(write, ("ipc.recv", {})))
        with pytest.raises(ETIME) as caught, trio.fail_after(BOUND):
            await shell.llm.intent(text="note x and wait for a message", deadline=2.0)
        assert [step["call"] for step in caught.value.detail["done"]] == ["mem.write"]
        assert caught.value.detail["interrupted"]["call"] == "ipc.recv"
        assert len((await shell.mem.read()).records) == 1


async def test_a_slow_model_is_late_with_nothing_done() -> None:
    async with system(12, PROGRAMS) as world:
        shell = world.attach()
        seat(world.kernel, 60.0, says(reply="late"))
        with pytest.raises(ETIME) as caught, trio.fail_after(BOUND):
            await shell.llm.intent(text="hello", deadline=1.0)
        assert caught.value.detail["done"] == []
        assert "interrupted" not in caught.value.detail


async def test_a_model_that_dies_says_what_was_done() -> None:
    async with system(13, PROGRAMS) as world:
        shell = world.attach()
        write = ("mem.write", {"segment": "semantic", "content": "x"})
        seat(world.kernel, says(write), EIO("the llm host died", driver="llm", retryable=True))
        with pytest.raises(EIO) as caught:
            await shell.llm.intent(text="note x")
        assert [step["call"] for step in caught.value.detail["done"]] == ["mem.write"]
        assert caught.value.detail["retryable"] is True


async def test_what_is_no_program_is_not_understood() -> None:
    async with system(14, PROGRAMS) as world:
        shell = world.attach()
        seat(world.kernel, '{"steps": [{"call": "mem.wri')
        done = await shell.llm.intent(text="hm")
        assert done.program == [] and "did not understand" in done.reply


async def test_without_a_mind_intents_say_so() -> None:
    async with system(15, PROGRAMS, mind="none") as world:
        with pytest.raises(ENODEV, match="no model understands intents"):
            await world.attach().llm.intent(text="hello")
    async with system(15, PROGRAMS) as world:
        with pytest.raises(ENODEV, match="weights of nano"):
            await world.attach().llm.intent(text="hello")
    async with system(15, PROGRAMS, mind="model") as world:
        with pytest.raises(ENODEV, match="no general model"):
            await world.attach().llm.intent(text="hello")


async def test_an_intent_needs_its_capability() -> None:
    async with system(16, PROGRAMS) as world:
        with pytest.raises(EPERM):
            await world.attach("mem.read").llm.intent(text="hello")


# --- nano: one decoding, replies by code


async def test_nano_is_asked_once_and_the_reply_is_made_by_code() -> None:
    async with system(17, PROGRAMS) as world:
        shell = world.attach()
        text = "remember that I like tea"
        model = seat(
            world.kernel, "<|mem.write|><|semantic|> I like tea<|end|>", dialect=NanoDialect()
        )
        done = await shell.llm.intent(text=text)
        assert done.program[0].args == {"segment": "semantic", "content": "I like tea"}
        assert done.reply == "Noted in semantic memory: I like tea"
        assert len(model.requests) == 1
        request = model.requests[0]
        assert request.special and request.grammar and request.messages is None


async def test_nano_routes_talk_to_the_general_model_or_says_that_there_is_none() -> None:
    async with system(18, PROGRAMS) as world:
        shell = world.attach()
        written = "<|llm.generate|><|all|><|end|>"
        seat(world.kernel, written, written, dialect=NanoDialect())
        done = await shell.llm.intent(text="write me a poem")
        assert done.results[0].value["name"] == "ENODEV"
        assert "engram boot --model FOLDER_OR_NAME" in done.reply
        general = Scripted("Roses are red.")
        world.kernel.llm = general
        done = await shell.llm.intent(text="write me a poem")
        assert done.reply == "Roses are red."
        messages = general.requests[0].messages
        assert messages is not None and messages[0].content == "write me a poem"


async def test_calls_that_are_not_served_are_planned_and_say_so_when_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(HANDLERS.by_number, lora.ListCall.NUMBER)
    async with system(19, PROGRAMS) as world:
        shell = world.attach()
        seat(world.kernel, "<|lora.list|><|end|>", dialect=NanoDialect())
        done = await shell.llm.intent(text="which adapters are there")
        assert done.results[0].value["name"] == "ENOSYS"
        assert "ENOSYS" in done.reply


async def test_names_that_fit_several_list_the_candidates() -> None:
    async with system(20, PROGRAMS) as world:
        shell = world.attach()
        apids = [(await shell.proc.spawn(program="listener")).apid for _ in range(2)]
        seat(world.kernel, "<|proc.signal|><|KILL|> listener<|end|>", dialect=NanoDialect())
        done = await shell.llm.intent(text="kill listener")
        assert done.results[0].value["name"] == "ECONFLICT"
        assert done.results[0].value["detail"]["candidates"] == apids
        assert all(str(apid) in done.reply for apid in apids)


async def test_the_calls_of_an_intent_are_in_the_trace() -> None:
    async with system(21, PROGRAMS) as world:
        shell = world.attach()
        plan = [llm.Planned("sys.clock", {}), llm.Planned("proc.info", {"target": 99})]
        await shell.llm.intent(text="what time is it", program=plan)
        lines = (await shell.sys.trace(limit=10)).lines
        assert [line.call for line in lines][:2] == ["sys.clock", "proc.info"]
        stats = (await shell.sys.stats()).stats["mind"]
        assert stats["intents"] == 1 and stats["calls"] == 2 and stats["failed"] == 1
