"""Activation memory: KV caches as attachable state. Numbers 112-127."""

from typing import Any

from syscalls.shapes import ChatMessage, Rid, Shape
from syscalls.table import Call, syscall


class Handle(Shape):
    """A pinned prefix."""

    handle: str
    tokens: int = 0


@syscall(112, "kv.pin", reply=Handle)
class Pin(Call, kw_only=True):
    """Compute and keep the model state of messages, records, or what a query finds."""

    query: str | None = None
    messages: list[ChatMessage] | None = None
    rids: list[Rid] | None = None


@syscall(113, "kv.attach")
class Attach(Call, kw_only=True):
    """Put a pinned prefix before the caller's generations."""

    handle: str


@syscall(114, "kv.drop")
class Drop(Call, kw_only=True):
    """Give a pinned prefix back."""

    handle: str


class Listed(Shape):
    """Pinned prefixes with tokens, bytes, tier, hits and saved seconds."""

    prefixes: list[dict[str, Any]]


@syscall(115, "kv.list", reply=Listed)
class ListCall(Call, kw_only=True):
    """List the pinned prefixes of the caller."""
