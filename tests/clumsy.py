"""A vLLM engine that fails to restore blocks, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivers.llm.vllm_engine import VLLMEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivers.kv.image import Image
    from drivers.llm.contract import LLMInfo

PLACE = "tests.clumsy:ClumsyEngine"


class ClumsyEngine(VLLMEngine):
    """Of the blocks that it restores, every third is lost half-way."""

    def load(self, progress: Callable[[str], None]) -> LLMInfo:
        """As the other does."""
        info = super().load(progress)
        slots = self._pins.memory.slots
        assert slots is not None
        write, calls = slots.write, iter(range(1, 1 << 30))

        def lose(block: int, image: Image) -> None:
            write(block, image)
            if next(calls) % 3 == 0:
                slots._caches[min(slots.layout)][block].zero_()
                raise RuntimeError("the device has gone away")

        slots.write = lose  # type: ignore[method-assign]
        return info
