"""From a capability set to what a program may say: names, JSON Schema, key of the cache.

What the caller may not do is not in the grammar, so a model cannot write it down, whatever it
was told. The schema is that of the table's structs, made narrower where a decoder could run
away: every number and every text has bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from syscalls.schema import json_schema
from syscalls.table import TABLE

if TYPE_CHECKING:
    from syscalls.capability import CapSet

NEVER = frozenset({"llm.intent", "proc.exit", "proc.exec"})
"""Not for a program: an intent inside an intent, and the ends of the caller itself."""
MOST_STEPS = 8
"""Calls in one program."""
TEXT = 4000
"""Characters of one text argument."""
REPLY = 2000
WHOLE = 2**53
"""Integers up to this size are the same in every JSON."""
ANY = {
    "anyOf": [
        {"type": "string", "maxLength": TEXT},
        {"type": "number", "minimum": -WHOLE, "maximum": WHOLE},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "array", "items": {"$ref": "#/$defs/any"}, "maxItems": 64},
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/any"}},
    ]
}
KEPT = frozenset({"type", "const", "enum", "required", "pattern", "minLength", "minItems"})


class Surface(msgspec.Struct, frozen=True):
    """What the holders of one capability set may say."""

    calls: tuple[str, ...]
    """Names, in order of their numbers."""
    schema: dict[str, Any]
    """Of ``{"steps": [{"call", "args"}, ...], "reply": text}``."""
    salt: str
    """Marks the static prefix: equal for equal sets of calls."""


class SurfaceStatistics(msgspec.Struct, frozen=True):
    """Figures of the cache."""

    kept: int
    made: int
    hits: int


class Surfaces:
    """The surfaces by capability set; the least used of too many is forgotten."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._kept: OrderedDict[CapSet, Surface] = OrderedDict()
        self._made = self._hits = 0

    def of(self, caps: CapSet) -> Surface:
        """The surface of a set; made at its first use."""
        surface = self._kept.get(caps)
        if surface is not None:
            self._hits += 1
            self._kept.move_to_end(caps)
            return surface
        surface = _surface(allowed(caps))
        self._made += 1
        self._kept[caps] = surface
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return surface

    def statistics(self) -> SurfaceStatistics:
        """Figures for ``/proc``."""
        return SurfaceStatistics(len(self._kept), self._made, self._hits)


def allowed(caps: CapSet) -> tuple[str, ...]:
    """The calls that a program of the set's holder may name."""
    return tuple(
        entry.name for entry in TABLE if entry.name not in NEVER and caps.may(entry.capability)
    )


@lru_cache(maxsize=64)
def _surface(calls: tuple[str, ...]) -> Surface:
    import hashlib

    mark = hashlib.sha256(" ".join(calls).encode()).hexdigest()[:16]
    return Surface(calls, program_schema(calls), f"mind:{mark}")


def program_schema(calls: tuple[str, ...]) -> dict[str, Any]:
    """JSON Schema of a program over ``calls`` with its reply; without calls only the reply."""
    steps: dict[str, Any] = {"type": "array", "items": {"type": "null"}, "maxItems": 0}
    definitions: dict[str, Any] = {}
    if calls:
        table = json_schema(calls)
        steps = {
            "type": "array",
            "items": {"anyOf": [_narrow(step) for step in table["anyOf"]]},
            "maxItems": MOST_STEPS,
        }
        definitions = {name: _narrow(schema) for name, schema in table["$defs"].items()}
        definitions["any"] = ANY
    return {
        "type": "object",
        "properties": {"steps": steps, "reply": {"type": "string", "maxLength": REPLY}},
        "required": ["steps", "reply"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _narrow(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that allows a part of what ``schema`` does, and all of it within bounds."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    if "anyOf" in schema:
        return {"anyOf": [_narrow(each) for each in schema["anyOf"]]}
    if not schema.keys() & {"type", "const", "enum"}:
        return {"$ref": "#/$defs/any"}
    out = {key: value for key, value in schema.items() if key in KEPT}
    kind = schema.get("type")
    if kind in ("integer", "number"):
        out["minimum"] = schema.get("minimum", schema.get("exclusiveMinimum", -WHOLE))
        out["maximum"] = schema.get("maximum", WHOLE)
        if "exclusiveMinimum" in schema:
            out["exclusiveMinimum"] = out.pop("minimum")
    elif kind == "string" and "pattern" not in schema:
        out["maxLength"] = min(schema.get("maxLength", TEXT), TEXT)
    elif kind == "array":
        out["items"] = _narrow(schema.get("items", {}))
        out["maxItems"] = min(schema.get("maxItems", 64), 64)
    elif kind == "object":
        fields = schema.get("properties", {})
        out["properties"] = {name: _narrow(field) for name, field in fields.items()}
        more = schema.get("additionalProperties", {} if not fields else False)
        out["additionalProperties"] = _narrow(more) if isinstance(more, dict) else more
    return out
