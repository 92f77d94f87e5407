"""vLLM's connector to the tiers: what a request begins with is restored instead of computed.

    scheduler   get_num_new_matched_tokens   the next blocks are read and checked: so many tokens
                update_state_after_alloc     these blocks of the pool are theirs
    worker      start_load_kv                copied into the tensors, before the forward pass
                wait_for_save                blocks of pins, copied out, a few a step
    scheduler   request_finished             blocks of pins are held before anyone takes them

vLLM makes one object for the scheduler and one for the worker, from a class that it finds by
module and name. Both reach the same ``Memory`` through the configuration that they are made
with, so there is no state in this module. That needs one process for both, and so one GPU.
What a model keeps beside the keys and values of every token (a state, a window) is not saved:
then the connector is there and does nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.request import RequestStatus

from drivers.kv.memory import Ended, Load, Memory
from drivers.kv.slots import Slots

if TYPE_CHECKING:
    from torch import Tensor
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

COMPLETE = (RequestStatus.FINISHED_STOPPED, RequestStatus.FINISHED_LENGTH_CAPPED)
log = logging.getLogger("kv")


@dataclass
class Orders(KVConnectorMetadata):  # type: ignore[misc]
    """What the worker is to restore before its next forward pass."""

    loads: list[Load] = field(default_factory=list)


class Connector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Either half of the connector."""

    _cache_hit_source = CacheHitSource.DISK

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        """Raises ValueError when this engine computes in more than one process."""
        super().__init__(vllm_config, role, kv_cache_config)
        if vllm_config.parallel_config.world_size > 1:
            raise ValueError("activation memory is for engines that compute in one process")
        memory = self._kv_transfer_config.get_from_extra_config("memory", None)
        if not isinstance(memory, Memory):
            raise ValueError("the configuration of the connector has no `memory`")
        self._memory: Memory = memory
        self._count = kv_cache_config.num_blocks
        groups = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
        self._plain = len(groups) == 1 and isinstance(groups[0], FullAttentionSpec)
        if not self._plain:
            kinds = ", ".join(sorted({type(spec).__name__ for spec in groups})) or "nothing"
            memory.refused = f"this model's cache ({kinds}) has more than plain keys and values"
        self._lost: set[int] = set()

    @property
    def requires_kv_delivery(self) -> bool:
        """A block that was not saved is a miss to come, and nothing worse."""
        return False

    # --- the scheduler's half

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """The pool that requests and pins share."""
        self._memory.pool = gpu_block_pool

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int, bool]:
        """Tokens that can be restored beyond those that are in the engine: what was verified."""
        found = self._memory.match(
            request.request_id, request.block_hashes, request.num_tokens, num_computed_tokens
        )
        return found, False

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """Where the restored blocks of a request go."""
        ids = blocks.get_block_ids()[0] if num_external_tokens else []
        self._memory.place(request.request_id, ids, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> Orders:
        """The orders of this step."""
        return Orders(self._memory.orders(scheduler_output.num_scheduled_tokens))

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Hold what is to be held while the request still has it; it is not kept waiting."""
        self._memory.ended(
            Ended(
                request.request_id,
                request.block_hashes,
                request.num_prompt_tokens,
                request.kv_transfer_params or {},
                request.status in COMPLETE,
            )
        )
        return False, None

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same for a model with several groups of layers."""
        return self.request_finished(request, block_ids[0] if block_ids else [])

    def has_pending_push_work(self) -> bool:
        """Whether there is something to save, for which the engine should go on stepping."""
        return self._memory.saving

    # --- the worker's half

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        """The tensors with all blocks."""
        if self._plain:
            try:
                self._memory.slots = Slots(kv_caches, self._count)
            except (KeyError, ValueError) as error:
                self._memory.refused = f"its keys and values cannot be saved: {error}"

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Restore; a block that cannot be is computed after all."""
        orders = self._get_connector_metadata()
        assert isinstance(orders, Orders)
        self._lost |= self._memory.load(orders.loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is loaded in the background."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Blocks are saved whole, when their request has ended."""

    def wait_for_save(self) -> None:
        """Save some of what is due."""
        self._memory.save()

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that could not be restored in this step."""
        lost, self._lost = self._lost, set()
        return lost
