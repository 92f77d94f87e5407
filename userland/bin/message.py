"""Messages: send, recv, publish."""

import argparse

import msgspec

from syscalls.calls.ipc import Publish, Recv, Send
from userland.context import Context, reference, text_or_stdin
from userland.screen import clock, json_line


def send_arguments(parser: argparse.ArgumentParser) -> None:
    """To whom, what."""
    parser.add_argument("--type", default="", help="a word for what it is")
    parser.add_argument("--reply", type=float, metavar="S", help="wait for the answer")
    parser.add_argument("to", help="APID or name")
    parser.add_argument("body", nargs="+", help="JSON, or plain words; - reads standard input")


def send(context: Context, options: argparse.Namespace) -> int:
    """Put a message into a mailbox; with --reply show the answer to it."""
    to = reference(options.to)
    body = _body(text_or_stdin(" ".join(options.body)))
    client = context.client
    sent = client.call(Send(to=to, body=body, type=options.type))
    if options.reply is None:
        context.value(sent, f"message {sent.id}")
        return 0
    answer = client.call(Recv(sender=to, reply_to=sent.id, timeout=options.reply)).message
    context.value(answer, _shown(answer.body))
    return 0


def _body(text: str) -> object:
    """JSON where it is a JSON object, array or number; else the words themselves."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _shown(body: object) -> str:
    return body if isinstance(body, str) else json_line(body)


def recv_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and how long."""
    parser.add_argument("--from", dest="sender", help="APID or name")
    parser.add_argument("--topic")
    parser.add_argument("--type")
    parser.add_argument("--timeout", type=float, default=0.0, metavar="S", help="0: only look")


def recv(context: Context, options: argparse.Namespace) -> int:
    """Take the oldest message that fits."""
    call = Recv(
        sender=None if options.sender is None else reference(options.sender),
        topic=options.topic,
        type=options.type,
        timeout=options.timeout,
    )
    message = context.client.call(call).message
    who = f"{message.name} " if message.name else ""
    text = f"{clock(message.sent)} {who}[{message.sender}]: {_shown(message.body)}"
    context.value(message, text)
    return 0


def publish_arguments(parser: argparse.ArgumentParser) -> None:
    """Topic and body."""
    parser.add_argument("topic")
    parser.add_argument("body", nargs="+", help="JSON, or plain words; - reads standard input")


def publish(context: Context, options: argparse.Namespace) -> int:
    """Send to every subscriber."""
    body = _body(text_or_stdin(" ".join(options.body)))
    found = context.client.call(Publish(topic=options.topic, body=body))
    context.value(found, f"delivered to {found.delivered}")
    return 0
