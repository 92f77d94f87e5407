"""Training jobs: from records to a version that is live, or refused.

    records, examples ──> questions ──> trainer (a process) ──> report ──> policy ──> live
      in the table already: "training"     │                                  └─────> refused
                                           └─ killed, or the kernel was: goes on from its
                                              checkpoint after the next start, or is given up

A job is the training of one version, so it is named as that is: ``NAME@VERSION``. All that has
to last of it is in the version; its folder holds what can be made again, and is erased.
"""

from __future__ import annotations

import os
import shutil
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.lora.contract import ADAPTER, Report, TrainSpec
from kernel import trap
from kernel.parametric.admission import Admission, Careful, figures
from kernel.parametric.bases import base_of, regression, suited, taught
from kernel.parametric.job import PATIENCE, Order, Running, left_of
from syscalls.calls import lora
from syscalls.errors import (
    EAGAIN,
    ECONFLICT,
    EDQUOT,
    EINVAL,
    EIO,
    ENOENT,
    EngramError,
    LoadFault,
    MachineFault,
)
from ums import questions
from ums.adapters import Reference, Version, check_name, reference
from ums.questions import Question
from ums.roots import marks, roots, sound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from drivers.lora.contract import Trainer
    from kernel.kernel import Kernel
    from kernel.parametric.adapters import Adapters
    from kernel.parametric.bases import Base
    from syscalls.records import Record

SPEC = "spec.json"
REVIEW = 60.0
"""Seconds between two looks at what versions were made from."""
MOST_QUESTIONS = 20_000
MOST_GIVEN = 4 << 20
"""Bytes of examples that are in no record."""
_STATES: dict[str, lora.JobState] = {
    "training": "running",
    "live": "done",
    "retired": "done",
    "refused": "refused",
    "stale": "stale",
    "dropped": "failed",
}
CANCELLED = "cancelled by process"


class TrainingStatistics(msgspec.Struct, frozen=True):
    """Figures of jobs since the start."""

    running: int
    live: int
    refused: int
    failed: int


class Training:
    """The jobs of all spaces."""

    def __init__(self, kernel: Kernel, adapters: Adapters, trainer: Trainer) -> None:
        self._kernel = kernel
        self._adapters = adapters
        self._versions = adapters.versions
        self._trainer = trainer
        self._running: dict[bytes, Running] = {}
        self._freed = trio.Event()
        self._beginning = 0
        self._watching = False
        self._live = self._refused = self._failed = 0
        settings = kernel.settings
        self.policy: Admission = Careful(settings.adapter_tolerance, settings.adapter_drift)
        adapters.ended.append(self._ended)

    # --- the beginning

    async def train(self, space: int, by: int, call: lora.Train, records: list[Record]) -> Version:
        """Begin a job; the version that it is to make.

        Raises EINVAL, EAGAIN, EDQUOT, ENODEV, EIO.
        """
        check_name(call.name)
        base = base_of(self._kernel, call.base)
        order = Order(
            base.name,
            call.rank,
            call.epochs,
            call.steps,
            call.learning_rate,
            call.batch,
            call.seed,
            call.held_out,
            call.seconds,
        )
        version = Version(space, call.name, 0, base.name, by=by)
        given = questions.given(call.examples)
        self._admit(space)
        return await self._begin(version, order, records, given)

    def _admit(self, space: int) -> None:
        """Raises EAGAIN for too many jobs, EDQUOT for too many bytes."""
        settings = self._kernel.settings
        if self._busy():
            raise EAGAIN(
                f"{settings.training_jobs} adapters are being trained, the limit",
                hint="try again after detail.retry_after seconds",
                retry_after=min(map(left_of, self._running.values()), default=PATIENCE),
            )
        used = sum(one.size for one in self._versions.all(space) if one.usable)
        if used >= settings.adapter_bytes:
            raise EDQUOT(
                f"the adapters of space {space} take {used} bytes",
                hint="drop some with `engram lora drop`",
                quota="adapter_bytes",
                limit=settings.adapter_bytes,
                used=used,
            )

    def _busy(self) -> bool:
        return len(self._running) + self._beginning >= self._kernel.settings.training_jobs

    async def _begin(
        self,
        version: Version,
        order: Order,
        records: Sequence[Record],
        given: list[Question],
        instead: Version | None = None,
    ) -> Version:
        """Put a version in the table, and its job to work."""
        asked = questions.questions(records, order.seed, order.held_out)
        if version.base == "nano":
            asked = [one for one in asked if one.answer.startswith("[")]
        asked += given
        if not asked or all(one.held_out for one in asked):
            raise EINVAL(
                "there is nothing to learn from",
                hint="for nano give examples with a prompt and a program, or records whose meta "
                "has an intent and a program"
                if version.base == "nano"
                else "give records with text or facts, or examples",
            )
        if len(asked) > MOST_QUESTIONS:
            raise EINVAL(f"{len(asked)} questions are more than {MOST_QUESTIONS}")
        base = base_of(self._kernel, version.base)
        taught(base, order, asked)
        kept = msgspec.msgpack.encode(given) if given else b""
        if len(kept) > MOST_GIVEN:
            raise EINVAL(f"examples of {len(kept)} bytes are more than {MOST_GIVEN}")
        view = self._kernel.memory.view(version.space)
        known = {record.rid: record for record in records}
        for rid in dict.fromkeys(rid for one in given for rid in one.sources):
            known.setdefault(rid, view.read(rid))
        order.chosen = len(records)
        version.rank = order.rank or suited(base).rank
        version.order = msgspec.to_builtins(order)
        version.sources, version.marks = list(known), marks(list(known.values()))
        version.roots = roots(view, version.sources)
        version.examples, version.examples_digest = len(asked), questions.digest(asked)
        self._beginning += 1
        try:
            version = await self._versions.begin(version, kept, instead)
        finally:
            self._beginning -= 1
        self._start(version, order, asked)
        return version

    def _start(
        self, version: Version, order: Order, asked: list[Question], spec: TrainSpec | None = None
    ) -> None:
        running = self._running[version.key] = Running(version)
        self._kernel.start_soon(self._job, running, order, asked, spec)
        self._keep_watch()

    async def _watch(self) -> None:
        """See to it that what is gone in silence, as by its time to live, takes effect."""
        while True:
            await trio.sleep(REVIEW)
            try:
                await self._adapters.review()
            except (MachineFault, LoadFault) as error:
                # An adapter whose source is gone cannot be used all the same.
                self._kernel.log("warning", "lora", f"a review is put off: {error.message}")

    async def run(self) -> None:
        """After a start: go on with what was at work, and look after what there is."""
        try:
            await self.resume()
        except (MachineFault, LoadFault) as error:
            self._kernel.log("warning", "lora", f"jobs are not resumed: {error.message}")
        self._keep_watch()

    def _keep_watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._kernel.start_soon(self._watch)

    async def resume(self) -> None:
        """Go on with jobs that were at work, give up those that cannot go on, tidy up."""
        await self._adapters.review()
        await self._adapters.sweep()
        for version in self._versions.all():
            if version.state != "training" or version.key in self._running:
                continue
            file = self._adapters.job_folder(version) / SPEC
            try:
                data = await self._kernel.machine.offload(file.read_bytes)
                spec = msgspec.json.decode(data, type=TrainSpec)
            except (OSError, msgspec.DecodeError) as error:
                why = f"lost: the kernel ended before it had begun to train ({error})"
                await self._give_up(version, why)
                continue
            self._start(version, msgspec.convert(version.order, Order), [], spec)
        for version in self._versions.all():
            if version.again:
                self._kernel.start_soon(self._again, version)

    # --- a job

    async def _job(
        self, running: Running, order: Order, asked: list[Question], spec: TrainSpec | None
    ) -> None:
        version = running.version
        try:
            with running.scope:
                base = base_of(self._kernel, version.base)
                spec = spec or await self._spec(base, order, asked)
                report = await self._trained(running, spec)
                running.ending = True
                await self._judge(version, report)
        except Exception as error:  # noqa: BLE001 - a bug is logged, and ends this job only
            told = trap.as_error(self._kernel, None, error)
            self._failed += 1
            running.ending = True
            await self._give_up(version, f"failed: {told.code}: {told.message}")
        finally:
            del self._running[version.key]
            running.end()
            self._freed.set()
            self._freed = trio.Event()

    async def _spec(self, base: Base, order: Order, asked: list[Question]) -> TrainSpec:
        """What the trainer is asked for."""
        spec = taught(base, order, asked)
        spec.regression = await regression(self._kernel, base)
        spec.rank, spec.epochs = order.rank or spec.rank, order.epochs or spec.epochs
        spec.rate, spec.batch = order.rate or spec.rate, order.batch or spec.batch
        spec.steps = order.steps or spec.steps
        spec.seconds = order.seconds or spec.seconds
        return spec

    async def _trained(self, running: Running, spec: TrainSpec) -> Report:
        """The report; a process that died goes on once from its checkpoint."""
        try:
            return await self._once(running, spec)
        except EIO as error:
            if not error.detail.get("retryable"):
                raise
            self._kernel.log("warning", "lora", f"goes on after: {error.message}")
            return await self._once(running, spec)

    async def _once(self, running: Running, spec: TrainSpec) -> Report:
        folder = self._adapters.job_folder(running.version)
        async with aclosing(self._trainer.train(spec, folder)) as lines:
            async for line in lines:
                if isinstance(line, Report):
                    return line
                running.advance(line)
        raise EIO("the trainer has ended without a report", driver="lora", retryable=False)

    async def _judge(self, version: Version, report: Report) -> None:
        """Have what was trained go live, or keep its figures only."""
        version.digest, version.size = report.digest, report.bytes
        version.fingerprint, version.figures = report.base, figures(report)
        if not await self._adapters.stands(version):
            return
        why = self.policy.refusal(version.base, report)
        name = f"{version.name}@{version.number}"
        if why:
            await self._versions.refuse(version, why)
            await self._adapters.erase(version)
            self._refused += 1
            self._kernel.log("info", "lora", f"{name} is refused: {why}")
            return
        made = self._adapters.job_folder(version) / ADAPTER
        await self._kernel.machine.offload(
            partial(_move, made, self._adapters.root / version.folder)
        )
        try:
            live = await self._versions.accept(version)
        except EngramError:
            await self._adapters.erase(version)  # it was spoiled or dropped meanwhile
            raise
        self._live += 1
        self._kernel.log("info", "lora", f"{live.identity} is live in space {live.space}")
        await self._adapters.tidy(live)

    async def _give_up(self, version: Version, why: str) -> None:
        self._kernel.log("warning", "lora", f"{version.name}@{version.number}: {why}")
        await self._adapters.drop(partial(self._still, version), why)

    def _still(self, version: Version) -> list[Version]:
        """The version, as long as it is in training."""
        now = self._versions.find(version.space, Reference(version.name, version.number))
        return [now] if now.state == "training" else []

    # --- its end from outside

    async def cancel(self, space: int, by: int, job: str) -> Version:
        """End a job. Raises ENOENT, ECONFLICT when it is over."""
        version = self.find(space, job)
        if version.state != "training":
            raise ECONFLICT(
                f"the job {job} is over: {version.state}",
                hint="`engram lora job` tells how it ended",
                state=version.state,
            )
        await self._adapters.drop(partial(self._still, version), f"{CANCELLED} {by}")
        return self.find(space, job)

    async def _ended(self, versions: Sequence[Version]) -> None:
        """Versions can never be used: end their jobs, and train anew what is to be."""
        for version in versions:
            running = self._running.get(version.key)
            if running is not None and not running.ending:
                running.scope.cancel()
                await running.over.wait()
            if version.again:
                self._kernel.start_soon(self._again, version)

    async def _again(self, old: Version) -> None:
        """Train a stale version again from what is left of its sources."""
        while self._busy():
            await self._freed.wait()
        try:
            if not await self._anew(old):
                await self._versions.settle(old)
        except EngramError as error:
            self._kernel.log("warning", "lora", f"{old.name} is not trained again: {error.message}")
            await self._versions.settle(old)

    async def _anew(self, old: Version) -> bool:
        """Begin it; False where nothing is left to learn from."""
        memory = self._kernel.memory
        if memory.known(old.space) is None:
            return False
        view = memory.view(old.space)
        left = [rid for rid in old.sources if sound(view, rid)]
        kept = self._versions.given(old)
        given = msgspec.msgpack.decode(kept, type=list[Question]) if kept else []
        given = [one for one in given if set(one.sources) <= set(left)]
        order = msgspec.convert(old.order, Order)
        records = [view.read(rid) for rid in old.sources[: order.chosen] if rid in left]
        if not records and not given:
            return False
        version = Version(old.space, old.name, 0, old.base, by=old.by)
        await self._begin(version, order, records, given, old)
        return True

    # --- how it is

    def find(self, space: int, job: str) -> Version:
        """The version of a job. Raises ENOENT, EINVAL."""
        ref = reference(job)
        return self._versions.find(space, ref if ref.number else self._last(space, ref))

    def _last(self, space: int, ref: Reference) -> Reference:
        last = self._versions.named(space, ref.name).last
        if not last:
            raise ENOENT(f"there is no job {ref.name}", hint="`engram lora list --all`")
        return Reference(ref.name, last)

    def info(self, version: Version) -> lora.JobInfo:
        """A job as it is shown."""
        running = self._running.get(version.key)
        state = _STATES[version.state]
        if version.state == "dropped" and version.why.startswith(CANCELLED):
            state = "cancelled"
        elif version.state == "dropped" and version.digest:
            state = "done"
        elif version.state == "training" and (running is None or running.progress is None):
            state = "waiting"
        return lora.JobInfo(
            job=f"{version.name}@{version.number}",
            state=state,
            adapter=self._adapters.info(version),
            progress=None if running is None else running.progress,
        )

    async def follow(self, version: Version) -> AsyncGenerator[lora.TrainingProgress, None]:
        """The progress of a job, from where it is to its end."""
        running = self._running.get(version.key)
        shown = None
        while running is not None:
            moved = running.moved
            if running.progress is not None and running.progress is not shown:
                shown = running.progress
                yield shown
            elif running.over.is_set():
                return
            else:
                await moved.wait()

    def statistics(self) -> TrainingStatistics:
        """Figures for ``sys.stats``."""
        return TrainingStatistics(len(self._running), self._live, self._refused, self._failed)


def _move(made: Path, place: Path) -> None:
    """Put a finished adapter in its place, durably. Raises EIO."""
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made.rename(place)
        for folder in (place, place.parent):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        raise EIO(f"the adapter cannot be put in its place: {error}", driver="lora") from error
