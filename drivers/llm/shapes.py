"""What travels between ``HostedLLM`` and the engine in its host, beside ``GenerateRequest``."""

import msgspec

from drivers.kv.contract import Held, KVStatistics
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


class AdaptersArguments(msgspec.Struct):
    """Arguments of ``adapters``; the answer is ``AdapterStatistics``."""


class AdapterStatistics(msgspec.Struct, frozen=True):
    """The answer of ``adapters``: what an engine holds now, and figures since it started."""

    room: int = 0
    """Adapters that it can hold at once; 0 where it takes none."""
    held: list[str] = []
    """Names, the least recently used first."""
    lent: list[str] = []
    """Those that requests under way have."""
    loads: int = 0
    evictions: int = 0
    """Let go of to make room."""


class HandleArguments(msgspec.Struct):
    """Arguments of ``unpin``; the answer is None."""

    handle: str


class DropArguments(msgspec.Struct):
    """Arguments of ``drop``; the answer is None."""

    handle: str
    blocks: list[str] = []


class HeldArguments(msgspec.Struct):
    """Arguments of ``held``; the answer is a ``HeldAnswer``."""


class HeldAnswer(msgspec.Struct, frozen=True):
    """The pins of an engine, and the figures of its tiers."""

    pins: list[Held]
    statistics: KVStatistics
