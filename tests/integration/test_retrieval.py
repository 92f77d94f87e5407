"""The retrieval benchmark: its sums, and through a real kernel the set that is ours."""

import argparse
from pathlib import Path

import pytest

from benchmarks.retrieval import SETS, Ask, Result, figures, report, run


def result(found: str, evidence: str, category: str = "a", half: str = "dev") -> Result:
    return Result(Ask("q", list(evidence), category, half), list(found), None, 0.0)


def test_recall_all_and_any() -> None:
    row = figures([result("abcdefgh", "ahz"), result("xyz", "y"), result("", "a")])
    assert row["n"] == 3
    assert row["recall@5"] == pytest.approx((1 / 3 + 1 + 0) / 3, abs=1e-4)
    assert row["recall@10"] == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-4)
    assert row["all@10"] == pytest.approx(1 / 3, abs=1e-4)
    assert row["any@10"] == pytest.approx(2 / 3, abs=1e-4)
    assert "session any@10" not in row


def test_what_cannot_be_answered_is_told_apart() -> None:
    told = report([result("a", "a"), result("b", "a", "adversarial", "test")])
    assert told["all"]["recall@5"] == 1
    assert told["with adversarial"]["recall@5"] == 0.5
    assert list(told) == ["all", "with adversarial", "a", "adversarial", "half dev"]


@pytest.mark.parametrize("name", ["locomo", "prefeval", "stabletoolbench", "bfcl"])
def test_a_set_that_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no"):
        list(SETS[name](tmp_path))


@pytest.mark.model
def test_the_chinese_set_through_a_kernel(tmp_path: Path) -> None:
    options = argparse.Namespace(
        set="zh", data=tmp_path, half="all", without=["session"], embedder="minilm"
    )
    found = run(options)["figures"]
    assert found["all"]["n"] == 77
    assert found["all"]["recall@10"] >= 0.55
