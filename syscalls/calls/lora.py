"""Parametric memory: LoRA adapters. Numbers 128-143."""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.shapes import Rid, Shape, Target
from syscalls.table import Call, syscall


class Job(Shape):
    """A training job."""

    job: str


@syscall(128, "lora.train", reply=Job)
class Train(Call, kw_only=True):
    """Train an adapter from records or examples in a process of its own."""

    name: str
    rids: list[Rid] = []
    examples: list[dict[str, Any]] = []
    base: str = ""
    rank: Annotated[int, Meta(ge=1, le=256)] = 8


@syscall(129, "lora.attach")
class Attach(Call, kw_only=True):
    """Use an adapter for a process's generations from its next request on."""

    adapter: str
    target: Target | None = None


@syscall(130, "lora.detach")
class Detach(Call, kw_only=True):
    """Stop using an adapter for a process."""

    target: Target | None = None


class Listed(Shape):
    """Adapters with versions, sources and figures."""

    adapters: list[dict[str, Any]]


@syscall(131, "lora.list", reply=Listed)
class ListCall(Call, kw_only=True):
    """List the adapters."""


@syscall(132, "lora.drop", destructive=True)
class Drop(Call, kw_only=True):
    """Delete an adapter's versions."""

    adapter: str
