"""The ``vllm`` engine: vLLM in this process, stepped by the one thread that owns it.

    begin  ── add_request ──>  scheduler: [A: decode][B: decode][C: prefill]   one batch a step
    step   ── step() ──> deltas ──> Flow of each job ──> pieces
    cancel ── abort_request ──> its blocks are free at the next step

No processes of vLLM's own: its default mode imports itself three times and leaves a worker
behind when it is killed. When a step raises, the engine is in no known state, so the host
ends, and the supervisor starts another.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivers.kv.contract import PinRequest
from drivers.llm.adapters import ADAPTER_METHODS, Adapters, known, manage
from drivers.llm.contract import GenerateRequest, LLMInfo
from drivers.llm.flow import Flow
from drivers.llm.grammar import compiled
from drivers.llm.model import fingerprint
from drivers.llm.shapes import CountArguments
from drivers.llm.tokens import Tokens, salt_of
from drivers.llm.vllm_adapters import VLLMBench, lora_arguments
from drivers.llm.vllm_pause import Paused
from drivers.llm.vllm_pins import VLLMPins
from drivers.models import find_model
from syscalls.errors import EINVAL, EIO, ENODEV
from syscalls.shapes import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivers.engine import Job
    from drivers.protocol import EngineSpec

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_CONFIGURE_LOGGING": "0",
}
"""Read by vLLM when it is imported."""
KV_MOST = 4 << 30
"""Bytes of keys and values on a CPU, at most, where nobody says."""
KV_SHARE = 4
"""One part in so many of the free memory, likewise."""
CHUNK = 512
"""Tokens of one prompt that a step computes on a CPU, where nobody says: there a whole long
prompt would keep all others waiting for seconds."""
FINISHED = {"stop": "stop", "length": "length"}


class VLLMEngine:
    """``generate``, ``count``, ``running``, those of adapters, and those of ``VLLMPins``.

    Options: ``dtype``, ``context`` (tokens), ``batch`` (sequences),
    ``prefill_chunk`` (tokens of one prompt that a step computes: fewer, and others wait less;
    0 for no bound), ``kv_bytes``,
    ``gpu_memory`` (part of a GPU's memory, 0 to 1), ``adapters`` (at once; 0 for none),
    ``adapter_rank`` (the highest); and those of ``VLLMPins``.
    """

    window = 256

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._engine: Any = None
        self._tokens: Tokens | None = None
        self._context = 0
        self._flows: dict[str, Flow] = {}
        self._usage: dict[str, Usage] = {}
        self._adapters: Adapters | None = None
        self._pins = VLLMPins(spec.options)
        self._paused = Paused(None)
        self._lent: dict[str, str] = {}
        """Adapters of requests under way."""

    # --- loading

    def load(self, progress: Callable[[str], None]) -> LLMInfo:
        """Import vLLM and load the model. Raises ENODEV, EIO."""
        folder = find_model(self._spec.model)
        if not (folder / "config.json").is_file():
            raise ENODEV(
                f"{folder} holds no config.json",
                hint="give the folder of a causal language model",
            )
        os.environ.update({name: os.environ.get(name, ENVIRONMENT[name]) for name in ENVIRONMENT})
        progress("importing vllm")
        try:
            import vllm
        except ImportError as error:
            raise ENODEV(
                f"vLLM cannot be imported: {error}",
                hint="install `engramos[cpu]` or `engramos[cuda]`, or use --engine transformers",
            ) from error
        logging.getLogger("vllm").setLevel(logging.ERROR)  # it warns of every default
        progress(f"reading {folder.name}")
        try:
            self._engine = self._make(folder)
        except Exception as error:
            raise EIO(
                f"vLLM {vllm.__version__} cannot load the model in {folder}: {error}",
                hint="try --engine transformers; docs/models.md says which models vLLM takes",
                driver="llm",
                retryable=False,
            ) from error
        self._paused = Paused(self._engine)
        self._pins.open(self._engine, folder, self._abort)
        self._tokens = Tokens(self._engine.get_tokenizer())
        self._context = int(self._engine.model_config.max_model_len)
        if (lora := self._engine.vllm_config.lora_config) is not None:
            self._adapters = Adapters(VLLMBench(self._engine), int(lora.max_loras))
        cache = self._engine.vllm_config.cache_config
        return LLMInfo(
            self._spec.model,
            "vllm",
            self._context,
            fingerprint(folder),
            slots=int(self._engine.vllm_config.scheduler_config.max_num_seqs),
            kv_tokens=int(cache.num_gpu_blocks or 0) * int(cache.block_size),
            suspends=True,
        )

    def _make(self, folder: Path) -> Any:
        from vllm.config.structured_outputs import StructuredOutputsConfig
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        options = self._spec.options
        where: dict[str, Any] = {"max_num_seqs": int(options.get("batch", self.window))}
        if current_platform.is_cpu():
            where |= {
                "max_num_seqs": int(options.get("batch", 64)),
                "dtype": str(options.get("dtype", "float32")),
                "enforce_eager": True,  # compiling takes minutes and gains little here
                "kv_cache_memory_bytes": int(options.get("kv_bytes", kv_bytes())),
            }
        else:
            where["dtype"] = str(options.get("dtype", "auto"))
            where["gpu_memory_utilization"] = float(options.get("gpu_memory", 0.85))
            if "kv_bytes" in options:
                where["kv_cache_memory_bytes"] = int(options["kv_bytes"])
        where |= lora_arguments(options, folder)
        if chunk := int(options.get("prefill_chunk", CHUNK if current_platform.is_cpu() else 0)):
            where["long_prefill_token_threshold"] = chunk
        where |= self._pins.arguments()
        return LLMEngine.from_engine_args(
            EngineArgs(
                model=str(folder),
                # -1: as much as the model says and the memory holds
                max_model_len=int(options.get("context", -1)),
                enable_prefix_caching=True,
                disable_log_stats=True,
                seed=secrets.randbits(31),
                structured_outputs_config=StructuredOutputsConfig(
                    backend="guidance", disable_any_whitespace=True
                ),
                **where,
            )
        )

    # --- serving

    def begin(self, job: Job) -> None:
        """Answer a count, or give a generation to the scheduler. Raises EINVAL."""
        assert self._tokens is not None, "load comes first"
        if job.method == "count":
            count = job.arguments(CountArguments)
            job.done(len(self._tokens.encode(count.text, count.messages)))
        elif job.method == "running":
            job.done(int(self._engine.get_num_unfinished_requests()))
        elif job.method in ADAPTER_METHODS:
            manage(job, self._adapters)
        elif job.method == "pin":
            self._pin(job, job.arguments(PinRequest), self._tokens)
        elif job.method in VLLMPins.methods:
            self._pins.answer(job)
        elif job.method == "generate":
            self._add(job, job.arguments(GenerateRequest), self._tokens)
        else:
            raise EINVAL(f"this engine has no method {job.method!r}")

    def _add(self, job: Job, request: GenerateRequest, tokens: Tokens) -> None:
        prompt = tokens.prompt(request, self._context)
        compiled(request)  # says what is wrong better than the engine's own check
        name = str(job.seq)
        params = self._sampling(request, self._context - len(prompt))
        params.extra_args = {"kv_transfer_params": {"name": name}}
        marks = (salt_of(request), request.adapter, request.adapter_path)
        self._request(name, prompt, params, marks)
        self._flows[name] = Flow(job, request.pace)
        self._usage[name] = Usage(prompt=len(prompt))

    def _pin(self, job: Job, request: PinRequest, tokens: Tokens) -> None:
        from vllm.sampling_params import SamplingParams

        begun = self._pins.begin(job, request, tokens, self._context)
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            ignore_eos=True,
            detokenize=False,
            extra_args={"kv_transfer_params": begun.said},
        )
        marks = (begun.salt, request.adapter, request.adapter_path)
        self._request(begun.name, begun.tokens, params, marks)
        self._pins.computing(job, begun)

    def _request(
        self, name: str, prompt: list[int], params: Any, marks: tuple[str, str, str]
    ) -> None:
        """Give a request to the scheduler; ``marks`` are salt, adapter and its folder."""
        from vllm.exceptions import VLLMClientError

        salt, adapter, folder = marks
        lora = None
        if adapter:
            lora = known(self._adapters).take(adapter, folder)
            self._lent[name] = adapter
        try:
            self._engine.add_request(
                name,
                {"prompt_token_ids": prompt, "cache_salt": salt},
                params,
                lora_request=lora,
            )
        except VLLMClientError as error:
            self._drop(name)
            raise EINVAL(f"vLLM refuses the request: {error}") from error

    @staticmethod
    def _sampling(request: GenerateRequest, room: int) -> Any:
        from vllm.sampling_params import (
            RequestOutputKind,
            SamplingParams,
            StructuredOutputsParams,
        )

        constraint = None
        if request.schema is not None:
            constraint = StructuredOutputsParams(json=request.schema)
        elif request.grammar:
            constraint = StructuredOutputsParams(grammar=request.grammar)
        return SamplingParams(
            max_tokens=min(request.max_tokens, room),
            temperature=request.temperature,
            top_p=request.top_p,
            stop=[stop for stop in request.stop if stop],
            seed=None if request.seed is None else request.seed & 0x7FFFFFFFFFFFFFFF,
            skip_special_tokens=not request.special,
            spaces_between_special_tokens=False,
            structured_outputs=constraint,
            output_kind=RequestOutputKind.DELTA,
        )

    def cancel(self, job: Job) -> None:
        """Abort a generation or a pin; the scheduler frees its blocks with the next step."""
        self._pins.cancel(job)
        self._abort(str(job.seq))
        job.cancelled()

    def _abort(self, name: str) -> None:
        self._drop(name)
        self._engine.abort_request([name])

    def suspend(self, job: Job, *, on: bool) -> None:
        """Have a generation stand still, or go on where it was."""
        if str(job.seq) in self._flows:
            self._paused.suspend(str(job.seq), on=on)

    def _drop(self, name: str) -> None:
        self._paused.forget(name)
        self._flows.pop(name, None)
        self._usage.pop(name, None)
        if (adapter := self._lent.pop(name, None)) is not None:
            known(self._adapters).give_back(adapter)

    @property
    def _computing(self) -> bool:
        """Whether the scheduler has something to do, if only to free or save blocks."""
        if self._engine is None:
            return False
        if self._paused.idle:
            return self._pins.memory.saving
        scheduler = self._engine.engine_core.engine_core.scheduler
        return bool(self._engine.has_unfinished_requests() or scheduler.has_requests())

    @property
    def busy(self) -> bool:
        """Whether there are tokens to compute or pieces to send."""
        ready = any(flow.ready for flow in self._flows.values())
        return self._computing or ready or self._pins.waiting

    def step(self) -> None:
        """Send what waited for credit, and compute one batch."""
        for flow in self._flows.values():
            flow.send()
        self._paused.step()
        computing = self._computing
        if computing:
            began = time.perf_counter()
            outputs = self._engine.step()
            self._pins.memory.stepped(time.perf_counter() - began)
            for output in outputs:
                if (taker := self._flows.get(output.request_id)) is not None:
                    self._take(taker, output)
                elif output.finished and output.request_id in self._pins:
                    self._drop(output.request_id)
                    self._pins.ended(output.request_id, output.outputs[0].finish_reason)
        self._pins.step(idle=not computing)

    def _take(self, flow: Flow, output: Any) -> None:
        usage = self._usage[output.request_id]
        completion = output.outputs[0]
        usage.completion += len(completion.token_ids)
        usage.cached = max(usage.cached, output.num_cached_tokens or 0)
        if not output.finished:
            flow.push(completion.text, len(completion.token_ids))
            return
        self._drop(output.request_id)
        usage.cached = self._pins.memory.lost.pop(output.request_id, usage.cached)
        finish = FINISHED.get(completion.finish_reason or "")
        if finish is None:
            why = completion.finish_reason
            flow.job.fail(EIO(f"vLLM gave up a generation: {why}", driver="llm", retryable=True))
        else:
            flow.end(completion.text, finish, usage)

    def close(self) -> None:
        """Write what pins have left to write, and let vLLM end what it started."""
        self._pins.close()
        self._engine.engine_core.shutdown()


def kv_bytes() -> int:
    """Bytes for keys and values on a CPU: a part of the memory that is free now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    return max(min(free * 1024 // KV_SHARE, KV_MOST), 64 << 20)
