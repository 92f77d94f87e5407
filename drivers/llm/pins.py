"""Activation memory of the ``transformers`` engine.

    generate   the longest known beginning: engine memory, then ram, then disk; copied, so that
               nothing kept is ever changed
    pin        restore or compute ── keep in engine memory ── save what is not saved, a block a step

A block is 128 tokens: keys and values of each layer. What a pin has after its last whole block is
a part of one, in a file of its own. A model of which a layer keeps something else than the keys
and values of every token (a state, a window) has no blocks, and no pins.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from drivers.kv.chain import HEX, Mark, length, names
from drivers.kv.contract import Held, KVStatistics
from drivers.kv.files import NAME, Files
from drivers.kv.namespace import Description, namespace
from drivers.kv.tensors import DTYPES, tensors
from drivers.kv.tiers import Tiers
from drivers.kv.weights import digest
from drivers.llm.prefix import Kept, cut, layers_of, plain
from drivers.llm.shapes import DropArguments, HandleArguments, HeldAnswer
from drivers.llm.tokens import is_salt
from drivers.lora.files import is_identity
from syscalls.errors import EAGAIN, EINVAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.engine import Job
    from drivers.kv.files import Layout
    from drivers.kv.image import Image
    from drivers.llm.model import Model
    from drivers.llm.pinning import Pinning
    from drivers.llm.prefix import Layers

BLOCK = 128
"""Tokens. On a CPU a step computes as many, so what comes after a restored beginning is computed
in the same pieces as it was without."""
RAM = 1 << 30
DISK = 20 << 30
"""Bytes of the tiers, where nobody says."""
SHARE = 0.5
"""Part of the engine's memory for keys and values that may be pinned, likewise."""
THREADS = 4
"""Beginnings read at once."""
RETRY = 5.0
"""Seconds after which something may have been unpinned."""
PIN_METHODS = frozenset(("unpin", "drop", "held"))
"""What ``manage_pins`` answers."""
log = logging.getLogger("kv")


class _Pin:
    def __init__(self, kept: Kept, blocks: list[str]) -> None:
        self.kept = kept
        self.blocks = blocks
        self.hits = 0


class Pins:
    """The pins of one model, and the tiers below them.

    Options: ``kv_dir`` (no tiers without it), ``kv_ram`` and ``kv_disk`` (bytes), ``kv_pinned``
    (part of the engine's memory).
    """

    def __init__(self, model: Model, folder: Path, options: dict[str, Any]) -> None:
        self.model = model
        self.prefixes = model.prefixes
        self.tiers: Tiers | None = None
        self.under_way: list[Pinning] = []
        self._most = int(self.prefixes.most * float(options.get("kv_pinned", SHARE)))
        self._pins: dict[str, _Pin] = {}
        cache = model.new_cache()
        model.forward([0], cache)
        self._layout = _layout(layers_of(cache)) if plain(cache) else {}
        self.namespace = ""
        self._token_bytes = 0
        if self._layout:
            self._token_bytes = Kept(Mark(""), [0], layers_of(cache)).bytes
            if options.get("kv_dir"):
                place = Path(options["kv_dir"])
                self.namespace = namespace(self._describe(folder, place))
                self.tiers = self._open(place, options)

    def _describe(self, folder: Path, place: Path) -> Description:
        import torch
        import transformers

        return Description(
            model=digest(folder, place),
            dtype=self.model.dtype,
            block=BLOCK,
            engine="transformers",
            version=f"{transformers.__version__} {torch.__version__}",
            layout=self._layout,
            attention=self.model.attention,
        )

    def _open(self, place: Path, options: dict[str, Any]) -> Tiers | None:
        try:
            return Tiers(
                Files(place, self.namespace, self._layout_of),
                int(options.get("kv_ram", RAM)),
                int(options.get("kv_disk", DISK)),
            )
        except OSError as error:
            log.error("keys and values are not kept, %s cannot be used: %s", place, error)
            return None

    def _layout_of(self, name: str) -> Layout:
        """What the block of a name has: a part of one has fewer tokens."""
        tokens = length(name, BLOCK)
        return {
            key: (dtype, (*shape[:-2], tokens, shape[-1]))
            for key, (dtype, shape) in self._layout.items()
        }

    # --- a beginning that is known

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """Those that read blocks, while other requests take their turns."""
        return ThreadPoolExecutor(THREADS, "kv-restore")

    def used(self, mark: Mark, prompt: Sequence[int], known: int) -> None:
        """A request begins, of which ``known`` tokens need not be computed."""
        if known and self._pins:
            wanted = numpy.asarray(prompt, numpy.int64)
            for pin in self._pins.values():
                whole = len(pin.kept.tokens)
                if pin.kept.mark == mark and known >= min(whole, len(prompt) - 1):
                    pin.hits += pin.kept.common(wanted) == whole

    # --- pins

    def room(self, handle: str, tokens: int) -> None:
        """Whether a pin of so many tokens could be kept now. Raises EINVAL, EAGAIN."""
        if not self._layout:
            raise EINVAL(
                "this model keeps more than keys and values of every token: nothing can be pinned",
                hint="use a model with full attention in every layer",
            )
        if tokens < BLOCK:
            raise EINVAL(
                f"less than a block of {BLOCK} tokens is sooner computed than kept",
                hint="pin a longer beginning",
                tokens=tokens,
                block=BLOCK,
            )
        size = tokens * self._token_bytes
        if size > self._most:
            raise EINVAL(
                f"the state of the beginning has {size} bytes, {self._most} may be pinned",
                hint="pin a shorter beginning",
                bytes=size,
                limit=self._most,
            )
        used = self.prefixes.pinned_bytes(handle)
        if used + size > self._most:
            raise EAGAIN(
                f"{used} of {self._most} bytes are pinned: no room for {size} more",
                hint="unpin something first",
                retry_after=RETRY,
                used=used,
                limit=self._most,
            )

    def keep(self, handle: str, kept: Kept, blocks: list[str]) -> None:
        """Keep a beginning until ``unpin``, in place of what has this handle. Raises EAGAIN."""
        self.room(handle, len(kept.tokens))
        self.unpin(handle, keep=False)
        self.prefixes.pin(handle, kept)
        self._pins[handle] = _Pin(kept, blocks)
        if self.tiers is not None:
            self.tiers.pin(blocks)

    def unpin(self, handle: str, *, keep: bool = True) -> None:
        """It may leave now; without ``keep`` it leaves engine memory. No error if unknown."""
        if (pin := self._pins.pop(handle, None)) is not None:
            self.prefixes.unpin(handle, keep=keep)
            if self.tiers is not None:
                self.tiers.unpin(pin.blocks)

    def drop(self, handle: str, blocks: Sequence[str]) -> None:
        """Unpin, and erase blocks everywhere: nothing that held them is used again.

        Raises EINVAL for what names no block.
        """
        gone = set(blocks)
        if wrong := [name for name in gone if not NAME.fullmatch(name)]:
            raise EINVAL(f"{wrong[0]!r} is no name of a block", hint="`held` and `pin` give names")
        for pinning in self.under_way:
            if pinning.handle == handle or not gone.isdisjoint(pinning.blocks):
                pinning.stop()
        pin = self._pins.get(handle)
        self.unpin(handle)
        if not gone:
            return

        own = pin.blocks if pin is not None else []
        unsure = pin is None or any(len(name) > HEX for name in gone.difference(own))

        def lost(kept: Kept) -> bool:
            if not gone.isdisjoint(names(kept.mark, kept.tokens.tolist(), BLOCK)):
                return True
            if kept.pinned:
                return False
            if unsure:  # what began with a part of a block cannot be told by names
                return True
            assert pin is not None
            spared = next((n for n, name in enumerate(pin.blocks) if name in gone), 0) * BLOCK
            return kept.mark == pin.kept.mark and kept.common(pin.kept.tokens) > spared

        for other in self.prefixes.forget(lost):
            self.unpin(other)
        if self.tiers is not None:
            self.tiers.remove(gone)

    def disown(self, adapter: str) -> None:
        """Let go of all in engine memory that was computed under an adapter."""
        for handle in self.prefixes.forget(lambda kept: kept.mark.adapter == adapter):
            self.unpin(handle)

    def held(self) -> tuple[list[Held], KVStatistics]:
        """The pins, and the figures of the tiers."""
        pins = [
            Held(handle, len(pin.kept.tokens), pin.kept.bytes, "engine", pin.hits)
            for handle, pin in self._pins.items()
        ]
        if self.tiers is None:
            return pins, KVStatistics(pins=len(pins))
        return pins, self.tiers.statistics(len(pins))

    def close(self) -> None:
        """Write what is still to be written, and let go of the files."""
        if "threads" in vars(self):
            self.threads.shutdown(cancel_futures=True)
        if self.tiers is not None:
            self.tiers.close()


def manage_pins(job: Job, pins: Pins) -> None:
    """Answer ``unpin``, ``drop`` or ``held``. Raises EINVAL."""
    if job.method == "unpin":
        pins.unpin(job.arguments(HandleArguments).handle)
        job.done(None)
    elif job.method == "drop":
        drop = job.arguments(DropArguments)
        pins.drop(drop.handle, drop.blocks)
        job.done(None)
    else:
        job.done(HeldAnswer(*pins.held()))


def lasting(mark: Mark) -> bool:
    """Whether a mark means the same in the next engine's life, so that files may bear it."""
    return is_salt(mark.salt) and (not mark.adapter or is_identity(mark.adapter))


def _key(index: int, part: str) -> str:
    return f"layers.{index:03d}.{part}"


def block_tensors(kept: Kept, place: int) -> dict[str, Any]:
    """The tensors of one block of what is kept, the last of which may be a part, to be saved."""
    found = {}
    for index, layer in enumerate(cut(kept.layers, place * BLOCK, (place + 1) * BLOCK)):
        for part, tensor in zip(("keys", "values"), layer, strict=True):
            found[_key(index, part)] = tensor
    return found


def image_layers(image: Image, device: str) -> Layers:
    """Keys and values of each layer of a block, on the model's device."""
    found = tensors(image)
    return [
        (found[_key(index, "keys")].to(device), found[_key(index, "values")].to(device))
        for index in range(len(found) // 2)
    ]


def _layout(layers: Layers) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a block of a model is, given its layers with one token."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for index, layer in enumerate(layers):
        for part, tensor in zip(("keys", "values"), layer, strict=True):
            batch, heads, _, width = tensor.shape
            found[_key(index, part)] = (DTYPES[tensor.dtype], (batch, heads, BLOCK, width))
    return found
