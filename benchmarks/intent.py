"""An intent end to end with nano: words in, a program (or its results and a reply) out.

The floor is the bare engine in this process, without kernel and host, generating the same
tokens for the same request (prompt, grammar). Both see every text once, so nothing but the
dialect's own first token is ever cached. ``ratio`` is the p50 of an intent that is run (one cheap
call) over the floor's p50; ``plan_ratio`` the same without running it. ``own_share`` is the
part of an intent's time in the kernel that is neither the engine's nor the calls'.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks._harness import kernel, percentile, report
from drivers.engine import Job
from drivers.llm.contract import GenerateRequest, Piece
from drivers.llm.engine import TransformersEngine
from drivers.protocol import Chunk, Done, EngineSpec, Failed, Message
from kernel.mind.grammar import Surfaces
from kernel.mind.nano import NanoDialect
from kernel.mind.prompt import Context
from kernel.mind.seats import nano_weights
from syscalls.capability import CapSet
from userland.client import BlockingClient

ROUNDS = 60
WARM = 5
BOUND = 1.3
TEXTS = (
    "remember that invoice {n} was paid in cash",
    "what do my notes say about invoice {n}",
    "write down that room {n} has no projector",
    "记住第 {n} 号房间没有投影仪",
    "look for the minutes of meeting {n}",
)


class Bare:
    """The engine alone."""

    def __init__(self, folder: str) -> None:
        self._engine = TransformersEngine(EngineSpec("llm", "transformers", folder))
        self._engine.load(lambda _: None)
        self._seq = 0

    def generate(self, request: GenerateRequest) -> tuple[str, int]:
        """The text and the number of its tokens."""
        self._seq += 1
        answers: list[Message] = []
        raw = msgspec.Raw(msgspec.msgpack.encode(request))
        self._engine.begin(Job(self._seq, "generate", raw, 1 << 30, answers.append))
        while self._engine.busy:
            self._engine.step()
        pieces = []
        for answer in answers:
            if isinstance(answer, Failed):
                raise SystemExit(f"the bare engine failed: {answer.error}")
            if isinstance(answer, Chunk | Done):
                pieces.append(msgspec.msgpack.decode(answer.value, type=Piece))
        usage = pieces[-1].usage
        return "".join(piece.text for piece in pieces), usage.completion if usage else 0


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    began = time.perf_counter()
    value = work()
    return time.perf_counter() - began, value


def main() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in a host, and before torch loads
    weights = nano_weights()
    if weights is None:
        raise SystemExit("drivers/nano/weights holds no model")
    bare, dialect = Bare(str(weights)), NanoDialect()
    surface = Surfaces().of(CapSet({"*"}))
    floors: list[float] = []
    plans: list[float] = []
    runs: list[float] = []
    tokens = 0
    with kernel("--embedder", "none") as data, BlockingClient.open(data) as client:
        first, _ = timed(lambda: client.llm.intent(text="list the processes", execute=False))
        before: dict[str, Any] = {}
        for number in range(WARM + ROUNDS):
            if number == WARM:
                before = client.sys.stats().stats["mind"]
                tokens = 0
                for taken_so_far in (floors, plans, runs):
                    taken_so_far.clear()
            words = TEXTS[number % len(TEXTS)]
            text = words.format(n=10_000 + number)
            request = dialect.render(Context(text, surface.calls), surface)
            taken, (_, count) = timed(lambda request=request: bare.generate(request))  # type: ignore[misc]
            floors.append(taken)
            tokens += count
            plans.append(timed(lambda t=text: client.llm.intent(text=t, execute=False))[0])  # type: ignore[misc]
            again = words.format(n=50_000 + number)
            runs.append(timed(lambda t=again: client.llm.intent(text=t))[0])  # type: ignore[misc]
        after = client.sys.stats().stats["mind"]
    spent = {name: after[name] - before[name] for name in ("total", "decoding", "running")}
    floor = percentile(floors, 0.5)
    report(
        "intent",
        percentile(runs, 0.5),
        floor,
        percentile(runs, 0.5) / floor,
        unit="s",
        bound=BOUND,
        p95=percentile(runs, 0.95),
        plan=percentile(plans, 0.5),
        plan_p95=percentile(plans, 0.95),
        plan_ratio=percentile(plans, 0.5) / floor,
        floor_p95=percentile(floors, 0.95),
        tokens_an_intent=tokens / len(floors),
        own_share=(spent["total"] - spent["decoding"] - spent["running"]) / spent["total"],
        first=first,
    )


if __name__ == "__main__":
    main()
