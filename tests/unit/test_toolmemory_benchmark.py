"""The benchmark of tool memory, on runs that are made up."""

import gzip
import json
from pathlib import Path
from typing import Any

from benchmarks.toolmemory import FILE, average_precision, figures, flagging, judge, runs


def run(trial: int, *calls: tuple[str, dict[str, Any], str]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
    for number, (name, args, reply) in enumerate(calls):
        function = {"name": name, "arguments": json.dumps(args)}
        messages.append(
            {"role": "assistant", "tool_calls": [{"id": str(number), "function": function}]}
        )
        messages.append({"role": "tool", "tool_call_id": str(number), "content": reply})
    return {"trial": trial, "traj": messages}


def test_what_failed_before_is_expected_to_fail(tmp_path: Path) -> None:
    bad, good = {"card": "card_1"}, {"card": "card_2"}
    failed, worked = ("pay", bad, "Error: no card_1"), ("pay", good, "ok")
    lines = [run(trial, failed, worked) for trial in range(3)]
    lines.append(run(3, worked, failed))
    with gzip.open(tmp_path / FILE, "wt") as out:
        out.write("\n".join(map(json.dumps, lines)))
    every = runs(tmp_path)
    history = [calls for trial, calls in every if trial < 3]
    tried = [calls for trial, calls in every if trial == 3]
    found = figures(judge(history, tried, 2))
    assert (found["calls"], found["failures"], found["flagged"]) == (2, 1, 1)
    assert found["precision"] == found["recall"] == found["average_precision"] == 1.0
    assert (found["base_precision"], found["base_average_precision"]) == (0.5, 0.5)
    assert (found["repeated_failing"], found["refused"], found["refused_failing"]) == (1, 1, 1)
    assert found["explained"] == 1


def test_equal_scores_count_together() -> None:
    judged = judge([], [], 2)
    assert average_precision(judged, []) == 0.0
    assert flagging(judged, [], 3) == 0.0
    assert figures(judged)["precision"] is None
