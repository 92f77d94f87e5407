"""What is generated from the table: JSON Schema, and the manual in ``docs/``.

``python -m syscalls.schema docs`` writes ``syscalls.md`` and ``errors.md`` into a folder.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from syscalls.errors import ERRORS, FAULTS, EngramError
from syscalls.table import TABLE, Empty, Entry
from syscalls.wire import MAX_FRAME

GROUPS = {
    "proc": "Processes",
    "ipc": "Messages",
    "mem": "Memory",
    "llm": "Language models",
    "kv": "Activation memory",
    "lora": "Parametric memory",
    "tool": "Tools",
    "sys": "The system",
}

FAULT_TITLES = {
    "caller": "The caller's fault: mend the call",
    "load": "Load: try again later",
    "machine": "The machine's fault: a device or driver",
    "ours": "Our fault: a bug",
}


def json_schema(names: Iterable[str]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a program step that may be any of the named calls.

    A step is ``{"call": name, "args": {...}}``. Raises KeyError for an unknown name.
    """
    entries = [TABLE.by_name[name] for name in sorted(set(names))]
    schemas, components = msgspec.json.schema_components(
        [entry.call for entry in entries], ref_template="#/$defs/{name}"
    )
    steps = [
        {
            "type": "object",
            "description": entry.summary,
            "properties": {"call": {"const": entry.name}, "args": schema},
            "required": ["call", "args"],
            "additionalProperties": False,
        }
        for entry, schema in zip(entries, schemas, strict=True)
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "anyOf": steps,
        "$defs": components,
    }


def syscalls_page() -> str:
    """The manual of all calls, as Markdown."""
    lines = [
        "# Syscalls",
        "",
        "Generated from `syscalls/`; do not edit. Regenerate with "
        "`.venv/bin/python -m syscalls.schema docs`.",
        "",
        "A frame is a 4-byte little-endian length and a msgpack body: `[seq, number, arguments]`"
        " to the kernel, `[seq, code, value]` back, where code 0 is the final reply, -1 a chunk"
        " of a stream and a positive code an error (see [errors](errors.md)). The frame"
        f' `[0, 0, {{"seq": n}}]` cancels call n. A body is at most {MAX_FRAME} bytes.',
        "",
    ]
    for group, title in GROUPS.items():
        entries = [entry for entry in TABLE if entry.group == group]
        lines += [f"## {title}", "", "| number | call | capability |", "|---:|---|---|"]
        lines += [
            f"| {entry.number} | [`{entry.name}`](#{entry.name.replace('.', '')}) "
            f"| `{entry.capability}` |"
            for entry in entries
        ]
        lines.append("")
        for entry in entries:
            lines += _section(entry)
    return "\n".join(lines).rstrip() + "\n"


def errors_page() -> str:
    """The page of all errors, as Markdown."""
    lines = [
        "# Errors",
        "",
        "Generated from `syscalls/errors.py`; do not edit. An error on the wire is "
        '`{"name", "message", "hint", "detail"}` under its number as the code.',
        "",
    ]
    for fault in FAULTS:
        lines += [f"## {FAULT_TITLES[fault.fault]}", ""]
        for number, error in sorted(ERRORS.items()):
            if issubclass(error, fault):
                lines += _error_section(number, error)
    return "\n".join(lines).rstrip() + "\n"


def _error_section(number: int, error: type[EngramError]) -> list[str]:
    hint = f"What to do: {error.default_hint}." if error.default_hint else ""
    section = [f"### {error.__name__} ({number})", "", (error.__doc__ or "").strip(), ""]
    return [*section, hint, ""] if hint else section


def _section(entry: Entry) -> list[str]:
    doc = (entry.call.__doc__ or "").strip().splitlines()
    lines = [f"### {entry.name}", "", *(line.strip() for line in doc), ""]
    fields = msgspec.structs.fields(entry.call)
    if fields:
        lines += ["| argument | type | default |", "|---|---|---|"]
        lines += [f"| `{f.encode_name}` | {_type(f.type)} | {_default(f)} |" for f in fields]
        lines.append("")
    lines += [f"Reply: {_reply(entry.reply)}.", ""]
    if entry.chunk is not None:
        lines += [f"Streams: {_reply(entry.chunk)}.", ""]
    return lines


def _reply(reply: type[Any]) -> str:
    if reply is Empty:
        return "nothing"
    fields = ", ".join(f"`{f.encode_name}` {_type(f.type)}" for f in msgspec.structs.fields(reply))
    return f"{fields}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value: Any = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    return f"`{msgspec.json.encode(value).decode()}`"


def _type(kind: Any) -> str:
    """A type as a reader of the manual wants it: JSON words, limits in brackets."""
    info = msgspec.inspect.type_info(kind)
    return _word(info).replace("|", "\\|")


def _word(info: msgspec.inspect.Type) -> str:  # noqa: PLR0911 - one line a kind of type
    inspect = msgspec.inspect
    match info:
        case inspect.Metadata(type=inner):
            return _word(inner)
        case inspect.UnionType(types=types):
            return " | ".join(_word(item) for item in types)
        case inspect.ListType(item_type=item):
            return f"list of {_word(item)}"
        case inspect.DictType():
            return "map"
        case inspect.LiteralType(values=values):
            return " | ".join(f"`{value}`" for value in values)
        case inspect.StructType(cls=cls):
            return cls.__name__
        case inspect.IntType(ge=least, le=most) | inspect.FloatType(ge=least, le=most):
            word = "int" if isinstance(info, inspect.IntType) else "float"
            limits = [f">= {least}"] * (least is not None) + [f"<= {most}"] * (most is not None)
            return f"{word} ({', '.join(limits)})" if limits else word
        case inspect.NoneType():
            return "null"
        case _:
            return type(info).__name__.removesuffix("Type").lower()


def main(arguments: list[str]) -> None:
    """Write the pages into the folder that is named."""
    folder = Path(arguments[0])
    (folder / "syscalls.md").write_text(syscalls_page(), encoding="utf-8")
    (folder / "errors.md").write_text(errors_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
