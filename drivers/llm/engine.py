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

from drivers.kv.chain import Mark
from drivers.kv.contract import PinRequest
from drivers.llm.adapters import ADAPTER_METHODS, known, manage
from drivers.llm.contract import GenerateRequest, LLMInfo
from drivers.llm.flow import Flow
from drivers.llm.model import Model, fingerprint
from drivers.llm.pinning import Pinning, Wanted
from drivers.llm.pins import PIN_METHODS, Pins, manage_pins
from drivers.llm.restoring import PAUSE, Restoring
from drivers.llm.shapes import AdapterArguments, CountArguments
from drivers.llm.text import Detokenizer, Stopper
from drivers.llm.tokens import salt_of
from drivers.lora.scope import asked
from drivers.models import find_model
from syscalls.errors import EINVAL, EIO, ENODEV, EngramError
from syscalls.shapes import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from drivers.engine import Job
    from drivers.protocol import EngineSpec


SLOTS = 4
"""Generations that share the time well: one that waits costs nothing, one that takes turns
slows the others down."""


class _Sequence:
    """One generation on its way."""

    def __init__(self, job: Job, request: GenerateRequest, prompt: list[int], model: Model) -> None:
        from drivers.llm.sampling import Sampler

        self.job = job
        self.flow = Flow(job, request.pace)
        self.prompt = prompt
        self.mark = Mark(salt_of(request))
        self.most = min(request.max_tokens, model.context - len(prompt))
        self.constraint = model.grammars.constraint(request)
        self.cache = model.new_cache()
        self.cached = self.done = 0
        """Prompt tokens that were known, and those in the cache."""
        self.begun = False
        self.restoring: Restoring | None = None
        """What it begins with, until that is in the cache."""
        self.suspended = False
        self.epoch = 0
        """Of the prefixes, when it began."""
        self.adapter: str | None = None
        """What the model calls its adapter."""
        self.tokens: list[int] = []
        self.text = Detokenizer(partial(model.tokens.decode, special=request.special))
        self.stopper = Stopper(request.stop)
        self.sampler = Sampler(request.temperature, request.top_p, request.seed)

    @property
    def movable(self) -> bool:
        """Whether its reader has room for more, and it is not suspended."""
        return self.job.credit > 0 and not self.suspended

    @property
    def waiting(self) -> bool:
        """Whether it waits for the disk."""
        return self.restoring is not None

    def begin(self, pins: Pins, pause: float) -> bool:
        """Fill the empty cache with what is known; False while that is still being read.

        The last token is always computed: the next one is chosen from its logits.
        """
        if self.restoring is None:  # only now: one that began before may have left a prefix
            self.epoch = pins.prefixes.epoch
            self.restoring = Restoring(pins, self.mark, self.prompt, len(self.prompt) - 1)
        if not self.restoring.ready(pause):
            return False
        self.cached = self.done = self.restoring.fill(self.cache).tokens
        self.close()
        self.begun = True
        pins.used(self.mark, self.prompt, self.cached)
        return True

    def close(self) -> None:
        """Wait no longer for what it begins with."""
        if self.restoring is not None:
            self.restoring.close()
            self.restoring = None

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
    """``generate``, ``count``, ``running``, and those of adapters and of pins, on one model."""

    window = 256

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._model: Model | None = None
        self._pins: Pins | None = None
        self._active: deque[_Sequence | Pinning] = deque()
        self._lent: dict[int, str] = {}
        """Adapters of jobs under way."""

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
            self._pins = Pins(model, folder, self._spec.options)
        except Exception as error:
            raise EIO(
                f"the model in {folder} cannot be loaded: {error}",
                hint="give the folder of a causal language model for transformers",
                driver="llm",
                retryable=False,
            ) from error
        return LLMInfo(
            self._spec.model,
            "transformers",
            model.context,
            fingerprint(folder),
            slots=SLOTS,
            suspends=True,
        )

    def begin(self, job: Job) -> None:
        """Answer what needs no computing, or queue a generation or a pin. Raises EINVAL."""
        assert self._model is not None, "load comes first"
        assert self._pins is not None, "likewise"
        if job.method == "count":
            count = job.arguments(CountArguments)
            job.done(len(self._model.tokens.encode(count.text, count.messages)))
        elif job.method == "running":
            job.done(len(self._active))
        elif job.method in ADAPTER_METHODS:
            if job.method == "unload_adapter":  # it may have been let go of before, to make room
                self._pins.disown(job.arguments(AdapterArguments).name)
            manage(job, self._model.adapters)
        elif job.method in PIN_METHODS:
            manage_pins(job, self._pins)
        elif job.method == "pin":
            pin = job.arguments(PinRequest)
            tokens = self._model.tokens.beginning(pin, self._model.context)
            mark, adapter = self._take(job, pin, self._model)
            wanted = Wanted(pin.handle, mark, tokens, adapter)
            try:
                self._active.append(Pinning(job, self._pins, wanted))
            except EngramError:
                self._left(job)
                raise
        elif job.method == "generate":
            request = job.arguments(GenerateRequest)
            prompt = self._model.tokens.prompt(request, self._model.context)
            sequence = _Sequence(job, request, prompt, self._model)
            sequence.mark, sequence.adapter = self._take(job, request, self._model)
            self._active.append(sequence)
        else:
            raise EINVAL(f"this engine has no method {job.method!r}")

    def _take(
        self, job: Job, request: GenerateRequest | PinRequest, model: Model
    ) -> tuple[Mark, str | None]:
        """The mark of a request's keys and values, and what the model calls its adapter.

        The adapter is lent until ``_left``; it is none where the adapter has nothing to say
        about this text. Raises what ``Adapters.take`` raises.
        """
        salt = salt_of(request)
        if not request.adapter:
            return Mark(salt), None
        adapters = known(model.adapters)
        own = adapters.take(request.adapter, request.adapter_path)
        if not adapters.concerns(request.adapter, asked(request.prompt, request.messages)):
            adapters.give_back(request.adapter)
            return Mark(salt), None
        self._lent[job.seq] = request.adapter
        return Mark(salt, adapters.mark(request.adapter)), own

    def cancel(self, job: Job) -> None:
        """Stop a generation or a pin, and free its cache."""
        for each in [each for each in self._active if each.job is job]:
            self._active.remove(each)
            each.close()
        self._left(job)
        job.cancelled()

    def suspend(self, job: Job, *, on: bool) -> None:
        """Give a generation no more turns, or go on; what it has computed stays as it is."""
        for each in self._active:
            if each.job is job and isinstance(each, _Sequence):
                each.suspended = on

    def _left(self, job: Job) -> None:
        """A job is no longer active: its adapter may go."""
        if (adapter := self._lent.pop(job.seq, None)) is not None:
            assert self._model is not None, "it lent the adapter"
            known(self._model.adapters).give_back(adapter)

    @property
    def busy(self) -> bool:
        """Whether some request can move."""
        return any(each.movable for each in self._active)

    def step(self) -> None:
        """One forward pass of the next request that can move, or a piece of a pin."""
        assert self._model is not None, "load comes first"
        assert self._pins is not None, "likewise"
        while not self._active[0].movable:
            self._active.rotate(-1)
        first = self._active[0]
        others = (each for each in self._active if each is not first)
        alone = not any(each.movable and not each.waiting for each in others)
        with first.job.guard():
            if isinstance(first, Pinning):
                first.advance(alone=alone)
            elif first.begun or first.begin(self._pins, PAUSE if alone else 0.0):
                self._advance(first, self._model)
        self._active.popleft()
        if not first.job.finished:
            self._active.append(first)
            return
        first.close()
        self._left(first.job)

    @staticmethod
    def _advance(sequence: _Sequence, model: Model) -> None:
        due = sequence.due(model.prefill)
        logits = model.forward(due, sequence.cache, sequence.adapter)
        prompt = sequence.prompt
        if sequence.done < len(prompt):
            sequence.done += len(due)
            if sequence.done < len(prompt):
                return
            model.prefixes.keep(sequence.mark, prompt, sequence.cache, sequence.epoch)
        if sequence.choose(logits, model.ends):
            whole = prompt + sequence.tokens[:-1]  # the last was chosen, not computed
            model.prefixes.keep(sequence.mark, whole, sequence.cache, sequence.epoch)

    def close(self) -> None:
        """Have what is still to be saved written."""
        if self._pins is not None:
            self._pins.close()
