"""What travels between ``HostedLLM`` and the engine in its host, beside ``GenerateRequest``."""

import msgspec

from syscalls.shapes import ChatMessage


class CountArguments(msgspec.Struct):
    """Arguments of ``count``; the answer is an int."""

    text: str | None = None
    messages: list[ChatMessage] | None = None
