"""Tool memory on recorded runs: which calls fail, and which repeated failures it would refuse.

    python -m benchmarks.toolmemory --data FOLDER [--json] [--trial N]

FOLDER holds tau-bench's airline trajectories (real runs of gpt-4o, each task in several
trials). What happened in the trials before ``--trial`` is learnt; then its calls are judged
one by one, before their outcome is known, with the very code of ``tool.call``: what was
learnt, and what the same run has shown so far, nothing of other runs of that trial. A reply
that begins with "Error" is a failure.

``precision``, ``recall``   of calls that are expected to fail (risk 0.5 or more)
``average_precision``       area under the curve of precision over recall, by risk
``base_*``                  the same by the failure rate of the tool alone, as learnt; it flags
                            as many calls, those of the tools that fail most (ties in part)
``live_base_*``             the same by a rate that also learns from the run so far, as ours does
``refused``                 calls that would not have been made, ``refused_failing`` of them
                            rightly; ``repeated_failing`` is how many there were to avoid:
                            failures of the very call that had failed and not worked since
``explained``               failures whose advice named the very kind of error

``ratio`` is our average precision over the base rate's.
"""

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ums.tools import REFUSED_AFTER, Episode, Experience, Trace, error_kind

FILE = "trajectories_dev.jsonl.gz"
ERROR = "Error"
LIKELY = 0.5


class Call(msgspec.Struct):
    """One recorded call."""

    tool: str
    args: dict[str, Any]
    reply: str

    @property
    def failed(self) -> bool:
        """Whether the tool said so."""
        return self.reply.startswith(ERROR)


class Judged(msgspec.Struct):
    """One call of the trial that is judged."""

    tool: str
    failed: bool
    risk: float
    base: float
    live: float
    refused: bool
    repeated: bool
    explained: bool


def runs(data: Path) -> list[tuple[int, list[Call]]]:
    """Trial and calls of every recorded run."""
    found = []
    with gzip.open(data / FILE, "rt", encoding="utf-8") as lines:
        for line in lines:
            run = json.loads(line)
            found.append((int(run["trial"]), list(_calls(run["traj"]))))
    return found


def _calls(messages: Sequence[dict[str, Any]]) -> Iterator[Call]:
    open_calls: dict[str, tuple[str, str]] = {}
    for message in messages:
        for each in message.get("tool_calls") or []:
            function = each["function"]
            open_calls[each["id"]] = (function["name"], function["arguments"])
        if message["role"] == "tool" and message.get("tool_call_id") in open_calls:
            name, args = open_calls.pop(message["tool_call_id"])
            yield Call(name, json.loads(args), message["content"] or "")


def play(
    experience: Experience, calls: Sequence[Call], clock: int, before: Experience | None = None
) -> Iterator[tuple[Call, Trace, Judged]]:
    """Judge and then learn the calls of one run; ``before`` is what was known before it."""
    episode = Episode()
    for number, call in enumerate(calls):
        trace = episode.begin(call.tool, "", call.args)
        verdict = experience.judge(trace)
        known = experience.get(trace.digest)
        kind = error_kind(call.reply)
        judged = Judged(
            call.tool,
            call.failed,
            verdict.risk,
            (before or experience).base(call.tool, ""),
            verdict.base,
            bool(verdict.refused),
            call.failed and known is not None and not known.ok,
            kind in [error_kind(line.error) for line in _told(experience, verdict.similar)],
        )
        if known is not None:
            trace = msgspec.structs.replace(
                known, unseen=trace.unseen, before=trace.before, after=trace.after
            )
        trace.happened(not call.failed, call.reply if call.failed else "", clock + number, 0.0)
        for mended in episode.end(trace, call.reply):
            mended.cure, mended.cured_by = trace.args, trace.digest
            experience.learn(mended.digest, mended)
        experience.learn(trace.digest, trace)
        yield call, trace, judged


def _told(experience: Experience, digests: Sequence[str]) -> list[Trace]:
    return [trace for digest in digests if (trace := experience.get(digest)) is not None]


def learnt(history: Sequence[Sequence[Call]], refused_after: int) -> Experience:
    """What is known after these runs."""
    experience = Experience(refused_after)
    for number, calls in enumerate(history):
        for _ in play(experience, calls, number * 1000):
            pass
    return experience


def judge(
    history: Sequence[Sequence[Call]], tried: Sequence[Sequence[Call]], refused_after: int
) -> list[Judged]:
    """The judgements of all calls of a trial; no run of it knows of another one."""
    judged = []
    before = learnt(history, refused_after)
    for calls in tried:
        experience = learnt(history, refused_after)
        judged += [one for _, _, one in play(experience, calls, 1_000_000, before)]
    return judged


def average_precision(judged: Sequence[Judged], scores: Sequence[float]) -> float:
    """Area under precision over recall; calls with equal scores come together."""
    failures = sum(one.failed for one in judged)
    hit = seen = 0
    area = 0.0
    for score in sorted(set(scores), reverse=True):
        group = [one.failed for one, its in zip(judged, scores, strict=True) if its == score]
        seen += len(group)
        hit += sum(group)
        area += sum(group) / failures * hit / seen if failures else 0.0
    return area


def flagging(judged: Sequence[Judged], scores: Sequence[float], count: int) -> float:
    """Failures among the ``count`` calls of the highest scores; of equal ones, their share."""
    right = 0.0
    for score in sorted(set(scores), reverse=True):
        group = [one.failed for one, its in zip(judged, scores, strict=True) if its == score]
        taken = min(count, len(group))
        right += taken * sum(group) / len(group)
        count -= taken
    return right


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """Precision, recall and the rest, beside those of the base rate."""
    failures = sum(one.failed for one in judged)
    flagged = [one for one in judged if one.risk >= LIKELY]
    right = sum(one.failed for one in flagged)
    base = flagging(judged, [one.base for one in judged], len(flagged))
    live = flagging(judged, [one.live for one in judged], len(flagged))
    refused = [one for one in judged if one.refused]
    return {
        "calls": len(judged),
        "failures": failures,
        "flagged": len(flagged),
        "precision": round(right / len(flagged), 3) if flagged else None,
        "recall": round(right / failures, 3) if failures else None,
        "base_precision": round(base / len(flagged), 3) if flagged else None,
        "base_recall": round(base / failures, 3) if failures else None,
        "live_base_precision": round(live / len(flagged), 3) if flagged else None,
        "live_base_recall": round(live / failures, 3) if failures else None,
        "average_precision": round(average_precision(judged, [one.risk for one in judged]), 3),
        "base_average_precision": round(average_precision(judged, [one.base for one in judged]), 3),
        "live_base_average_precision": round(
            average_precision(judged, [one.live for one in judged]), 3
        ),
        "repeated_failing": sum(one.repeated for one in judged),
        "repeated_flagged": sum(one.repeated and one.risk >= LIKELY for one in judged),
        "refused": len(refused),
        "refused_failing": sum(one.failed for one in refused),
        "explained": sum(one.failed and one.explained for one in judged),
    }


def main() -> None:
    """Read, learn, judge, print."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--trial", type=int, default=3, help="the trial that is judged")
    flags.add_argument("--history", help="trials that are learnt, such as 0,1 [all before it]")
    flags.add_argument("--json", action="store_true")
    options = flags.parse_args()
    every = runs(options.data)
    trials = (
        [int(word) for word in options.history.split(",")]
        if options.history
        else list(range(options.trial))
    )
    history = [calls for trial in trials for number, calls in every if number == trial]
    tried = [calls for number, calls in every if number == options.trial]
    result = {"trial": options.trial, **figures(judge(history, tried, REFUSED_AFTER))}
    eager = figures(judge(history, tried, 1))
    result |= {f"{name}_after_one": eager[name] for name in ("refused", "refused_failing")}
    base = result["base_average_precision"]
    result["ratio"] = round(result["average_precision"] / base, 2) if base else None
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
