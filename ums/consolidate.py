"""Consolidation: from what happened to what is so, with the words that say it.

    journal of each layer ──after the cursor──> episodes ──extract, mine──> statements
        ──learn──> facts, or more evidence for those there are; cursor, in one batch

The cursor is a key of the store, so nothing is read twice, and a run that its budget or a
crash has cut short goes on from there. A record that changes is in the journal again, and is
read again. What is not read is said, with the reason: what was itself recalled, what a model
said, what looks like a statement and is none.

    meta  "ums/read/" space (4) layer (4)     sequence number (8)
    meta  "ums/mined/" space (4) rid (16)     version (4) that a model has read
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.calls.learn import Consolidated, Refusal
from syscalls.records import Fact
from ums import records as form
from ums.draft import Draft
from ums.extract import Doubtful, Statement, extract, speaker_of, unfit
from ums.learning import Source
from ums.records import DELETE, TAGS
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import Clock, Store
    from ums.derived import DerivedSpace
    from ums.learning import Mark
    from ums.records import Stored

READ = b"ums/read/"
MINED = b"ums/mined/"
PAGE = 64
SHOWN = 160
"""Characters of a quote that is refused."""
MOST_REFUSED = 200
EPISODIC = TAGS["episodic"]
MENTIONS = "mentions"
LONGEST_NAME = 120
"""Characters of the name of an entity."""


class Claimed(msgspec.Struct, frozen=True):
    """A fact that a model takes from a record, with the words that are to say so.

    With the relation ``mentions`` and no subject it is the name of an entity: the object, which
    is its own quote.
    """

    subject: str
    relation: str
    object: str
    quote: str


Mine = Callable[[str, str], Awaitable["list[Claimed] | None"]]
"""Asks a model for the facts in a text (whose ``I`` is the second argument); None: no answer."""


class Task(msgspec.Struct):
    """One run over a space."""

    writer: int = 0
    budget: int = 1000
    """Records to read at most."""
    dry_run: bool = False
    limit: int | None = None
    """Most records that the space may hold."""
    mine: Mine | None = None
    draft: Draft | None = None
    """What a dry run learns into."""
    read: int = 0


class Consolidator:
    """Reads episodes."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._turns: dict[int, trio.Lock] = {}

    async def run(self, space: DerivedSpace, task: Task) -> Consolidated:
        """Read the episodes of a space that are new, within the budget.

        Raises EDQUOT, EPERM (a snapshot), EIO; what was learned until then is kept.
        """
        result = Consolidated(dry_run=task.dry_run)
        if task.dry_run:
            task.draft = space.scratch()
        async with self._turns.setdefault(space.number, trio.Lock()):
            for layer in reversed(space.own):
                if not await self._layer(space, layer, task, result):
                    result.done = False
                    break
        result.read = task.read
        del result.refused[MOST_REFUSED:]
        return result

    def read_whole(self, space: int) -> bool:
        """Whether a space of one layer is read to its end; it need not be open."""
        last = self._store.last(space)
        header = self._store.get("spaces", b"#" + form.space_key(space))
        simple = header is not None and not form.decode_header(header).layers
        return simple and self._cursor(space, space) >= last

    def behind(self, space: DerivedSpace) -> bool:
        """Whether there is something to read. Cheap."""
        return any(
            self._cursor(space.number, layer) < self._store.last(layer) for layer in space.own
        )

    def _cursor(self, space: int, layer: int) -> int:
        value = self._store.get("meta", _cursor_key(space, layer))
        return int.from_bytes(value or b"", "big")

    async def _layer(
        self, space: DerivedSpace, layer: int, task: Task, result: Consolidated
    ) -> bool:
        """Read one layer to its end; False where the budget ends before."""
        seq = self._cursor(space.number, layer)
        end = self._store.last(layer)
        while page := self._store.journal(layer, seq, PAGE):
            waiting = False  # whether the cursor is behind what was read
            for at, payload in page:
                if at > end:
                    break  # what this run wrote itself; it would never catch up with others
                change = form.decode_change(payload)
                source = None
                if change.op != DELETE and change.tag == EPISODIC:
                    source = self._source(space, unpack(change.rid), change.version, task)
                if source is not None:
                    if task.read >= task.budget:
                        if waiting and not task.dry_run:
                            await space.mark([_mark(space.number, layer, seq)])
                        return False
                    task.read += 1
                    mark = _mark(space.number, layer, at)
                    waiting = not await self._one(space, source, task, mark, result)
                else:
                    waiting = True
                seq = at
            if waiting and not task.dry_run:
                await space.mark([_mark(space.number, layer, seq)])
            if page[-1][0] >= end:
                break
            await trio.lowlevel.checkpoint()
        return True

    def _source(self, space: DerivedSpace, rid: str, version: int, task: Task) -> Source | None:
        """The record of a journal entry, where it is to be read now."""
        found = space.stack.find(pack(rid))
        if found is None or form.tag_of(found.value) != EPISODIC:
            return None
        stored = form.decode(found.value)
        late = stored.version != version  # its newer version has an entry of its own
        if late or stored.expired(self._clock.now()) or stored.stale or stored.state == "merged":
            return None
        return Source(rid, stored, task.writer, task.limit)

    async def _one(
        self, space: DerivedSpace, source: Source, task: Task, mark: Mark, result: Consolidated
    ) -> bool:
        """Read one record; whether the cursor was stored with what was learned."""
        stored = source.stored
        speaker = speaker_of(stored.meta)
        trusted = stored.taint in ("user", "tool")
        own = speaker if stored.taint == "user" else ""
        stated, doubtful = extract(stored.content, own, orders=stored.taint == "user")
        if not trusted:
            why = "it was itself recalled" if stored.taint == "recalled" else "a model said it"
            doubtful = [Doubtful(one.start, one.stop, why) for one in stated] or [
                Doubtful(0, len(stored.content), why)
            ]
            stated = []
        marks = [mark]
        named: list[tuple[int, int]] = []
        if trusted and task.mine is not None and not task.dry_run:
            mined = await self._mined(space, source, speaker, task.mine, doubtful)
            if mined is not None:
                marks.append(_mined_mark(space.number, source))
                stated, named = [*stated, *_others(mined[0], stated)], mined[1]
        for one in doubtful:
            _refuse(result, source, one.start, one.stop, one.why)
        if not stated and len(marks) == 1:
            return False
        if task.draft is not None:
            lesson, made = space.try_learning(task.draft, source, stated)
            for rid, tag, fact in made:
                record = form.to_record(space.number, rid, tag, fact)
                record.rid = ""
                result.made.append(record)
            lesson.supported = [rid for rid in lesson.supported if space.sees(pack(rid))]
        else:
            lesson = await space.learn(source, stated, marks, named)
            result.made += [space.read(rid) for rid in lesson.made]
        result.supported += [rid for rid in lesson.supported if rid not in result.supported]
        for start, stop, why in lesson.refused:
            _refuse(result, source, start, stop, why)
        return task.draft is None

    async def _mined(
        self,
        space: DerivedSpace,
        source: Source,
        speaker: str,
        mine: Mine,
        doubtful: list[Doubtful],
    ) -> tuple[list[Statement], list[tuple[int, int]]] | None:
        """What a model takes from a record, as far as it stands there: facts, and where the names
        of entities are; None: it did not read."""
        place, version = _mined_mark(space.number, source)
        if self._store.get("meta", place) == version:
            return None
        claimed = await mine(source.stored.content, speaker)
        if claimed is None:
            return None
        found = []
        for one in claimed:
            if not one.subject and one.relation == MENTIONS:
                continue
            statement, why = verified(source.stored.content, one)
            if statement is None:
                doubtful.append(Doubtful(0, 0, f"{why}: {one.quote[:SHOWN]!r}"))
            else:
                found.append(statement)
        return found, named_in(source.stored, claimed)


def named_in(stored: Stored, claimed: Sequence[Claimed]) -> list[tuple[int, int]]:
    """Where a record has the names that a model found; what does not stand there is left out.

    So is what was handed to its writer from memory: the record does not say it.
    """
    found: set[tuple[int, int]] = set()
    for one in claimed:
        if one.subject or one.relation != MENTIONS:
            continue
        name = one.object.strip()
        at = stored.content.find(name)
        stop = at + len(name)
        heard = any(a < stop and at < b for a, b in stored.echoes)
        if at >= 0 and not heard and len(name) <= LONGEST_NAME and any(map(str.isalnum, name)):
            found.add((at, stop))
    return sorted(found)


def verified(text: str, claimed: Claimed) -> tuple[Statement | None, str]:
    """A model's fact where the text states it word for word; or None and why not."""
    try:
        fact = msgspec.convert(
            {"subject": claimed.subject, "relation": claimed.relation, "object": claimed.object},
            Fact,
        )
    except msgspec.ValidationError as error:
        return None, f"it is no fact ({error})"
    at = text.find(claimed.quote) if claimed.quote.strip() else -1
    if at < 0:
        return None, "the words do not stand in the record"
    stop = at + len(claimed.quote)
    if claimed.object.casefold() not in claimed.quote.casefold():
        return None, "the words do not name the object"
    why = unfit(text, at, stop)
    if why:
        return None, why
    words = claimed.relation.replace("_", " ")
    return Statement(fact, f"{fact.subject} {words} {fact.object}", at, stop), ""


def _others(mined: Sequence[Statement], stated: Sequence[Statement]) -> list[Statement]:
    """What a model found beyond what the forms did: about other sentences or objects."""
    known = {(one.start, one.fact.object.casefold()) for one in stated}
    held = [(one.start, one.stop, one.fact.object.casefold()) for one in stated]
    return [
        one
        for one in mined
        if (one.start, one.fact.object.casefold()) not in known
        and not any(
            start <= one.start < stop and thing == one.fact.object.casefold()
            for start, stop, thing in held
        )
    ]


def _refuse(result: Consolidated, source: Source, start: int, stop: int, why: str) -> None:
    quote = source.stored.content[start:stop]
    result.refused.append(Refusal(rid=source.rid, quote=quote[:SHOWN], why=why))


def _cursor_key(space: int, layer: int) -> bytes:
    return READ + form.space_key(space) + form.space_key(layer)


def _mark(space: int, layer: int, seq: int) -> Mark:
    return _cursor_key(space, layer), seq.to_bytes(8, "big")


def _mined_mark(space: int, source: Source) -> Mark:
    place = MINED + form.space_key(space) + pack(source.rid)
    return place, source.stored.version.to_bytes(4, "big")
