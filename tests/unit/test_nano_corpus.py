"""The rules of the seed corpus (``drivers/nano/corpus/README.md``), checked line by line."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import pytest

from drivers.nano import corpus, dialect
from drivers.nano.dialect import CALLS, SEGMENTS, SIGNALS

KINDS = frozenset(
    (
        "proc", "apid", "program", "goal", "fact", "pref", "event", "howto", "query", "body",
        "topic", "adapter", "tool", "args", "after", "message", "nice", "prompt",
    )
)  # fmt: skip
REGISTERS = frozenset(
    (
        "terse", "imperative", "sysadmin", "programmer", "chatty", "slang", "question", "polite",
        "formal", "nonnative", "novice", "dictation", "longwinded", "typos", "kid", "multi",
        "adversarial",
    )
)  # fmt: skip
MIXED = frozenset(("multi", "quoted", "nonsense"))

Program = list[tuple[str, dict[str, str]]]
Line = tuple[str, str, list[Program], str, str]


def lines(language: str) -> Iterator[Line]:
    """Where it stands, the file's name, programs, register and phrasing."""
    for path in sorted((corpus.HERE / language).glob("*.txt")):
        for number, programs, register, text in corpus.lines(path):
            yield f"{language}/{path.name}:{number}", path.stem, programs, register, text


def slots(text: str) -> Counter[str]:
    return Counter(found[0] for found in corpus.SLOT.finditer(text))


def plain(text: str, *, code: bool) -> str:
    """Casefolded without punctuation; brackets and dots count in lines of code."""
    text = corpus.SLOT.sub(lambda m: f" slot{m[1]}{m[2]}slot ", text)
    text = unicodedata.normalize("NFKC", text).casefold().replace("'", "")
    if code:
        text = re.sub(r"[()\[\].=]", lambda m: f" {ord(m[0])}mark ", text)
    kept = "".join(" " if unicodedata.category(c)[0] in "PSZ" else c for c in text)
    return " ".join(kept.split()) or text.strip()


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_programs_have_the_arguments_of_their_calls(language: str) -> None:
    wrong = []
    for where, _, programs, register, _ in lines(language):
        if register not in REGISTERS:
            wrong.append(f"{where}: register {register!r}")
        for program in programs:
            for call, args in program:
                names = CALLS[call]
                least = {name for name in names if not name.endswith("?")}
                if not least <= set(args) <= {name.rstrip("?") for name in names}:
                    wrong.append(f"{where}: arguments of {call}: {sorted(args)}")
                good = args.get("segment", SEGMENTS[0]) in SEGMENTS
                if not good or args.get("signal", SIGNALS[0]) not in SIGNALS:
                    wrong.append(f"{where}: {args}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_files_hold_the_calls_they_are_named_after(language: str) -> None:
    names = {path.stem for path in (corpus.HERE / language).glob("*.txt")}
    assert names == set(CALLS) | MIXED
    for where, name, programs, _, _ in lines(language):
        if name in CALLS:
            assert all([call for call, _ in program] == [name] for program in programs), where


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_slots_of_program_and_phrasing_agree(language: str) -> None:
    wrong = []
    for where, _, programs, _, text in lines(language):
        here = slots(text)
        if any(count > 1 for count in here.values()):
            wrong.append(f"{where}: a slot twice: {text}")
        for program in programs:
            wanted = {slot for _, args in program for v in args.values() for slot in slots(v)}
            if program and wanted != set(here):
                wrong.append(f"{where}: {sorted(wanted)} but {sorted(here)}")
        kinds = {found[1] for found in corpus.SLOT.finditer(text)}
        if kinds - KINDS:
            wrong.append(f"{where}: unknown slot in {text}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_no_phrasing_stands_twice(language: str) -> None:
    seen = dict[str, str]()
    wrong = []
    for where, _, _, register, text in lines(language):
        key = plain(text, code=register == "programmer")
        if key in seen:
            wrong.append(f"{where} is the same as {seen[key]}: {text}")
        seen.setdefault(key, where)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_fixed_arguments_are_stretches_of_their_phrasings(language: str) -> None:
    assert len(corpus.seeds(language)) == sum(1 for _ in lines(language))


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_fillers(language: str) -> None:
    found = corpus.fillers(language)
    assert set(found) == KINDS - {"apid"}
    for kind, rows in found.items():
        assert len(rows) == len(set(rows)), kind
        if kind == "args":
            for row in rows:
                tool, words, values = row.split(" | ")
                assert tool and words and isinstance(json.loads(values), dict), row
        elif kind not in {"after", "nice"}:
            assert not [row for row in rows if re.search(r"[{}|]", row)], kind
        if kind in {"proc", "program", "topic", "adapter", "tool"}:
            assert not [row for row in rows if re.search(r"\s", row)], kind


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_parts(language: str) -> None:
    found = corpus.parts(language)
    assert set(found) == {
        "preamble", "pivot", "trailer", "connective", "opening", "complaint", "reason", "pronoun",
        "purpose", "own",
    }  # fmt: skip
    assert all(found.values())
    assert not [row for rows in found.values() for row in rows if dialect.token("")[:2] in row]
