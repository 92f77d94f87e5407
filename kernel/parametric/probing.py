"""Parameters back to text: what an adapter still knows, asked question by question.

    version ──> its sources ──> questions ──> base with the adapter ──> answers ──> records

Each answer is a semantic record of its own that rests on what the adapter was made from, so it
goes when that goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from kernel.parametric.bases import answer, base_of, is_right
from kernel.parametric.job import Order
from syscalls.calls import lora
from syscalls.errors import EINVAL, ETIME
from syscalls.records import Note
from ums import questions
from ums.questions import Question

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from kernel.trap import Emit
    from procs.process import Process
    from ums.adapters import Version

KIND = "probe"
MOST_SOURCES = 256
"""Rids that a record of an answer rests on; of more, those of its question come first."""


async def probe(
    kernel: Kernel, caller: Process, version: Version, call: lora.Probe, emit: Emit
) -> lora.Probes:
    """Ask, and record. Raises EINVAL (there is nothing to ask), ENODEV, EIO, EDQUOT, ETIME."""
    asked = _questions(kernel, version)[: call.limit]
    if not asked:
        raise EINVAL(
            f"there is nothing to ask {version.name} about", hint="its records say nothing"
        )
    done: list[lora.Probed] = []
    with trio.move_on_after(float("inf") if call.deadline is None else call.deadline) as scope:
        for question in asked:
            done.append(await _ask(kernel, caller, version, question, call))
            if call.stream:
                await emit(done[-1])
    if scope.cancelled_caught:
        raise ETIME(f"{len(done)} of {len(asked)} answers within {call.deadline} s", done=len(done))
    right = sum(one.right for one in done)
    return lora.Probes(version.identity, done, right, version.sources)


def _questions(kernel: Kernel, version: Version) -> list[Question]:
    """What the version was taught, what was set aside first."""
    view = kernel.memory.view(version.space)
    order = msgspec.convert(version.order, Order)
    records = [view.read(rid) for rid in version.sources[: order.chosen]]
    asked = questions.questions(records, order.seed, order.held_out)
    if version.base == "nano":
        asked = [one for one in asked if one.answer.startswith("[")]
    kept = kernel.adapters.versions.given(version)
    if kept:
        asked += msgspec.msgpack.decode(kept, type=list[Question])
    return sorted(asked, key=lambda one: not one.held_out)


async def _ask(
    kernel: Kernel, caller: Process, version: Version, question: Question, call: lora.Probe
) -> lora.Probed:
    base = base_of(kernel, version.base)
    named = f"{version.name}@{version.number}"
    said = await answer(kernel, caller, base, question, named, call.max_tokens)
    right = is_right(base, question, said)
    sources = list(dict.fromkeys([*question.sources, *version.sources]))[:MOST_SOURCES]
    told = lora.Probed(question.prompt, said, right, question.sources)
    if call.record and said.strip():
        note = Note(
            segment="semantic",
            content=f"{question.prompt} {said.strip()}",
            kind=KIND,
            meta={"adapter": version.identity, "question": question.prompt, "right": right},
            sources=sources,
            taint="model",
        )
        limit = kernel.accounts.limit(caller, "records")
        written = await kernel.memory.write(version.space, caller.apid, note, "lora.probe", limit)
        told.rid = written.rid
    return told
