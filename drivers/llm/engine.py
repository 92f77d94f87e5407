"""The ``transformers`` engine: any causal language model, a token at a time.

    active:  [A: prefill 3/5]  [B: decode]  [C: decode, no credit]
    step:    the next one that can move does one forward pass, then goes to the end

Each request has its own key-value cache, and a long prompt is computed in pieces, so
requests take turns: none waits for another to end, and a cancelled one stops at its next
turn. This is the engine that runs anywhere; batching is for engines made for it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any

from drivers.contracts import GenerateRequest, LLMInfo, Piece
from drivers.llm.shapes import CountArguments
from drivers.llm.text import Detokenizer, Stopper
from drivers.models import find_model, quick_mark, read_json, threads, weights_of
from syscalls.errors import EINVAL, EIO, ENODEV
from syscalls.shapes import ChatMessage, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from drivers.engine import Job
    from drivers.protocol import EngineSpec

PREFILL = {"cpu": 128, "cuda": 2048}
"""Prompt tokens computed in one step."""
MOST_THREADS = 16
CONTEXT = 32768
"""Assumed where a model does not say how long its context is."""


class _Sequence:
    """One generation on its way."""

    def __init__(
        self, job: Job, request: GenerateRequest, prompt: list[int], model: _Model
    ) -> None:
        from transformers import DynamicCache

        from drivers.llm.sampling import Sampler

        self.job = job
        self.prompt = prompt
        self.most = min(request.max_tokens, model.context - len(prompt))
        self.done = 0
        """Prompt tokens in the cache."""
        self.tokens: list[int] = []
        self.cache = DynamicCache()
        self.text = Detokenizer(model.decode)
        self.stopper = Stopper(request.stop)
        self.sampler = Sampler(request.temperature, request.top_p, request.seed)

    def due(self, prefill: int) -> list[int]:
        """The tokens of the next forward pass."""
        if self.done < len(self.prompt):
            return self.prompt[self.done : self.done + prefill]
        return self.tokens[-1:]

    def take(self, token: int, ends: frozenset[int]) -> str:
        """Take the next token; why the generation ends with it, or nothing."""
        self.tokens.append(token)
        finish = ""
        if token in ends:
            finish = "stop"
            text = self.text.flush()
        elif len(self.tokens) >= self.most:
            finish = "length"
            text = self.text.push(token) + self.text.flush()
        else:
            text = self.text.push(token)
        text = self.stopper.push(text)
        if self.stopper.stopped:
            finish = "stop"
        elif finish:
            text += self.stopper.flush()
        if finish:
            usage = Usage(len(self.prompt), 0, len(self.tokens))
            self.job.done(Piece(text, finish, usage))
        elif text:
            self.job.chunk(Piece(text))
        return finish


class TransformersEngine:
    """``generate`` and ``count`` on one model."""

    window = 16

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._model: _Model | None = None
        self._active: deque[_Sequence] = deque()

    def load(self, progress: Callable[[str], None]) -> LLMInfo:
        """Load tokenizer and weights. Raises ENODEV, EIO."""
        folder = find_model(self._spec.model)
        if not (folder / "config.json").is_file():
            raise ENODEV(
                f"{folder} holds no config.json",
                hint="give the folder of a causal language model for transformers",
            )
        progress(f"reading {folder.name}")
        try:
            model = self._model = _Model(folder, self._spec.options)
        except Exception as error:
            raise EIO(
                f"the model in {folder} cannot be loaded: {error}",
                hint="give the folder of a causal language model for transformers",
                driver="llm",
                retryable=False,
            ) from error
        return LLMInfo(self._spec.model, "transformers", model.context, fingerprint(folder))

    def begin(self, job: Job) -> None:
        """Answer a count, or queue a generation. Raises EINVAL."""
        assert self._model is not None, "load comes first"
        if job.method == "count":
            count = job.arguments(CountArguments)
            job.done(len(self._model.encode(count.text, count.messages)))
        elif job.method == "generate":
            request = job.arguments(GenerateRequest)
            self._active.append(_Sequence(job, request, self._prompt(request), self._model))
        else:
            raise EINVAL(f"this engine has no method {job.method!r}")

    def _prompt(self, request: GenerateRequest) -> list[int]:
        """The prompt's tokens. Raises EINVAL."""
        assert self._model is not None, "load comes first"
        if request.schema is not None:
            raise EINVAL(
                "schema-constrained output is not served by this engine yet",
                hint="leave out `schema` and say the form in the prompt",
            )
        if request.adapter:
            raise EINVAL("adapters are not served by this engine yet", hint="leave out `adapter`")
        if not request.prompt and not request.messages:
            raise EINVAL("the prompt is empty", hint="give `messages` or a `prompt`")
        tokens = self._model.encode(request.prompt, request.messages)
        if not tokens:
            raise EINVAL("the prompt has no tokens", hint="give `messages` or a `prompt`")
        if len(tokens) >= self._model.context:
            raise EINVAL(
                f"the prompt has {len(tokens)} tokens, the model takes {self._model.context - 1}",
                hint="shorten it; `llm.count` counts tokens",
                tokens=len(tokens),
                limit=self._model.context - 1,
            )
        return tokens

    def cancel(self, job: Job) -> None:
        """Stop a generation and free its cache."""
        self._active = deque(each for each in self._active if each.job is not job)
        job.cancelled()

    @property
    def busy(self) -> bool:
        """Whether some request can move."""
        return any(each.job.credit > 0 for each in self._active)

    def step(self) -> None:
        """One forward pass of the next request that can move."""
        assert self._model is not None, "load comes first"
        while self._active[0].job.credit <= 0:
            self._active.rotate(-1)
        sequence = self._active[0]
        with sequence.job.guard():
            due = sequence.due(self._model.prefill)
            logits = self._model.forward(due, sequence.cache)
            sequence.done = min(sequence.done + len(due), len(sequence.prompt))
            if sequence.done == len(sequence.prompt):
                sequence.take(sequence.sampler.pick(logits), self._model.ends)
        self._active.popleft()
        if not sequence.job.finished:
            self._active.append(sequence)

    def close(self) -> None:
        """Nothing to keep."""


class _Model:
    """Tokenizer and weights, and what they say about themselves."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads(options.get("threads"), MOST_THREADS))
        cuda = torch.cuda.is_available()
        device = str(options.get("device") or ("cuda" if cuda else "cpu"))
        dtype = str(options.get("dtype") or ("auto" if device != "cpu" else "float32"))
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        self._model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
        self._model.to(device).eval()
        self._device = device
        self.prefill = PREFILL.get(device.partition(":")[0], PREFILL["cpu"])
        self.ends = self._end_tokens()
        self.context = self._context()

    def _end_tokens(self) -> frozenset[int]:
        found: set[int] = set()
        for end in (self._model.generation_config.eos_token_id, self._tokenizer.eos_token_id):
            found.update([end] if isinstance(end, int) else end or [])
        return frozenset(found)

    def _context(self) -> int:
        config = self._model.config.get_text_config()
        said = getattr(config, "max_position_embeddings", None)
        if not isinstance(said, int) or said <= 0:
            said = self._tokenizer.model_max_length  # 10**30 where it does not know
        return int(said) if 0 < said < 1 << 30 else CONTEXT

    def encode(self, text: str | None, messages: Sequence[ChatMessage] | None) -> list[int]:
        """Tokens of a text, or of messages up to where the assistant speaks. Raises EINVAL."""
        if messages is None:
            return list(self._tokenizer(text or "")["input_ids"])
        if not self._tokenizer.chat_template:
            lines = [f"{message.role}: {message.content}\n" for message in messages]
            return list(self._tokenizer("".join(lines) + "assistant:")["input_ids"])
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            filled = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise EINVAL(
                f"the model's chat template refuses these messages: {error}",
                hint="some models take no `system` turn, or want user and assistant in turn",
            ) from error
        return list(self._tokenizer(filled, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def forward(self, tokens: list[int], cache: object) -> Tensor:
        """Logits after the last of ``tokens``, which join those in ``cache``."""
        import torch

        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([tokens], device=self._device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[0, -1]
        return logits


def fingerprint(folder: Path) -> str:
    """Marks a model: its configuration, tokenizer and (sampled) weights."""
    mark = hashlib.sha256()
    mark.update(repr(sorted(read_json(folder / "config.json").items())).encode())
    for path in (folder / "tokenizer.json", *weights_of(folder)):
        if path.is_file():
            mark.update(f"{path.name} {quick_mark(path)}\n".encode())
    return mark.hexdigest()
