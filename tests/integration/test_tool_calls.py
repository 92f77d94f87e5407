"""Tools in a running kernel: processes that offer them, what is remembered, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from syscalls.calls import ipc, mem, proc, tool
from syscalls.errors import EEXIST, EINVAL, ENOENT, EPERM, ESRCH, ETIME
from tests.minds import system
from userland.agent import Agent

if TYPE_CHECKING:
    from syscalls.launch import Launch
    from userland.channel import Channel

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
NAME = "weather"


async def weather(channel: Channel, _launch: Launch) -> None:
    """Knows Paris only; stays silent on Ys, and dies of Troy."""
    await channel.call(tool.Register(name=NAME, description="The weather.", schema=SCHEMA))
    while True:
        message = (await channel.call(ipc.Recv(type="tool.call"))).message
        city = message.body["args"]["city"]
        if city == "Troy":
            return
        if city != "Ys":
            number = message.body["call"]
            answer = tool.Reply(call=number, value={"sky": "grey", "station": "FR075"})
            if city != "Paris":
                answer = tool.Reply(call=number, error=f"no station in {city!r}")
            await channel.call(answer)


async def offered(shell: Channel) -> int:
    """Start the weather program and wait until its tool is there."""
    spawned = await shell.call(proc.Spawn(program="weather"))
    while True:
        listed = await shell.call(tool.ListCall())
        if any(each.name == NAME and each.alive for each in listed.tools):
            return int(spawned.apid)
        await trio.sleep(0.01)


def asking(city: str, **more: Any) -> tool.CallTool:
    return tool.CallTool(name=NAME, args={"city": city}, **more)


async def test_a_call_is_answered_and_remembered(autojump_clock: object) -> None:
    async with system(1, {"weather": weather}) as world:
        shell = world.attach()
        apid = await offered(shell)
        outcome = await shell.call(asking("Paris"))
        assert (outcome.ok, outcome.value["sky"], outcome.advice) == (True, "grey", "")
        (info,) = (await shell.call(tool.ListCall())).tools
        assert (info.owner, info.calls, info.failed, info.schema) == (apid, 1, 0, SCHEMA)
        (record,) = (await shell.call(mem.Read(rid=outcome.rid))).records
        assert (record.segment, record.kind, record.taint) == ("procedural", "tool_call", "tool")
        assert record.meta["args"] == {"city": "Paris"}
        assert record.meta["worked"] == 1
        assert "grey" in record.content
        again = await shell.call(asking("Paris"))
        assert again.rid == outcome.rid
        assert len((await shell.call(mem.History(rid=outcome.rid))).versions) == 2
        found = await shell.call(tool.Recall(query="weather in Paris", name=NAME))
        assert found.traces[0]["rid"] == outcome.rid
        assert found.traces[0]["worked"] == 2


async def test_advice_refusal_and_force(autojump_clock: object) -> None:
    async with system(2, {"weather": weather}) as world:
        shell = world.attach()
        await offered(shell)
        first = await shell.call(asking("Pariss"))
        assert (first.ok, first.error, first.advice) == (False, "no station in 'Pariss'", "")
        assert (await shell.call(asking("Paris"))).ok  # it mends the call before
        second = await shell.call(asking("Pariss"))
        assert 'What then worked: city = "Paris" instead of "Pariss"' in second.advice
        assert second.risk >= 0.5
        judged = await shell.call(tool.Recall(name=NAME, args={"city": "Pariss"}))
        assert "2 times in a row" in judged.refused
        with pytest.raises(EINVAL, match="2 times in a row: no station") as refused:
            await shell.call(asking("Pariss"))
        assert refused.value.detail["refused"] is True
        assert "Paris" in refused.value.detail["advice"]
        assert world.kernel.tools.statistics().refused == 1
        assert (await shell.call(tool.ListCall())).tools[0].calls == 3
        assert not (await shell.call(asking("Pariss", force=True))).ok
        # Another space knows nothing of it; and forgetting the record is forgetting the lesson.
        assert not (await world.attach().call(asking("Pariss"))).ok
        await shell.call(mem.Delete(rid=second.rid))
        assert not (await shell.call(asking("Pariss"))).ok


async def test_another_schema_makes_old_knowledge_void(autojump_clock: object) -> None:
    async with system(3, {"weather": weather}) as world:
        shell = world.attach()
        apid = await offered(shell)
        for _ in range(2):
            await shell.call(asking("Rome"))
        with pytest.raises(EINVAL):
            await shell.call(asking("Rome"))
        owner = world.kernel.processes.get(apid)
        other = tool.Register(name=NAME, schema={**SCHEMA, "title": "second edition"})
        world.kernel.tools.register(owner, other)
        outcome = await shell.call(asking("Rome"))
        assert (outcome.ok, outcome.advice) == (False, "")


async def test_arguments_are_checked_before_the_owner_is_asked(autojump_clock: object) -> None:
    async with system(4, {"weather": weather}) as world:
        shell = world.attach()
        await offered(shell)
        for args, wrong in (({}, "city is missing"), ({"city": "Paris", "days": 0}, "range")):
            with pytest.raises(EINVAL, match=wrong) as error:
                await shell.call(tool.CallTool(name=NAME, args=args))
            record = (await shell.call(mem.Read(rid=error.value.detail["rid"]))).records[0]
            assert not record.meta["ok"]
        assert world.kernel.tools.statistics().calls == 0


async def test_deadlines_deaths_and_strangers(autojump_clock: object) -> None:
    async with system(5, {"weather": weather}) as world:
        shell = world.attach()
        apid = await offered(shell)
        for _ in range(3):
            with pytest.raises(ETIME):
                await shell.call(asking("Ys", deadline=0.5))  # never held against it
        with pytest.raises(ENOENT):
            await shell.call(tool.CallTool(name="nothing"))
        with pytest.raises(ENOENT, match="nobody waits"):
            await shell.call(tool.Reply(call=1, value="forged"))
        with pytest.raises(EEXIST):
            await shell.call(tool.Register(name=NAME))
        with pytest.raises(EPERM):
            await world.attach("tool.recall").call(asking("Paris"))
        with pytest.raises(EPERM):
            await world.attach("tool.call:tool/other").call(asking("Paris"))
        assert (await world.attach("tool.call:tool/weather").call(asking("Paris"))).ok
        with pytest.raises(ESRCH, match="before weather answered"):
            await shell.call(asking("Troy"))
        await shell.call(proc.Wait(target=apid))
        with pytest.raises(ESRCH, match="has ended"):
            await shell.call(asking("Paris"))
        assert not (await shell.call(tool.ListCall())).tools[0].alive
        await shell.call(tool.Register(name=NAME))  # the name is free again


async def test_nobody_answers_for_another(autojump_clock: object) -> None:
    async with system(6, {"weather": weather}) as world:
        shell, thief = world.attach(), world.attach()
        await offered(shell)

        async def steal() -> None:
            while not world.kernel.tools.statistics().pending:  # noqa: ASYNC110 - a counter
                await trio.sleep(0.01)
            with pytest.raises(ENOENT):
                await thief.call(tool.Reply(call=1, value="forged"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(steal)
            with pytest.raises(ETIME):
                await shell.call(asking("Ys", deadline=5))


async def test_many_calls_at_once_are_all_counted(autojump_clock: object) -> None:
    async with system(7, {"weather": weather}) as world:
        shell = world.attach()
        await offered(shell)
        outcomes: list[tool.Outcome] = []

        async def ask() -> None:
            outcomes.append(await shell.call(asking("Paris")))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert {each.rid for each in outcomes} == {outcomes[0].rid}
        record = (await shell.call(mem.Read(rid=outcomes[0].rid))).records[0]
        assert (record.version, record.meta["worked"]) == (20, 20)


async def test_a_full_space_keeps_no_trace_but_the_answer_comes(autojump_clock: object) -> None:
    async with system(8, {"weather": weather}, agent_records=0) as world:
        shell = world.attach()
        await offered(shell)
        outcome = await shell.call(asking("Paris"))
        assert (outcome.ok, outcome.rid) == (True, "")


async def test_agents_offer_functions(autojump_clock: object) -> None:
    async def offering(channel: Channel, launch: Launch) -> None:
        agent = Agent(channel, launch)

        @agent.offer
        async def greet(name: str, times: int = 1) -> dict[str, Any]:
            """Greets somebody."""
            if name == "nobody":
                raise ValueError("there is nobody")
            return {"text": f"hello {name} " * times}

        await agent.serve()

    async with system(9, {"greeter": offering}) as world:
        shell = world.attach()
        await shell.call(proc.Spawn(program="greeter"))
        while not (await shell.call(tool.ListCall())).tools:  # noqa: ASYNC110 - no event
            await trio.sleep(0.01)
        (info,) = (await shell.call(tool.ListCall())).tools
        assert (info.name, info.description) == ("greet", "Greets somebody.")
        assert info.schema["required"] == ["name"]
        greeting = tool.CallTool(name="greet", args={"name": "Ada", "times": 2})
        assert (await shell.call(greeting)).value == {"text": "hello Ada hello Ada "}
        failed = await shell.call(tool.CallTool(name="greet", args={"name": "nobody"}))
        assert failed.error == "ValueError: there is nobody"
        with pytest.raises(EINVAL, match="times must be integer"):
            await shell.call(tool.CallTool(name="greet", args={"name": "x", "times": "2"}))
