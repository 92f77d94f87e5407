"""What travels between ``HostedLLM`` and the engine in its host, beside ``GenerateRequest``."""

import msgspec

from syscalls.shapes import ChatMessage


class CountArguments(msgspec.Struct):
    """Arguments of ``count``; the answer is an int."""

    text: str | None = None
    messages: list[ChatMessage] | None = None


class RunningArguments(msgspec.Struct):
    """Arguments of ``running``; the answer is an int: generations that hold the engine."""


class AdapterArguments(msgspec.Struct):
    """Arguments of ``load_adapter`` and ``unload_adapter``; the answer is None."""

    name: str
    path: str = ""
