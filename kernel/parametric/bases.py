"""The models that adapters are for: what training takes of them, and how they are asked.

base     weights                    a question is asked as          its answer
nano     those beside its code      an intent, under its grammar    a program
model    those that are attached    what a user says                text
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.llm.contract import GenerateRequest
from drivers.lora.contract import Example, TrainSpec
from kernel.generation import generate
from syscalls.errors import EINVAL, ENODEV
from syscalls.shapes import ChatMessage
from ums.questions import GENERAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.llm.contract import LLM
    from kernel.kernel import Kernel
    from kernel.parametric.job import Order
    from procs.process import Process
    from ums.questions import Question

REMOTE = "openai:"
REFERENCE = 24
"""Tokens of a general model's own answers that are to stay likely."""
SALT = "kernel/lora"


class Base(msgspec.Struct, frozen=True):
    """A model that can be trained."""

    name: str
    """``nano`` or ``model``."""
    folder: str
    """Folder or hub name of its weights."""
    recipe: str


class _Step(msgspec.Struct):
    """A call of a program."""

    call: str
    args: dict[str, Any] = {}


def base_of(kernel: Kernel, name: str) -> Base:
    """The base that a call names; empty for the attached model, else nano.

    Raises EINVAL, ENODEV.
    """
    name = name or ("nano" if kernel.llm.state == "absent" else "model")
    if name == "nano":
        from kernel.mind.seats import nano_weights

        folder = nano_weights()
        if folder is None:
            raise ENODEV("the weights of nano are not installed")
        return Base(name, str(folder), "nano")
    if name != "model":
        raise EINVAL(f"there is no base {name!r}", hint="it is `nano` or `model`")
    model = kernel.settings.model
    if model == "none":
        raise ENODEV("no language model is attached", hint="boot with `--model FOLDER_OR_NAME`")
    if model.startswith(REMOTE):
        raise ENODEV(
            "the weights of a model on a server are not here to be trained on",
            hint="train on a model that runs on this machine",
        )
    return Base(name, model, "text")


def suited(base: Base) -> TrainSpec:
    """What suits a base, without examples."""
    spec = TrainSpec(base.folder, [], base.recipe)
    if base.name == "nano":
        from drivers.lora.nano import suit

        spec = suit(spec)
    return spec


def taught(base: Base, order: Order, asked: Sequence[Question]) -> TrainSpec:
    """What suits a base, with what it is taught and measured by.

    Raises EINVAL for what is no example, and where nothing would be left to measure it by.
    """
    from drivers.lora.selection import select

    spec = suited(base)
    spec.examples = [example(base, one) for one in asked if not one.held_out]
    spec.probes = [example(base, one) for one in asked if one.held_out]
    spec.held_out, spec.seed = 0.0 if spec.probes else order.held_out, order.seed
    if not spec.probes and not select(spec).probes:
        raise EINVAL(
            "nothing would be set aside to measure it by, so it could not go live",
            hint="give two examples or more that ask different things, and a share to set aside",
        )
    return spec


def example(base: Base, question: Question) -> Example:
    """A question as the base is taught it, and measured by. Raises EINVAL for what is none."""
    if base.name == "model" and not question.raw:
        messages = [ChatMessage(role="user", content=question.prompt)]
        return Example(
            question.answer, messages=messages, accept=question.accept, group=question.group
        )
    if base.name == "nano":
        for program in (question.answer, *question.accept):
            _check(program, question.prompt)
    return Example(question.answer, question.prompt, accept=question.accept, group=question.group)


def _check(program: str, text: str) -> None:
    """Raises EINVAL for what nano cannot write."""
    from drivers.nano import dialect

    try:
        steps = msgspec.json.decode(program, type=list[_Step])
    except msgspec.DecodeError as error:
        raise EINVAL(
            f"the example {text!r} has no program: {error}",
            hint='`program` is a list such as [{"call": "proc.list", "args": {}}]',
        ) from error
    unknown = [step.call for step in steps if step.call not in dialect.CALLS]
    if unknown:
        raise EINVAL(f"nano knows no call {unknown[0]}", hint=", ".join(dialect.CALLS))


def is_right(base: Base, question: Question, said: str) -> bool:
    """Whether an answer is the right one, or one of them."""
    wanted = (question.answer, *question.accept)
    if base.name != "nano":
        return said.strip() in wanted
    from drivers.nano.score import accepted

    try:
        program = msgspec.json.decode(said, type=list[_Step])
    except msgspec.DecodeError:
        return False  # nano wrote what is no program
    known = [msgspec.json.decode(each, type=list[_Step]) for each in wanted]
    return accepted([msgspec.to_builtins(each) for each in known], msgspec.to_builtins(program))


async def regression(kernel: Kernel, base: Base) -> list[Example]:
    """What the base is not to lose: for nano intents of all kinds, for a model what it says now.

    Raises ENODEV, EIO.
    """
    if base.name == "nano":
        from drivers.lora.nano import regression_examples

        return regression_examples()
    kept: list[Example] = []
    for text in GENERAL:
        request = _asked(base, text, raw=False, most=REFERENCE)
        request.salt = SALT
        said = await _text(kernel.llm.generate(request))
        if said:
            kept.append(Example(said, messages=request.messages))
    return kept


async def answer(
    kernel: Kernel, caller: Process, base: Base, question: Question, adapter: str, most: int
) -> str:
    """What the base says to a question with an adapter, for ``caller``.

    Raises what ``kernel.generation.generate`` raises.
    """
    request = _asked(base, question.prompt, raw=question.raw, most=most)
    request.adapter = adapter
    engine: LLM = kernel.machine.nano if base.name == "nano" else kernel.llm
    said = await _text(generate(kernel, caller, request, engine))
    return _program(said, question.prompt) if base.name == "nano" else said.strip()


def _asked(base: Base, text: str, *, raw: bool, most: int) -> GenerateRequest:
    if base.name == "nano":
        from drivers.nano import dialect

        return GenerateRequest(
            prompt=dialect.render(text),
            grammar=dialect.grammar(text, dialect.CALLS),
            special=True,
            max_tokens=dialect.MOST_TOKENS,
            stop=[dialect.STOP],
        )
    if raw:
        return GenerateRequest(prompt=text, max_tokens=most)
    return GenerateRequest(messages=[ChatMessage(role="user", content=text)], max_tokens=most)


def _program(said: str, text: str) -> str:
    """What nano wrote as the JSON of its program; as it is where it is none."""
    from drivers.nano import dialect

    try:
        steps = dialect.parse(said, text)
    except dialect.Malformed:
        return said
    return msgspec.json.encode(steps, order="deterministic").decode()


async def _text(pieces: object) -> str:
    texts = []
    async with aclosing(pieces) as coming:  # type: ignore[type-var]
        async for piece in coming:  # type: ignore[attr-defined]
            texts.append(piece.text)
    return "".join(texts)
