"""What an engine with activation memory does, as data and as a protocol.

A *pin* is a prompt's beginning whose keys and values are to be there when they are needed:

    engine   blocks that a flood of other prompts cannot push out
    ram      evicted from the engine, in the memory of its host
    disk     one file a block, content-addressed; what a new engine restores from

An engine may keep the part of a block at a pin's end too; it has a name, and a file, as a block.

Files are derived: who deletes them all loses time and nothing else. A block's name is a hash
of everything that its content depends on, the salt of its owner included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from syscalls.shapes import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

Tier = Literal["engine", "ram", "disk", "none"]
"""Where the greater part of a pin is now; ``none`` when nothing of it is anywhere."""


class PinRequest(msgspec.Struct, omit_defaults=True):
    """Arguments of ``pin``: compute (or restore) and keep the state of a beginning."""

    handle: str
    """The kernel's name for it; pinning it again replaces it."""
    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    salt: str = ""
    """Whose it is, as in a ``GenerateRequest``. Must be given: it means the same after a reboot."""
    adapter: str = ""
    adapter_path: str = ""


class Pinned(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of ``pin``."""

    handle: str
    tokens: int
    """Tokens whose state is kept: on vLLM those of whole blocks, else all."""
    bytes: int
    blocks: list[str]
    """Names of its blocks, first to last; with ``namespace`` they are its files."""
    namespace: str
    """Fingerprint of weights, data type and block layout."""
    cached: int = 0
    """Tokens that did not have to be computed."""
    seconds: float = 0.0
    """What computing cost (of a restored one: what restoring cost)."""
    prefill: float = 0.0
    """Seconds that computing all of it costs here, measured or estimated from the rate."""


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """One pin as the engine has it now."""

    handle: str
    tokens: int
    bytes: int
    tier: Tier
    hits: int = 0
    """Requests of this engine's life that began with it and did not compute it."""


class KVStatistics(msgspec.Struct, frozen=True, omit_defaults=True):
    """Figures of the tiers since the engine started. Blocks and bytes."""

    pins: int = 0
    ram_bytes: int = 0
    disk_bytes: int = 0
    saved: int = 0
    """Blocks written to disk."""
    restored: int = 0
    """Blocks that came back into the engine from memory or disk."""
    missed: int = 0
    """Blocks that were looked for and found nowhere."""
    corrupt: int = 0
    """Files whose checksum or shape was wrong: counted as missed too, and removed."""
    evicted: int = 0
    """Blocks that left the memory or disk tier to make room."""
    failed: int = 0
    """Blocks that could not be written: the disk is full, or not writable."""


class Activation(Protocol):
    """The part of a language model's contract that keeps state. ``HostedLLM`` has it."""

    async def pin(self, request: PinRequest) -> Pinned:
        """Compute or restore a beginning and keep it.

        Raises EINVAL (the engine keeps none, or the prompt is too long or shorter than a
        block), EAGAIN (no room among the pinned, and the engine does not let go of another pin
        by itself), ENODEV, EIO.
        """

    async def unpin(self, handle: str) -> None:
        """Let the engine evict it; its files stay until they are dropped. No error if unknown."""

    async def drop(self, handle: str, blocks: Sequence[str]) -> None:
        """Unpin, and erase these blocks everywhere: engine, memory, disk.

        The caller leaves out the blocks that other pins still need.
        """

    async def held(self) -> tuple[list[Held], KVStatistics]:
        """The pins and the figures of the tiers."""
