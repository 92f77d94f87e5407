"""One life of a job, from its spec to its report.

spec -> set probes aside -> base -> measure -> [ step, step, checkpoint ] -> measure -> adapter/
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import resource
import time
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.lora import checkpoint
from drivers.lora.contract import (
    ADAPTER,
    Figures,
    Line,
    Phase,
    Progress,
    Recipe,
    Report,
    TrainSpec,
)
from drivers.lora.files import CONFIG, WEIGHTS, digest_of
from drivers.lora.selection import Selection, batches, select, unasked
from drivers.models import find_model, threads
from syscalls.errors import ECANCELED, EINVAL, EIO, ENOENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from drivers.lora.contract import Example
    from drivers.lora.learn import Learner
    from drivers.lora.rows import Row

MOST_THREADS = 16
EVERY = 0.5
"""Seconds between two lines while it trains."""
RECENT = 10
"""Steps whose losses are averaged."""
REPORT = "report.json"
log = logging.getLogger("train")
RECIPES = {"text": "drivers.lora.text:TextRecipe", "nano": "drivers.lora.nano:NanoRecipe"}
BOUNDS = ("most_bytes", "seconds", "checkpoint", "threads")
"""What of a spec may differ from life to life of a job."""


class _Finished(msgspec.Struct):
    """``report.json``."""

    mark: str
    report: Report


def mark_of(spec: TrainSpec) -> str:
    """Digest of what is asked for, but for the bounds."""
    plain = msgspec.to_builtins(spec, order="deterministic")
    for name in BOUNDS:
        plain.pop(name, None)
    return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()


def make_recipe(spec: TrainSpec, folder: Path) -> Recipe:
    """The recipe that a spec names, for the base in ``folder``. Raises EINVAL."""
    place = RECIPES.get(spec.recipe, spec.recipe)
    module, _, name = place.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EINVAL(
            f"no recipe {spec.recipe!r}: {error}", hint=f"there are: {', '.join(sorted(RECIPES))}"
        ) from error
    recipe: Recipe = made(folder, spec)
    return recipe


class Job:
    """One life of a job."""

    def __init__(
        self,
        folder: Path,
        spec: TrainSpec,
        write: Callable[[Line], None],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """``write`` is told what happens, ``ready`` is called once the libraries are loaded."""
        self._folder = folder
        self._spec = spec
        self._write = write
        self._ready = ready
        self._begun = time.monotonic()
        self._state = checkpoint.State(mark_of(spec))
        self._resumed = 0
        self._earlier = 0.0
        self._steps = 0
        self._told = 0.0
        self.stopping = False
        """Set by a signal: end after this step, or this phase."""

    # --- the way of a job

    def run(self) -> Report:
        """Do it all. Raises EngramError, OSError, MemoryError, and torch's own."""
        if (done := self._finished()) is not None:
            return done
        selection = select(self._spec)
        if not selection.training:
            raise EINVAL(
                "there is nothing to train on",
                hint="give examples that are not among the probes or the regression set",
            )
        self._tell("load")
        folder = find_model(self._spec.base)
        import peft
        import torch

        from drivers.llm.model import fingerprint
        from drivers.lora import learn

        log.info("torch %s, peft %s", torch.__version__, peft.__version__)
        self._ready()
        torch.set_num_threads(threads(self._spec.threads, MOST_THREADS))
        device = self._spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
        recipe = make_recipe(self._spec, folder)
        rows = self._rows(recipe, selection)
        each = -(-len(rows) // self._spec.batch)
        self._steps = self._spec.steps or self._spec.epochs * each
        base = learn.load_base(folder, device)
        if not base.get_input_embeddings().weight.shape[0] > max(max(ids) for ids, _ in rows):
            raise EIO("the tokenizer has ids that the base has not", driver="lora", retryable=False)
        kept = checkpoint.load(self._folder, self._state.mark)
        if kept is None:
            self._before(recipe, base, selection)
        learner = learn.Learner(base, self._spec, self._steps, recipe.pad, recipe)
        if kept is not None:
            self._state, tensors = kept
            learner.restore(tensors)
            self._resumed, self._earlier = self._state.step, self._state.seconds
        self._train(learner, rows)
        after = self._measure(recipe, base, selection.probes)
        regression = self._measure(recipe, base, self._spec.regression)
        self._tell("after", probes=after, regression=regression)
        report = Report(
            before=self._state.before,
            after=after,
            regression_before=self._state.regression,
            regression_after=regression,
            base=fingerprint(folder),
            rows=len(rows),
            held_out=selection.set_aside,
            steps=self._steps,
            train_seconds=self._state.train_seconds,
            loss=self._loss(),
            parameters=learner.parameters,
            resumed=self._resumed,
        )
        return self._save(learner, report)

    def _rows(self, recipe: Recipe, selection: Selection) -> list[Row]:
        """What is trained on, encoded; probes are encoded too, to find errors early."""
        asked = [*selection.probes, *self._spec.regression]
        rows = [recipe.encode(each) for each in unasked(recipe.rows(selection.training), asked)]
        for ids, labels in (*rows, *map(recipe.encode, asked)):
            if len(ids) > self._spec.longest:
                raise EINVAL(
                    f"an example has {len(ids)} tokens, {self._spec.longest} are allowed",
                    hint="shorten it, or raise `longest`",
                    tokens=len(ids),
                )
            if len(ids) != len(labels) or all(label < 0 for label in labels[1:]):
                raise EINVAL("an example has nothing that could be learnt")
        return rows

    def _before(self, recipe: Recipe, base: Any, selection: Selection) -> None:
        self._state.before = self._measure(recipe, base, selection.probes)
        self._state.regression = self._measure(recipe, base, self._spec.regression)
        self._tell("before", probes=self._state.before, regression=self._state.regression)

    def _measure(self, recipe: Recipe, model: Any, examples: Sequence[Example]) -> Figures:
        import torch

        from drivers.lora.rows import likelihood

        if not examples:
            return Figures()
        with torch.inference_mode():
            score = recipe.score(model, examples)
            loss = likelihood(model, [recipe.encode(each) for each in examples], recipe.pad)
        return Figures(len(examples), score, loss)

    def _train(self, learner: Learner, rows: Sequence[Row]) -> None:
        state, spec = self._state, self._spec
        lengths = [len(ids) for ids, _ in rows]
        each = -(-len(rows) // spec.batch)
        order: list[list[int]] = []
        self._tell("train")
        for step in range(state.step, self._steps):
            if not order or step % each == 0:
                order = batches(lengths, spec.batch, spec.seed, step // each)
            begun = time.monotonic()
            loss = learner.learn(step, [rows[at] for at in order[step % each]])
            state.losses = [*state.losses[1 - RECENT :], loss]
            state.train_seconds += time.monotonic() - begun
            state.step = step + 1
            last = state.step == self._steps
            if self.stopping or (spec.checkpoint and (last or state.step % spec.checkpoint == 0)):
                state.seconds = self._seconds()
                checkpoint.save(self._folder, state, learner.tensors())
            if self.stopping or time.monotonic() - self._told > EVERY:
                self._tell("train")

    def _save(self, learner: Learner, report: Report) -> Report:
        self._tell("save")
        new = learner.export(self._folder)
        report = msgspec.structs.replace(
            report,
            digest=digest_of(new),
            bytes=sum((new / name).stat().st_size for name in (CONFIG, WEIGHTS)),
            seconds=self._seconds(),
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
        path = self._folder / REPORT
        path.write_bytes(msgspec.json.encode(_Finished(self._state.mark, report)))
        checkpoint.sync(path)
        new.rename(self._folder / ADAPTER)
        checkpoint.sync(self._folder)
        (self._folder / checkpoint.FILE).unlink(missing_ok=True)
        return report

    def _finished(self) -> Report | None:
        """The report of an earlier life that came to its end."""
        try:
            done = msgspec.json.decode((self._folder / REPORT).read_bytes(), type=_Finished)
            whole = digest_of(self._folder / ADAPTER) == done.report.digest
        except (FileNotFoundError, msgspec.DecodeError, ENOENT):
            return None
        return done.report if whole and done.mark == self._state.mark else None

    # --- what is told

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._begun

    def _loss(self) -> float:
        losses = self._state.losses
        return sum(losses) / len(losses) if losses else 0.0

    def _tell(
        self, phase: Phase, probes: Figures | None = None, regression: Figures | None = None
    ) -> None:
        if self.stopping:
            raise ECANCELED(f"training was ended at step {self._state.step}", step=self._state.step)
        self._told = time.monotonic()
        self._write(
            Progress(
                phase,
                step=self._state.step,
                of=self._steps,
                loss=self._loss(),
                seconds=self._seconds(),
                resumed=self._resumed,
                probes=probes,
                regression=regression,
            )
        )
