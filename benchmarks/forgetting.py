"""What is left of the evidence when only 20% of the records may be kept.

Each dialogue streams, turn by turn and in order, through a space of its own on a real kernel.
Before a turn is written it is searched for, as an agent would that has to answer it: that is
the use that is made of records, and all that is known of the future is nothing. Whenever the
space is over its room, the policy archives the records it holds to be worth least
(``mem.tidy``). At the end, which part of the records that the questions of the set name as
evidence is still alive?

The floor is the better of FIFO (the oldest goes) and LRU (the longest unused goes, by the
same searches in a space that LRU itself has kept) on the same stream. ``ratio`` is ours over
the floor: more is better. No question, label or summary is ever written or searched for.

    python -m benchmarks.forgetting --data FOLDER --set locomo --json

MemoryBank has no labels: there the evidence of a question is taken to be the exchange of its
user that shares most of the question's rare words, which is a stand-in and is named so.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks._harness import kernel, report
from syscalls.calls import mem
from userland.client import BlockingClient

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = 0.2
SLACK = 1.1
"""The room is exceeded by so much before the policy is called: it works in batches."""
RECALLED = 3
"""Hits of the search before each turn that count as used."""
CATEGORIES = (1, 2, 3, 4)
FITTED = ("conv-26", "conv-42")
"""The dialogues that the weights of ``ums.forgetting`` were fitted to."""
_EVIDENCE = re.compile(r"D\d+:\d+")


class Stream(msgspec.Struct):
    """One dialogue."""

    name: str
    turns: list[tuple[str, str, float | None]]
    """Id, text, time."""
    evidence: set[str]


def locomo(folder: Path) -> Iterator[Stream]:
    """The dialogues of LoCoMo: what was said, by whom, and the captions of photos."""
    with gzip.open(next((folder / "locomo").glob("locomo*.json.gz")), "rt") as file:
        samples: list[dict[str, Any]] = json.load(file)
    for sample in samples:
        talk = sample["conversation"]
        turns = []
        for number in range(1, 1000):
            if (session := talk.get(f"session_{number}")) is None:
                break
            at = moment(talk.get(f"session_{number}_date_time", ""))
            for turn in session:
                shown = f" [photo: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
                turns.append((turn["dia_id"], f"{turn['speaker']}: {turn['text']}{shown}", at))
        ids = {turn[0] for turn in turns}
        asked = [one for one in sample["qa"] if one["category"] in CATEGORIES]
        named = {rid for one in asked for rid in _EVIDENCE.findall(" ".join(one["evidence"]))}
        yield Stream(sample["sample_id"], turns, named & ids)


def memorybank(folder: Path) -> Iterator[Stream]:
    """The users of MemoryBank, with a stand-in for the evidence."""
    place = folder / "memorybank"
    with gzip.open(place / "memory_bank_en.json.gz", "rt") as file:
        users: dict[str, Any] = json.load(file)
    questions: dict[str, list[str]] = {}
    with gzip.open(place / "probing_questions_en.jsonl.gz", "rt") as file:
        for line in file:
            for user, asked in json.loads(line).items():
                questions.setdefault(user, []).extend(asked)
    for user, bank in users.items():
        turns: list[tuple[str, str, float | None]] = []
        for date, talk in sorted(bank["history"].items()):
            at = time.mktime(time.strptime(date, "%Y-%m-%d"))
            for number, one in enumerate(talk):
                text = f"{user}: {one['query']}\nAI: {one['response']}"
                turns.append((f"{date}/{number}", text, at))
        yield Stream(user, turns, stand_in(turns, questions.get(user, [])))


def stand_in(turns: list[tuple[str, str, float | None]], questions: list[str]) -> set[str]:
    """For each question the exchange with most of its rare words."""
    words = {turn[0]: set(re.findall(r"\w+", turn[1].casefold())) for turn in turns}
    seen = Counter(word for said in words.values() for word in said)
    found = set()
    for question in questions:
        asked = set(re.findall(r"\w+", question.casefold()))
        weight = {word: math.log(len(turns) / seen[word]) for word in asked if seen[word]}

        def shared(rid: str, weight: dict[str, float] = weight) -> float:
            return sum(value for word, value in weight.items() if word in words[rid])

        best = max(words, key=shared, default="")
        if best and shared(best) > 2.0:
            found.add(best)
    return found


def moment(text: str) -> float | None:
    """Seconds since the epoch of ``1:56 pm on 8 May, 2023``."""
    try:
        return time.mktime(time.strptime(text, "%I:%M %p on %d %B, %Y"))
    except ValueError:
        return None


def kept_by_us(data: Path, stream: Stream, room: int) -> set[str]:
    """Ids of the turns that are alive at the end."""
    ids: dict[str, str] = {}
    with BlockingClient.open(data) as client:
        client.sys.session(space=f"ours-{stream.name}")
        live = 0
        for name, text, at in stream.turns:
            client.call(mem.Search(query=text[:2000], k=RECALLED))
            written = client.call(mem.Write(segment="episodic", content=text, valid_from=at))
            ids[written.rid] = name
            live += 1
            if live > room * SLACK:
                live -= len(client.mem.tidy(tasks=["archive"], room=room).acts)
        client.mem.tidy(tasks=["archive"], room=room)
        found = client.mem.read(limit=1000).records
    assert len(found) <= room, (len(found), room)
    return {ids[record.rid] for record in found}


def kept_by_lru(data: Path, stream: Stream, room: int) -> set[str]:
    """The same when the longest unused goes."""
    ids: dict[str, str] = {}
    used: dict[str, int] = {}
    with BlockingClient.open(data) as client:
        client.sys.session(space=f"lru-{stream.name}")
        for now, (name, text, at) in enumerate(stream.turns):
            hits = client.call(mem.Search(query=text[:2000], k=RECALLED)).hits
            used.update((hit.rid, now) for hit in hits)
            written = client.call(mem.Write(segment="episodic", content=text, valid_from=at))
            ids[written.rid] = name
            used[written.rid] = now
            if len(used) > room:
                oldest = min(used, key=lambda rid: (used[rid], rid))
                del used[oldest]
                client.mem.archive(rid=oldest)
    return {ids[rid] for rid in used}


def measure(data: Path, stream: Stream) -> dict[str, float]:
    """Shares of the evidence that each policy kept."""
    room = int(PART * len(stream.turns))
    fifo = {name for name, _, _ in stream.turns[-room:]}
    kept = {
        "ours": kept_by_us(data, stream, room),
        "fifo": fifo,
        "lru": kept_by_lru(data, stream, room),
    }
    shares = {name: len(stream.evidence & ids) / len(stream.evidence) for name, ids in kept.items()}
    return {"records": len(stream.turns), "evidence": len(stream.evidence), **shares}


def together(rows: list[dict[str, float]]) -> dict[str, float]:
    """The shares of several dialogues, each weighing by its evidence, and the ratio."""
    total = sum(row["evidence"] for row in rows)
    shares = {
        name: sum(row[name] * row["evidence"] for row in rows) / total
        for name in ("ours", "fifo", "lru")
    }
    return {**shares, "ratio": shares["ours"] / max(shares["fifo"], shares["lru"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets")
    parser.add_argument("--set", choices=("locomo", "memorybank"), default="locomo")
    parser.add_argument("--embedder", default="none", help="as of the kernel")
    parser.add_argument("--json", action="store_true", help="only the last line")
    options = parser.parse_args()
    streams = [*(locomo if options.set == "locomo" else memorybank)(options.data)]
    rows: dict[str, dict[str, float]] = {}
    with kernel("--embedder", options.embedder, "--tidy-every", "0") as data:
        for stream in streams:
            if stream.evidence:
                rows[stream.name] = measure(data, stream)
                if not options.json:
                    print(stream.name, rows[stream.name], flush=True)
    all_of_them = together([*rows.values()])
    halves = {}
    if options.set == "locomo":
        fitted = [row for name, row in rows.items() if name in FITTED]
        other = [row for name, row in rows.items() if name not in FITTED]
        halves = {
            name: together(half) for name, half in (("fitted", fitted), ("other", other)) if half
        }
    report(
        f"forgetting-{options.set}",
        all_of_them["ours"],
        max(all_of_them["fifo"], all_of_them["lru"]),
        all_of_them["ratio"],
        unit="share",
        bound=1.3,
        labels="named by the set" if options.set == "locomo" else "stand-in: shared rare words",
        part=PART,
        fifo=all_of_them["fifo"],
        lru=all_of_them["lru"],
        halves=halves,
        dialogues=rows,
    )


if __name__ == "__main__":
    main()
