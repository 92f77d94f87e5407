"""An entity graph on disk, asked in Cypher: what kuzu and ladybug have in common.

    (Note {rid}) ──Mentions──> (Entity {key, name}) ──Tie {rid, relation, times}──> (Entity)
    (Place {id: 0, seq})       how far the journal was followed, in the transaction of the data

The file is derived: one that the library refuses, that says another version, or in which the
last opening never came to an end (a library that crashed takes the process with it) is removed
and made anew. So is one of another layout of ours.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, Final

from drivers.contracts import IndexStatistics, Tie
from syscalls.errors import EIO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    from drivers.contracts import Mentioned

logger = logging.getLogger(__name__)

LAYOUT: Final = 1
BUFFER: Final = 64 << 20
"""Most bytes of memory for the pages of one graph."""
LARGEST: Final = 1 << 36
"""Most bytes of one file: address space, neither memory nor disk."""
FAR: Final = 1e300
"""Stands for infinity: comparisons with it are certain in every version."""

_SCHEMA: Final = (
    "CREATE NODE TABLE Place(id INT64 PRIMARY KEY, seq INT64, layout INT64)",
    "CREATE NODE TABLE Entity(key STRING PRIMARY KEY, name STRING)",
    "CREATE NODE TABLE Note(rid STRING PRIMARY KEY)",
    "CREATE REL TABLE Mentions(FROM Note TO Entity)",
    "CREATE REL TABLE Tie(FROM Entity TO Entity, rid STRING, relation STRING, since DOUBLE,"
    " until DOUBLE, known DOUBLE, dropped DOUBLE)",
)


class CypherGraph:
    """``drivers.contracts.GraphIndex`` in a file of kuzu's or ladybug's. Its methods block."""

    def __init__(self, library: ModuleType, path: Path) -> None:
        self._library = library
        self._path = path
        self._marker = path.with_suffix(".opening")
        self._rebuilt = ""
        self._database: Any = None
        self._connection: Any = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._position = self._open()
        except OSError as error:
            raise EIO(f"graph: {error}", driver="graph", path=str(path)) from error

    def _open(self) -> int:
        """Open the file, or a new one in its place; the position."""
        if self._path.exists():
            try:
                self._check()
                return self._connect()
            except RuntimeError as error:
                self._rebuilt = str(error).partition("\n")[0] or repr(error)
                logger.warning("graph: %s: made anew: %s", self._path, self._rebuilt)
        self._let_go()
        self._remove()
        return self._connect()

    def _check(self) -> None:
        """Raise RuntimeError for a file that the library should not even be shown."""
        if self._marker.exists():
            raise RuntimeError("the last opening did not come to an end")
        with self._path.open("rb") as file:
            head = file.read(12)
        version = int(self._library.storage_version)
        # Four bytes of magic, then the version of the storage in eight.
        if len(head) < 12 or int.from_bytes(head[4:], "little") != version:
            raise RuntimeError(f"its storage is not of version {version}")

    def _connect(self) -> int:
        self._marker.touch()
        self._database = self._library.Database(
            str(self._path), buffer_pool_size=BUFFER, max_num_threads=1, max_db_size=LARGEST
        )
        self._connection = self._library.Connection(self._database, num_threads=1)
        tables = {row[0] for row in self._ask("CALL show_tables() RETURN name")}
        if not tables:
            for statement in _SCHEMA:
                self._ask(statement)
            self._ask("CREATE (:Place {id: 0, seq: 0, layout: $layout})", layout=LAYOUT)
        elif "Place" not in tables:
            raise RuntimeError("it is no graph of ours")
        rows = self._ask("MATCH (p:Place {id: 0}) RETURN p.seq, p.layout")
        if not rows or rows[0][1] != LAYOUT:
            raise RuntimeError("its layout is another one")
        self._marker.unlink()
        return int(rows[0][0])

    def _ask(self, statement: str, **values: Any) -> list[list[Any]]:
        result = self._connection.execute(statement, values)
        rows: list[list[Any]] = []
        while result.has_next():
            rows.append(result.get_next())
        result.close()
        return rows

    def _let_go(self) -> None:
        for held in (self._connection, self._database):
            if held is not None:
                held.close()
        self._connection = self._database = None

    def _remove(self) -> None:
        for file in self._path.parent.glob(self._path.stem + ".*"):
            file.unlink()

    @property
    def position(self) -> int:
        """See ``GraphIndex.position``."""
        return self._position

    # --- changing

    def apply(self, seq: int, upserts: Sequence[Mentioned], deletes: Sequence[str]) -> None:
        """See ``GraphIndex.apply``. Raises RuntimeError when the library fails."""
        notes = {one.rid: one for one in upserts}
        self._ask("BEGIN TRANSACTION")
        try:
            self._withdraw([*notes, *deletes])
            self._put([one for one in notes.values() if one.names])
            self._ask("MATCH (p:Place {id: 0}) SET p.seq = $seq", seq=seq)
            self._ask("COMMIT")
        except BaseException:
            self._ask("ROLLBACK")
            raise
        self._position = seq

    def _withdraw(self, rids: list[str]) -> None:
        known = self._ask("MATCH (n:Note) WHERE n.rid IN $rids RETURN n.rid", rids=rids)
        if not known:
            return
        old = [row[0] for row in known]
        rows = self._ask(
            "MATCH (n:Note)-[:Mentions]->(e:Entity) WHERE n.rid IN $old RETURN DISTINCT e.key",
            old=old,
        )
        keys = [row[0] for row in rows]
        self._ask(
            "MATCH (e:Entity)-[t:Tie]->(:Entity) WHERE e.key IN $keys AND t.rid IN $old DELETE t",
            keys=keys,
            old=old,
        )
        self._ask("MATCH (n:Note) WHERE n.rid IN $old DETACH DELETE n", old=old)
        self._ask(
            "MATCH (e:Entity) WHERE e.key IN $keys"
            " AND NOT EXISTS { MATCH (:Note)-[:Mentions]->(e) } DETACH DELETE e",
            keys=keys,
        )

    def _put(self, notes: Sequence[Mentioned]) -> None:
        names = {key: name for one in reversed(notes) for key, name in one.names.items()}
        if not names:
            return
        self._ask(
            "UNWIND $rows AS r MERGE (e:Entity {key: r.key}) ON CREATE SET e.name = r.name",
            rows=[{"key": key, "name": name} for key, name in names.items()],
        )
        self._ask("UNWIND $rids AS rid CREATE (:Note {rid: rid})", rids=[n.rid for n in notes])
        self._ask(
            "UNWIND $rows AS r MATCH (n:Note {rid: r.rid}), (e:Entity {key: r.key})"
            " CREATE (n)-[:Mentions]->(e)",
            rows=[{"rid": one.rid, "key": key} for one in notes for key in one.names],
        )
        ties = [
            {
                "rid": tie.rid,
                "subject": tie.subject,
                "relation": tie.relation,
                "object": tie.object,
                "since": max(tie.since, -FAR),
                "until": min(tie.until, FAR),
                "known": max(tie.known, -FAR),
                "dropped": min(tie.dropped, FAR),
            }
            for one in notes
            for tie in one.ties
        ]
        if ties:
            self._ask(
                "UNWIND $ties AS t MATCH (s:Entity {key: t.subject}), (o:Entity {key: t.object})"
                " CREATE (s)-[:Tie {rid: t.rid, relation: t.relation, since: t.since,"
                " until: t.until, known: t.known, dropped: t.dropped}]->(o)",
                ties=ties,
            )

    # --- asking

    def ties(self, entities: Sequence[str], as_of: float, known_at: float, limit: int) -> list[Tie]:
        """See ``GraphIndex.ties``."""
        found: set[Tie] = set()
        # Two questions, each from the end that is known and with that end written first: then
        # both libraries begin at the key and not by reading every tie (measured).
        for pattern in (
            "MATCH (s:Entity)-[t:Tie]->(o:Entity) WHERE s.key IN $keys",
            "MATCH (o:Entity)<-[t:Tie]-(s:Entity) WHERE o.key IN $keys",
        ):
            rows = self._ask(
                f"{pattern} AND t.since <= $at AND t.until > $at"
                " AND t.known <= $known AND t.dropped > $known"
                " RETURN t.rid, s.key, t.relation, o.key, t.since, t.until, t.known, t.dropped"
                " ORDER BY t.rid DESC, s.key, t.relation, o.key LIMIT $limit",
                keys=list(dict.fromkeys(entities)),
                at=_bounded(as_of),
                known=_bounded(known_at),
                limit=limit,
            )
            found.update(Tie(*row[:4], *map(_open, row[4:])) for row in rows)
        ordered = sorted(sorted(found), key=lambda tie: tie.rid, reverse=True)
        return ordered[:limit]

    def mentions(self, entities: Sequence[str], limit: int) -> list[tuple[str, str]]:
        """See ``GraphIndex.mentions``."""
        rows = self._ask(
            "MATCH (e:Entity)<-[:Mentions]-(n:Note) WHERE e.key IN $keys"
            " RETURN n.rid, e.key ORDER BY n.rid DESC, e.key LIMIT $limit",
            keys=list(dict.fromkeys(entities)),
            limit=limit,
        )
        return [(row[0], row[1]) for row in rows]

    def named(self, rids: Sequence[str]) -> dict[str, list[str]]:
        """See ``GraphIndex.named``."""
        rows = self._ask(
            "MATCH (n:Note)-[:Mentions]->(e:Entity) WHERE n.rid IN $rids RETURN n.rid, e.key",
            rids=list(dict.fromkeys(rids)),
        )
        found: dict[str, list[str]] = {}
        for rid, key in rows:
            found.setdefault(rid, []).append(key)
        return {rid: sorted(keys) for rid, keys in found.items()}

    def names(self, entities: Sequence[str]) -> dict[str, str]:
        """See ``GraphIndex.names``."""
        rows = self._ask(
            "MATCH (e:Entity) WHERE e.key IN $keys RETURN e.key, e.name",
            keys=list(dict.fromkeys(entities)),
        )
        return {row[0]: row[1] for row in rows}

    # --- life

    def flush(self) -> None:
        """See ``GraphIndex.flush``."""
        self._ask("CHECKPOINT")

    def close(self) -> None:
        """See ``GraphIndex.close``."""
        self._let_go()

    def statistics(self) -> IndexStatistics:
        """See ``GraphIndex.statistics``."""
        files = self._path.parent.glob(self._path.stem + ".*")
        entries = 0 if self._connection is None else self._count()
        return IndexStatistics(
            kind="graph",
            position=self._position,
            entries=entries,
            bytes_disk=sum(file.stat().st_size for file in files),
            bytes_memory=0 if self._connection is None else BUFFER,
            rebuilt=self._rebuilt,
        )

    def _count(self) -> int:
        return int(self._ask("MATCH (n:Note) RETURN count(*)")[0][0])


def _bounded(time: float) -> float:
    return max(-FAR, min(time, FAR / 2))


def _open(time: float) -> float:
    return -inf if time <= -FAR else inf if time >= FAR else time
