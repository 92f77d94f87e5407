"""Language models. Numbers 96-111."""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.shapes import ChatMessage, Paging, Seconds, Shape, Usage
from syscalls.table import Call, syscall


class Chunk(Shape):
    """Text that came since the last chunk."""

    text: str


class Generated(Shape, omit_defaults=False):
    """The whole text, also after streaming."""

    text: str
    usage: Usage
    finish: str = "stop"
    """``stop``, ``length`` or ``cancelled``."""
    model: str = ""


@syscall(96, "llm.generate", reply=Generated, chunk=Chunk)
class Generate(Call, kw_only=True):
    """Generate text from ``messages`` (through the model's chat template) or a ``prompt``.

    With ``stream`` the text comes in chunks first. ``schema`` is a JSON Schema the text must
    follow. ``deadline`` is in seconds. Raises ENODEV (no model is attached), EINVAL (the
    prompt is empty or too long), ETIME, EIO (the model host died). Messages with ``images``
    are for a model that sees (``sees`` in the detail of the driver ``llm``, ``sys.info``);
    another one raises ENODEV.

    ``memory`` "auto" is the memory fault: what the last user message needs and the request
    lacks is searched for and put before it as marked data, ``memory_budget`` tokens at most;
    ``usage.paged`` lists it. What cannot be had in time is left out.
    """

    messages: list[ChatMessage] | None = None
    prompt: Annotated[str, Meta(max_length=8 * 1024 * 1024)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    stream: bool = False
    schema: dict[str, Any] | None = None
    adapter: str = ""
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    stop: list[str] = []
    seed: int | None = None
    deadline: Seconds | None = None
    context: bool = False
    """Go on with the caller's context (``proc.context``): it comes first, and ``messages`` and
    the answer are added to it."""
    memory: Paging = "off"
    memory_budget: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024


class Embedded(Shape, omit_defaults=False):
    """One vector a text."""

    vectors: list[list[float]]
    dimension: int
    model: str


@syscall(97, "llm.embed", reply=Embedded)
class Embed(Call, kw_only=True):
    """Embed texts with the kernel's embedder. Raises ENODEV, EIO, ETIME."""

    texts: Annotated[list[str], Meta(min_length=1, max_length=1000)]
    deadline: Seconds | None = None


class Counted(Shape):
    """Number of tokens."""

    tokens: int


@syscall(98, "llm.count", reply=Counted)
class Count(Call, kw_only=True):
    """Count the tokens of a text (or messages, template included) for the attached model."""

    text: str | None = None
    messages: list[ChatMessage] | None = None


class Step(Shape):
    """One call of a program and what came of it."""

    call: str
    args: dict[str, Any]
    ok: bool
    value: Any = None


class Planned(Shape):
    """One call of a program, as in the table."""

    call: str
    args: dict[str, Any]


class Understood(Shape, omit_defaults=False):
    """What an intent became."""

    program: list[Planned]
    results: list[Step]
    reply: str


@syscall(99, "llm.intent", reply=Understood)
class Intent(Call, kw_only=True):
    """Turn a person's words into syscalls that the caller may make, and run them as the caller.

    Without ``execute`` only the program comes back. ``program`` is such a plan, to be run as it
    is. Raises ENODEV (no model understands intents), ETIME, EIO; ``detail`` says what was done.
    """

    text: Annotated[str, Meta(min_length=1, max_length=65536)]
    execute: bool = True
    program: list[Planned] | None = None
    max_steps: Annotated[int, Meta(ge=1, le=64)] = 8
    deadline: Seconds | None = None
