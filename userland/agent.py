"""The SDK: what a Python agent is given.

    async def main(agent):
        await agent.remember("Ada likes tea")
        hits = await agent.recall("what does Ada drink?")
        agent.print(hits[0].content)

Each method is one noun or verb over one or two syscalls; ``agent.call`` takes any syscall's
struct, and ``agent.mem``, ``agent.proc``, ... have a method for each. Errors are those of
``syscalls.errors``: catch ``EPERM``, ``ESRCH``, ``ETIME`` by name. Keyword arguments that a
method does not name go to the syscall as they are.
"""

import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeVar

import trio

from syscalls.calls import ipc, llm, mem, proc, supervise, tool
from syscalls.errors import ESRCH
from syscalls.launch import Launch
from syscalls.records import Filter, Grant, Hit, Record, Version
from syscalls.shapes import Access, ChatMessage, Exit, Message, ProcessInfo, Segment, Signal
from syscalls.table import Call
from userland.channel import Channel, Stream
from userland.dispositions import Dispositions, Handler
from userland.tools import Offer, Offers

Prompt = str | list[ChatMessage]
Offered = TypeVar("Offered", bound=Callable[..., Any])


class Proc:
    """A process that this agent started, or knows by its APID or name."""

    def __init__(self, agent: "Agent", apid: int) -> None:
        self._agent = agent
        self.apid = apid

    def __repr__(self) -> str:
        return f"Proc({self.apid})"

    async def wait(self, timeout: float | None = None) -> Exit:
        """Wait until it ends, and reap it. Raises ETIME, ESRCH."""
        ended: Exit = await self._agent.call(proc.Wait(target=self.apid, timeout=timeout))
        return ended

    async def signal(
        self, name: Signal = "TERM", *, tree: bool = False, group: bool = False
    ) -> None:
        """Send it a signal; with ``tree`` its descendants too, with ``group`` all of its group.

        Raises EPERM, ESRCH.
        """
        call = proc.SignalCall(target=self.apid, signal=name, tree=tree, group=group)
        await self._agent.call(call)

    async def info(self) -> ProcessInfo:
        """What the kernel knows of it. Raises ESRCH."""
        info: ProcessInfo = await self._agent.call(proc.Info(target=self.apid))
        return info

    async def monitor(self, *, off: bool = False) -> None:
        """Have a message of type ``down`` sent to this agent when it ends. Raises ESRCH, EPERM.

        ``await agent.recv(sender=1, type="down")``; its body is the Exit as a dict.
        """
        await self._agent.call(proc.Monitor(target=self.apid, off=off))

    async def link(self, *, trap: bool = False, off: bool = False) -> None:
        """When one of the two fails the other gets TERM; a trapping agent gets a message of
        type ``exit`` instead. Raises ESRCH, EPERM."""
        await self._agent.call(proc.Link(target=self.apid, trap=trap, off=off))

    async def output(self) -> AsyncIterator[bytes]:
        """What it writes to its standard output and error, until it ends."""
        call = proc.OutputCall(target=self.apid, follow=True)
        async with self._agent.channel.stream(call) as stream:
            async for piece in stream:
                yield piece.data


class Agent:
    """This process, and what it may ask of the kernel."""

    def __init__(self, channel: Channel, launch: Launch) -> None:
        self.channel = channel
        self.apid = launch.apid
        self.name = launch.name
        self.goal = launch.goal
        self.args = launch.args
        self.space = launch.space
        """Number of its own space."""
        self.forked = launch.forked
        """APID of the process that this one was forked from; 0 for none."""
        self.state = launch.state
        """What was declared before: by that one, or by this one before it was restored."""
        self.ipc, self.llm, self.mem = channel.ipc, channel.llm, channel.mem
        self.kv, self.lora, self.tool = channel.kv, channel.lora, channel.tool
        self.proc, self.sys = channel.proc, channel.sys
        self.dispositions = Dispositions(channel)
        self.offers = Offers(self)

    async def call(self, call: Call) -> Any:
        """Make any syscall."""
        return await self.channel.call(call)

    # --- memory

    async def remember(
        self,
        content: str,
        segment: Segment = "episodic",
        **fields: Any,
    ) -> str:
        """Write a record and return its rid; it is on disk. Fields as of ``mem.write``."""
        written = await self.call(mem.Write(content=content, segment=segment, **fields))
        return str(written.rid)

    async def recall(
        self,
        query: str,
        k: int = 5,
        **fields: Any,
    ) -> list[Hit]:
        """Find records by meaning and words, best first. Fields as of ``mem.search``."""
        found = await self.call(mem.Search(query=query, k=k, **fields))
        hits: list[Hit] = found.hits
        return hits

    async def read(self, rid: str | None = None, **fields: Any) -> list[Record]:
        """Read one record by rid (or ``key=``), or list the newest. Raises ENOENT, EPERM."""
        found = await self.call(mem.Read(rid=rid, **fields))
        records: list[Record] = found.records
        return records

    async def update(self, rid: str, **fields: Any) -> int:
        """Add a version to a record; returns its number. ``expect=`` compares and sets."""
        written = await self.call(mem.Update(rid=rid, **fields))
        return int(written.version)

    async def delete(self, rid: str) -> None:
        """Erase a record with all its versions. Raises ENOENT, EPERM."""
        await self.call(mem.Delete(rid=rid))

    async def history(self, rid: str) -> list[Version]:
        """All versions of a record, oldest first."""
        found = await self.call(mem.History(rid=rid))
        versions: list[Version] = found.versions
        return versions

    async def share(
        self,
        to: int | str,
        access: Access = "read",
        *,
        rid: str | None = None,
        filter: Filter | None = None,
        ttl: float | None = None,
    ) -> Grant:
        """Let another process read, or read and write, this agent's space.

        ``rid`` narrows it to one record, ``filter`` to what fits it; ``ttl`` is in seconds.
        """
        call = mem.Share(to=to, access=access, rid=rid, filter=filter, ttl=ttl)
        granted = await self.call(call)
        grant: Grant = granted.grant
        return grant

    async def revoke(self, to: int | str) -> None:
        """Take a share back."""
        await self.call(mem.Revoke(to=to))

    # --- messages

    async def send(self, to: int | str, body: Any, *, type: str = "") -> int:
        """Put a message into a process's mailbox; returns its number there.

        ``body`` is anything that JSON could carry, or bytes. Raises ESRCH, EAGAIN.
        """
        sent = await self.call(ipc.Send(to=to, body=body, type=type))
        return int(sent.id)

    async def recv(self, timeout: float | None = None, **select: Any) -> Message:
        """Take the oldest message that fits; waits for one. Raises ETIME.

        ``sender``, ``topic``, ``type`` and ``reply_to`` select.
        """
        received = await self.call(ipc.Recv(timeout=timeout, **select))
        message: Message = received.message
        return message

    async def messages(self, **select: Any) -> AsyncIterator[Message]:
        """Every message that fits, as they come, without end."""
        while True:
            yield await self.recv(**select)

    async def request(
        self,
        to: int | str,
        body: Any,
        timeout: float | None = None,
        *,
        type: str = "",
    ) -> Message:
        """Send a message and wait for the ``reply`` to it. Raises ESRCH, EAGAIN, ETIME."""
        number = await self.send(to, body, type=type)
        return await self.recv(timeout, sender=to, reply_to=number)

    async def reply(self, message: Message, body: Any) -> int:
        """Answer a message; 0 where who asked has ended, and nobody is there to be answered.

        So that an agent does not end because another did not wait for it.
        """
        answer = ipc.Send(to=message.sender, body=body, type=message.type, reply_to=message.id)
        try:
            sent = await self.call(answer)
        except ESRCH:
            return 0
        return int(sent.id)

    async def publish(self, topic: str, body: Any) -> int:
        """Send to every subscriber of a topic; returns how many got it."""
        published = await self.call(ipc.Publish(topic=topic, body=body))
        return int(published.delivered)

    async def subscribe(self, topic: str) -> AsyncIterator[Message]:
        """Subscribe to a topic, and iterate over its messages.

        ``async for message in await agent.subscribe("news"): ...``
        """
        await self.call(ipc.Subscribe(topic=topic))
        return self.messages(topic=topic)

    async def unsubscribe(self, topic: str) -> None:
        """End a subscription."""
        await self.call(ipc.Unsubscribe(topic=topic))

    # --- processes

    async def spawn(
        self,
        program: str,
        *args: str,
        **fields: Any,
    ) -> Proc:
        """Start a process. Fields as of ``proc.spawn``: name, goal, caps, quota, space, ..."""
        spawned = await self.call(proc.Spawn(program=program, args=list(args), **fields))
        return Proc(self, spawned.apid)

    async def fork(self, goal: str = "", name: str = "") -> Proc:
        """Start a child that begins with this one's memory, context and declared state."""
        forked = await self.call(proc.Fork(goal=goal, name=name))
        return Proc(self, forked.apid)

    async def exec(self, program: str, *args: str) -> NoReturn:
        """Become another program, under the same APID, with the same space and mailbox.

        Returns only by an error, and then nothing has changed. This program is killed: ``finally``
        and handlers of signals do not run. Raises ENOENT, EPERM, EINVAL, EAGAIN, ECANCELED.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        await self.call(proc.Exec(program=program, args=list(args)))
        raise AssertionError("a program that was replaced goes on")

    async def declare(self, state: Any) -> None:
        """Declare what a fork, or this agent when it is restored, is to begin with."""
        await self.call(proc.Declare(state=state))
        self.state = state

    async def checkpoint(self, name: str = "") -> proc.Checkpointed:
        """Write an image of this agent as it is now, under a name (default: its APID).

        ``proc.restore``, or ``engram restore``, starts a process from it: with its memory,
        messages, context and what it declared last.
        """
        written: proc.Checkpointed = await self.call(proc.Checkpoint(path=name))
        return written

    def on(self, name: Signal, handler: Handler | None) -> None:
        """Have a function, or an async one, called with the name of a signal that comes.

        TERM: to clean up, then the agent ends. INT: instead of having calls cancelled. USR1,
        USR2, CONT: as they come. None takes the handler away. Raises EINVAL (KILL, STOP).
        """
        self.dispositions.on(name, handler)

    async def signals(self) -> AsyncIterator[Signal]:
        """USR1 and USR2 as they come, without end. Until this is asked for they do nothing."""
        names: dict[int, Signal] = {signal.SIGUSR1: "USR1", signal.SIGUSR2: "USR2"}
        with trio.open_signal_receiver(*names) as numbers:
            async for number in numbers:
                yield names[number]

    async def ready(self) -> None:
        """Tell the supervisor that this process is up, where it waits for that."""
        await self.call(supervise.ReadyCall())

    def process(self, apid: int) -> Proc:
        """A handle on a process that is known by its APID."""
        return Proc(self, apid)

    # --- language models

    async def generate(self, prompt: Prompt, **fields: Any) -> str:
        """Generate text from a prompt or messages. Fields as of ``llm.generate``.

        Raises ENODEV when no model is attached.
        """
        generated = await self.call(_generation(prompt, fields))
        return str(generated.text)

    async def stream(self, prompt: Prompt, **fields: Any) -> AsyncIterator[str]:
        """The same, piece by piece as the text comes."""
        pieces: Stream = self.channel.stream(_generation(prompt, {**fields, "stream": True}))
        async with pieces:
            async for chunk in pieces:
                yield chunk.text

    async def intent(self, text: str, **fields: Any) -> llm.Understood:
        """Have the kernel understand a person's words and act on them, as this agent."""
        understood: llm.Understood = await self.call(llm.Intent(text=text, **fields))
        return understood

    # --- tools

    def offer(self, run: Offered, name: str = "", description: str = "") -> Offered:
        """Offer a function as a tool, from ``serve`` on; a decorator too.

        Its arguments are those of the signature, converted by their types. Raises EINVAL for
        arguments that have no name, or a type that JSON has not.
        """
        self.offers.add(Offer(run, name, description))
        return run

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register the tools that are offered, and answer calls of them until cancelled."""
        await self.offers.serve(task_status)

    async def use(self, name: str, *, force: bool = False, **args: Any) -> tool.Outcome:
        """Call a tool; what came of it, with advice from earlier calls.

        ``ok`` is False where the tool says that it failed. Raises ENOENT, EINVAL (arguments;
        or refused, as such calls fail), ESRCH, ETIME.
        """
        call = tool.CallTool(name=name, args=args, force=force)
        outcome: tool.Outcome = await self.call(call)
        return outcome

    # --- words for people

    def print(self, *values: object) -> None:
        """Write a line to the output, which the kernel keeps (``engram logs``)."""
        print(*values, flush=True)

    def log(self, *values: object) -> None:
        """Write a line to the standard error, which the kernel keeps too."""
        print(*values, file=sys.stderr, flush=True)


def _generation(prompt: Prompt, fields: dict[str, Any]) -> llm.Generate:
    if isinstance(prompt, str):
        return llm.Generate(prompt=prompt, **fields)
    return llm.Generate(messages=prompt, **fields)
