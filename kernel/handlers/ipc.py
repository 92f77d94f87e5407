"""``ipc.*``: messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel import monitor
from kernel.trap import handles
from procs.mailbox import Selector
from syscalls.calls import ipc
from syscalls.errors import ESRCH
from syscalls.table import Empty

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process


@handles(ipc.Send)
async def send(kernel: Kernel, caller: Process, call: ipc.Send) -> ipc.Sent:
    """Into one mailbox."""
    box = _between(kernel, caller, call.to)
    if box is not None:
        message = kernel.message(caller, call.body, type=call.type, reply_to=call.reply_to)
        bound = kernel.settings.mailbox
        return ipc.Sent(id=await kernel.mailboxes.send(box, message, bound=bound))
    receiver = monitor.target(kernel, caller, call.to, "ipc.send")
    if receiver.state == "ZOMBIE":
        raise ESRCH(f"process {receiver.apid} ({receiver.name}) has ended")
    if receiver.kind == "init":  # who answers an alarm or a schedule does so in good faith
        return ipc.Sent(id=0)
    number = await kernel.mailboxes.send(
        receiver.apid,
        kernel.message(caller, call.body, type=call.type, reply_to=call.reply_to),
        bound=kernel.accounts.limit(receiver, "mailbox"),
    )
    return ipc.Sent(id=number)


def _between(kernel: Kernel, caller: Process, to: int | str) -> int | None:
    """The mailbox of a supervised process that is named while it is started again."""
    if not isinstance(to, str) or not kernel.supervised.is_set() or kernel.processes.named(to):
        return None
    return kernel.supervision.box(to) if caller.caps.on("ipc.send") else None


@handles(ipc.Recv, waits=True)
async def recv(kernel: Kernel, caller: Process, call: ipc.Recv) -> ipc.Received:
    """From the caller's own mailbox."""
    sender = None if call.sender is None else kernel.processes.find(call.sender).apid
    selector = Selector(sender=sender, topic=call.topic, type=call.type, reply_to=call.reply_to)
    message = await kernel.mailboxes.recv(caller.apid, selector, call.timeout)
    return ipc.Received(message=message)


@handles(ipc.Publish)
async def publish(kernel: Kernel, caller: Process, call: ipc.Publish) -> ipc.Published:
    """To every subscriber."""
    message = kernel.message(caller, call.body, type=call.type, topic=call.topic)
    return await kernel.publish(caller, call.topic, message)


@handles(ipc.Subscribe)
def subscribe(kernel: Kernel, caller: Process, call: ipc.Subscribe) -> Empty:
    """From now on."""
    kernel.topics.subscribe(caller.apid, call.topic)
    return Empty()


@handles(ipc.Unsubscribe)
def unsubscribe(kernel: Kernel, caller: Process, call: ipc.Unsubscribe) -> Empty:
    """No longer."""
    kernel.topics.unsubscribe(caller.apid, call.topic)
    return Empty()
