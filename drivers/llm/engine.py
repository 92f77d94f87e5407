"""The ``transformers`` engine: any causal language model, a token at a time.

    active:  [A: prefill 3/5]  [B: decode]  [C: decode, no credit]
    step:    the next one that can move does one forward pass, then goes to the end

Each request has its own key-value cache, and a long prompt is computed in pieces, so
requests take turns: none waits for another to end, and a cancelled one stops at its next
turn. This is the engine that runs anywhere; batching is for engines made for it.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from drivers.contracts import GenerateRequest, LLMInfo
from drivers.llm.flow import Flow
from drivers.llm.model import Model, fingerprint
from drivers.llm.shapes import CountArguments
from drivers.llm.text import Detokenizer, Stopper
from drivers.llm.tokens import salt_of
from drivers.models import find_model
from syscalls.errors import EINVAL, EIO, ENODEV
from syscalls.shapes import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from drivers.engine import Job
    from drivers.protocol import EngineSpec


class _Sequence:
    """One generation on its way."""

    def __init__(self, job: Job, request: GenerateRequest, prompt: list[int], model: Model) -> None:
        from drivers.llm.sampling import Sampler

        self.job = job
        self.flow = Flow(job, request.pace)
        self.prompt = prompt
        self.salt = salt_of(request)
        self.most = min(request.max_tokens, model.context - len(prompt))
        self.constraint = model.grammars.constraint(request)
        self.cache = model.new_cache()
        self.cached = self.done = 0
        """Prompt tokens that were known, and those in the cache."""
        self.begun = False
        self.tokens: list[int] = []
        self.text = Detokenizer(partial(model.tokens.decode, special=request.special))
        self.stopper = Stopper(request.stop)
        self.sampler = Sampler(request.temperature, request.top_p, request.seed)

    def due(self, prefill: int) -> list[int]:
        """The tokens of the next forward pass."""
        if self.done < len(self.prompt):
            return self.prompt[self.done : self.done + prefill]
        return self.tokens[-1:]

    def choose(self, logits: Tensor, ends: frozenset[int]) -> bool:
        """Choose and take the next token; True when the generation ends with it."""
        if self.constraint is None:
            return self._take(self.sampler.pick(logits), ends, complete=False)
        token = self.sampler.pick(self.constraint.mask(logits))
        complete = token not in ends and self.constraint.take(token)
        return self._take(token, ends, complete=complete)

    def _take(self, token: int, ends: frozenset[int], *, complete: bool) -> bool:
        self.tokens.append(token)
        finish = ""
        if token in ends:
            finish = "stop"
            text = self.text.flush()
        elif complete or len(self.tokens) >= self.most:
            finish = "stop" if complete else "length"
            text = self.text.push(token) + self.text.flush()
        else:
            text = self.text.push(token)
        text = self.stopper.push(text)
        if self.stopper.stopped:
            finish = "stop"
        elif finish:
            text += self.stopper.flush()
        if finish:
            usage = Usage(len(self.prompt), self.cached, len(self.tokens))
            self.flow.end(text, finish, usage)
        else:
            self.flow.push(text)
        return bool(finish)


class TransformersEngine:
    """``generate`` and ``count`` on one model."""

    window = 16

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._model: Model | None = None
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
            model = self._model = Model(folder, self._spec.options)
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
            job.done(len(self._model.tokens.encode(count.text, count.messages)))
        elif job.method == "running":
            job.done(len(self._active))
        elif job.method == "generate":
            request = job.arguments(GenerateRequest)
            if request.adapter:
                raise EINVAL(
                    "the transformers engine serves no adapters",
                    hint="leave out `adapter`, or use another engine (docs/models.md)",
                )
            prompt = self._model.tokens.prompt(request, self._model.context)
            self._active.append(_Sequence(job, request, prompt, self._model))
        else:
            raise EINVAL(f"this engine has no method {job.method!r}")

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
            self._advance(sequence, self._model)
        self._active.popleft()
        if not sequence.job.finished:
            self._active.append(sequence)

    @staticmethod
    def _advance(sequence: _Sequence, model: Model) -> None:
        if not sequence.begun:  # only now: one that began before may have left a prefix
            sequence.begun = True
            known = model.prefixes.copy(sequence.salt, sequence.prompt, sequence.cache)
            sequence.cached = sequence.done = known
        due = sequence.due(model.prefill)
        logits = model.forward(due, sequence.cache)
        prompt = sequence.prompt
        if sequence.done < len(prompt):
            sequence.done += len(due)
            if sequence.done < len(prompt):
                return
            model.prefixes.keep(sequence.salt, prompt, sequence.cache)
        if sequence.choose(logits, model.ends):
            whole = prompt + sequence.tokens[:-1]  # the last was chosen, not computed
            model.prefixes.keep(sequence.salt, whole, sequence.cache)

    def close(self) -> None:
        """Nothing to keep."""
