"""Parts for tests of adapters: a trainer that does what it is told, a model that says so."""

from __future__ import annotations

from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from drivers.llm.contract import LLMInfo, Piece
from drivers.lora.contract import ADAPTER, Figures, Progress, Report, TrainerStatistics
from kernel import monitor
from syscalls.records import Fact
from syscalls.shapes import Usage
from tests.minds import Sys, system
from tests.simulation import run_seeded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from drivers.contracts import DriverState
    from drivers.llm.contract import GenerateRequest
    from drivers.lora.contract import TrainSpec
    from syscalls.errors import EngramError
    from syscalls.shapes import ChatMessage

    Scene = Callable[["Lora", Any], Awaitable[None]]


class FakeTrainer:
    """``contract.Trainer`` that learns nothing and reports the figures that it was given."""

    def __init__(self) -> None:
        self.specs: list[TrainSpec] = []
        self.before, self.after = Figures(10, 0.1, 2.0), Figures(10, 0.9, 0.2)
        self.kept = Figures(10, 1.0, 0.5)
        self.hold: trio.Event | None = None
        """Where it is set, training waits for it at its second step."""
        self.error: EngramError | None = None
        self.ended = 0

    async def train(self, spec: TrainSpec, folder: Path) -> AsyncGenerator[Progress | Report, None]:
        self.specs.append(spec)
        _begin(spec, folder)
        try:
            yield Progress("load")
            yield Progress("train", 1, 2, 1.0, 0.5)
            if self.hold is not None:
                await self.hold.wait()
            await trio.sleep(1)
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            yield Progress("train", 2, 2, 0.5, 1.0)
            yield self._report(spec, folder / ADAPTER)
        finally:
            self.ended += 1

    def _report(self, spec: TrainSpec, folder: Path) -> Report:
        folder.mkdir(exist_ok=True)
        weights = f"weights of training {len(self.specs)}".encode()
        (folder / "adapter_model.safetensors").write_bytes(weights)
        (folder / "adapter_config.json").write_text("{}")
        return Report(
            before=self.before,
            after=self.after,
            regression_before=Figures(10, 1.0, 0.5),
            regression_after=self.kept,
            digest=sha256(weights).hexdigest(),
            base="fake-weights",
            rows=len(spec.examples),
            held_out=0,
            steps=2,
            seconds=2.0,
            train_seconds=1.0,
            loss=0.5,
            parameters=100,
            bytes=len(weights) + 2,
        )

    def statistics(self) -> TrainerStatistics:
        return TrainerStatistics()


def _begin(spec: TrainSpec, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_bytes(msgspec.json.encode(spec))


class Figured(msgspec.Struct, frozen=True):
    """Figures of a fake model."""

    asked: int


class FakeModel:
    """``contracts.LLM`` that says with which adapter it was asked, and keeps the requests."""

    state: DriverState = "ready"

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.info = LLMInfo("fake", "test", 1 << 20, fingerprint="fake-weights")

    async def ready(self) -> LLMInfo:
        await trio.lowlevel.checkpoint()
        return self.info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        yield Piece(text=request.adapter or "bare")
        yield Piece(finish="stop", usage=Usage(10, 0, 1))

    async def count(self, text: str | None, messages: list[ChatMessage] | None) -> int:
        await trio.lowlevel.checkpoint()
        return len(text or "")

    def statistics(self) -> Figured:
        return Figured(len(self.requests))


@asynccontextmanager
async def taught(folder: Path, seed: int = 1, **settings: Any) -> AsyncIterator[Lora]:
    """A simulated system with a fake model and a fake trainer; its files are in ``folder``."""
    async with system(seed, {}, **settings) as running:
        yield Lora(running, folder)


class Lora:
    """A simulated system, and what stands in for a model and for training."""

    def __init__(self, running: Sys, folder: Path) -> None:
        self.system = running
        self.kernel = kernel = running.kernel
        self.trainer, self.model = FakeTrainer(), FakeModel()
        self.folder = folder / "lora"
        kernel.settings = msgspec.structs.replace(kernel.settings, data=str(folder), model="fake")
        kernel.machine = msgspec.structs.replace(kernel.machine, trainer=lambda: self.trainer)
        kernel.llm = self.model

    def attach(self, *grants: str) -> Any:
        """A new shell."""
        return self.system.attach(*grants)

    async def join(self, guest: Any, host: Any) -> None:
        """Have one shell work in the space of another, as ``sys.session`` does."""
        process = self.kernel.processes.get((await guest.proc.info()).apid)
        space = (await host.proc.info()).space
        space = await monitor.adopt_space(self.kernel, process, space)
        monitor.borrow(self.kernel, process, space)
        process.space = space

    async def said(self, shell: Any, **more: Any) -> str:
        """The adapter that a generation of the shell's uses; ``bare`` for none."""
        text: str = (await shell.llm.generate(prompt="hello", **more)).text
        return text

    async def trained(self, shell: Any, name: str = "notes", **more: Any) -> Any:
        """Train and wait for the end."""
        if not more:
            found = (await shell.mem.read()).records
            more = {"rids": [record.rid for record in found]}
        job = (await shell.lora.train(name=name, **more)).job
        return await ended(shell, job)


async def ended(shell: Any, job: str) -> Any:
    """The job at its end."""
    return await shell.lora.job(job=job, follow=True)


def play(folder: Path, scene: Scene, **settings: Any) -> None:
    """A scene with a system of its own and a shell that has two facts in its space."""

    async def main() -> None:
        async with taught(folder, **settings) as lora:
            shell = lora.attach()
            for name, town in (("Ada", "Turin"), ("Bob", "Oslo")):
                await shell.mem.write(
                    segment="semantic",
                    content=f"{name} lives in {town}",
                    fact=Fact(name, "lives_in", town),
                )
            await scene(lora, shell)

    run_seeded(3, main)


async def rids(shell: Any) -> list[str]:
    return [record.rid for record in (await shell.mem.read()).records]


async def listed(shell: Any, name: str = "notes", **more: Any) -> list[tuple[int, str]]:
    found = (await shell.lora.list(adapter=name, **more)).adapters
    return [(one.version, one.state) for one in found]
