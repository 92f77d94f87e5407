"""What is pinned in a vLLM engine, and what its requests begin with.

    pin      ── computed or restored ──> held in the pool, saved in the tiers   (residence.py)
    request  <── what the engine has ── what the tiers have, checked ── computed ──>

All is called by the thread that owns the engine; only the tiers have threads of their own.
"""

from __future__ import annotations

import logging
import time
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from drivers.kv.contract import Held, KVStatistics, Pinned
from drivers.kv.files import NAME
from drivers.kv.residence import Residence
from syscalls.errors import EINVAL, EIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from drivers.kv.image import Image
    from drivers.kv.slots import Slots
    from drivers.kv.tiers import Tiers

NOTABLE = 64
"""Tokens of a step from which the speed of computing is told."""
log = logging.getLogger("kv")


class Load(NamedTuple):
    """One block to be restored for a request."""

    request: str
    place: int
    """Of the block in its prompt."""
    block: int
    image: Image


class Ended(NamedTuple):
    """A request that vLLM is done with; it still has its blocks."""

    request: str
    hashes: Sequence[bytes]
    """Of its whole blocks, first to last."""
    prompt: int
    """Tokens of its prompt."""
    said: Mapping[str, Any]
    """``name``: what the engine calls it; ``pin``: the handle, when it is there to be pinned."""
    complete: bool
    """Whether it was not aborted."""


class _Begun:
    """A request under way."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self.hashes = hashes
        self.began = time.monotonic()
        self.local = -1
        """Tokens that the engine had when it was last asked."""
        self.known = -1
        """Those with what was restored; -1 before it had blocks for the first time."""
        self.images: list[Image] = []
        self.costs: dict[str, float] = {}
        self.seconds = 0.0
        """Its part of the steps that it had a part in."""
        self.lost = False


class _Pin:
    def __init__(self, names: list[str], bytes_: int) -> None:
        self.names = names
        self.bytes = bytes_
        self.hits = 0


class Memory:
    """Activation memory of one engine, shared by the halves of its connector.

    It is made before the engine, which fills in ``pool``, ``slots`` and ``refused``.
    """

    def __init__(self) -> None:
        self.pool: Any = None
        self.slots: Slots | None = None
        self.refused = "it was started without `kv_dir`"
        """Why this engine keeps nothing, if so."""
        self.lost: dict[str, int] = {}
        """Tokens that were known, for requests that had counted on more."""
        self._tiers: Tiers | None = None
        self._residence: Residence | None = None
        self._namespace = ""
        self._block = 0
        self._pins: dict[str, _Pin] = {}
        self._costs: dict[str, float] = {}
        """Seconds of computing a block again, of those in pins."""
        self._begun: dict[str, _Begun] = {}
        self._made: dict[str, Pinned] = {}
        self._loads: list[Load] = []
        self._shares: Mapping[str, int] = {}
        self._scheduled = 0.0
        self._asked = False
        """Whether a request wanted to begin in this step."""
        self._speed = 0.0
        """Seconds that computing a token takes, as last seen."""

    def open(self, tiers: Tiers, namespace: str, block: int, share: float) -> None:
        """Begin to keep: blocks of ``block`` tokens, up to ``share`` of the pool in the engine.

        Raises ENODEV for a version of vLLM that is not known.
        """
        assert self.slots is not None, "the engine comes first"
        self._residence = Residence(self.pool, self.slots, tiers, share)
        self._tiers, self._namespace = tiers, namespace
        self._block, self.refused = block, ""

    def close(self) -> None:
        """Write what is left."""
        if self._tiers is not None:
            self._tiers.close()

    # --- a request begins

    def match(self, request: str, hashes: Sequence[bytes], tokens: int, local: int) -> int:
        """Tokens after the first ``local`` that will be restored; they have been read.

        One token at least is left to compute: the next one is chosen from its logits. It is
        asked again for a request that found no room, or lost it.
        """
        if self._tiers is None:
            return 0
        self._asked = True
        begun = self._begun.setdefault(request, _Begun(hashes))
        if begun.local != local or not begun.images:
            first, last = local // self._block, (tokens - 1) // self._block
            names = [each.hex() for each in hashes[first:last]]
            begun.local = local
            # Most prompts begin with nothing that was ever saved: those are no misses.
            known = names and (names[0] in self._costs or self._tiers.seems(names[0]))
            begun.images = self._tiers.take(names, first, brief=True) if known else []
            begun.costs |= {image.name: image.seconds for image in begun.images}
        return len(begun.images) * self._block

    def place(self, request: str, blocks: Sequence[int], tokens: int) -> None:
        """The pool has given blocks to the request; ``tokens`` are to be restored."""
        begun = self._begun.get(request)
        if begun is None:
            return
        first = begun.local // self._block
        for place, image in enumerate(begun.images[: tokens // self._block], first):
            self._loads.append(Load(request, place, blocks[place], image))
        if begun.known < 0:
            begun.known = begun.local + tokens
        begun.images = []

    def orders(self, shares: Mapping[str, int]) -> list[Load]:
        """What is to be restored in this step, in which requests have ``shares``: tokens."""
        self._shares, self._scheduled = shares, time.perf_counter()
        if self._asked and not shares and self._residence is not None:
            self._residence.give_way()  # who asked has found no room, and nobody else computes
        self._asked = False
        loads, self._loads = self._loads, []
        return loads

    def load(self, loads: Iterable[Load]) -> set[int]:
        """Restore; the blocks that could not be, which vLLM then computes.

        Nobody else may find these blocks, nor those that rest on them, in the engine: until
        they are computed they hold anything, and their request may be aborted before that.
        """
        assert self.slots is not None and self._tiers is not None and self._residence is not None
        lost: set[int] = set()
        for request, place, block, image in loads:
            try:
                self.slots.write(block, image)
            except (RuntimeError, ValueError) as error:
                log.warning("the block %s cannot be restored: %s", image.name[:12], error)
                lost.add(block)
                begun = self._begun[request]
                begun.known, begun.lost = min(begun.known, place * self._block), True
                self._residence.erase([each.hex() for each in begun.hashes[place:]])
            else:
                self._tiers.restored += 1
        return lost

    # --- a step ends

    @property
    def saving(self) -> bool:
        """Whether there is something to save."""
        return self._residence is not None and self._residence.saving

    def save(self) -> None:
        """Save some of it."""
        if self._residence is not None:
            self._residence.save()

    def stepped(self, seconds: float) -> None:
        """A step took so long: its requests have computed for that time, by their tokens."""
        shares, self._shares = self._shares, {}
        total = sum(shares.values())
        for request in shares.keys() & self._begun.keys():
            self._begun[request].seconds += seconds * shares[request] / total
        if total >= NOTABLE:
            self._speed = seconds / total

    # --- a request ends

    def ended(self, ended: Ended) -> None:
        """Pin it, if it is there for that; else it is a hit of the pins that it began with."""
        begun = self._begun.pop(ended.request, None)
        if self._residence is None or begun is None or not ended.complete:
            return
        if share := self._shares.get(ended.request):  # of the step that is still going on
            seconds = time.perf_counter() - self._scheduled
            begun.seconds += seconds * share / sum(self._shares.values())
        if (handle := ended.said.get("pin")) is None:
            if begun.lost:
                self.lost[str(ended.said.get("name"))] = begun.known
            self._use(ended, begun)
        elif not begun.lost:
            whole = ended.prompt // self._block
            self._pin(str(handle), [each.hex() for each in ended.hashes[:whole]], begun)

    def _use(self, ended: Ended, begun: _Begun) -> None:
        """What was let go, and came back for a request, is held again; what was lost, saved."""
        assert self._residence is not None
        first = ended.hashes[0].hex() if ended.hashes else ""
        most = (ended.prompt - 1) // self._block  # the last token is always computed
        for pin in self._pins.values():
            if len(pin.names) > len(ended.hashes) or pin.names[0] != first:
                continue
            if all(name == each.hex() for name, each in zip(pin.names, ended.hashes, strict=False)):
                hit = begun.known >= min(len(pin.names), most) * self._block
                pin.hits += hit
                self._residence.keep(pin.names, self._costs, () if hit else pin.names)

    def _pin(self, handle: str, names: list[str], begun: _Begun) -> None:
        assert self._residence is not None and self._tiers is not None and self.slots is not None
        known = min(begun.known // self._block, len(names))
        computed = begun.seconds / max(len(names) - known, 1)
        costs = {}
        for place, name in enumerate(names):
            told = self._costs.get(name) or begun.costs.get(name) or self._speed * self._block
            costs[name] = computed if place >= known else told
        before = self._pins.get(handle)
        self._pins[handle] = pin = _Pin(names, len(names) * self.slots.block_bytes)
        self._costs |= costs
        self._tiers.pin(names)
        self._residence.keep(names, costs, set(names) - begun.costs.keys())
        if before is not None:
            self._let_go(before)
        self._made[handle] = Pinned(
            handle,
            tokens=len(names) * self._block,
            bytes=pin.bytes,
            blocks=names,
            namespace=self._namespace,
            cached=known * self._block,
            seconds=time.monotonic() - begun.began,
            prefill=sum(costs.values()),
        )

    # --- what the engine asks for

    def made(self, handle: str, timeout: float) -> Pinned | None:
        """What came of a pin, once it has been written; waits up to ``timeout`` seconds for it.

        Raises EIO when nothing did.
        """
        if (made := self._made.get(handle)) is None:
            raise EIO("what was saved could not be restored", driver="llm", retryable=True)
        if self.saving or (
            self._tiers is not None and not self._tiers.settled(made.blocks, timeout)
        ):
            return None
        return self._made.pop(handle)

    def check(self, tokens: int) -> int:
        """Tokens of the whole blocks among ``tokens``. Raises EINVAL when nothing can be pinned."""
        if self._residence is None:
            raise EINVAL(
                f"this engine keeps no activation memory: {self.refused}",
                hint="the prompt is computed anew each time; everything else works",
            )
        whole = tokens - tokens % self._block
        if not whole:
            raise EINVAL(
                f"{tokens} tokens are less than a block of {self._block}",
                hint="pin a longer beginning",
            )
        return whole

    def unpin(self, handle: str) -> None:
        """Let the engine evict it; the tiers keep it as long as they have room."""
        self._made.pop(handle, None)
        if (pin := self._pins.pop(handle, None)) is not None:
            self._let_go(pin)

    def _let_go(self, pin: _Pin) -> None:
        """Undo one pin; its blocks may be in others."""
        assert self._residence is not None and self._tiers is not None
        self._tiers.unpin(pin.names)
        others = {name for other in self._pins.values() for name in other.names}
        gone = [name for name in pin.names if name not in others]
        self._residence.release(gone)
        for name in gone:
            self._costs.pop(name, None)

    def drop(self, handle: str, names: Sequence[str]) -> None:
        """Unpin, and erase these blocks everywhere. Raises EINVAL for what is no block's name."""
        if wrong := [name for name in names if not NAME.fullmatch(name) or len(name) % 2]:
            raise EINVAL(f"{wrong[0]!r} is no name of a block", hint="`pin` gives names")
        self.unpin(handle)
        if self._residence is None or self._tiers is None:
            return
        self._tiers.remove(names)
        self._residence.erase(names)
        gone = set(names)
        for begun in self._begun.values():  # read for a request that waits for room
            begun.images = list(takewhile(lambda image: image.name not in gone, begun.images))

    def held(self) -> tuple[list[Held], KVStatistics]:
        """The pins, in the order of their making, and the figures."""
        if self._tiers is None or self._residence is None:
            return [], KVStatistics()
        found = []
        for handle, pin in self._pins.items():
            inside = sum(name in self._residence for name in pin.names)
            tier = "engine" if 2 * inside >= len(pin.names) else self._tiers.where(pin.names)
            tokens = len(pin.names) * self._block
            found.append(Held(handle, tokens, pin.bytes, tier, pin.hits))
        return found, self._tiers.statistics(len(self._pins))
