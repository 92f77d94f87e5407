"""Why a search found something, in words."""

from syscalls.records import Hit, Parts, Provenance
from userland.reasons import in_common, origin, reasons


def hit(parts: Parts | None, **fields: object) -> Hit:
    origin = Provenance(1, 7, "mem.write", 0.0, 2, ["A", "B"], "tool")
    base = {"rid": "r", "content": "The pottery class", "score": 1.0, "segment": "semantic"}
    return Hit(**{**base, "provenance": origin, "parts": parts, **fields})  # type: ignore[arg-type]


def test_the_strongest_reason_comes_first_and_those_against_last() -> None:
    told = reasons(
        hit(Parts(dense=1.5, lexical=2.25, form=-0.8, voice=0.01, time=3.5)), "a Pottery class?"
    )
    assert told == [
        "of a time that the query names +3.50",
        "words in common (pottery, class) +2.25",
        "near in meaning +1.50",
        "it is itself a question -0.80",
    ]


def test_every_part_has_words() -> None:
    for name in Parts.__struct_fields__:
        for value in (1.0, -1.0):
            (told,) = reasons(hit(Parts(**{name: value})), "q")
            assert told.endswith(f"{value:+.2f}")
            assert len(told) > 12


def test_without_parts_there_is_nothing_to_tell() -> None:
    assert reasons(hit(None), "q") == []
    assert reasons(hit(Parts()), "q") == []
    assert in_common("", "") == []


def test_where_it_comes_from() -> None:
    told = origin(hit(None, stale="its source was deleted"))
    assert told == (
        "written by mem.write of process 7, version 2, from a tool; made from A, B;"
        " stale: its source was deleted"
    )
