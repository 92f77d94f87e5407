"""Language models: generate, count, embed."""

import argparse

import msgspec

from syscalls.calls import llm
from syscalls.errors import EINVAL
from syscalls.shapes import ChatMessage
from userland.context import Context, text_or_stdin


def llm_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """The fields of llm.generate."""
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--deadline", type=float, metavar="S")
    parser.add_argument("--schema", metavar="JSON", help="JSON Schema that the text must follow")
    parser.add_argument("--chat", action="store_true", help="as a message, by the chat template")
    parser.add_argument("prompt", nargs="+", help="- reads the standard input")


def llm_generate(context: Context, options: argparse.Namespace) -> int:
    """Generate text, shown as it comes."""
    text = text_or_stdin(" ".join(options.prompt))
    message = ChatMessage(role="user", content=text)
    call = llm.Generate(
        prompt=None if options.chat else text,
        messages=[message] if options.chat else None,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        deadline=options.deadline,
        schema=_schema(options.schema),
        stream=not context.json,
    )
    client = context.memory()  # in the space in which `engram lora attach` and `kv pin` are
    if context.json:
        context.value(client.call(call))
        return 0
    with client.stream(call) as stream:
        for chunk in stream:
            context.screen.raw(chunk.text.encode())
        context.screen.raw(b"\n")
        used = stream.reply.usage
    context.screen.problem(
        f"[{used.prompt} prompt ({used.cached} cached), {used.completion} new tokens]"
    )
    return 0


def _schema(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise EINVAL(f"--schema: a JSON object is wanted: {error}") from error


def llm_count_arguments(parser: argparse.ArgumentParser) -> None:
    """The text."""
    parser.add_argument("text", nargs="+", help="- reads the standard input")


def llm_count(context: Context, options: argparse.Namespace) -> int:
    """Count tokens."""
    counted = context.client.call(llm.Count(text=text_or_stdin(" ".join(options.text))))
    context.value(counted, str(counted.tokens))
    return 0


def llm_embed_arguments(parser: argparse.ArgumentParser) -> None:
    """The texts."""
    parser.add_argument("--deadline", type=float, metavar="S")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="one vector each")


def llm_embed(context: Context, options: argparse.Namespace) -> int:
    """Embed texts: the vectors with --json, else their similarity to the first."""
    found: llm.Embedded = context.client.call(
        llm.Embed(texts=options.texts, deadline=options.deadline)
    )
    first = found.vectors[0]
    rows: list[list[object]] = [
        [f"{sum(a * b for a, b in zip(first, vector, strict=True)):.3f}", text]
        for text, vector in zip(options.texts, found.vectors, strict=True)
    ]
    context.table(found, ["similarity", f"{found.model}, {found.dimension} dimensions"], rows)
    return 0
