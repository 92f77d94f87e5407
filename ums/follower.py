"""Keeps one derived index of one space in step with the journal.

    journal ──page──> records as they are now ──(embed)──> index.apply ──> position

The journal only names rids. A record that changed again since the entry was written is
skipped: its later entry follows. So an index that is fed from nothing reads each living
record once, whatever its history.

Two locks. ``use`` is held around every touch of the index, which is not thread-safe, and is
short. ``feed`` is held while a page is on its way, which may mean waiting for the embedder;
searches go on meanwhile.

A large vector index is rebuilt from time to time; that happens aside, with neither lock.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

import msgspec
import trio

from drivers.contracts import LexicalIndex, VectorIndex
from syscalls.errors import EIO, ENODEV
from ums import records as form
from ums.passages import passages
from ums.records import UPSERT, Change, Stored
from ums.rid import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drivers.contracts import (
        Embedder,
        IndexFactory,
        Located,
        Offload,
        Rebuild,
        Store,
        Vectors,
    )

Index = TypeVar("Index", VectorIndex, LexicalIndex)
T = TypeVar("T")
PAGE_BYTES = 8 << 20
"""Bytes of records after which a page is not made longer."""
GROUP = 32
"""Records of a page that are read at once."""
EMBED = 256
"""Texts that are embedded at once: between them a search gets its turn at the embedder."""
Kind = Literal["lexical", "dense"]


class Damaged(Exception):
    """An index failed in use; its space's indexes are to be removed and fed again."""

    def __init__(self, kind: Kind, opening: int, reason: str) -> None:
        super().__init__(f"{kind} index: {reason}")
        self.kind = kind
        self.opening = opening
        """Which opening of the index it was, so that one damage is mended once."""


class Page(msgspec.Struct):
    """Some entries of the journal, with the records that they name."""

    seq: int
    """Sequence number of the last entry."""
    upserts: list[tuple[str, int, Stored]]
    """Rid, segment number, current version."""
    deletes: list[str]


def read_page(store: Store, space: int, after: int, limit: int) -> Page | None:
    """The next entries above ``after``, at most ``limit``; None when there are none."""
    entries = store.journal(space, after, limit)
    if not entries:
        return None
    prefix = form.space_key(space)
    values: dict[bytes, bytes | None] = {}
    latest: dict[bytes, Change] = {}
    read = done = 0
    # Any first part of the entries is a page too, so that long records make short pages.
    while done < len(entries) and read < PAGE_BYTES:
        changes = [form.decode_change(payload) for _, payload in entries[done : done + GROUP]]
        fresh = list({change.rid: None for change in changes if change.rid not in values})
        found = store.get_many("records", [prefix + rid for rid in fresh])
        values.update(zip(fresh, found, strict=True))
        read += sum(len(value or b"") for value in found)
        latest.update((change.rid, change) for change in changes)
        done += len(changes)
    page = Page(entries[done - 1][0], [], [])
    for change in latest.values():
        value, rid = values[change.rid], unpack(change.rid)
        if value is None or form.is_packed(value):
            page.deletes.append(rid)
        elif change.op == UPSERT:
            stored = form.decode(value)
            if stored.version == change.version:
                page.upserts.append((rid, form.tag_of(value), stored))
    return page


class Follower(Generic[Index]):
    """One index with its place in the journal. Opens when it is first used."""

    kind: ClassVar[Kind]

    def __init__(self, space: int, store: Store, factory: IndexFactory, offload: Offload) -> None:
        self.space = space
        self._store = store
        self._factory = factory
        self._offload = offload
        self._index: Index | None = None
        self._feed = trio.Lock()
        self.use = trio.Lock()
        self.position = 0
        """Last sequence number applied; 0 while closed."""
        self.openings = 0
        self.dirty_since: float | None = None
        """When (by trio's clock) the first change came that is not flushed."""

    @property
    def is_open(self) -> bool:
        """Whether it holds files and memory."""
        return self._index is not None

    async def advance(self, seq: int, page: int, *, background: bool = False) -> None:
        """Apply the journal up to ``seq``. Raises Damaged; EIO and ENODEV of the embedder."""
        while self.position < seq:
            if not await self.step(page, background=background):
                return

    async def step(self, page: int, *, background: bool = False) -> bool:
        """Apply at most ``page`` entries; False when there were none."""
        async with self._feed:
            await self.opened()
            found = read_page(self._store, self.space, self.position, page)
            if found is None:
                return False
            await self._apply(found, background)
            if self.dirty_since is None:
                self.dirty_since = trio.current_time()
            return True

    async def opened(self) -> None:
        """Open the index if it is not; sets ``position``."""
        async with self.use:
            await self._opened()

    async def call(self, work: Callable[[Index], T]) -> T:
        """Run ``work`` on the index, in a worker. Raises Damaged."""
        async with self.use:
            index = await self._opened()
            return await self._run(partial(work, index))

    async def flush(self) -> None:
        """Have the index write what is only in memory. Raises Damaged."""
        async with self.use:
            if self._index is not None:
                self.dirty_since = None
                await self._run(self._index.flush)

    async def close(self) -> None:
        """Close the index; the next use opens it again. Raises Damaged."""
        async with self.use:
            await self.close_held()

    async def close_held(self) -> None:
        """As ``close``, by one who holds ``use``."""
        if self._index is not None:
            index, self._index = self._index, None
            self.position = 0
            self.dirty_since = None
            await self._run(index.close)

    def memory(self) -> int:
        """Bytes of memory that the open index holds."""
        return 0 if self._index is None else self._index.statistics().bytes_memory

    async def _opened(self) -> Index:
        if self._index is None:
            self.openings += 1
            index = await self._run(self._opener())
            if index.position > self._store.last(self.space):
                await self._run(index.close)
                raise Damaged(self.kind, self.openings, "it is ahead of the store")
            self._index = index
            self.position = index.position
        return self._index

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await self._offload(work)
        except Exception as error:
            # A driver may fail in any way its library does; all of it means the same here.
            raise Damaged(self.kind, self.openings, repr(error)) from error

    def _opener(self) -> Callable[[], Index]:
        """What opens the index, in a worker."""
        raise NotImplementedError

    async def _apply(self, page: Page, background: bool) -> None:
        raise NotImplementedError


class LexicalFollower(Follower[LexicalIndex]):
    """Feeds words: of the content, the key, the kind and the tags."""

    kind = "lexical"

    def _opener(self) -> Callable[[], LexicalIndex]:
        return partial(self._factory.lexical, self.space)

    async def _apply(self, page: Page, background: bool) -> None:
        items = [(rid, tag, words(stored)) for rid, tag, stored in page.upserts]
        await self.call(lambda index: index.apply(page.seq, items, page.deletes))
        self.position = page.seq

    async def search(self, query: str, k: int, tags: frozenset[int] | None) -> list[Located]:
        """The best for the query's words. Raises Damaged."""
        return await self.call(lambda index: index.search(query, k, tags))


class DenseFollower(Follower[VectorIndex]):
    """Feeds vectors of the content. Used only once the embedder has been ready."""

    kind = "dense"

    def __init__(
        self,
        space: int,
        store: Store,
        factory: IndexFactory,
        offload: Offload,
        embedder: Embedder,
    ) -> None:
        super().__init__(space, store, factory, offload)
        self._embedder = embedder
        self._retired = False
        self.large = False
        """Whether the index wants a rebuild."""

    def _opener(self) -> Callable[[], VectorIndex]:
        info = self._embedder.info
        if info is None:
            raise ENODEV("the embedder is not ready")
        return partial(self._factory.vectors, self.space, info.dimension, info.fingerprint)

    async def step(self, page: int, *, background: bool = False) -> bool:
        """As in ``Follower``, once the embedder can serve. Raises ENODEV and EIO too."""
        info = await self._embedder.ready()
        went = await super().step(page, background=background)
        if not self._retired and self.position >= self._store.last(self.space):
            # Only now: until here an older embedder's vectors were of use to who goes back.
            self._retired = True
            await self._run(partial(self._factory.retire, self.space, info.fingerprint))
        return went

    async def _apply(self, page: Page, background: bool) -> None:
        info = await self._embedder.ready()
        items: list[tuple[str, int]] = []
        texts: list[str] = []
        deletes = list(page.deletes)
        for rid, tag, stored in page.upserts:
            if stored.cold:
                deletes.append(rid)
            else:
                cut = passages(stored.content, info.max_tokens)
                items += [(rid, tag)] * len(cut)
                texts += cut
        vectors = await self._vectors(texts, info.dimension, background)
        await self.call(lambda index: index.apply(page.seq, items, vectors, deletes))
        self.position = page.seq

    async def _vectors(self, texts: Sequence[str], dimension: int, background: bool) -> Vectors:
        import numpy

        rows = [numpy.empty((0, dimension), numpy.float32)]
        for start in range(0, len(texts), EMBED):
            part = texts[start : start + EMBED]
            rows.append(await self._embedder.embed(part, background=background))
        return numpy.concatenate(rows)

    async def call(self, work: Callable[[VectorIndex], T]) -> T:
        """As in ``Follower``; looks whether the index has grown too large for its form."""
        found = await super().call(work)
        if self._index is not None:
            self.large = self._index.wants_rebuild
        return found

    async def opened(self) -> None:
        """As in ``Follower``."""
        await super().opened()
        if self._index is not None:
            self.large = self._index.wants_rebuild

    async def rebuild(self) -> None:
        """Rebuild what has grown large, aside. Raises Damaged; EIO when the disk fails."""
        async with self.use:
            index = await self._opened()
            work = await self._run(index.rebuild)
        if work is None:
            return
        taken = False
        try:
            await self._aside(work)
            async with self.use:
                if self._index is index:  # else it was closed or mended meanwhile
                    taken = True
                    await self._offload(partial(index.adopt, work))
                    self.large = index.wants_rebuild
        finally:
            if not taken:
                work.discard()  # cancelled too: nobody will come for it

    async def _aside(self, work: Rebuild) -> None:
        failure: EIO | Damaged | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancelling, work)
            try:
                await self._built(work)
            except (EIO, Damaged) as error:
                failure = error  # to be raised as itself and not in a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _built(self, work: Rebuild) -> None:
        try:
            await self._offload(work.run)
        except OSError as error:
            raise EIO(f"vectors: {error}", driver="vectors") from error
        except Exception as error:
            raise Damaged(self.kind, self.openings, repr(error)) from error

    async def search(self, vector: Vectors, k: int, tags: frozenset[int] | None) -> list[Located]:
        """The nearest to a vector. Raises Damaged."""
        return await self.call(lambda index: index.search(vector, k, tags))

    async def scores(self, vector: Vectors, rids: Sequence[str]) -> list[float | None]:
        """The similarity of each rid; None where it has no vector. Raises Damaged."""
        return await self.call(lambda index: index.scores(vector, rids))


async def _cancelling(work: Rebuild) -> None:
    """Have a rebuild end when the one who waits for it is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        work.cancel()


def words(stored: Stored) -> str:
    """What a record is found by, word for word."""
    parts = (stored.content, stored.key, stored.kind, *stored.tags)
    return "\n".join(part for part in parts if part)
