"""The steps that a declared agent's model may write, as structs and as a JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from syscalls.calls.tool import ToolInfo

THOUGHT = 400
"""Characters of a thought."""


class Reply(msgspec.Struct, tag="reply", tag_field="do", frozen=True):
    """The task is done, or there is something to ask."""

    text: str
    thought: str = ""


class Recall(msgspec.Struct, tag="recall", tag_field="do", frozen=True):
    """Search the own memory."""

    query: str
    thought: str = ""


class Remember(msgspec.Struct, tag="remember", tag_field="do", frozen=True):
    """Keep a fact."""

    content: str
    thought: str = ""


class UseTool(msgspec.Struct, tag="tool", tag_field="do", frozen=True):
    """Call a tool."""

    tool: str
    args: dict[str, Any] = {}
    thought: str = ""


Step = Reply | Recall | Remember | UseTool
_decoder: msgspec.json.Decoder[Step] = msgspec.json.Decoder(Step)
DEFINITIONS = "#/$defs/"


def step_of(written: str, tools: Collection[str]) -> Step:
    """The step that a model wrote. Raises EINVAL for what is none, in words for the model."""
    try:
        step = _decoder.decode(written)
    except msgspec.ValidationError as error:
        raise EINVAL(f"the object does not fit: {error}") from error
    except msgspec.DecodeError as error:
        raise EINVAL("it is not one whole JSON object; be shorter") from error
    if isinstance(step, UseTool) and step.tool not in tools:
        raise EINVAL(f"there is no tool {step.tool!r}")
    said = step.text if isinstance(step, Reply) else "."
    said = step.content if isinstance(step, Remember) else said
    said = step.query if isinstance(step, Recall) else said
    if not said.strip():
        raise EINVAL("it says nothing")
    return step


def schema(tools: Sequence[ToolInfo]) -> dict[str, Any]:
    """The JSON Schema of a step; each tool's arguments by the tool's own."""
    kinds = [_kind("reply", text=_text())]
    kinds += [_kind("recall", query=_text()), _kind("remember", content=_text())]
    definitions: dict[str, Any] = {}
    for number, one in enumerate(tools):
        args = {"type": "object", **_apart(one.schema, number)}
        for name, form in args.pop("$defs", {}).items():
            definitions[f"{number}.{name}"] = form
        kinds.append(_kind("tool", tool={"const": one.name}, args=args))
    made: dict[str, Any] = {"anyOf": kinds}
    return {**made, "$defs": definitions} if definitions else made


def _apart(form: Any, number: int) -> Any:
    """A schema whose references are to definitions of its own tool: names may be alike."""
    if isinstance(form, list):
        return [_apart(item, number) for item in form]
    if not isinstance(form, dict):
        return form
    made = {key: _apart(value, number) for key, value in form.items()}
    target = form.get("$ref")
    if isinstance(target, str) and target.startswith(DEFINITIONS):
        made["$ref"] = f"{DEFINITIONS}{number}.{target.removeprefix(DEFINITIONS)}"
    return made


def _kind(do: str, **fields: dict[str, Any]) -> dict[str, Any]:
    thought = {"type": "string", "maxLength": THOUGHT}
    properties = {"thought": thought, "do": {"const": do}, **fields}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _text() -> dict[str, Any]:
    return {"type": "string", "minLength": 1}
