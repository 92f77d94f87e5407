"""Keeps the entity graphs of spaces in step with the journal, and opens and closes them.

    journal ──page──> records as they are, and were ──names and ties──> graph

A graph costs a library and a file, so none is opened, and nothing imported, before the first
question about entities. From then on the graphs that are open are fed in the background; one
that nobody has asked for a while is closed. All of it is derived: a graph that fails is removed
and fed again from nothing.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio

from drivers.contracts import Mentioned, Tie
from syscalls.errors import EIO, ENODEV, EngramError
from ums import records as form
from ums.facts import entity_key, relation_key
from ums.follower import read_page
from ums.moment import begins, ends

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from drivers.contracts import GraphFactory, GraphIndex, Offload, Store
    from ums.records import Stored
    from ums.settings import Log

T = TypeVar("T")

PAGE = 1024
"""Most changes applied at once: in a graph that was fed in large pieces a question takes a
tenth of the time."""
FLUSH = 4096
"""Changes after which what is only in the log goes into the file, for the same reason."""
OPEN = 16
"""Graphs that are kept open."""
IDLE = 300.0
"""Seconds after which a graph that nobody asked is closed."""
TICK = 5.0
"""Seconds between two rounds in the background."""
LONGEST_KEY = 400


class GrapherStatistics(msgspec.Struct, frozen=True):
    """Figures of the entity graphs since the start."""

    open: int
    fed: int
    """Changes applied."""
    damaged: int
    """Times that a graph was removed because it failed."""
    asked: int


class Feed:
    """The graph of one layer with its place in the journal."""

    def __init__(self, layer: int, store: Store, factory: GraphFactory, offload: Offload) -> None:
        self.layer = layer
        self.position = 0
        self.used = trio.current_time()
        """When (by trio's clock) it was last asked something."""
        self.users = 0
        self._store = store
        self._factory = factory
        self._offload = offload
        self._graph: GraphIndex | None = None
        self._lock = trio.Lock()
        self._unflushed = 0

    async def step(self) -> int:
        """Apply one page of the journal; how many changes it had."""
        async with self._lock:
            graph = await self._opened()
            page = read_page(self._store, self.layer, self.position, PAGE)
            if page is None:
                return 0
            pasts = [(rid, self._past(rid, stored)) for rid, _, stored in page.upserts]

            def work() -> None:
                notes = [mentioned(rid, past) for rid, past in pasts]
                graph.apply(page.seq, notes, page.deletes)

            await self._offload(work)
            self.position = page.seq
            self._unflushed += len(page.upserts) + len(page.deletes)
            if self._unflushed >= FLUSH:
                self._unflushed = 0
                await self._offload(graph.flush)
            return len(page.upserts) + len(page.deletes)

    def _past(self, rid: str, stored: Stored) -> list[Stored]:
        """The versions of a record in this layer, oldest first; of a plain note the last one."""
        if stored.fact is None and stored.version == 1:
            return [stored]
        key = form.record_key(self.layer, rid)
        past = self._store.scan("versions", key, form.after(key))
        return [*(form.decode(value) for _, value in past), stored]

    async def ask(self, question: Callable[[GraphIndex], T]) -> T:
        """Run a question in a worker."""
        async with self._lock:
            graph = await self._opened()
            return await self._offload(partial(question, graph))

    async def close(self) -> None:
        """Close it; the next use opens it again."""
        async with self._lock:
            if self._graph is not None:
                graph, self._graph = self._graph, None
                self.position = 0
                await self._offload(graph.close)

    async def remove(self) -> None:
        """Let go of it after it failed, and remove its files."""
        async with self._lock:
            graph, self._graph = self._graph, None
            self.position = 0
            try:
                if graph is not None:
                    await self._offload(graph.close)
            finally:
                await self._offload(partial(self._factory.remove, self.layer))

    async def _opened(self) -> GraphIndex:
        if self._graph is None:
            graph = await self._offload(partial(self._factory.graph, self.layer))
            if graph.position > self._store.last(self.layer):
                await self._offload(graph.close)
                raise RuntimeError("it is ahead of the store")
            self._graph, self.position = graph, graph.position
        return self._graph


class Grapher:
    """The graphs of all layers."""

    def __init__(self, store: Store, factory: GraphFactory, offload: Offload, log: Log) -> None:
        self._store = store
        self._factory = factory
        self._offload = offload
        self._log = log
        self._feeds: dict[int, Feed] = {}
        self._come = trio.Event()
        self._fed = self._damaged = self._asked = 0

    def changed(self, layer: int) -> None:
        """A layer has new journal entries; of interest only while its graph is open."""
        if layer in self._feeds:
            self._come.set()

    async def ask(
        self, layers: Sequence[int], question: Callable[[GraphIndex], list[T]], deadline: float
    ) -> tuple[list[T], int]:
        """What the graphs of some layers answer together, and how many changes they lack.

        They are brought up to date until ``deadline`` (trio's clock). Raises ENODEV, EIO.
        """
        self._asked += 1
        answers: list[T] = []
        behind = 0
        for layer in layers:
            last = self._store.last(layer)
            if not last:
                continue
            feed = self._feed(layer)
            feed.users += 1
            try:
                await self._up_to(feed, last, deadline)
                if feed.position < last:
                    behind += len(self._store.journal(layer, feed.position, 0))
                answers += await self._guarded(feed, partial(feed.ask, question))
            finally:
                feed.users -= 1
                feed.used = trio.current_time()
        if behind:
            self._come.set()
        return answers, behind

    def _feed(self, layer: int) -> Feed:
        feed = self._feeds.pop(layer, None)
        if feed is None:
            feed = Feed(layer, self._store, self._factory, self._offload)
            self._come.set()
        self._feeds[layer] = feed  # at the end: most recently used
        return feed

    async def _up_to(self, feed: Feed, last: int, deadline: float) -> None:
        while True:
            await self._guarded(feed, feed.step, count=True)
            if feed.position >= last or trio.current_time() >= deadline:
                return

    async def _guarded(
        self, feed: Feed, work: Callable[[], Awaitable[Any]], *, count: bool = False
    ) -> Any:
        """Do something with a graph; one that fails is removed, and it is tried once more."""
        for attempt in (1, 2):
            try:
                done = await work()
            except EngramError:
                raise
            except Exception as error:
                # A driver may fail in any way its library does; all of it means the same here.
                self._damaged += 1
                self._log("error", "graph", f"space {feed.layer}: {error!r}; made anew")
                await feed.remove()
                if attempt == 2:
                    raise EIO(f"graph: {error}", driver="graph") from error
            else:
                self._fed += done if count else 0
                return done
        raise AssertionError

    # --- in the background

    async def run(self) -> None:
        """Feed the open graphs and close the idle ones, until cancelled."""
        while True:
            with trio.move_on_after(TICK if self._feeds else inf):
                await self._come.wait()
            self._come = trio.Event()
            for feed in list(self._feeds.values()):
                await self._tend(feed)

    async def _tend(self, feed: Feed) -> None:
        idle = trio.current_time() - feed.used > IDLE
        crowded = len(self._feeds) > OPEN and feed is next(iter(self._feeds.values()))
        try:
            if feed.users == 0 and (idle or crowded):
                del self._feeds[feed.layer]
                await feed.close()
                return
            last = self._store.last(feed.layer)
            while feed.position < last and await self._guarded(feed, feed.step, count=True):
                pass
        except (EIO, ENODEV) as error:
            self._log("warning", "graph", f"space {feed.layer}: left behind: {error.message}")
            self._feeds.pop(feed.layer, None)

    async def aclose(self) -> None:
        """Close all graphs; nobody uses them any more."""
        for feed in self._feeds.values():
            try:
                await feed.close()
            except (RuntimeError, OSError) as error:
                self._log("error", "graph", f"space {feed.layer}: {error}")
        self._feeds.clear()

    def statistics(self) -> GrapherStatistics:
        """Figures for ``sys.stats``."""
        return GrapherStatistics(len(self._feeds), self._fed, self._damaged, self._asked)


# --- what a record gives to the graph


def mentioned(rid: str, versions: Sequence[Stored]) -> Mentioned:
    """The names in a record as it is, and what it says, and said, of two of them."""
    from ums.entities import entities  # compiles much, for few

    current = versions[-1]
    names = {key[:LONGEST_KEY]: name for key, name in entities(current.content).items()}
    for start, stop in current.named:
        if name := current.content[start:stop]:
            names.setdefault(_key(name), name[:LONGEST_KEY])
    ties: list[Tie] = []
    following = [one.updated for one in versions[1:]]
    for stored, dropped in zip(versions, [*following, inf], strict=True):
        if stored.fact is not None:
            fact = stored.fact
            subject, target = _key(fact.subject), _key(fact.object)
            names.setdefault(subject, fact.subject)
            names.setdefault(target, fact.object[:LONGEST_KEY])
            relation = relation_key(fact.relation)
            ties += [
                Tie(rid, subject, relation, target, since, until, stored.updated, dropped)
                for since, until in _spans(stored)
            ]
    return Mentioned(rid, names, _joined(ties))


def _key(name: str) -> str:
    return entity_key(name)[:LONGEST_KEY]


def _spans(stored: Stored) -> Iterable[tuple[float, float]]:
    """When a version says that it was so: its validity without the gaps."""
    at = begins(stored)
    for start, stop in stored.gaps:
        if at < start:
            yield at, start
        at = stop
    if at < ends(stored):
        yield at, ends(stored)


def _joined(ties: Sequence[Tie]) -> list[Tie]:
    """The ties with those joined that a next version only repeats."""
    found: dict[tuple[str, str, str, float, float], Tie] = {}
    done: list[Tie] = []
    for tie in ties:
        what = (tie.subject, tie.relation, tie.object, tie.since, tie.until)
        last = found.get(what)
        if last is not None and last.dropped == tie.known:
            found[what] = msgspec.structs.replace(tie, known=last.known)
            continue
        if last is not None:
            done.append(last)
        found[what] = tie
    return [*done, *found.values()]
