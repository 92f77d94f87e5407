"""Messages between processes: mailboxes and topics. Numbers 32-47."""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.shapes import Message, Seconds, Shape, Target
from syscalls.table import Call, syscall

Topic = Annotated[str, Meta(min_length=1, max_length=200)]
Type = Annotated[str, Meta(max_length=100)]


class Sent(Shape):
    """The message's number in the receiver's mailbox; 0 from init, which drops it."""

    id: int


@syscall(32, "ipc.send", reply=Sent)
class Send(Call, kw_only=True):
    """Put a message into a process's mailbox; durable when it returns.

    What is sent to init, such as an answer to an alarm, is dropped: it reads nothing. Raises
    ESRCH (no such process, or it has ended) and EAGAIN (its mailbox is full).
    """

    to: Target
    body: Any
    type: Type = ""
    reply_to: int = 0


class Received(Shape):
    """One message."""

    message: Message


@syscall(33, "ipc.recv", reply=Received)
class Recv(Call, kw_only=True):
    """Take the oldest message that fits from the caller's mailbox, waiting for one.

    ``sender``, ``topic``, ``type`` and ``reply_to`` select; what does not fit stays, in
    order. ``timeout`` 0 only looks. Raises ETIME.
    """

    sender: Target | None = None
    topic: str | None = None
    type: str | None = None
    reply_to: int | None = None
    timeout: Seconds | None = None


class Published(Shape, omit_defaults=False):
    """How many mailboxes took it."""

    delivered: int
    dropped: list[int] = []
    """APIDs whose mailbox was full."""


@syscall(34, "ipc.publish", reply=Published)
class Publish(Call, kw_only=True):
    """Send a message to every process that subscribed to the topic."""

    topic: Topic
    body: Any
    type: Type = ""


@syscall(35, "ipc.subscribe")
class Subscribe(Call, kw_only=True):
    """Have a topic's messages put into the caller's mailbox from now on."""

    topic: Topic


@syscall(36, "ipc.unsubscribe")
class Unsubscribe(Call, kw_only=True):
    """End a subscription. Raises ENOENT when there is none."""

    topic: Topic
