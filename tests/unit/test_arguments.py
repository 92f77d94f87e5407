"""Arguments against JSON Schema, compared with the reference implementation."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.arguments import check_schema, misfit
from syscalls.errors import EINVAL

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", "a", "bb"])
    | st.just(1.0),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=6,
)
kinds = st.sampled_from(["object", "array", "string", "boolean", "null", "number", "integer"])


def schemas(inner: Any) -> Any:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": kinds | st.lists(kinds, min_size=1, max_size=2, unique=True),
            "enum": st.lists(values, min_size=1, max_size=3),
            "const": values,
            "minimum": st.integers(-3, 3),
            "exclusiveMaximum": st.integers(-3, 3),
            "minLength": st.integers(0, 2),
            "maxItems": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "properties": st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
            "required": st.lists(st.sampled_from("xyz"), max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "$ref": st.just("#/$defs/shared"),
        },
    )


some = st.recursive(st.booleans(), schemas, max_leaves=5)


@settings(max_examples=400, deadline=None)
@given(some, some, values)
def test_it_agrees_with_the_reference(schema: Any, shared: Any, value: Any) -> None:
    root = {"properties": {"it": schema}, "$defs": {"shared": shared}}
    text = str(root)
    if text.count("#/$defs/shared") and "#/$defs/shared" in str(shared):
        return  # refers to itself: the reference does not end either
    check_schema(root)
    fits = jsonschema.Draft202012Validator(root).is_valid({"it": value})
    assert (misfit(root, {"it": value}) == "") == fits


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"properties": []},
        {"properties": {"a": {"type": "text"}}},
        {"required": "a"},
        {"properties": {"a": {"$ref": "#/$defs/none"}}},
        {"properties": {"a": {"$ref": "http://example.org/schema"}}},
        {"properties": {"a": {"enum": 3}}},
        {"properties": {"a": {"minimum": "1"}}},
        {"properties": {"a": 3}},
        {"description": "x" * 300_000},
        {"default": object},
    ],
)
def test_what_is_no_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(EINVAL):
        check_schema(schema)


def test_it_says_where_and_ends() -> None:
    schema = {"properties": {"a": {"items": {"type": "integer"}}}, "required": ["a"]}
    assert misfit(schema, {}) == "args.a is missing"
    assert misfit(schema, {"a": [1, "x"]}) == "args.a[1] must be integer"
    assert misfit({"additionalProperties": False}, {"b": 1}) == "args.b is not an argument of it"
    endless = {"properties": {"a": {"$ref": "#/properties/a"}}}
    check_schema(endless)
    assert "without end" in misfit(endless, {"a": 1})
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"properties": {"a": deep}}
    with pytest.raises(EINVAL, match="levels"):
        check_schema(deep)
