"""Whether arguments fit a tool's JSON Schema: the part of draft 2020-12 that tools use.

``pattern`` and ``format`` are left to the tool: a regular expression that somebody else wrote
could keep the kernel busy for ever. References go to ``#/...`` of the same schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGEST = 256 * 1024
"""Bytes of a schema."""
DEEPEST = 64
"""Levels of schemas within schemas, references included."""

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}
NAMED = ("properties", "$defs", "definitions")
"""Keywords that hold schemas by name."""
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "not")
NUMBERS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
    "minItems", "maxItems",
)  # fmt: skip


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse what is no schema of arguments. Raises EINVAL."""
    try:
        size = len(msgspec.json.encode(schema))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EINVAL(f"the schema is not JSON: {error}") from error
    if size > LARGEST:
        raise EINVAL(f"the schema has {size} bytes, {LARGEST} are allowed")
    if schema.get("type", "object") != "object":
        raise EINVAL("arguments are an object: the schema's type is not", type=schema["type"])
    _check(schema, schema, "schema", 0)


def _check(schema: Any, root: dict[str, Any], at: str, depth: int) -> None:
    if depth > DEEPEST:
        raise EINVAL(f"{at}: more than {DEEPEST} levels")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise EINVAL(f"{at}: a schema is an object, true or false")
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in TYPES:
            raise EINVAL(f"{at}: there is no type {kind!r}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise EINVAL(f"{at}: required is a list of names")
    if not isinstance(schema.get("enum", []), list):
        raise EINVAL(f"{at}: enum is a list")
    for name in NUMBERS:
        if name in schema and not TYPES["number"](schema[name]):
            raise EINVAL(f"{at}: {name} is a number")
    if "$ref" in schema:
        _resolve(schema["$ref"], root, at)
    for name, each in _inner(schema, at):
        _check(each, root, f"{at}.{name}", depth + 1)


def _inner(schema: dict[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    """The schemas right inside a schema."""
    for name in NAMED:
        named = schema.get(name, {})
        if not isinstance(named, dict):
            raise EINVAL(f"{at}: {name} is an object of schemas")
        yield from ((f"{name}.{key}", each) for key, each in named.items())
    for name in LISTED:
        listed = schema.get(name, [])
        if not isinstance(listed, list):
            raise EINVAL(f"{at}: {name} is a list of schemas")
        yield from ((f"{name}[{place}]", each) for place, each in enumerate(listed))
    yield from ((name, schema[name]) for name in SINGLE if name in schema)


def _resolve(ref: Any, root: dict[str, Any], at: str) -> Any:
    """What a reference means. Raises EINVAL."""
    found: Any = root
    if not isinstance(ref, str) or not ref.startswith("#"):
        raise EINVAL(f"{at}: only references within the schema are followed, not {ref!r}")
    for part in ref[1:].strip("/").split("/"):
        if part:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise EINVAL(f"{at}: {ref} leads nowhere")
            found = found[name]
    return found


def misfit(schema: dict[str, Any], args: Any) -> str:
    """Where arguments do not fit a checked schema, in words; empty where they do."""
    return _misfit(schema, args, "args", schema, 0)


def _misfit(schema: Any, value: Any, at: str, root: dict[str, Any], depth: int) -> str:
    if isinstance(schema, bool):
        return "" if schema else f"{at} must not be given"
    if depth > DEEPEST:
        return f"{at}: the schema refers to itself without end"
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(TYPES[kind](value) for kind in kinds):
        return f"{at} must be {' or '.join(kinds)}"
    if "enum" in schema and not any(_equal(value, each) for each in schema["enum"]):
        return f"{at} must be one of {_shown(schema['enum'])}"
    if "const" in schema and not _equal(value, schema["const"]):
        return f"{at} must be {_shown(schema['const'])}"
    found = _bounds(schema, value, at)
    if not found and isinstance(value, dict):
        found = _misfit_object(schema, value, at, root, depth)
    if not found and isinstance(value, list):
        found = _misfit_list(schema, value, at, root, depth)
    return found or _combined(schema, value, at, root, depth)


def _bounds(schema: dict[str, Any], value: Any, at: str) -> str:
    """Sizes and numbers."""
    if TYPES["number"](value):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            return f"{at} is out of its range"
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if (above is not None and value <= above) or (below is not None and value >= below):
            return f"{at} is out of its range"
    for kind, least, most in ((str, "minLength", "maxLength"), (list, "minItems", "maxItems")):
        if isinstance(value, kind):
            size = len(value)
            if size < schema.get(least, size) or size > schema.get(most, size):
                return f"{at} is too short or too long"
    return ""


def _misfit_object(
    schema: dict[str, Any], value: dict[str, Any], at: str, root: dict[str, Any], depth: int
) -> str:
    for name in schema.get("required", []):
        if name not in value:
            return f"{at}.{name} is missing"
    known = schema.get("properties", {})
    for name, each in value.items():
        inner = known[name] if name in known else schema.get("additionalProperties", True)
        if inner is False:
            return f"{at}.{name} is not an argument of it"
        if found := _misfit(inner, each, f"{at}.{name}", root, depth + 1):
            return found
    return ""


def _misfit_list(
    schema: dict[str, Any], value: list[Any], at: str, root: dict[str, Any], depth: int
) -> str:
    first = schema.get("prefixItems", [])
    rest = schema.get("items", True)
    for place, each in enumerate(value):
        inner = first[place] if place < len(first) else rest
        if found := _misfit(inner, each, f"{at}[{place}]", root, depth + 1):
            return found
    if schema.get("uniqueItems") is True:
        shown = [_shown(each) for each in value]
        if len(set(shown)) < len(shown):
            return f"{at} has an item twice"
    return ""


def _combined(schema: dict[str, Any], value: Any, at: str, root: dict[str, Any], depth: int) -> str:
    """References, and schemas that are combined."""
    if "$ref" in schema:
        inner = _resolve(schema["$ref"], root, at)
        if found := _misfit(inner, value, at, root, depth + 1):
            return found
    for each in schema.get("allOf", []):
        if found := _misfit(each, value, at, root, depth + 1):
            return found
    for name in ("anyOf", "oneOf"):
        if name in schema:
            misfits = [_misfit(each, value, at, root, depth + 1) for each in schema[name]]
            fitting = misfits.count("")
            if not fitting:
                return misfits[0] if len(misfits) == 1 else f"{at} fits none of {name}"
            if name == "oneOf" and fitting > 1:
                return f"{at} fits more than one of oneOf"
    if "not" in schema and not _misfit(schema["not"], value, at, root, depth + 1):
        return f"{at} is what it must not be"
    return ""


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _shown(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic", enc_hook=repr).decode()
