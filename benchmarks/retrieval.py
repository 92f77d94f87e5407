"""How well ``mem.search`` finds the evidence for a question, on public sets.

    python benchmarks/retrieval.py --set locomo --data FOLDER [--half dev|test|all]
                                   [--without SIGNAL ...] [--json]

Everything goes through the real system calls of a kernel of its own: one space for each
dialogue or store, one record for each turn, preference, tool or note; then every question is
a search. Nothing is known of the questions while writing, and there is no model but the
embedder. The data are not part of this project; ``--data`` is the folder with the sets.

    locomo          turns of dialogues between two people; sessions, speakers, dates
    prefeval        preferences said once, and later requests for which they matter
    stabletoolbench which of 2,479 tools a request needs
    bfcl            facts in long monologues, short questions
    zh              Chinese notes, questions in other words (part of this project's tests)

recall@k is the part of the evidence that is among the first k, all@k and any@k how often all
or some of it is; averages over questions. Weights were fitted on the half ``dev`` only; what
else was chosen how is in ``docs/recall.md``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks._harness import kernel
from syscalls.records import Note
from ums.settings import SIGNALS
from userland.client import BlockingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

KS = (5, 10, 20)
SESSIONS = 100
"""Hits that are asked for to rank sessions by their best turn."""
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ZH = Path(__file__).parents[1] / "tests" / "data" / "recall_zh.jsonl"


class Ask(NamedTuple):
    """One question with the ids of its evidence."""

    text: str
    evidence: list[str]
    category: str
    half: str


class Box(NamedTuple):
    """What goes into one space, and what is asked of it."""

    name: str
    notes: list[tuple[str, Note]]
    """With the id that evidence refers to."""
    asks: list[Ask]


# --- the sets


def _lines(folder: Path, pattern: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in _files(folder, pattern):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found += [json.loads(line) for line in file if line.strip()]
    return found


def _files(folder: Path, pattern: str) -> list[Path]:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SystemExit(f"there is no {pattern} in {folder}")
    return paths


def _parity(number: int) -> str:
    return "test" if number % 2 else "dev"


def locomo(data: Path) -> Iterator[Box]:
    """A space for each dialogue; the first three are the half ``dev``."""
    for path in _files(data / "locomo", "locomo*.json.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            samples = json.load(file)
        for number, sample in enumerate(samples):
            notes = list(_turns(sample["conversation"]))
            known = {name for name, _ in notes}
            asks = []
            for item in sample["qa"]:
                named = re.findall(r"D(\d+):(\d+)", " ".join(item.get("evidence", [])))
                turns = [f"D{session}:{int(turn)}" for session, turn in named]
                evidence = [turn for turn in dict.fromkeys(turns) if turn in known]
                if evidence:
                    half = "dev" if number < (len(samples) + 1) // 2 else "test"
                    category = CATEGORIES[item["category"]]
                    asks.append(Ask(item["question"], evidence, category, half))
            yield Box(sample["sample_id"], notes, asks)


def _turns(conversation: dict[str, Any]) -> Iterator[tuple[str, Note]]:
    sessions = [key for key in conversation if re.fullmatch(r"session_\d+", key)]
    for session in sorted(sessions, key=lambda key: int(key[8:])):
        stamp = conversation[f"{session}_date_time"]
        at = datetime.strptime(stamp, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        for turn in conversation[session]:
            text = f"{turn['speaker']}: {turn['text']}"
            if turn.get("blip_caption"):
                text += f" [shares {turn['blip_caption']}]"
            meta = {"session": session, "speaker": turn["speaker"]}
            note = Note("episodic", text, meta=meta, valid_from=at.timestamp())
            yield turn["dia_id"], note


def prefeval(data: Path) -> Iterator[Box]:
    """All preferences in one space."""
    items = _lines(data / "prefeval", "prefeval*.jsonl.gz")
    notes = [(item["id"], Note("semantic", item["preference"], "preference")) for item in items]
    asks = [
        Ask(item["question"], [item["id"]], item["topic"], _parity(number))
        for number, item in enumerate(items)
    ]
    yield Box("prefeval", notes, asks)


def stabletoolbench(data: Path) -> Iterator[Box]:
    """All tools in one space."""
    folder = data / "stabletoolbench"
    notes = []
    for api in _lines(folder, "apis*.jsonl.gz"):
        text = f"{api['tool_name']} {api['api_name']}: {api['api_description']}"
        notes.append((f"{api['tool_name']}|{api['api_name']}", Note("procedural", text, "tool")))
    known = {name for name, _ in notes}
    asks = []
    for number, query in enumerate(_lines(folder, "queries*.jsonl.gz")):
        named = dict.fromkeys("|".join(api) for api in query["relevant_apis"])
        evidence = [name for name in named if name in known]
        if evidence:
            asks.append(Ask(query["query"], evidence, query["group"], _parity(number)))
    yield Box("tools", notes, asks)


def bfcl(data: Path) -> Iterator[Box]:
    """A space for each scenario."""
    folder = data / "bfcl_memory"
    boxes: dict[str, Box] = {}
    for turn in _lines(folder, "turns*.jsonl.gz"):
        box = boxes.setdefault(turn["scenario"], Box(turn["scenario"], [], []))
        note = Note("episodic", turn["text"], meta={"session": turn["session"]})
        box.notes.append((turn["turn_id"], note))
    for number, item in enumerate(_lines(folder, "questions*.jsonl.gz")):
        box = boxes[item["scenario"]]
        ask = Ask(item["question"], item["evidence"], item["scenario"], _parity(number))
        box.asks.append(ask)
    yield from boxes.values()


def zh(data: Path) -> Iterator[Box]:
    """Everyday notes in Chinese; of ``data`` nothing is needed."""
    lines = [json.loads(line) for line in ZH.read_text(encoding="utf-8").splitlines()]
    notes = [(line["note"], Note("semantic", line["text"])) for line in lines if "note" in line]
    asks = [line for line in lines if "question" in line]
    yield Box(
        "zh",
        notes,
        [
            Ask(line["question"], line["evidence"], "zh", _parity(number))
            for number, line in enumerate(asks)
        ],
    )


SETS: dict[str, Callable[[Path], Iterator[Box]]] = {
    "locomo": locomo,
    "prefeval": prefeval,
    "stabletoolbench": stabletoolbench,
    "bfcl": bfcl,
    "zh": zh,
}


# --- measuring


class Result(NamedTuple):
    """One question, and the ids that were found, best first."""

    ask: Ask
    found: list[str]
    sessions: bool | None
    """Whether the evidence's session is among the first ten, where there are sessions."""
    seconds: float


def measure(client: BlockingClient, box: Box, half: str) -> Iterator[Result]:
    """Write what is in a box to a space of its own, and ask."""
    client.sys.session(space=f"retrieval-{box.name}")
    ids: dict[str, str] = {}
    for start in range(0, len(box.notes), 500):
        page = box.notes[start : start + 500]
        reply = client.mem.write_many(notes=[note for _, note in page])
        ids.update((one.rid, name) for one, (name, _) in zip(reply.written, page, strict=True))
    wait_indexed(client)
    sessions = {name: note.meta.get("session") for name, note in box.notes}
    spoken = any("speaker" in note.meta for _, note in box.notes)
    for ask in box.asks:
        if half not in ("all", ask.half):
            continue
        began = time.perf_counter()
        hits = client.mem.search(query=ask.text, k=max(KS))
        took = time.perf_counter() - began
        if hits.degraded:
            raise SystemExit(f"{hits.degraded} took no part: the figures would be wrong")
        within = None
        if spoken:
            turns = client.mem.search(query=ask.text, k=SESSIONS).hits
            first = list(dict.fromkeys(sessions[ids[hit.rid]] for hit in turns))[:10]
            within = bool({sessions[name] for name in ask.evidence} & set(first))
        yield Result(ask, [ids[hit.rid] for hit in hits.hits], within, took)


def wait_indexed(client: BlockingClient) -> None:
    """Return when both indexes have reached the last change."""
    while True:
        stat = client.mem.stat()
        reached = stat.indexed
        if "dense" in reached and all(position >= stat.seq for position in reached.values()):
            return
        time.sleep(0.2)


def figures(results: Sequence[Result]) -> dict[str, float]:
    """The averages over some questions."""
    out: dict[str, float] = {"n": len(results)}
    for k in KS:
        shares = [_share(result, k) for result in results]
        out[f"recall@{k}"] = fmean(shares)
        out[f"all@{k}"] = fmean(share == 1 for share in shares)
        out[f"any@{k}"] = fmean(share > 0 for share in shares)
    if results[0].sessions is not None:
        out["session any@10"] = fmean(bool(result.sessions) for result in results)
    return {name: round(value, 4) for name, value in out.items()}


def _share(result: Result, k: int) -> float:
    evidence = set(result.ask.evidence)
    return len(evidence & set(result.found[:k])) / len(evidence)


def report(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """By half, by category, and over all (of LoCoMo without what cannot be answered)."""
    answerable = [result for result in results if result.ask.category != "adversarial"]
    groups: dict[str, list[Result]] = {"all": answerable}
    if len(answerable) < len(results):
        groups["with adversarial"] = list(results)
    by: dict[str, list[Result]] = defaultdict(list)
    for result in answerable:
        by[f"half {result.ask.half}"].append(result)
    for result in results:
        by[result.ask.category].append(result)
    groups |= dict(sorted(by.items()))
    return {name: figures(group) for name, group in groups.items() if group}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """A kernel, the set, the figures."""
    flags = ["--embedder", options.embedder]
    if options.without:
        weights = ",".join(f"{signal}=0" for signal in options.without)
        flags += ["--recall-weights", weights]
    results: list[Result] = []
    with ExitStack() as stack:
        data = stack.enter_context(kernel(*flags))
        for box in SETS[options.set](options.data):
            with BlockingClient.open(data) as client:
                results += measure(client, box, options.half)
                print(f"{box.name}: {len(box.notes)} records", file=sys.stderr)
    if not results:
        raise SystemExit("no question is of this half")
    taken = sorted(result.seconds for result in results)
    return {
        "name": "retrieval",
        "set": options.set,
        "half": options.half,
        "without": options.without,
        "embedder": options.embedder,
        "p50_seconds": round(taken[len(taken) // 2], 4),
        "figures": report(results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with the sets")
    parser.add_argument("--half", choices=("dev", "test", "all"), default="all")
    parser.add_argument("--without", action="append", default=[], choices=SIGNALS)
    parser.add_argument("--embedder", default="minilm", help="as the kernel's --embedder")
    parser.add_argument("--json", action="store_true", help="only the one JSON object")
    options = parser.parse_args()
    found = run(options)
    if not options.json:
        columns = list(next(iter(found["figures"].values())))
        print(f"{'':26}" + "".join(f"{column:>16}" for column in columns))
        for name, row in found["figures"].items():
            print(f"{name:26}" + "".join(f"{row.get(column, 0):>16}" for column in columns))
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
