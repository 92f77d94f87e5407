"""Declared agents: the file, what follows from it, what both sides agree on."""

from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.declared import agreed
from syscalls.calls.proc import Spawn
from syscalls.calls.tool import ToolInfo
from syscalls.capability import compiled
from syscalls.errors import EINVAL, ENOENT
from syscalls.launch import Wants
from syscalls.shapes import Quota
from userland.declared import capabilities, parse, read, wants
from userland.steps import Reply, UseTool, schema, step_of

FILE = """+++
goal = "Teach fractions"
tools = ["calculator", "notes.*"]
space = "lessons"
[quota]
records = 1000
+++

You are a patient tutor.

+++ is also a fine line.
"""


def test_a_file_says_what_it_wants() -> None:
    found = parse(FILE, "tutor")
    assert found.text == "You are a patient tutor.\n\n+++ is also a fine line."
    asked = wants(found)
    assert (asked.name, asked.goal, asked.space) == ("tutor", "Teach fractions", "lessons")
    assert asked.quota == Quota(records=1000)
    held = compiled(frozenset(asked.caps or ()))
    assert held.on("tool.call", "tool/calculator")
    assert held.may("mem.write")
    assert not held.may("proc.spawn")


def test_named_tools_are_all_that_may_be_called() -> None:
    held = compiled(frozenset(capabilities(parse('+++\ntools = ["a"]\ngoal = "x"\n+++', "n"))))
    assert held.on("tool.call", "tool/a")
    assert not held.on("tool.call", "tool/b")
    assert not held.own("tool.call")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "begins with"),
        ("---\ngoal: x\n---\n", "begins with"),
        ("+++\ngoal = 'x'\n", "closing line"),
        ("+++\ngoal = =\n+++\nx", "line 2"),
        ("+++\ngaol = 'x'\n+++\nx", "unknown field `gaol`"),
        ("+++\nsteps = 0\n+++\nx", "steps"),
        ("+++\ntext = 'x'\n+++\nx", "below"),
        ("+++\n+++\n\n", "neither a goal nor a text"),
        ("+++\n[quota]\nrecords = -1\n+++\nx", "records"),
    ],
)
def test_what_is_wrong_is_said(source: str, said: str) -> None:
    with pytest.raises(EINVAL) as caught:
        parse(source, "x")
    assert said in f"{caught.value.message} {caught.value.hint}"


@given(st.text(max_size=300))
def test_any_text_is_a_declaration_or_refused(text: str) -> None:
    try:
        found = parse("+++\n" + text, "any")
    except EINVAL:
        return
    assert found.text or found.goal


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ENOENT):
        read(tmp_path / "none.md")
    (tmp_path / "latin.md").write_bytes(b"+++\n+++\n\xff")
    with pytest.raises(EINVAL, match=r"latin\.md is not UTF-8"):
        read(tmp_path / "latin.md")


def test_who_spawns_has_the_first_word_and_gives_no_more() -> None:
    asked = Wants("n", "g", ["mem.*", "llm.generate"], Quota(records=10, files=50), 3, "s")
    plain = agreed(Spawn(program="a.md"), asked)
    assert (plain.name, plain.goal, plain.space, plain.nice) == ("n", "g", "s", 3)
    assert plain.caps == ["mem.*", "llm.generate"]
    assert plain.quota == Quota(records=10, files=50)
    given_ = Spawn(
        program="a.md", name="me", goal="mine", caps=["mem.*"], space=7, quota=Quota(records=99)
    )
    both = agreed(given_, asked)
    assert (both.name, both.goal, both.space) == ("me", "mine", 7)
    assert both.caps == ["mem.*"]
    assert both.quota == Quota(records=10, files=50)


def tool(name: str, form: dict[str, object]) -> ToolInfo:
    return ToolInfo(name=name, description="", schema=form, owner=1)


POINT: dict[str, object] = {
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/Point"}},
    "required": ["at"],
    "$defs": {"Point": {"type": "integer"}},
}


def test_a_schema_holds_every_tool_apart() -> None:
    other = msgspec.json.decode(msgspec.json.encode(POINT).replace(b"integer", b"string"))
    form = schema([tool("one", POINT), tool("two", other)])
    step = {"thought": "", "do": "tool", "tool": "one", "args": {"at": 1}}
    jsonschema.validate(step, form)
    jsonschema.validate({**step, "tool": "two", "args": {"at": "x"}}, form)
    for wrong in ({**step, "args": {"at": "x"}}, {**step, "tool": "three"}, {"do": "reply"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, form)


def test_a_step_is_read_or_refused_in_words() -> None:
    assert step_of('{"do":"reply","text":"hi","thought":""}', ()) == Reply("hi")
    assert step_of('{"do":"tool","tool":"a","args":{"x":1}}', {"a"}) == UseTool("a", {"x": 1})
    for written, said in (
        ('{"do":"tool","tool":"b"}', "no tool 'b'"),
        ('{"do":"reply","te', "not one whole"),
        ('{"do":"dance"}', "does not fit"),
        ('{"do":"reply","text":" "}', "says nothing"),
    ):
        with pytest.raises(EINVAL, match=said):
            step_of(written, {"a"})
