"""Keeps spaces small: what is merged, made cold, archived, forgotten, and when.

The policy of forgetting, next to the kernel's other policies; how it is done is mechanism
(``ums.keeper``). A run looks at the records of one space, in the order of time, tells the
worth of each (``ums.forgetting``), and changes the states of some within a budget. What it
did, or in a dry run would do, it says with the reason, and it can be undone.

    survey ──> merge ──> cool ──> archive ──> forget
      worth,     same      idle,     idle and     archived
      uses,      text      large     little        for long
      state                space     worth, or
                                     no room

In the background every space that has changed gets its turn, a bounded one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.calls.life import Act, Tidied
from syscalls.errors import EAGAIN, ECONFLICT, EIO, ENODEV, ENOENT
from syscalls.shapes import Task
from ums import records as form
from ums.activation import DAY
from ums.rid import pack, unpack

if TYPE_CHECKING:
    from drivers.contracts import Clock, Embedder, Offload, Store
    from kernel.mind.policy import Policy
    from syscalls.records import Record
    from syscalls.shapes import LifeEvent, RecordState
    from ums.forgetting import Keeping, Reader, Standing
    from ums.lifecycle import Fate
    from ums.living import Reason
    from ums.memory import Memory
    from ums.merge import Group
    from ums.records import Stored
    from ums.settings import Log

TASKS: tuple[Task, ...] = ("merge", "cool", "archive", "forget")
PAGE = 64
"""Records between two looks at the clock."""
DONE = b"kernel/tidied/"
"""Meta key before a space's number: the day (4) of the last run, and the rid where it ended."""
TURN = 20.0
"""Seconds that one space has in a round of the background."""


class Order(msgspec.Struct, frozen=True):
    """What one run is to do."""

    tasks: Sequence[Task] = TASKS
    room: int | None = None
    """Records that may be left; None for as many as there are."""
    dry_run: bool = False
    records: int = 20_000
    seconds: float = 60.0
    by: int = 0
    """APID of who asked; 0 for the kernel itself."""
    start: bytes = b""
    """Rid, packed, below which it begins; empty for the newest."""


class TidierStatistics(msgspec.Struct, frozen=True):
    """Figures since boot."""

    runs: int
    acts: int
    read: int


class Survey:
    """What a run knows of a space."""

    def __init__(self) -> None:
        self.live: list[tuple[str, int, Stored]] = []
        """Rid, segment number, record; oldest first."""
        self.away: list[tuple[str, Stored]] = []
        self.standings: dict[str, Standing] = {}
        self.read = 0
        self.complete = True
        self.next = b""
        """Where the next run goes on; empty for at the newest."""


class Tidier:
    """Runs over spaces; ``policy`` says how important a record is."""

    def __init__(
        self,
        memory: Memory,
        policy: Callable[[], Policy],
        offload: Offload,
        log: Log,
        keeping: Keeping | None = None,
    ) -> None:
        from ums.forgetting import Keeping

        self._memory = memory
        self._policy = policy
        self._offload = offload
        self._log = log
        self.keeping = keeping or Keeping()
        self._runs = self._acts = self._read = 0

    @property
    def _clock(self) -> Clock:
        return self._memory.clock

    @property
    def _store(self) -> Store:
        return self._memory.store

    @property
    def _embedder(self) -> Embedder:
        return self._memory.embedder

    async def run(
        self, every: float, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Tidy the spaces that have changed, one after another, every so many seconds."""
        task_status.started()
        while True:
            await trio.sleep(every)
            touched = self._memory.touched.copy()
            self._memory.touched.clear()
            for space in self._memory.numbers():
                try:
                    if space in touched or self._stored_day(space) != self._today():
                        await self.turn(space)
                except (EIO, EAGAIN, ENOENT) as error:
                    self._log("warning", "tidy", f"space {space} waits: {error.message}")
                await trio.lowlevel.checkpoint()

    def _today(self) -> bytes:
        return int(self._clock.now() // DAY).to_bytes(4, "big")

    def _stored_day(self, space: int) -> bytes:
        """The day on which a space was tidied the last time; it is not opened for that."""
        return (self._store.get("meta", DONE + form.space_key(space)) or b"")[:4]

    async def turn(self, space: int) -> Tidied | None:
        """One bounded run over a space, from where the last one ended; None for a snapshot."""
        key = DONE + form.space_key(space)
        if self._memory.view(space).header.sealed:
            return None
        start = (self._store.get("meta", key) or b"")[4:]
        tidied, end = await self._go(space, Order(seconds=TURN, start=start))
        await self._memory.keeper.prune(space)
        day = b"\0" * 4 if end else self._today()
        await self._memory.remember(key, day + end)
        if tidied.acts:
            counts = Counter(act.event for act in tidied.acts)
            said = ", ".join(f"{event} {count}" for event, count in counts.items())
            self._log("info", "tidy", f"space {space}: {said} (run {tidied.action})")
        return tidied

    async def tidy(self, space: int, order: Order) -> Tidied:
        """One run. Raises ENOENT, EIO."""
        return (await self._go(space, order))[0]

    async def _go(self, space: int, order: Order) -> tuple[Tidied, bytes]:
        """One run, and where the next one goes on."""
        until = trio.current_time() + order.seconds
        survey = await self._survey(space, order, until)
        action = 0 if order.dry_run else self._memory.keeper.action()
        run = _Run(self._memory, space, order, action, until)
        for task in TASKS:
            if task in order.tasks and not run.over():
                await getattr(self, f"_{task}")(run, survey)
        self._runs += 1
        self._acts += len(run.acts)
        self._read += survey.read
        complete = survey.complete and not run.over()
        done = Tidied(acts=run.acts, action=action, read=survey.read, complete=complete)
        return done, survey.next

    async def _survey(self, space: int, order: Order, until: float) -> Survey:
        """Read the top layer: its records, what they are worth, how present they are."""
        from ums.forgetting import Reader

        found = Survey()
        view = self._memory.view(space)
        prefix = form.space_key(view.stack.layers[0])
        now = self._clock.now()
        last = b""
        for rid, value in view.stack.descend(order.start or None):
            if found.read == order.records or trio.current_time() > until:
                found.complete = False
                break
            last = rid
            found.read += 1
            if found.read % PAGE == 0:
                await trio.lowlevel.checkpoint()
            if len(view.stack.layers) > 1 and self._store.get("records", prefix + rid) is None:
                continue  # of a lower layer: shared with others, and nothing is gained
            stored = form.decode(value)
            if stored.expired(now):
                continue
            if form.is_packed(value):
                found.away.append((unpack(rid), stored))
            else:
                found.live.append((unpack(rid), form.tag_of(value), stored))
        found.live.reverse()
        found.next = b"" if found.complete else last
        reader = Reader()
        for start in range(0, len(found.live), PAGE):
            page = found.live[start : start + PAGE]
            if order.room is None and now - page[0][2].created < self.keeping.archive_age:
                self._stand(space, found, page, [1.0] * len(page))  # too young to be judged
                continue
            texts = [stored.content for _, _, stored in page]
            worth = await self._offload(partial(_worths, reader, texts))
            self._stand(space, found, page, worth)
        return found

    def _stand(
        self,
        space: int,
        found: Survey,
        page: Sequence[tuple[str, int, Stored]],
        worth: Sequence[float],
    ) -> None:
        from ums.forgetting import Standing

        memory, policy, now = self._memory, self._policy(), self._clock.now()
        levels = memory.keeper.activation(space, [rid for rid, _, _ in page])
        uses = memory.uses.of(space, [pack(rid) for rid, _, _ in page])
        for (rid, tag, stored), value, level, use in zip(page, worth, levels, uses, strict=True):
            record: Record = form.to_record(space, rid, tag, stored)
            found.standings[rid] = Standing(
                rid,
                value,
                policy.importance(record) if stored.importance == 0.5 else stored.importance,
                level,
                max(0.0, now - stored.created),
                0 if use is None else use.count,
                stored.state == "frozen" or record.segment == "working",
            )

    # --- the tasks

    async def _merge(self, run: _Run, survey: Survey) -> None:
        from ums.merge import exact

        for group in await self._offload(partial(exact, survey.live)):
            await self._join(run, survey, group)
        if self._embedder.state == "ready":
            await self._near(run, survey)

    async def _near(self, run: _Run, survey: Survey) -> None:
        """Those that are nearly the same: neighbours of what was written since the last time."""
        from ums.merge import LONGEST, Group, survivor

        live = {rid: (tag, stored) for rid, tag, stored in survey.live}
        place = DONE + b"near/" + form.space_key(run.space)
        checked = (self._store.get("meta", place) or b"").decode()
        last = checked
        for rid in sorted(rid for rid in live if rid > checked):
            if run.over():
                break
            last = rid
            if rid in run.gone or len(live[rid][1].content) > LONGEST:
                continue
            twins = await self._twins(run, rid, live)
            if twins:
                items = [(one, live[one][1]) for one in (rid, *twins)]
                kept = survivor(items)
                others = [one for one, s in items if one != kept and s.state != "frozen"]
                why = "it says the same in nearly the same words"
                await self._join(run, survey, Group(kept, others, why))
        if not run.order.dry_run and last != checked:
            await self._memory.remember(place, last.encode())

    async def _twins(self, run: _Run, rid: str, live: dict[str, tuple[int, Stored]]) -> list[str]:
        """The near duplicates of one record."""
        from ums.merge import NEAR, mergeable, one_event, same

        tag, stored = live[rid]
        found = []
        for other in await self._memory.alike(run.space, stored.content):
            if other == rid or other in run.gone or other not in live or live[other][0] != tag:
                continue
            twin = live[other][1]
            if not mergeable(stored, twin) or not same(stored.content, twin.content):
                continue
            if tag == 1 and not one_event(stored, twin):
                continue
            found.append((other, twin.content))
        if not found:
            return []
        try:
            texts = [stored.content, *(text for _, text in found)]
            vectors = await self._embedder.embed(texts, background=True)
        except (EIO, ENODEV) as error:
            self._log("warning", "tidy", f"near duplicates wait: {error.message}")
            return []
        return [
            other
            for (other, _), vector in zip(found, vectors[1:], strict=True)
            if float(vector @ vectors[0]) >= NEAR
        ]

    async def _join(self, run: _Run, survey: Survey, group: Group) -> None:
        rids = [rid for rid in group.rids if rid not in run.gone and survey.standings.get(rid)]
        free = [rid for rid in rids if not survey.standings[rid].protected]
        if free and group.survivor not in run.gone:
            await run.merge(group.survivor, free, group.why)

    async def _cool(self, run: _Run, survey: Survey) -> None:
        """Let go of vectors in a large space; have those back whose record was used again."""
        from ums.forgetting import idle

        keeper, keeping = self._memory.keeper, self.keeping
        large = len(survey.live) > keeping.cold_above
        for rid, _, stored in survey.live:
            standing = survey.standings.get(rid)
            if standing is None or rid in run.gone or run.over():
                continue
            unused = idle(standing)
            if stored.cold and unused < keeping.cold_age / 4:
                await run.do("warm", rid, "it is used again", keeper.warm)
            elif large and not stored.cold and not standing.protected and unused > keeping.cold_age:
                why = f"nobody used it for {unused / 86400:.0f} days and the space is large"
                await run.do("cool", rid, why, keeper.cool)

    async def _archive(self, run: _Run, survey: Survey) -> None:
        from ums.forgetting import idle, least, score

        keeper, keeping = self._memory.keeper, self.keeping
        left = [one for one in survey.standings.values() if one.rid not in run.gone]
        for one in left:
            unused = idle(one)
            if run.over():
                return
            if (
                one.protected
                or unused <= keeping.archive_age
                or score(one) >= keeping.archive_below
            ):
                continue
            why = f"nobody used it for {unused / 86400:.0f} days and it is worth {score(one):.2f}"
            await run.do("archive", one.rid, why, keeper.archive)
        if run.order.room is None:
            return
        left = [one for one in left if one.rid not in run.gone and one.age >= keeping.grace]
        surplus = len(survey.live) - len(run.gone) - run.order.room
        for one in least(left, max(0, surplus)):
            if run.over():
                return
            why = f"there is room for {run.order.room} records and it is worth {score(one):.2f}"
            await run.do("archive", one.rid, why, keeper.archive)

    async def _forget(self, run: _Run, survey: Survey) -> None:
        """Those that have been in the archive for long enough."""
        keeper, patience = self._memory.keeper, self.keeping.forget_age
        for rid, stored in survey.away:
            if not patience or run.over():
                return
            if stored.state != "archived":
                continue
            told = keeper.fates(run.space, rid)
            since = self._clock.now() - told[-1].at if told else 0.0
            if since > patience:
                why = f"it was in the archive for {since / 86400:.0f} days"
                await run.do("forget", rid, why, keeper.forget)

    def statistics(self) -> TidierStatistics:
        """Figures for ``sys.stats``."""
        return TidierStatistics(self._runs, self._acts, self._read)


def _worths(reader: Reader, texts: Sequence[str]) -> list[float]:
    """What each text is worth; runs in a worker."""
    return [reader.worth(text) for text in texts]


class _Run:
    """One run: what it has done so far, or would have."""

    def __init__(self, memory: Memory, space: int, order: Order, action: int, until: float) -> None:
        self._memory = memory
        self._until = until
        self.space = space
        self.order = order
        self.action = action
        self.acts: list[Act] = []
        self.gone: set[str] = set()
        """Rids that are live no more."""

    def over(self) -> bool:
        """Whether the time is up."""
        return trio.current_time() > self._until

    def _reason(self, why: str) -> Reason:
        return self._memory.keeper.reason(why, self.order.by, self.action)

    async def do(
        self,
        event: LifeEvent,
        rid: str,
        why: str,
        change: Callable[[int, str, Reason], Awaitable[Fate | list[str]]],
    ) -> None:
        """Change one record, or note that it would be; one that was changed meanwhile is left."""
        from ums.lifecycle import MOVES

        reason = self._reason(why)
        if not self.order.dry_run:
            try:
                await change(self.space, rid, reason)
            except (ENOENT, ECONFLICT):
                return  # its writer was quicker
        elif self._memory.keeper.state(self.space, rid) not in MOVES[event]:
            return
        self._note(event, rid, reason)

    async def merge(self, survivor: str, rids: list[str], why: str) -> None:
        """As ``do``, for a group."""
        reason = self._reason(why)
        if not self.order.dry_run:
            try:
                await self._memory.keeper.merge(self.space, survivor, rids, reason)
            except (ENOENT, ECONFLICT):
                return
        for rid in rids:
            self._note("merge", rid, reason, survivor)

    def _note(self, event: LifeEvent, rid: str, reason: Reason, other: str = "") -> None:
        from ums.lifecycle import MOVES

        if event not in ("cool", "warm"):
            self.gone.add(rid)
        before: RecordState = "archived" if event == "forget" else "generated"
        after = MOVES[event][before]
        if not self.order.dry_run:
            told = self._memory.keeper.fates(self.space, rid)[-1]
            before, after = told.before, told.after
        act = Act(rid, event, before, after, reason.why, self._memory.clock.now(), reason.by)
        act.action, act.other, act.until = self.action, other, reason.until
        self.acts.append(act)
