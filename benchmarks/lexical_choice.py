"""Why the words of a space are on SQLite FTS5: it and tantivy, side by side.

100,000 documents of 20 to 40 words by Zipf's law, queries of 5 to 12 of their words, common
ones included. ``ours`` and ``floor`` are the p50 of a search for 10 in milliseconds, ours and
tantivy's (block-max WAND: the fastest there is for this). Beside them: what a plain FTS5
query would take, how many of BM25's true best ten ours finds, how fast documents go in, how
long until one change is visible to a search, and what a small space costs.

tantivy is a development dependency; nothing else needs it.
"""

import math
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import numpy

from benchmarks._harness import percentile, report, timed
from drivers.lexical.fts5 import Fts5Index

DOCUMENTS = int(os.environ.get("DOCUMENTS", "100000"))
VOCABULARY = 40_000
QUERIES = 60
CHANGES = 40
SPACES = 200
SPACE_DOCUMENTS = 20


class Engine(Protocol):
    """One index of one engine in one folder."""

    def add(self, seq: int, documents: list[tuple[str, int, str]]) -> None:
        """Add documents and make them visible."""

    def find(self, query: str) -> list[str]:
        """The best ten."""

    def close(self) -> None:
        """Let go of it."""


class Ours:
    """The index the system uses."""

    def __init__(self, folder: Path) -> None:
        self.index = Fts5Index(folder / "words.db")

    def add(self, seq: int, documents: list[tuple[str, int, str]]) -> None:
        self.index.apply(seq, documents, [])

    def find(self, query: str) -> list[str]:
        return [hit.rid for hit in self.index.search(query, 10, None)]

    def plain(self, query: str) -> int:
        """How many a plain FTS5 query answers with; its ranking needs counts of words."""
        words = " OR ".join(f'"{word}"' for word in set(query.split()))
        sql = "SELECT rowid FROM plain WHERE plain MATCH ? ORDER BY rank LIMIT 10"
        return len(self.index._db.execute(sql, (words,)).fetchall())

    def close(self) -> None:
        self.index.close()


class Tantivy:
    """tantivy with one writer that lives as long as a change, as thousands of spaces need."""

    def __init__(self, folder: Path) -> None:
        import tantivy

        self.tantivy = tantivy
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("rid", stored=True, tokenizer_name="raw", index_option="basic")
        builder.add_integer_field("tag", indexed=True, fast=True)
        builder.add_text_field(
            "words", stored=False, tokenizer_name="whitespace", index_option="freq"
        )
        self.schema = builder.build()
        self.index = tantivy.Index(self.schema, path=str(folder))
        self.searcher = self.index.searcher()

    def add(self, seq: int, documents: list[tuple[str, int, str]]) -> None:
        writer = self.index.writer(heap_size=15_000_000, num_threads=1)
        for rid, tag, text in documents:
            writer.add_document(self.tantivy.Document(rid=rid, tag=tag, words=text))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()

    def find(self, query: str) -> list[str]:
        tantivy = self.tantivy
        terms = [
            (
                tantivy.Occur.Should,
                tantivy.Query.term_query(self.schema, "words", word, "freq"),
            )
            for word in set(query.split())
        ]
        found = self.searcher.search(tantivy.Query.boolean_query(terms), 10, count=False)
        return [self.searcher.doc(address)["rid"][0] for _, address in found.hits]

    def close(self) -> None:
        del self.searcher, self.index


class Texts:
    """Documents and queries of made-up words, common and rare as in a language."""

    def __init__(self) -> None:
        self.random = numpy.random.default_rng(7)
        weights = 1 / numpy.arange(1, VOCABULARY + 1)
        self.levels = numpy.cumsum(weights / weights.sum())
        self.documents = [self.text(20, 41) for _ in range(DOCUMENTS)]
        self.queries = [self.text(5, 13) for _ in range(QUERIES // 2)]
        for _ in range(QUERIES - len(self.queries)):
            words = self.documents[self.random.integers(DOCUMENTS)].split()
            some = self.random.choice(words, self.random.integers(5, 13), replace=False)
            self.queries.append(" ".join(some))

    def text(self, least: int, below: int) -> str:
        ranks = numpy.searchsorted(
            self.levels, self.random.random(self.random.integers(least, below))
        )
        return " ".join(f"w{rank}x" for rank in ranks)

    def best(self) -> list[set[str]]:
        """The true best ten of each query by BM25, computed from its definition."""
        words = {word for query in self.queries for word in query.split()}
        postings: dict[str, list[tuple[int, int]]] = {word: [] for word in words}
        lengths = numpy.zeros(DOCUMENTS)
        for n, document in enumerate(self.documents):
            counts = Counter(document.split())
            lengths[n] = sum(counts.values())
            for word in counts.keys() & words:
                postings[word].append((n, counts[word]))
        damping = 1.2 * (0.25 + 0.75 * lengths / lengths.mean())
        found = []
        for query in self.queries:
            scores = numpy.zeros(DOCUMENTS)
            for word in set(query.split()):
                ids, counts_ = numpy.array(postings[word]).T if postings[word] else ([], 0.0)
                having = len(postings[word])
                idf = math.log(1 + (DOCUMENTS - having + 0.5) / (having + 0.5))
                if having:
                    scores[ids] += idf * counts_ * 2.2 / (counts_ + damping[ids])
            found.append({f"r{n}" for n in numpy.argsort(-scores, kind="stable")[:10]})
        return found


def memory() -> float:
    """Resident MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def small_spaces(engine: type[Any], folder: Path, texts: Texts) -> dict[str, float]:
    """What a space with a few documents costs while it is open."""
    before, threads = memory(), len(os.listdir("/proc/self/task"))
    start = time.perf_counter()
    engines = []
    for space in range(SPACES):
        (folder / str(space)).mkdir()
        opened = engine(folder / str(space))
        opened.add(1, [(f"r{n}", n % 4, texts.documents[n]) for n in range(SPACE_DOCUMENTS)])
        engines.append(opened)
    figures = {
        "ms_to_make": (time.perf_counter() - start) / SPACES * 1e3,
        "resident_kb": (memory() - before) / SPACES * 1024,
        "files": sum(len(files) for _, _, files in os.walk(folder)) / SPACES,
        "threads": (len(os.listdir("/proc/self/task")) - threads) / SPACES,
    }
    for opened in engines:
        opened.close()
    return figures


def measure(engine: type[Any], folder: Path, texts: Texts, best: list[set[str]]) -> dict[str, Any]:
    """All figures of one engine."""
    (folder / "large").mkdir()
    (folder / "small").mkdir()
    opened: Engine = engine(folder / "large")
    start = time.perf_counter()
    for first in range(0, DOCUMENTS, 10_000):
        part = range(first, min(first + 10_000, DOCUMENTS))
        opened.add(part.stop, [(f"r{n}", n % 4, texts.documents[n]) for n in part])
    rate = DOCUMENTS / (time.perf_counter() - start)
    answers = [set(opened.find(query)) for query in texts.queries]
    queries = iter(texts.queries)
    searches = timed(lambda: opened.find(next(queries)), QUERIES)
    figures: dict[str, Any] = {
        "search_p50_ms": percentile(searches, 0.5) * 1e3,
        "search_p95_ms": percentile(searches, 0.95) * 1e3,
        "best_ten_found": sum(len(a & b) for a, b in zip(answers, best, strict=True))
        / sum(len(b) for b in best),
        "documents_per_s": rate,
    }
    if isinstance(opened, Ours):
        opened.index._db.execute("CREATE VIRTUAL TABLE plain USING fts5(words, tokenize='ascii')")
        opened.index._db.execute("INSERT INTO plain SELECT words FROM docs")
        plain = iter(texts.queries)
        few = timed(lambda: opened.plain(next(plain)), 10)
        figures["plain_fts5_p50_ms"] = percentile(few, 0.5) * 1e3
        opened.index._db.execute("DROP TABLE plain")
    numbers = iter(range(CHANGES))

    def change() -> None:
        n = next(numbers)
        opened.add(DOCUMENTS + n, [(f"new{n}", 0, f"new{n}x {texts.documents[n]}")])
        assert opened.find(f"new{n}x") == [f"new{n}"]

    figures["change_to_visible_p50_ms"] = percentile(timed(change, CHANGES), 0.5) * 1e3
    opened.close()
    figures["small_space"] = small_spaces(engine, folder / "small", texts)
    return figures


def main() -> None:
    texts = Texts()
    best = texts.best()
    engines: dict[str, type[Any]] = {"fts5": Ours, "tantivy": Tantivy}
    figures: dict[str, Any] = {}
    for name, engine in engines.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures[name] = measure(engine, Path(folder), texts, best)
            except ImportError as error:
                sys.exit(f"{error}: pip install tantivy")
        print(name, figures[name], flush=True)
    ours, floor = (figures[name]["search_p50_ms"] for name in engines)
    report("lexical_choice", ours, floor, ours / floor, unit="ms", **figures)


if __name__ == "__main__":
    main()
