"""Activation memory of the ``vllm`` engine: its calls, and what vLLM is told to make it work.

    pin   a request of whole blocks ── ended: held, saved ── written ──> answer

A pinned beginning is a request like others, of one token: the scheduler decides when it is
computed, and restores of it what is there.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from drivers.kv.files import Files
from drivers.kv.memory import Memory
from drivers.kv.namespace import Description, namespace
from drivers.kv.pool import attention
from drivers.kv.tiers import Tiers
from drivers.kv.weights import digest
from drivers.llm.shapes import DropArguments, HandleArguments, HeldAnswer
from drivers.llm.tokens import salt_of
from syscalls.errors import ECANCELED, EIO, EngramError

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivers.engine import Job
    from drivers.kv.contract import PinRequest
    from drivers.llm.tokens import Tokens

RAM = 1 << 30
DISK = 20 << 30
"""Bytes of the tiers, where nobody says."""
SHARE = 0.5
"""Part of the pool that may be pinned, likewise."""
HASH = "sha256_cbor"
"""How vLLM names blocks: what is serialised does not depend on Python."""
SEED = "0"
"""What the names of first blocks begin with; any, but the same in every process."""
PAUSE = 0.01
"""Seconds that a step waits for the disk when it has nothing else to do."""
Layout = dict[str, tuple[str, tuple[int, ...]]]
log = logging.getLogger("kv")


class Beginning(NamedTuple):
    """What the engine is asked to compute for a pin."""

    name: str
    tokens: list[int]
    """Those of whole blocks, and one more that is there to be computed."""
    salt: str
    said: dict[str, str]
    """For the connector."""


class VLLMPins:
    """``pin``, ``unpin``, ``drop`` and ``held``, beside an engine.

    Options: ``kv_dir`` (a folder; without it nothing is kept), ``kv_ram`` and ``kv_disk``
    (bytes), ``kv_pinned`` (part of the engine's pool that may be pinned), ``kv_block`` (tokens
    of a block; what vLLM chooses for the device by default).
    """

    methods = ("pin", "unpin", "drop", "held")

    def __init__(self, options: dict[str, Any]) -> None:
        self.memory = Memory()
        self._options = options
        self._computing: dict[str, tuple[Job, str]] = {}
        """By the name of the request: who asked for it, and the handle."""
        self._writing: dict[str, Job] = {}
        """By handle: computed, and being written."""
        self._abort: Callable[[str], None] | None = None

    # --- setting up

    def arguments(self) -> dict[str, Any]:
        """What vLLM's ``EngineArgs`` takes for it; nothing without ``kv_dir``."""
        if not self._options.get("kv_dir"):
            return {}
        from vllm.config import KVTransferConfig

        os.environ["PYTHONHASHSEED"] = SEED  # vLLM reads it; Python itself did when it started
        block = self._options.get("kv_block")
        return {
            "block_size": int(block) if block else None,
            "prefix_caching_hash_algo": HASH,
            "kv_transfer_config": KVTransferConfig(
                kv_connector="Connector",
                kv_connector_module_path="drivers.kv.connector",
                kv_role="kv_both",
                kv_load_failure_policy="recompute",
                kv_connector_extra_config={"memory": self.memory},
            ),
        }

    def open(self, engine: Any, folder: Path, abort: Callable[[str], None]) -> None:
        """Open the tiers of a loaded engine. Where they cannot be, it goes on without them.

        ``abort`` ends a request by its name.
        """
        memory, options = self.memory, self._options
        self._abort = abort
        if (slots := memory.slots) is None:
            return
        layout = slots.layout
        try:
            place = Path(str(options["kv_dir"]))
            said = describe(engine.vllm_config, digest(folder, place), layout, slots.strides)
            files = Files(place, name := namespace(said), layout)
            ram, disk = int(options.get("kv_ram", RAM)), int(options.get("kv_disk", DISK))
            block = int(engine.vllm_config.cache_config.block_size)
            tiers = Tiers(files, ram, disk)
            memory.open(tiers, name, block, float(options.get("kv_pinned", SHARE)))
        except (OSError, EngramError) as error:
            memory.refused = str(error)
            log.error("no activation memory: %s", error)

    # --- serving

    def answer(self, job: Job) -> None:
        """Do what needs no computing. Raises EINVAL."""
        if job.method == "unpin":
            self._unpin(job.arguments(HandleArguments).handle)
            job.done(None)
        elif job.method == "drop":
            drop = job.arguments(DropArguments)
            self._stop(drop.handle)
            self.memory.drop(drop.handle, drop.blocks)
            job.done(None)
        else:
            job.done(HeldAnswer(*self.memory.held()))

    def _unpin(self, handle: str) -> None:
        self._stop(handle)
        self.memory.unpin(handle)

    def _stop(self, handle: str) -> None:
        """What is under way for this handle is not wanted any more."""
        for name, (job, each) in list(self._computing.items()):
            if each == handle and self._abort is not None:
                del self._computing[name]
                self._abort(name)
                job.fail(ECANCELED(f"the pin {handle!r} was dropped"))
        if (writing := self._writing.pop(handle, None)) is not None:
            writing.fail(ECANCELED(f"the pin {handle!r} was dropped"))

    def begin(self, job: Job, request: PinRequest, tokens: Tokens, context: int) -> Beginning:
        """What is to be computed for a pin. Raises EINVAL."""
        ids = tokens.beginning(request, context)
        whole = self.memory.check(min(len(ids), context - 2))
        self._stop(request.handle)
        name = str(job.seq)
        said = {"name": name, "pin": request.handle}
        return Beginning(name, [*ids[:whole], ids[whole - 1]], salt_of(request), said)

    def computing(self, job: Job, begun: Beginning) -> None:
        """The scheduler has taken it."""
        self._computing[begun.name] = job, begun.said["pin"]

    def ended(self, name: str, finish: str | None) -> None:
        """The request of a pin has ended."""
        job, handle = self._computing.pop(name)
        if finish == "length":
            self._writing[handle] = job
        else:
            job.fail(EIO(f"vLLM gave up a pin: {finish}", driver="llm", retryable=True))

    def __contains__(self, name: object) -> bool:
        return name in self._computing

    @property
    def waiting(self) -> bool:
        """Whether a pin waits for the disk."""
        return bool(self._writing)

    def step(self, *, idle: bool) -> None:
        """Answer the pins that have been written; wait a moment for one when ``idle``."""
        for handle, job in list(self._writing.items()):
            with job.guard():
                if (made := self.memory.made(handle, PAUSE if idle else 0.0)) is not None:
                    job.done(made)
            if job.finished:
                del self._writing[handle]

    def cancel(self, job: Job) -> None:
        """If it was a pin: nobody waits for it any more. Its request is aborted by the caller."""
        self._computing.pop(str(job.seq), None)
        for handle in [handle for handle, each in self._writing.items() if each is job]:
            del self._writing[handle]
            self.memory.unpin(handle)

    def close(self) -> None:
        """Write what is left."""
        self.memory.close()


def describe(config: Any, weights: str, layout: Layout, strides: str) -> Description:
    """Which engines can use each other's blocks; ``config`` is vLLM's."""
    import torch
    import vllm
    from vllm.platforms import current_platform

    text = config.model_config.hf_text_config
    scaling = str(getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", ""))
    said = [attention(config), strides, str(config.cache_config.kv_cache_layout), HASH, SEED]
    said += [current_platform.get_device_name(), torch.backends.cpu.get_cpu_capability()]
    if "longrope" in scaling or "dynamic" in scaling:  # angles depend on the longest context
        said.append(str(config.model_config.max_model_len))
    return Description(
        model=weights,
        dtype=f"{config.model_config.dtype} {config.cache_config.cache_dtype}",
        block=int(config.cache_config.block_size),
        engine="vllm",
        version=f"{vllm.__version__} {torch.__version__}",
        layout=layout,
        attention=" ".join(said),
    )
