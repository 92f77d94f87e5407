"""The one place that knows vLLM's block pool from the inside.

vLLM has no call to keep a prefix. What its own scheduler does when a request uses a block, this
does for a pin: one more reference, so that the block is not among the free ones that new
requests take.

    in use by a request   references >= 1          a pin alone   references == 1
    free, still known     references == 0, in the queue of those to be taken next

Each function refuses a version of vLLM that it was not written for. All are called between two
steps, or from the connector within one, by the thread that owns the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syscalls.errors import ENODEV

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSIONS = ("0.32.",)
"""Of vLLM, whose block pool works like this."""


def known_version() -> str:
    """vLLM's version. Raises ENODEV for one whose pool nobody has looked into."""
    import vllm

    if not vllm.__version__.startswith(VERSIONS):
        raise ENODEV(
            f"activation memory knows the block pool of vLLM {', '.join(VERSIONS)}x, "
            f"and not that of {vllm.__version__}",
            hint="install a known version, or switch activation memory off with `kv_pinned` 0",
        )
    return str(vllm.__version__)


def size(pool: Any) -> int:
    """Blocks that requests and pins share; vLLM keeps one of all for itself."""
    known_version()
    return int(pool.num_gpu_blocks) - 1


def find(pool: Any, name: bytes) -> Any | None:
    """A block that holds what has this hash, free or in use, or None."""
    known_version()
    found = pool.get_cached_block(name, [0])  # there is one group: the connector sees to that
    return found[0] if found else None


def hold(pool: Any, block: Any) -> None:
    """Keep a block from being taken, until ``release``."""
    known_version()
    pool.touch([block])


def release(pool: Any, block: Any) -> None:
    """Undo one ``hold``: unless somebody else uses it, the block may be taken, in its turn."""
    known_version()
    pool.free_blocks([block])


def forget(pool: Any, names: Iterable[bytes]) -> None:
    """Let no later request find these hashes. Who uses the blocks now goes on with them."""
    known_version()
    for name in names:
        while (block := find(pool, name)) is not None:  # one hash may have several blocks
            pool.evict_blocks({block.block_id})


def attention(config: Any) -> str:
    """What computes attention in each layer: it decides how numbers lie in a block."""
    known_version()
    layers = config.compilation_config.static_forward_context.values()
    kinds = {
        f"{layer.get_attn_backend().get_name()} {getattr(layer, 'isa', '')}".strip()
        for layer in layers
        if hasattr(layer, "get_attn_backend")
    }
    return ", ".join(sorted(kinds))
