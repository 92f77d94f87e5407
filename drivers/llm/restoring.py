"""A known beginning of a prompt on its way into an empty cache.

    look    engine memory, at once
    read    blocks in ram or on disk, and the part of one after them: read, checked and copied by
            another thread, while other requests take their turns
    fill    a copy of what engine memory has of it, then what was read

What is dropped while it is being read is not used: it is looked anew.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, NamedTuple

from drivers.kv.chain import chain, length, parts
from drivers.llm.pins import BLOCK, image_layers, lasting
from drivers.llm.prefix import adopt, cut, fill, join

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from drivers.kv.chain import Mark
    from drivers.kv.tiers import Tiers
    from drivers.llm.pins import Pins
    from drivers.llm.prefix import Layers

PAUSE = 0.01
"""Seconds that a step waits for the disk when the engine has nothing else to do."""
PATIENCE = 30.0
"""Seconds of reading after which the beginning is computed instead."""
log = logging.getLogger("kv")


class Restored(NamedTuple):
    """What an empty cache was filled with."""

    tokens: int
    costs: dict[str, float]
    """Names of the blocks that were read, with the seconds of computing each again."""


class _Read(NamedTuple):
    """What another thread has read."""

    costs: dict[str, float]
    layers: Layers


NOTHING = _Read({}, [])


class Restoring:
    """The longest known beginning of some tokens, of which ``most`` may be used."""

    def __init__(self, pins: Pins, mark: Mark, tokens: Sequence[int], most: int) -> None:
        self._pins = pins
        self._mark = mark
        self._tokens = tokens
        self._most = most
        self._deadline = time.monotonic() + PATIENCE
        self._look()
        self._reading = self._read()

    def _look(self) -> None:
        self._epoch = self._pins.prefixes.epoch
        self._known = self._pins.prefixes.find(self._mark, self._tokens)
        self._blocks = self._known.tokens // BLOCK

    def _read(self) -> Future[_Read] | None:
        """The blocks after the whole ones that the engine knows; None where none seem to be."""
        tiers, first = self._pins.tiers, self._blocks
        if tiers is None or not lasting(self._mark):
            return None
        whole = chain(self._mark, self._tokens, BLOCK)
        found = tiers.seeming(whole[first:])
        count = first + len(found)
        ends: list[str] = []
        if count:
            rest = parts(whole[count - 1], self._tokens[count * BLOCK :][: BLOCK - 1])
            ends = tiers.among(rest[max(self._known.tokens - count * BLOCK, 0) :])[::-1]
        if not found and not ends:
            return None
        device = self._pins.model.device
        return self._pins.threads.submit(_take, tiers, found, ends, first, device)

    def ready(self, timeout: float) -> bool:
        """Whether it can be filled in now; waits up to ``timeout`` seconds for that."""
        if self._reading is None:
            return True
        wait([self._reading], timeout)
        done, changed = self._reading.done(), self._epoch != self._pins.prefixes.epoch
        if done and not changed:
            return True
        if time.monotonic() >= self._deadline:
            log.warning("reading takes too long: a beginning is computed instead")
            self.close()
            self._look()
            return True
        if done:
            self._look()
            self._reading = self._read()
        return False

    def fill(self, cache: object) -> Restored:
        """Fill the empty cache, once it is ready."""
        costs, layers = self._reading.result() if self._reading is not None else NOTHING
        start = self._blocks * BLOCK
        count = sum(length(name, BLOCK) for name in costs)
        if start + count <= self._known.tokens:
            tokens = min(self._known.tokens, self._most)
            fill(cache, [cut(self._known.layers, 0, tokens)] if tokens else [])
            return Restored(tokens, {})
        count = min(count, self._most - start)
        layers = cut(layers, 0, count)
        adopt(cache, join([cut(self._known.layers, 0, start), layers]) if start else layers)
        assert self._pins.tiers is not None, "they were read from there"
        self._pins.tiers.restored += len(costs)
        return Restored(start + count, costs)

    def close(self) -> None:
        """Let what is being read be; it is not waited for."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


def _take(
    tiers: Tiers, found: Sequence[str], ends: Sequence[str], first: int, device: str
) -> _Read:
    """The blocks that are good, ``first`` blocks into their prompt, and the first good end."""
    images = tiers.take(found, first, brief=True)
    if len(images) == len(found):
        for name in ends:
            if (image := tiers.get(name, first + len(found), brief=True)) is not None:
                images.append(image)
                break
    costs = {image.name: image.seconds for image in images}
    return _Read(costs, join([image_layers(image, device) for image in images]))
