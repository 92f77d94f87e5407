"""Walks the entity graph: what is around an entity, and the shortest ways between two.

    entity ──names──> keys ──graphs of all layers──> ties ──the records decide──> edges ─> next hop

The graph proposes and the records decide: a tie counts if the record behind it may be seen and
says so at the moment that is asked about. Names of one entity are one node.
"""

from __future__ import annotations

from itertools import islice, pairwise
from math import inf
from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.calls.mem import Graph, GraphEdge, GraphNode
from syscalls.errors import ENOENT
from ums import records as form
from ums.claims import Claims
from ums.draft import Draft
from ums.facts import ALIAS, entity_key, relation_key
from ums.graph import LONGEST_KEY
from ums.moment import begins, ends

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from drivers.contracts import Store, Tie
    from syscalls.calls.mem import GraphCall
    from ums.graph import Grapher
    from ums.moment import Moment
    from ums.reach import Reach
    from ums.records import Stored

FETCH = 4000
"""Ties that are looked at for one hop."""
NODES = 5000
"""Entities that one walk visits."""
RIDS = 8
"""Records named with an edge."""
PATHS = 10
PATH_HOPS = 6
PATIENCE = 15.0
TOGETHER = "mentioned_with"
"""The relation of entities that are only named in the same record."""

Edge = tuple[str, str, str]
"""Subject, relation, object: keys."""


class _Said(msgspec.Struct):
    """What is known of one edge."""

    rids: list[str]
    since: float = inf
    until: float = -inf


class Walk:
    """One question."""

    def __init__(
        self, grapher: Grapher, store: Store, reach: Reach, moment: Moment, deadline: float | None
    ) -> None:
        self._grapher = grapher
        self._reach = reach
        self._moment = moment.at()
        self._now = moment.now
        self._deadline = trio.current_time() + (PATIENCE if deadline is None else deadline)
        self._claims = Claims(Draft(store), reach.whole) if reach.whole else None
        self._groups: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}
        """The newest spelling of each key."""
        self._edges: dict[Edge, _Said] = {}
        self._hops: dict[str, int] = {}
        self._more = False
        self._behind = 0

    async def answer(self, call: GraphCall) -> Graph:
        """Neighbourhood or paths. Raises ENOENT for an entity that nothing knows."""
        start = self._node(entity_key(call.entity))
        relation = relation_key(call.relation) if call.relation else ""
        self._hops[start] = 0
        if call.to is None:
            await self._spread(start, call.hops or 1, relation, None)
            if call.mentions:
                await self._beside(start, call.limit)
            paths: list[list[str]] = []
        else:
            goal = self._node(entity_key(call.to))
            await self._spread(start, call.hops or PATH_HOPS, relation, goal)
            paths = self._paths(start, goal)
        if len(self._hops) == 1:
            await self._known(start, call.entity)
        return await self._reply(start, paths, call)

    # --- names

    def _group(self, key: str) -> list[str]:
        """All names of an entity, the same list whichever it is asked by."""
        group = self._groups.get(key)
        if group is None:
            group = sorted(self._claims.names(key)) if self._claims else [key]
            self._groups.update(dict.fromkeys(group, group))
        return group

    def _node(self, key: str) -> str:
        return self._group(key)[0]

    # --- walking

    async def _spread(self, start: str, hops: int, relation: str, goal: str | None) -> None:
        """Visit what is within some hops, or until the goal is there."""
        frontier = [start]
        for hop in range(1, hops + 1):
            fresh: set[str] = set()
            for edge in await self._ties(frontier):
                subject, kind, target = edge
                if relation and kind != relation:
                    continue
                for node in (subject, target):
                    if node not in self._hops:
                        self._hops[node] = hop
                        fresh.add(node)
            frontier = sorted(fresh)
            if not frontier or (goal is not None and goal in self._hops):
                break
            if len(self._hops) > NODES:
                self._more = True
                break

    async def _ties(self, nodes: Sequence[str]) -> list[Edge]:
        """The edges at some nodes, noted with the records that say so."""
        keys = [key for node in nodes for key in self._group(node)]
        at, known = self._moment.event, self._moment.known_at
        known = inf if known is None else known
        ties, self._behind = await self._grapher.ask(
            self._reach.layers,
            lambda graph: graph.ties(keys, at, known, FETCH),
            self._deadline,
        )
        self._more |= len(ties) >= FETCH
        found: dict[Edge, None] = {}
        for rid, tie, stored in self._true(ties):
            edge = (self._node(tie.subject), tie.relation, self._node(tie.object))
            if tie.relation == ALIAS or edge[0] == edge[2]:
                continue
            self._note(edge, rid, begins(stored), ends(stored))
            assert stored.fact is not None
            for name in (stored.fact.subject, stored.fact.object):
                self._names.setdefault(entity_key(name)[:LONGEST_KEY], name)
            found[edge] = None
        return list(found)

    def _true(self, ties: Sequence[Tie]) -> Iterable[tuple[str, Tie, Stored]]:
        """The ties that the records bear out, with the version that does."""
        seen: set[Edge] = set()
        places = self._reach.places([tie.rid for tie in ties])
        for tie, place in zip(ties, places, strict=True):
            what = (tie.rid, tie.relation, tie.subject + "\0" + tie.object)
            if place is None or what in seen:
                continue
            current = form.decode(place.value)
            if current.expired(self._now):
                continue
            stored = self._reach.version(tie.rid, current, self._moment)
            if stored is None or stored.fact is None or not self._moment.holds(stored):
                continue
            fact = stored.fact
            if (
                entity_key(fact.subject)[:LONGEST_KEY] == tie.subject
                and entity_key(fact.object)[:LONGEST_KEY] == tie.object
                and relation_key(fact.relation) == tie.relation
            ):
                seen.add(what)
                yield tie.rid, tie, stored

    def _note(self, edge: Edge, rid: str, since: float, until: float) -> None:
        said = self._edges.setdefault(edge, _Said([]))
        if rid not in said.rids:
            said.rids.append(rid)
        said.since, said.until = min(said.since, since), max(said.until, until)

    async def _beside(self, start: str, limit: int) -> None:
        """Add what is named together with an entity."""
        records = await self._mentions(self._group(start))
        rids = sorted(records, reverse=True)
        pairs, _ = await self._grapher.ask(
            self._reach.layers, lambda graph: list(graph.named(rids).items()), self._deadline
        )
        together: dict[str, list[str]] = {}
        for rid, keys in pairs:
            for node in sorted({self._node(key) for key in keys} - {start}):
                held = together.setdefault(node, [])
                if rid not in held:
                    held.append(rid)
        ranked = sorted(together.items(), key=lambda item: (-len(item[1]), item[0]))
        self._more |= len(ranked) > limit
        for node, held in ranked[:limit]:
            self._hops.setdefault(node, 1)
            self._edges[start, TOGETHER, node] = _Said(sorted(held, reverse=True), -inf, inf)

    async def _mentions(self, keys: Sequence[str]) -> list[str]:
        """Rids of the records that mention an entity, and may be seen; at the moment there."""
        found, self._behind = await self._grapher.ask(
            self._reach.layers, lambda graph: graph.mentions(keys, FETCH), self._deadline
        )
        rids = list(dict.fromkeys(rid for rid, _ in found))
        held = []
        for rid, place in zip(rids, self._reach.places(rids), strict=True):
            current = None if place is None else form.decode(place.value)
            if current is None or current.expired(self._now):
                continue
            stored = self._reach.version(rid, current, self._moment)
            if stored is not None and self._moment.holds(stored):
                held.append(rid)
        return held

    async def _known(self, start: str, entity: str) -> None:
        """Raises ENOENT for an entity that no record names at any time."""
        group = self._group(start)
        if len(group) > 1 or self._behind:
            return
        found, behind = await self._grapher.ask(
            self._reach.layers, lambda graph: graph.mentions(group, FETCH), self._deadline
        )
        if not behind and not any(self._reach.places([rid for rid, _ in found])):
            raise ENOENT(f"nothing is known of {entity!r}")

    # --- answering

    def _paths(self, start: str, goal: str) -> list[list[str]]:
        """The shortest paths, by name; the first of them in order."""
        if goal not in self._hops:
            return []
        beside: dict[str, set[str]] = {}
        for subject, _, target in self._edges:
            beside.setdefault(subject, set()).add(target)
            beside.setdefault(target, set()).add(subject)
        paths = [[goal]]
        for hop in range(self._hops[goal] - 1, -1, -1):
            longer = (
                [node, *path]
                for path in paths
                for node in sorted(beside.get(path[0], ()))
                if self._hops.get(node) == hop
            )
            paths = list(islice(longer, PATHS * 10))
        return sorted(path for path in paths if path[0] == start)[:PATHS]

    async def _reply(self, start: str, paths: list[list[str]], call: GraphCall) -> Graph:
        kept = self._kept(paths if call.to is not None else None, call)
        ranked = sorted(kept, key=lambda edge: (max(map(self._distance, edge[::2])), edge))
        self._more |= len(ranked) > call.limit
        ranked = ranked[: call.limit]
        nodes = {start, *(node for edge in ranked for node in edge[::2])}
        nodes.update(node for path in paths for node in path)
        names = await self._spellings(nodes, start, call.entity)
        return Graph(
            nodes=[
                GraphNode(names[node], self._distance(node), self._also(node, names[node]))
                for node in sorted(nodes, key=lambda node: (self._distance(node), node))
            ],
            edges=[self._edge(edge, names) for edge in ranked],
            paths=[[names[node] for node in path] for path in paths],
            more=self._more,
            behind=self._behind,
        )

    def _kept(self, paths: list[list[str]] | None, call: GraphCall) -> list[Edge]:
        relation = relation_key(call.relation) if call.relation else ""
        steps = None
        if paths is not None:
            steps = {frozenset(pair) for path in paths for pair in pairwise(path)}
        return [
            edge
            for edge in self._edges
            if (not relation or edge[1] in (relation, TOGETHER))
            and edge[0] in self._hops
            and edge[2] in self._hops
            and (steps is None or frozenset((edge[0], edge[2])) in steps)
        ]

    def _distance(self, node: str) -> int:
        return self._hops.get(node, 0)

    def _also(self, node: str, name: str) -> list[str]:
        return [key for key in self._group(node) if key != entity_key(name)]

    async def _spellings(self, nodes: Iterable[str], start: str, asked: str) -> dict[str, str]:
        order = {key: number for number, key in enumerate(self._names)}
        first = entity_key(asked)
        names: dict[str, str] = {}
        for node in nodes:
            spelled = [key for key in self._group(node) if key in order]
            if spelled:
                key = first if first in spelled else min(spelled, key=order.__getitem__)
                names[node] = self._names[key]
        missing = sorted(set(nodes) - names.keys())
        if missing:
            found, _ = await self._grapher.ask(
                self._reach.layers, lambda graph: list(graph.names(missing).items()), 0.0
            )
            for key, name in reversed(found):
                names[key] = name
        names.setdefault(start, asked)
        return {node: names.get(node, node) for node in nodes}

    def _edge(self, edge: Edge, names: dict[str, str]) -> GraphEdge:
        said = self._edges[edge]
        return GraphEdge(
            names[edge[0]],
            edge[1],
            names[edge[2]],
            sorted(said.rids, reverse=True)[:RIDS],
            None if said.since == -inf else said.since,
            None if said.until == inf else said.until,
            len(said.rids),
        )
