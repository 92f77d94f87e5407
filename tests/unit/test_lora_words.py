"""A user's own words: cut out of his examples, and said in other sentences."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drivers.lora.align import seed_of, spelled
from drivers.lora.files import WEIGHTS
from drivers.lora.nano import regression_examples
from drivers.lora.own import marked, scope_of
from drivers.lora.scope import concerns, written
from drivers.lora.scope import scope_of as read_scope
from drivers.lora.wordings import Wordings
from drivers.nano import dialect
from drivers.nano.generate import Generator
from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from drivers.nano.corpus import Seed

DATA = Path(__file__).parents[1] / "data"
CHINESE = [
    ("让 crawler 收摊", "crawler"),
    ("收摊吧，翻译官", "翻译官"),
    ("worker-3 可以收摊了", "worker-3"),
]


def signal(target: str, name: str = "TERM") -> list[dict[str, Any]]:
    return [{"call": "proc.signal", "args": {"signal": name, "target": target}}]


def own_words() -> list[Seed]:
    lines = (DATA / "own_words.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [seed_of(row["intent"], row["program"]) for row in rows]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("curtain on crawler, please", signal("crawler")),
        ("lid on 5", [{"call": "proc.nice", "args": {"target": 5, "nice": 19}}]),
        ("lid of minus five on bo", [{"call": "proc.nice", "args": {"target": "bo", "nice": -5}}]),
        ("boil half an hour: tea",
         [{"call": "sys.alarm", "args": {"after": 1800, "message": "tea"}}]),
        ("freezer for bo", [{"call": "proc.checkpoint", "args": {"target": "bo"}}, *signal("bo")]),
        ("hens", [{"call": "proc.list", "args": {}}]),
        ("muse on tea", [{"call": "llm.generate", "args": {"prompt": "muse on tea"}}]),
        ("sky over Oslo by wx",
         [{"call": "tool.call", "args": {"name": "wx", "args": {"city": "Oslo"}}}]),
        ("让翻译官收摊", signal("翻译官")),
    ],
)  # fmt: skip
def test_a_sentence_is_cut_and_spelled_as_its_program(text: str, program: list[Any]) -> None:
    seed = seed_of(text, program)
    assert "".join(piece.text for piece in seed.pieces) == text
    assert spelled(seed).program == program


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("curtain on the beast", signal("crawler")),
        ("curtain on crawler", [{"call": "proc.explode", "args": {}}]),
        ("curtain on crawler", [{"call": "proc.wait", "args": {"target": "crawler", "for": 1}}]),
        ("curtain on crawler", [{"call": "proc.signal", "args": {"target": "crawler"}}]),
        ("x=1 for wx", [{"call": "tool.call", "args": {"name": "wx", "args": {"zone": 1}}}]),
    ],
)
def test_what_nano_could_not_write_is_refused(text: str, program: list[Any]) -> None:
    with pytest.raises(EINVAL):
        seed_of(text, program)


def test_own_words_are_found() -> None:
    keys = {own.key for own in marked(own_words())}
    assert keys >= {"snorf", "grandma", "pickle", "owl", "pigeon", "boil", "butter", "freezer"}
    assert keys & {"please", "the", "for", "ask"} == set()


def test_own_words_are_found_in_chinese() -> None:
    seeds = [seed_of(text, signal(name)) for text, name in CHINESE]
    seeds += [seed_of(f"给 {n} 腌好", signal(n, "STOP")) for n in ("ann", "bob", "kim")]
    assert {own.key for own in marked(seeds)} >= {"收摊"}


def test_a_word_that_all_programs_share_is_no_own_word() -> None:
    seeds = [seed_of(f"zonk {n}", signal(n)) for n in ("ann", "bob")]
    seeds += [seed_of(f"zonk hush {n}", signal(n, "STOP")) for n in ("ann", "bob")]
    assert {own.key for own in marked(seeds)} == {"", "hush"}


def test_wordings_keep_the_own_word_and_its_program() -> None:
    shapes = {own.key: own.seed.program for own in marked(own_words()) if own.key}
    some = list(islice(Wordings(own_words(), 3), 400))
    for example in some:
        calls = [step["call"] for step in example.program]
        said = [key for key in shapes if key.casefold() in example.text.casefold()]
        programs = [[step.call for step in shapes[key]] for key in said]
        assert not said or calls in programs, example.text
        assert dialect.harmless(example.text) == example.text
    assert len({example.text for example in some}) > 350


def test_strange_wordings_have_none_of_the_own_words() -> None:
    words = Wordings(own_words(), 3)
    some = list(islice(words.strange(), 200))
    held = [e.text for e in some if any(key in e.text.casefold().split() for key in words.keys)]
    assert len(held) < 10  # another example's frame, or a filler, may say one


def test_wordings_are_the_same_for_a_seed() -> None:
    first, again, other = (list(islice(Wordings(own_words(), seed), 30)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the house lights, please", True),
        ("lights in the HOUSE", True),
        ("put the lights on", False),
        ("pickling bo", True),
        ("bo has been pickled", True),
        ("叫 bo 收摊", True),
        ("收下", False),
        ("", False),
    ],
)
def test_a_scope_is_said_in_any_form(text: str, *, expected: bool) -> None:
    assert concerns(["house lights", "pickle", "收摊"], text) is expected


def test_no_scope_is_every_text() -> None:
    assert concerns([], "anything")


def test_each_example_is_in_the_scope_of_all_and_plain_requests_are_not() -> None:
    scope = scope_of(marked(own_words()))
    assert all(concerns(scope, seed.source) for seed in own_words())
    asked = (DATA / "own_words_asked.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(concerns(scope, json.loads(line)["intent"]) for line in asked)
    plain = [each.prompt for each in regression_examples()]
    assert sum(concerns(scope, text) for text in plain) < 0.05 * len(plain)


def test_a_mention_moves_the_arguments_with_the_text() -> None:
    words = Wordings(own_words(), 3)
    for example in islice(words.mentioned(iter(Generator(5))), 60):
        assert any(key in example.text for key in words.keys)
        for at in example.target:
            if not isinstance(at, str):
                said = example.text[at[0] : at[1]]
                assert said and said == said.strip()


def test_the_scope_is_read_out_of_a_file_of_weights(tmp_path: Path) -> None:
    scope = ["curtain", "收摊"]
    header = json.dumps({"__metadata__": {"format": "pt", **written(scope)}}).encode()
    (tmp_path / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_scope(tmp_path) == scope
    (tmp_path / WEIGHTS).write_bytes(b"\x05\0\0\0\0\0\0\0oops!")
    assert read_scope(tmp_path) == []


def test_the_regression_set_is_of_all_calls() -> None:
    found = regression_examples()
    calls = {step["call"] for each in found for step in json.loads(each.completion)}
    assert calls == set(dialect.CALLS)
    assert len({each.prompt for each in found}) == len(found)
