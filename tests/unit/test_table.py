"""The syscall table: complete, consistent, and the manual is fresh."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

import syscalls
from syscalls.errors import EAGAIN, EKERNEL, EPERM, ERRORS, FAULTS, ErrorValue, from_value
from syscalls.schema import errors_page, json_schema, syscalls_page
from syscalls.table import TABLE, Call, Entry, Table, syscall

DESIGN = """
proc: spawn fork exec exit wait signal info list nice limit link monitor checkpoint restore
ipc: send recv publish subscribe unsubscribe
mem: write write_many read search update delete forget history pin unpin context share revoke
mem: attach link graph consolidate snapshot export import stat
llm: generate embed count intent
kv: pin attach drop list
lora: train attach detach list drop
tool: register call recall list mount
sys: info stats trace log clock alarm
"""
DOCS = Path(__file__).parents[2] / "docs"


def designed() -> list[str]:
    """Every call's name of the design."""
    names = []
    for line in DESIGN.strip().splitlines():
        group, _, verbs = line.partition(": ")
        names += [f"{group}.{verb}" for verb in verbs.split()]
    return names


@pytest.mark.parametrize("name", designed())
def test_every_call_of_the_design_is_declared(name: str) -> None:
    entry = TABLE.by_name[name]
    assert entry.summary.endswith(".")
    assert TABLE.by_number[entry.number] is entry


def test_a_number_cannot_be_used_twice() -> None:
    table = Table()
    entry = next(iter(TABLE))
    table.add(entry)
    with pytest.raises(ValueError, match="declared twice"):
        table.add(entry)
    with pytest.raises(ValueError, match="declared twice"):
        table.add(msgspec.structs.replace(entry, number=999))


def test_a_call_needs_a_docstring() -> None:
    class Silent(Call):
        pass

    Silent.__doc__ = None
    with pytest.raises(ValueError, match="no docstring"):
        syscall(9999, "sys.silent")(Silent)
    assert 9999 not in TABLE.by_number


@pytest.mark.parametrize("entry", list(TABLE), ids=lambda entry: entry.name)
def test_unknown_fields_are_refused(entry: Entry) -> None:
    body = msgspec.msgpack.encode({"no such field": 1})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(body, type=entry.call)


def test_json_schema_accepts_what_the_structs_accept() -> None:
    schema = json_schema(entry.name for entry in TABLE)
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"call": "mem.write", "args": {"segment": "semantic", "content": "tea"}}
    jsonschema.validate(good, schema)
    for bad in (
        {"call": "mem.write", "args": {"segment": "nowhere", "content": "tea"}},
        {"call": "mem.write", "args": {"content": "tea"}},
        {"call": "proc.info", "args": {"nonsense": 1}},
        {"call": "no.such", "args": {}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_json_schema_of_a_subset_names_nothing_else() -> None:
    text = json.dumps(json_schema(["ipc.send"]))
    assert "ipc.send" in text
    assert "mem." not in text
    with pytest.raises(KeyError):
        json_schema(["no.such"])


@pytest.mark.parametrize(
    ("page", "file"), [(syscalls_page, "syscalls.md"), (errors_page, "errors.md")]
)
def test_the_manual_is_fresh(page: object, file: str) -> None:
    assert callable(page)
    written = (DOCS / file).read_text(encoding="utf-8")
    assert written == page(), "run `.venv/bin/python -m syscalls.schema docs`"


def test_errors_survive_the_wire() -> None:
    for number, error in ERRORS.items():
        value = error("what happened", hint="do this", size=3).to_value()
        wire = msgspec.msgpack.encode(value)
        back = from_value(number, msgspec.msgpack.decode(wire, type=ErrorValue))
        assert type(back) is error
        assert (back.message, back.hint, back.detail) == ("what happened", "do this", {"size": 3})


def test_every_error_has_one_fault_and_a_number() -> None:
    for number, error in ERRORS.items():
        assert error.number == number > 0
        assert sum(issubclass(error, fault) for fault in FAULTS) == 1
    assert type(from_value(77, ErrorValue("ENEW", "from a newer kernel"))) is EKERNEL


def test_an_error_reads_as_code_message_and_hint() -> None:
    assert str(EPERM("no", hint="ask")) == "EPERM: no (ask)"
    assert EAGAIN("full", retry_after=2).retry_after == 2.0


def test_the_package_offers_the_table() -> None:
    assert syscalls.TABLE is TABLE
