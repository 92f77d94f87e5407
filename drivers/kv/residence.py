"""The pinned blocks that are in a vLLM engine's pool, up to a share of it.

    keep     ── a reference each ──> held ── saved, a few a step ──> tiers
    let go   <── the least worth, when there are too many: its place is free, the tiers have it

What is worth least is what ``Shelf`` says: seconds of computing per byte, by frequency and
recency. Blocks of one prompt are worth about the same, and leave from its end.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from drivers.kv import pool
from drivers.kv.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from drivers.kv.slots import Slots
    from drivers.kv.tiers import Tiers

SAVED_AT_ONCE = 32 << 20
"""Bytes saved in one step, for which other requests wait."""


class Residence:
    """Names of blocks, with the blocks of the pool that have them."""

    def __init__(self, blocks: Any, slots: Slots, tiers: Tiers, share: float) -> None:
        """``blocks`` is vLLM's pool, of which ``share``, 0 to 1, may be held."""
        self.room = int(share * pool.size(blocks)) * slots.block_bytes
        """Bytes that may be held."""
        self._pool = blocks
        self._slots = slots
        self._tiers = tiers
        self._shelf = Shelf()
        self._held: dict[str, Any] = {}
        self._costs: dict[str, tuple[float, int]] = {}
        """Of those held: seconds of computing it again, and its place in its prompt."""
        self._due: deque[str] = deque()

    def __contains__(self, name: object) -> bool:
        return name in self._held

    @property
    def saving(self) -> bool:
        """Whether something is still to be saved."""
        return bool(self._due)

    def keep(
        self, names: Sequence[str], costs: Mapping[str, float], doubted: Collection[str]
    ) -> None:
        """Hold blocks of one prompt as far as the engine has them, or use them once more.

        Of those that are ``doubted`` the tiers' copies are checked, and made where there are none.
        """
        for depth, name in enumerate(names):
            if name in self._held:
                self._shelf.use(name)
            elif (block := pool.find(self._pool, bytes.fromhex(name))) is not None:
                pool.hold(self._pool, block)
                cost = costs.get(name, 0.0)
                self._held[name] = block
                self._costs[name] = cost, depth
                self._shelf.add(name, self._slots.block_bytes, cost, depth)
            else:
                continue
            if name in doubted and not self._kept(name, depth):
                self._due.append(name)
        self._shrink(self.room)

    def give_way(self) -> None:
        """Let go of a part: requests find no room, and nothing else will make some."""
        self._shrink(self._shelf.bytes * 3 // 4)

    def _shrink(self, most: int) -> None:
        for name in self._shelf.shrink(most):
            self._let_go(name)

    def _kept(self, name: str, depth: int) -> bool:
        """Whether the tiers have a good copy."""
        return self._tiers.seems(name) and self._tiers.has(name, depth)

    def _let_go(self, name: str) -> None:
        """Leave a block to the pool, and to the tiers while it is still there to be read."""
        if not self._kept(name, self._costs[name][1]):
            self._save(name)
        self._forget(name)

    def release(self, names: Iterable[str]) -> None:
        """Hold these no longer, and save none of them that is not saved."""
        for name in [name for name in names if name in self._held]:
            self._shelf.remove(name)
            self._forget(name)

    def _forget(self, name: str) -> None:
        pool.release(self._pool, self._held.pop(name))
        del self._costs[name]

    def erase(self, names: Sequence[str]) -> None:
        """Hold these no longer, and let no request find them in the engine."""
        self.release(names)
        pool.forget(self._pool, map(bytes.fromhex, names))

    def save(self) -> None:
        """Save some of what is due."""
        most = SAVED_AT_ONCE
        while self._due and most > 0:
            name = self._due.popleft()
            if name in self._held:  # it was saved when it was let go
                self._save(name)
                most -= self._slots.block_bytes

    def _save(self, name: str) -> None:
        cost, depth = self._costs[name]
        self._tiers.put(name, self._slots.read(self._held[name].block_id), cost, depth)
