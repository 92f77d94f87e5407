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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivers.contracts import GenerateRequest, LLMInfo
from drivers.llm.adapters import Adapters
from drivers.llm.flow import Flow
from drivers.llm.grammar import compiled
from drivers.llm.lora_cpu import install
from drivers.llm.model import fingerprint
from drivers.llm.shapes import AdapterArguments, CountArguments
from drivers.llm.tokens import Tokens, salt_of
from drivers.models import find_model
from syscalls.errors import EBUSY, EINVAL, EIO, ENODEV
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
FINISHED = {"stop": "stop", "length": "length"}


class VLLMEngine:
    """``generate``, ``count``, ``running``, ``load_adapter`` and ``unload_adapter``.

    Options: ``dtype``, ``context`` (tokens), ``batch`` (sequences), ``kv_bytes``,
    ``gpu_memory`` (part of a GPU's memory, 0 to 1), ``adapters`` (at once; 0 for none),
    ``adapter_rank`` (the highest).
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
        self._tokens = Tokens(self._engine.get_tokenizer())
        self._context = int(self._engine.model_config.max_model_len)
        if self._spec.options.get("adapters"):
            self._adapters = Adapters(self._engine)
        return LLMInfo(self._spec.model, "vllm", self._context, fingerprint(folder))

    def _make(self, folder: Path) -> Any:
        import vllm
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
        if adapters := int(options.get("adapters", 0)):
            if current_platform.is_cpu():
                install(vllm.__version__)
            rank = int(options.get("adapter_rank", 32))
            where |= {"enable_lora": True, "max_loras": adapters, "max_lora_rank": rank}
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
        elif job.method in ("load_adapter", "unload_adapter"):
            adapter = job.arguments(AdapterArguments)
            if job.method == "load_adapter":
                self._known().load(adapter)
            elif adapter.name in self._lent.values():
                raise EBUSY(f"the adapter {adapter.name!r} is in use")
            else:
                self._known().unload(adapter.name)
            job.done(None)
        elif job.method == "generate":
            self._add(job, job.arguments(GenerateRequest), self._tokens)
        else:
            raise EINVAL(f"this engine has no method {job.method!r}")

    def _add(self, job: Job, request: GenerateRequest, tokens: Tokens) -> None:
        from vllm.exceptions import VLLMClientError

        adapter = self._known().request(request.adapter) if request.adapter else None
        prompt = tokens.prompt(request, self._context)
        compiled(request)  # says what is wrong better than the engine's own check
        name = str(job.seq)
        try:
            self._engine.add_request(
                name,
                {"prompt_token_ids": prompt, "cache_salt": salt_of(request)},
                self._sampling(request, self._context - len(prompt)),
                lora_request=adapter,
            )
        except VLLMClientError as error:
            raise EINVAL(f"vLLM refuses the request: {error}") from error
        self._flows[name] = Flow(job, request.pace)
        self._usage[name] = Usage(prompt=len(prompt))
        if request.adapter:
            self._lent[name] = request.adapter

    def _known(self) -> Adapters:
        """Raises EINVAL where there are none."""
        if self._adapters is None:
            raise EINVAL(
                "this engine was started without room for adapters",
                hint="leave out `adapter`, or start it with the option `adapters`",
            )
        return self._adapters

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
        """Abort a generation; the scheduler frees its blocks with the next step."""
        self._drop(str(job.seq))
        self._engine.abort_request([str(job.seq)])
        job.cancelled()

    def _drop(self, name: str) -> None:
        self._flows.pop(name, None)
        self._usage.pop(name, None)
        self._lent.pop(name, None)

    @property
    def _computing(self) -> bool:
        """Whether the scheduler has something to do, if only to free or save blocks."""
        if self._engine is None:
            return False
        scheduler = self._engine.engine_core.engine_core.scheduler
        return bool(self._engine.has_unfinished_requests() or scheduler.has_requests())

    @property
    def busy(self) -> bool:
        """Whether there are tokens to compute or pieces to send."""
        return self._computing or any(flow.ready for flow in self._flows.values())

    def step(self) -> None:
        """Send what waited for credit, and compute one batch."""
        for flow in self._flows.values():
            flow.send()
        if not self._computing:
            return
        for output in self._engine.step():
            if (taker := self._flows.get(output.request_id)) is not None:
                self._take(taker, output)

    def _take(self, flow: Flow, output: Any) -> None:
        usage = self._usage[output.request_id]
        completion = output.outputs[0]
        usage.completion += len(completion.token_ids)
        usage.cached = max(usage.cached, output.num_cached_tokens or 0)
        if not output.finished:
            flow.push(completion.text)
            return
        self._drop(output.request_id)
        finish = FINISHED.get(completion.finish_reason or "")
        if finish is None:
            why = completion.finish_reason
            flow.job.fail(EIO(f"vLLM gave up a generation: {why}", driver="llm", retryable=True))
        else:
            flow.end(completion.text, finish, usage)

    def close(self) -> None:
        """Let vLLM end what it started."""
        self._engine.engine_core.shutdown()


def kv_bytes() -> int:
    """Bytes for keys and values on a CPU: a part of the memory that is free now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    return max(min(free * 1024 // KV_SHARE, KV_MOST), 64 << 20)
