"""What training an adapter takes and gives, as data and as two protocols. No model library.

    kernel ── TrainSpec ──> Trainer ── process ──> Progress ... Progress, Report
                                          │
                              Recipe: text and programs to token ids, answers to a score

The folder of a job, made by who asks and removed by who asks:

    FOLDER/spec.json               what was asked for; with the texts of the examples in it
    FOLDER/checkpoint.safetensors  adapter, optimizer and step; a job that was killed goes on here
    FOLDER/report.json             at the end; a job that is asked for again answers from it
    FOLDER/train.log               what libraries printed
    FOLDER/adapter/                adapter_model.safetensors and adapter_config.json; at the end
                                   only, in one rename: it is there and whole, or it is not there

Figures are reported, never judged here: what goes live is the kernel's decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from syscalls.errors import ErrorValue
from syscalls.shapes import ChatMessage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

ADAPTER = "adapter"
"""Folder, in a job's folder, of the finished adapter."""

Share = Annotated[float, Meta(ge=0.0, lt=1.0)]
Phase = Literal["load", "before", "train", "after", "save"]
"""What a job is at: loading the base, measuring it, training, measuring again, writing."""


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing to learn: what is said, and what is to be answered."""

    completion: str
    """The answer; for the recipe ``nano`` a program: JSON, ``[{"call": ..., "args": {...}}]``."""
    prompt: str = ""
    """What is said, as it is; or else ``messages``, with the base's chat template."""
    messages: list[ChatMessage] | None = None
    accept: list[str] = []
    """Other answers that are right when it is measured."""
    group: str = ""
    """What it is about: of each group a part is held out, so that there is none of which nothing
    was learnt. Of a group of one nothing is held out. Texts that say the same go together."""


class TrainSpec(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What to train, on what, and within which bounds."""

    base: str
    """Folder (or hub name) of the causal language model that the adapter is for."""
    examples: list[Example]
    recipe: str = "text"
    """``text``, ``nano``, or ``module:Class`` of a ``Recipe``."""
    probes: list[Example] = []
    """Asked before and after, never trained on, beside what is held out of ``examples``."""
    held_out: Share = 0.2
    """Share of each group that is set aside, before anything else, as probes."""
    regression: list[Example] = []
    """What must not be lost: asked before and after, never trained on."""
    rank: Annotated[int, Meta(ge=1, le=256)] = 8
    alpha: Annotated[float, Meta(ge=0.0)] = 0.0
    """Scale; 0 for twice the rank."""
    targets: list[str] = []
    """Names of the layers to adapt; none for every linear layer but the head."""
    dropout: Share = 0.0
    rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-3
    """Highest learning rate; it rises over 5% of the steps and falls as a cosine."""
    decay: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Weight decay of AdamW."""
    epochs: Annotated[int, Meta(ge=1)] = 10
    steps: Annotated[int, Meta(ge=0)] = 0
    """Instead of ``epochs``, where it is not 0."""
    batch: Annotated[int, Meta(ge=1, le=4096)] = 8
    """Rows of a step."""
    longest: Annotated[int, Meta(ge=8)] = 1024
    """Tokens of a row; a longer one is EINVAL."""
    seed: int = 0
    """Of what is held out, the order of the rows, the first weights, the dropout."""
    most_bytes: Annotated[int, Meta(ge=64 << 20)] = 4 << 30
    """Private memory of the process, that of its libraries (about 450 MB) included."""
    seconds: Annotated[float, Meta(gt=0.0)] = 1800.0
    """Wall time from the start of the process to its report."""
    checkpoint: Annotated[int, Meta(ge=0)] = 25
    """Steps between two checkpoints; 0 for none."""
    threads: Annotated[int, Meta(ge=0)] = 0
    """0: all of few cores, half of many."""
    device: str = ""
    """Empty: ``cuda`` where there is one, else ``cpu``."""


class Figures(msgspec.Struct, frozen=True):
    """How a model does on some examples."""

    examples: int = 0
    score: float = 0.0
    """Share that is answered rightly; 0 where there are no examples."""
    loss: float = 0.0
    """Mean negative log-likelihood of a token of the right answers, in nats."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True, tag="progress"):
    """Where a job is. One a phase, and about two a second while it trains."""

    phase: Phase
    step: int = 0
    of: int = 0
    """Steps in all; 0 until they are known."""
    loss: float = 0.0
    """Of the training rows: mean of about the last ten steps, in nats a token."""
    seconds: float = 0.0
    """Since the process started; of a job that went on, since it first did."""
    resumed: int = 0
    """Step of the checkpoint that it goes on from; 0 when it began anew."""
    probes: Figures | None = None
    """What was just measured (``before``, ``after``)."""
    regression: Figures | None = None


class Report(msgspec.Struct, frozen=True, omit_defaults=True, tag="report"):
    """What came of a job; its adapter is in ``FOLDER/adapter`` now."""

    before: Figures
    """Of the base without the adapter, on the probes: those given, and those held out."""
    after: Figures
    regression_before: Figures
    regression_after: Figures
    digest: str = ""
    """SHA-256 of the adapter's two files (``drivers.lora.files.digest_of``)."""
    base: str = ""
    """Fingerprint of the base model, as ``LLMInfo.fingerprint`` has it."""
    rows: int = 0
    """Rows that were trained on, those that the recipe added included."""
    held_out: int = 0
    """Examples that were set aside."""
    steps: int = 0
    seconds: float = 0.0
    """Wall time, of all its lives."""
    train_seconds: float = 0.0
    """Of that, in steps of training."""
    loss: float = 0.0
    """Of the training rows at the end."""
    parameters: int = 0
    """Of the adapter."""
    bytes: int = 0
    """Of its files."""
    peak_bytes: int = 0
    """Most memory that was resident in the process."""
    resumed: int = 0
    """Step of the last checkpoint that it went on from."""


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """Why there is no report: an error as it crosses the wire."""

    number: int
    error: ErrorValue


Line = Progress | Report | Failure
"""What the process writes, one JSON object a line."""


class TrainerStatistics(msgspec.Struct, frozen=True):
    """Figures of a trainer since it was made."""

    started: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    running: int = 0
    seconds: float = 0.0
    """Wall time of processes that have ended."""


class Trainer(Protocol):
    """Trains adapters, each in a process of its own."""

    def train(self, spec: TrainSpec, folder: Path) -> AsyncGenerator[Progress | Report, None]:
        """Progress as it comes, then the report as the last item.

        Use it under ``contextlib.aclosing``: closing it (or cancelling the task that reads it)
        ends the process (TERM, a moment for a checkpoint, KILL) before it returns. With the
        same folder and what is asked for unchanged (bounds may change) it goes on from the last
        checkpoint.

        Raises EINVAL (the spec, an example, or a layer that the base has not), ENODEV (no such
        base), EDQUOT (``most_bytes``), ETIME (``seconds``), ECANCELED (somebody ended the
        process), EIO (base or disk are damaged, or the process died; the detail ``retryable``
        says whether going on can help).
        """

    def statistics(self) -> TrainerStatistics:
        """Figures for ``/proc`` and metrics."""


class Recipe(Protocol):
    """How examples become rows of token ids, and answers a score. Made in the process, as
    ``Class(folder, spec)`` with the folder of the base; it may import torch.
    """

    pad: int
    """Id that fills short rows; it is masked."""

    def rows(self, examples: Sequence[Example]) -> list[Example]:
        """What is trained on for these: themselves, and whatever the recipe adds (other
        wordings, or things the base knows and is to keep).

        Asked once, with what was not held out. What equals a probe or the regression set is
        taken out afterwards. Must be the same in every life of a job: random by ``spec.seed``.
        """

    def encode(self, example: Example) -> tuple[list[int], list[int]]:
        """Token ids of prompt and completion, and as many labels: the same ids where the loss
        counts, -100 where it does not. Raises EINVAL for an example that it cannot take.
        """

    def score(self, model: Any, examples: Sequence[Example]) -> float:
        """Share of the examples that ``model`` answers rightly, between 0 and 1.

        ``model`` is a causal language model of transformers (with or without the adapter), in
        evaluation mode; it is called under ``torch.inference_mode``.
        """


@runtime_checkable
class Judging(Recipe, Protocol):
    """A recipe that says itself how the adapter starts, what a step is to make smaller, and
    which texts the adapter is for.
    """

    def scope(self) -> list[str]:
        """What ``drivers.lora.scope`` has the adapter say; nothing: every text. After ``rows``."""

    def prepare(self, model: Any) -> None:
        """Set the first weights of the adapter, and freeze what is not to be trained.

        ``model`` is the base within peft, after ``rows``. The same in every life of a job.
        """

    def loss(self, model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> Any:
        """A tensor with one number, in nats a token, of encoded rows.

        ``model`` is the base within peft: under ``model.disable_adapter()`` it is the base.
        It depends on the model's weights and the rows alone.
        """
