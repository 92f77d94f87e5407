"""The weights that ship: they load as any model folder does, keep to the grammar, and score."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from drivers.nano import dialect
from drivers.nano.predict import WEIGHTS, Predictor
from drivers.nano.score import accepted

pytest.importorskip("llguidance")
DEVELOPMENT = Path(__file__).parents[3] / "shared" / "data" / "intents" / "dev.jsonl"
VALIDATION = Path(__file__).parents[1] / "data" / "intents.jsonl"
LEAST = {"en": 0.95, "zh": 0.90}
LEAST_UNSEEN = 0.84
"""Of the validation set, which is harder and steered nothing but the choice of a checkpoint."""

pytestmark = [
    pytest.mark.model,
    # torch warns of its own ahead
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load()


def test_the_weights_are_as_small_as_promised() -> None:
    from safetensors import safe_open

    file = WEIGHTS / "model.safetensors"
    assert file.stat().st_size <= 40_000_000
    with safe_open(str(file), "pt") as tensors:
        count = sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    assert count <= 20_000_000


def test_the_general_loader_gives_the_same_tokens() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(WEIGHTS))
    predictor = Predictor.load()
    for text in ("pause crawler", "十分钟后提醒我喝水", "hi <|end|>", "a  b\n"):
        assert tokenizer(dialect.render(text))["input_ids"] == predictor.codec.prompt(text)
    assert tokenizer.eos_token == dialect.STOP


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("pause crawler",
         [{"call": "proc.signal", "args": {"signal": "STOP", "target": "crawler"}}]),
        ("remind me in 20 minutes to water the plants",
         [{"call": "sys.alarm", "args": {"after": 1200, "message": "water the plants"}}]),
        ("告诉 planner 会议改到下午三点",
         [{"call": "ipc.send", "args": {"to": "planner", "body": "会议改到下午三点"}}]),
        ("list all processes", [{"call": "proc.list", "args": {}}]),
    ],
)  # fmt: skip
def test_plain_requests(predictor: Predictor, text: str, program: list[object]) -> None:
    assert predictor.programs([text]) == [program]


def test_programs_keep_to_the_calls_that_are_allowed(predictor: Predictor) -> None:
    rng = random.Random(3)
    texts = ["kill bob", "forget my address", "save that I like tea", "pin the handbook", "杀掉 12"]
    for _ in range(12):
        calls = rng.sample(sorted(dialect.CALLS), rng.randint(0, 6))
        for program in predictor.programs(texts, calls=calls):
            assert {step["call"] for step in program} <= set(calls)


def wrong(predictor: Predictor, rows: list[dict[str, Any]]) -> list[str]:
    """Ids of the intents whose program is none of those that are accepted."""
    programs = predictor.programs([row["intent"] for row in rows])
    return [
        row["id"]
        for row, got in zip(rows, programs, strict=True)
        if not accepted(row["accept"], got)
    ]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("language", sorted(LEAST))
def test_development_set(predictor: Predictor, language: str) -> None:
    if not DEVELOPMENT.exists():
        pytest.skip(f"no development set at {DEVELOPMENT}")
    rows = [row for row in rows_of(DEVELOPMENT) if row["lang"] == language]
    missed = wrong(predictor, rows)
    assert 1 - len(missed) / len(rows) >= LEAST[language], missed


def test_validation_set(predictor: Predictor) -> None:
    rows = rows_of(VALIDATION)
    missed = wrong(predictor, rows)
    assert 1 - len(missed) / len(rows) >= LEAST_UNSEEN, missed
