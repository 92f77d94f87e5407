"""The words of one space, on SQLite FTS5.

FTS5 keeps the postings: which documents have a word, transactionally and in one file. The
ranking is ours, because ranking every document that has any of the words costs FTS5 about
1 us each, 130 ms for a query with common words among 100,000 documents:

    query ── words, rarest first
      1. gather   documents of each word (one native aggregate, 0.08 us each), until the words
                  left could not lift an unseen document into the best k, or BUDGET is spent
      2. choose   the best CANDIDATES by inverse document frequency and length
      3. rank     these by BM25 over all words of the query, from their own text

With few documents, or with one rare word in the query, that is exact; else a document that
has only the commonest words of the query can be missed. ``benchmarks/lexical_choice.py``
measures speed and loss. BM25: Robertson and Zaragoza, "The Probabilistic Relevance
Framework" (2009), with the never negative idf of Lucene; stopping early: Turtle and Flood,
"Query evaluation: strategies and optimizations" (1995).
"""

from __future__ import annotations

import logging
import math
import sqlite3
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from drivers.contracts import IndexStatistics, Located
from drivers.lexical.words import Words
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

FORMAT: Final = 1
BUDGET: Final = 20_000
"""Postings that a search reads before it stops at the commonest words."""
CANDIDATES: Final = 150
"""Documents ranked exactly, at least (or twice what is asked for)."""
K1: Final = 1.2
B: Final = 0.75
_QUERY_WORDS: Final = 256
"""Different words of a query that count; the rest of a very long one are let be."""
_VARIABLES: Final = 500
"""Values given to one statement, at most."""

_BASE_BYTES: Final = 64 << 10
"""Rough memory of an open connection with its statements."""
_CACHE_BYTES: Final = 2 << 20
"""SQLite's page cache of a connection, at most."""

_SCHEMA: Final = f"""
    PRAGMA user_version = {FORMAT};
    CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER);
    INSERT INTO state VALUES (1, 0);
    CREATE TABLE docs (id INTEGER PRIMARY KEY, rid TEXT UNIQUE, tag INTEGER, length INTEGER,
                       words TEXT);
    CREATE VIRTUAL TABLE postings USING fts5
        (words, content='', columnsize=0, detail=none, tokenize="ascii tokenchars '._@/+-'");
"""
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Fts5Index:
    """``drivers.contracts.LexicalIndex``; without a path it is in memory only.

    When the file turns out to be damaged while in use, the call raises EIO and the index is
    empty afterwards, at position 0, to be fed again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._words = Words()
        self._rebuilt = ""
        self._frequency: dict[str, int] = {}
        self._counted_at = 0
        self._weighed: tuple[list[str], int, list[tuple[str, int, float]]] = [], -1, []
        """The last words that were weighed, and when: a search asks for them several times."""
        self._closed = False
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._start()
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._eio(error) from error

    # --- opening

    def _start(self) -> None:
        try:
            self._db = self._open()
            self._load()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._restart(str(error))

    def _open(self) -> sqlite3.Connection:
        """Open the file, checked, or make it. Raises sqlite3.DatabaseError."""
        path = self._path
        fresh = path is None or not path.exists()
        clean = path is not None and not fresh and self._closed_whole(path)
        db = sqlite3.connect(
            ":memory:" if path is None else path, isolation_level=None, check_same_thread=False
        )
        try:
            # One process has it: no shared-memory file, no locking of each transaction.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA temp_store = MEMORY")
            if fresh:
                db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
                if path is not None:
                    path.chmod(0o600)
            else:
                self._check(db, clean)
        except BaseException:
            db.close()
            raise
        return db

    @staticmethod
    def _check(db: sqlite3.Connection, clean: bool) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            raise _damage(f"format {version}, not {FORMAT}")
        if not clean:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _damage(str(found))
            db.execute("INSERT INTO postings(postings) VALUES ('integrity-check')")

    def _closed_whole(self, path: Path) -> bool:
        """Whether the file is as it was closed; else it needs checking.

        SQLite has no checksums of its own. Raises sqlite3.DatabaseError when it has changed.
        """
        seal = path.with_suffix(".crc")
        if not seal.exists():
            return False
        if seal.read_bytes() != _checksum(path):
            raise _damage("changed since it was closed")
        seal.unlink()
        return True

    def _restart(self, reason: str) -> None:
        """Begin with an empty file."""
        log.warning("lexical: %s: %s; starting empty", self._path, reason)
        self._rebuilt = reason
        if self._path is not None:
            for suffix in ("", "-wal", "-shm", "-journal"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._path.with_suffix(".crc").unlink(missing_ok=True)
        self._db = self._open()
        self._load()

    def _load(self) -> None:
        """What is held in memory: the position, and length and tag of each document by id."""
        db = self._db
        self._position = int(db.execute("SELECT position FROM state").fetchone()[0])
        count, last = db.execute("SELECT count(*), coalesce(max(id), 0) FROM docs").fetchone()
        self._lengths = np.zeros(last + 1 + max(16, last // 8), np.uint32)
        self._tags = np.zeros(len(self._lengths), np.uint8)
        self._count, self._next = count, last + 1
        if count:
            columns = db.execute(
                "SELECT group_concat(id), group_concat(length), group_concat(tag) FROM docs"
            ).fetchone()
            ids, lengths, tags = (_numbers(column) for column in columns)
            self._lengths[ids] = lengths
            self._tags[ids] = tags
        self._total = int(self._lengths.sum())
        self._frequency.clear()

    # --- writing

    @property
    def position(self) -> int:
        """See ``LexicalIndex.position``."""
        return self._position

    def apply(
        self, seq: int, upserts: Sequence[tuple[str, int, str]], deletes: Sequence[str]
    ) -> None:
        """See ``LexicalIndex.apply``. A rid in both lists is deleted. Raises EIO."""
        cut = {rid: (tag, self._words(text)) for rid, tag, text in upserts}
        gone = set(deletes)
        with self._errors():
            self._db.execute("BEGIN")
            try:
                # In the order of ids: FTS5 writes out what it holds whenever they go back.
                old = self._old({*cut, *gone})
                for rid, (id_, _, words) in old.items():
                    self._db.execute(
                        "INSERT INTO postings(postings, rowid, words) VALUES ('delete', ?, ?)",
                        (id_, words),
                    )
                    if rid in gone:
                        self._db.execute("DELETE FROM docs WHERE id = ?", (id_,))
                new = self._insert({rid: cut[rid] for rid in cut if rid not in gone}, old)
                self._db.execute("UPDATE state SET position = ?", (seq,))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        for id_, length, _ in old.values():
            self._total -= length
            self._lengths[id_] = 0
        self._remember(new)
        self._count += len(new) - len(old)
        self._position = seq

    def _old(self, rids: set[str]) -> dict[str, tuple[int, int, str]]:
        """Id, length and words of those that are there, by rid, in the order of ids."""
        found: list[tuple[int, str, int, str]] = []
        for rid in rids:
            found += self._db.execute(
                "SELECT id, rid, length, words FROM docs WHERE rid = ?", (rid,)
            )
        return {rid: (id_, length, words) for id_, rid, length, words in sorted(found)}

    def _insert(
        self, cut: dict[str, tuple[int, list[str]]], old: dict[str, tuple[int, int, str]]
    ) -> list[tuple[int, int, int]]:
        """Write documents; id, length and tag of each."""
        new: list[tuple[int, int, int]] = []
        rows: list[tuple[int, str]] = []
        following = self._next
        for rid, (tag, words) in cut.items():
            if rid in old:
                id_ = old[rid][0]
            else:
                id_ = following
                following += 1
            text = " ".join(words)
            self._db.execute(
                "INSERT OR REPLACE INTO docs VALUES (?, ?, ?, ?, ?)",
                (id_, rid, tag, len(words), text),
            )
            new.append((id_, len(words), tag))
            rows.append((id_, text))
        self._db.executemany("INSERT INTO postings(rowid, words) VALUES (?, ?)", sorted(rows))
        return new

    def _remember(self, new: list[tuple[int, int, int]]) -> None:
        for id_, length, tag in new:
            if id_ >= len(self._lengths):
                size = id_ + 1 + max(16, id_ // 8)
                self._lengths.resize(size, refcheck=False)
                self._tags.resize(size, refcheck=False)
            self._lengths[id_] = length
            self._tags[id_] = tag
            self._total += length
            self._next = max(self._next, id_ + 1)

    # --- searching

    def search(self, query: str, k: int, tags: frozenset[int] | None) -> list[Located]:
        """See ``LexicalIndex.search``. Raises EIO."""
        if k < 1 or not self._count:
            return []
        with self._errors():
            weights = self._weights(self._asked(query))
            ids = self._gather(weights, k, tags)
            return self._rank(ids, weights, k)

    def scores(self, query: str, rids: Sequence[str]) -> list[float]:
        """See ``LexicalIndex.scores``. Raises EIO."""
        found: dict[str, float] = {}
        with self._errors():
            weights = self._weights(self._asked(query))
            if weights:
                for start in range(0, len(rids), _VARIABLES):
                    part = rids[start : start + _VARIABLES]
                    marks = ",".join("?" * len(part))
                    rows = self._db.execute(
                        f"SELECT rid, length, words FROM docs WHERE rid IN ({marks})", part
                    )
                    found.update((hit.rid, hit.score) for hit in self._scored(rows, weights))
        return [found.get(rid, 0.0) for rid in rids]

    def ceiling(self, query: str) -> float:
        """See ``LexicalIndex.ceiling``. Raises EIO."""
        words = self._asked(query)
        with self._errors():
            weights = self._weights(words)
        rarest = math.log(1 + (self._count + 0.5) / 0.5)
        return sum(idf for _, _, idf in weights) + rarest * (len(words) - len(weights))

    def _asked(self, query: str) -> list[str]:
        """The different words of a query."""
        return list(dict.fromkeys(self._words(query)))[:_QUERY_WORDS]

    def _weights(self, words: list[str]) -> list[tuple[str, int, float]]:
        """Words that occur, with document frequency and idf, rarest first."""
        if abs(self._count - self._counted_at) > self._count // 16:
            # Counting a common word takes milliseconds, and its idf hardly moves.
            self._frequency.clear()
            self._counted_at = self._count
        if (words, self._position) == self._weighed[:2]:
            return self._weighed[2]
        weights: list[tuple[str, int, float]] = []
        for word in words:
            frequency = self._frequency.get(word)
            if frequency is None:
                frequency = self._db.execute(
                    "SELECT count(*) FROM postings WHERE postings MATCH ?", (f'"{word}"',)
                ).fetchone()[0]
                if frequency > self._count // 16:
                    self._frequency[word] = frequency
            if frequency:
                idf = math.log(1 + max(0.5, self._count - frequency + 0.5) / (frequency + 0.5))
                weights.append((word, frequency, idf))
        weights.sort(key=lambda weight: weight[1])
        self._weighed = words, self._position, weights
        return weights

    def _gather(
        self, weights: list[tuple[str, int, float]], k: int, tags: frozenset[int] | None
    ) -> list[int]:
        """Ids of the documents that are worth ranking."""
        wanted = max(CANDIDATES, 2 * k)
        gains = np.zeros(self._next, np.float32)
        read = 0
        left = sum(idf for _, _, idf in weights) * (K1 + 1)
        for word, frequency, idf in weights:
            if read and read + frequency > BUDGET and np.count_nonzero(gains) >= k:
                break
            found = self._documents(word)
            if tags is not None:
                allowed = np.zeros(256, np.bool_)
                allowed[[tag for tag in tags if 0 <= tag < len(allowed)]] = True
                found = found[allowed[self._tags[found]]]
            gains[found] += idf * (K1 + 1) / (1 + self._damping(self._lengths[found]))
            read += frequency
            left -= idf * (K1 + 1)
            if read > BUDGET // 8 and left < self._kth(gains, k):
                break
        best = np.flatnonzero(gains)
        if len(best) > wanted:
            best = best[np.argpartition(-gains[best], wanted)[:wanted]]
        ids: list[int] = best.tolist()
        return ids

    @staticmethod
    def _kth(gains: NDArray[np.float32], k: int) -> float:
        """The k-th best gain; 0 when there are fewer."""
        found = gains[gains > 0]
        if k > len(found):
            return 0.0
        return float(np.partition(found, len(found) - k)[len(found) - k])

    def _documents(self, word: str) -> NDArray[np.int64]:
        row = self._db.execute(
            "SELECT group_concat(rowid) FROM postings WHERE postings MATCH ?", (f'"{word}"',)
        ).fetchone()
        return _numbers(row[0])

    def _damping(self, lengths: Any) -> Any:
        """What BM25 adds to a word's count below the line: long documents gain less.

        Of a number, or of an array of them.
        """
        return K1 * (1 - B + B * lengths * (self._count / max(1, self._total)))

    def _rank(self, ids: list[int], weights: list[tuple[str, int, float]], k: int) -> list[Located]:
        rows = self._db.execute(
            f"SELECT rid, length, words FROM docs WHERE id IN ({','.join(map(str, ids))})"
        )
        hits = self._scored(rows, weights)
        hits.sort(key=lambda hit: (-hit.score, hit.rid))
        return hits[:k]

    def _scored(
        self, rows: Iterable[tuple[str, int, str]], weights: list[tuple[str, int, float]]
    ) -> list[Located]:
        """BM25 of documents given as rid, length and words."""
        hits: list[Located] = []
        for rid, length, text in rows:
            words = text.split(" ")
            damping = self._damping(length)
            score = 0.0
            for word, _, idf in weights:
                count = words.count(word)
                if count:
                    score += idf * count * (K1 + 1) / (count + damping)
            hits.append(Located(rid, score))
        return hits

    # --- the rest

    def flush(self) -> None:
        """See ``LexicalIndex.flush``. Raises EIO."""
        with self._errors():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """See ``LexicalIndex.close``. Raises EIO."""
        if self._closed:
            return
        self._closed = True
        with self._errors():
            self._db.close()  # the last connection folds the log into the file
        if self._path is not None:
            try:
                self._path.with_suffix(".crc").write_bytes(_checksum(self._path))
            except OSError as error:
                raise self._eio(error) from error

    def statistics(self) -> IndexStatistics:
        """See ``LexicalIndex.statistics``."""
        disk = 0
        if self._path is not None:
            files = (self._path, self._path.with_name(self._path.name + "-wal"))
            disk = sum(file.stat().st_size for file in files if file.exists())
        return IndexStatistics(
            kind="fts5",
            position=self._position,
            entries=self._count,
            bytes_disk=disk,
            bytes_memory=_BASE_BYTES
            + min(disk, _CACHE_BYTES)
            + self._lengths.nbytes
            + self._tags.nbytes,
            rebuilt=self._rebuilt,
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                self._db.close()
                self._restart(str(error))
            raise self._eio(error) from error

    def _eio(self, error: Exception) -> EIO:
        return EIO(f"lexical: {error}", driver="lexical", path=str(self._path or ":memory:"))


def _numbers(text: str | None) -> NDArray[np.int64]:
    """The numbers of a comma-separated list: far fewer objects than rows would be."""
    return np.fromstring(text or "", dtype=np.int64, sep=",")


def _checksum(path: Path) -> bytes:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return b"%d %08x\n" % (path.stat().st_size, crc)


def _damage(why: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _CORRUPT or "no such table" in str(error)
