"""Activation memory as processes have it: pin, attach, drop, list, cool.

    kv.pin ──> Prefix in the table ──> engine computes it, blocks on disk      (keeping.py)
    kv.attach ──> put before each later generation of a process                (attached.py)
    every generation ──> hits counted; a stable beginning ──> promotion        (habits.py)

A pin belongs to a space, as a record does: who works there can attach it, now and after a
reboot. The quota counts what the pins of the space take; promotions give way, pins never do.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import msgspec
import trio

from drivers.kv.contract import KVStatistics
from drivers.llm.contract import GenerateRequest
from kernel import monitor, trap
from kernel.activation.attached import Attached
from kernel.activation.habits import Habits
from kernel.activation.keeping import LOCAL, Keeping
from kernel.activation.outlived import renounce, review
from kernel.counting import Counter
from kernel.generation import salt_of
from syscalls.calls import kv, mem
from syscalls.errors import EAGAIN, EDQUOT, EINVAL, ENOENT
from syscalls.records import Note
from ums.adapters import reference
from ums.prefixes import APART, ASIDE, Prefix, Source, engine_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.kv.contract import Pinned
    from kernel.activation.habits import Begun
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.records import Record
    from syscalls.shapes import ChatMessage, Usage
    from ums.adapters import Version

FOUND = 20
"""Records that a query pins, at most."""
BEGINNING = 80
"""Characters of a prefix that a list shows."""
ANEW = "pin it anew, with kv.pin"
ROOM = "drop one with kv.drop, or have the quota kv raised"
BOTH = "the old {!r} is kept until the new one is there: drop it first, or make room for both"
GONE = frozenset({"forget", "delete", "expire"})
"""Events after which nothing may be left of a record."""


class PinStatistics(msgspec.Struct, frozen=True):
    """Figures of activation memory: of the table, and since the start. Times in seconds."""

    pins: int
    promotions: int
    bytes: int
    attached: int
    hits: int
    saved: float
    computed: int
    """Times that an engine computed or restored one."""
    promoted: int
    cooled: int
    """Promotions that went back to text."""
    erased: int
    erasing: int
    """Erasures that are not done yet."""
    tiers: KVStatistics
    """Of the engine's memory and disk since its start, as it said in the last round."""


class Pins:
    """The pinned prefixes of all spaces, and what processes do with them."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.table = kernel.memory.prefixes
        self.habits = Habits(kernel, self)
        self.keeping = Keeping(kernel, self.habits.round, self._begun_elsewhere)
        self.attached = Attached(kernel, self.keeping)
        self._replaced = 0.0
        """When the last one that replaced another was pinned."""
        kernel.memory.keeper.on_gone(self._went)
        kernel.memory.on_lapsed(self.keeping.wake)

    def begin(self, caller: Process, request: GenerateRequest, *, attach: bool) -> Begun:
        """A generation begins; with ``attach`` what is attached is put before it."""
        return self.habits.begin(caller, request, attach=attach)

    def shown_to(self, caller: Process) -> list[ChatMessage]:
        """What is put before the generations of a process."""
        prefix = self.attached.of(caller)
        return [] if prefix is None else self.attached.words(caller, prefix)

    def done(self, begun: Begun, usage: Usage) -> None:
        """A generation has ended."""
        self.habits.done(begun, usage)

    async def review(self) -> None:
        """Let go of what was computed under adapters that are over. Raises EIO, EAGAIN."""
        await review(self._kernel, self)

    async def renounce(self, version: Version) -> None:
        """Let go of what was computed under a version rolled back. Raises EIO, EAGAIN."""
        await renounce(self, version)

    def left(self, apid: int) -> None:
        """A process has ended."""
        self.attached.drop(apid)
        self.habits.policy.drop(apid)

    # --- pinning

    async def pin(self, caller: Process, call: kv.Pin) -> kv.Handle:
        """Serve ``kv.pin``; see there for what it raises."""
        kernel = self._kernel
        if sum(one is not None for one in (call.query, call.messages, call.rids)) != 1:
            raise EINVAL("kv.pin takes messages, rids or a query: one of them")
        space = await monitor.space(kernel, caller, None, "kv.pin", "write")
        self.keeping.engine()
        info = await kernel.llm.ready()
        if not info.keeps:
            raise EINVAL(f"nothing can be pinned in {info.name}, which keeps its own", hint=LOCAL)
        new = Prefix(call.name, space, salt_of(caller), kernel.clock.now(), by=caller.apid)
        if call.messages is not None:
            new.messages, new.rids = call.messages, self.known(caller.apid, call.messages)
        else:
            new.rids = await self._meant(caller, call)
        request = GenerateRequest(adapter=call.adapter or "")
        await kernel.adapters.apply(caller, request, kernel.llm)
        held = None if call.adapter else caller.adapters.get("model")
        self._under(new, request, space if held is None else held.space)
        limit = kernel.accounts.limit(caller, "kv")
        prefix, pinned = await self.keep(new, limit)
        await self.keeping.promptly()
        return kv.Handle(
            handle=prefix.handle,
            tokens=pinned.tokens,
            bytes=pinned.bytes,
            cached=pinned.cached,
            seconds=pinned.seconds,
        )

    async def keep(self, new: Prefix, limit: float) -> tuple[Prefix, Pinned]:
        """Add a prefix and have it computed; all or nothing.

        One of the same handle is replaced when the new one is there, and not before: the quota,
        and what the engine may pin, count both until then. Raises EDQUOT over ``limit`` bytes,
        ENOENT (a source is gone), EAGAIN, and what the engine raises.
        """
        estimated = await self._estimated(new)
        await self._room(new, limit, estimated)
        self._counted(new.space, estimated)
        placed = self._placed(new)
        if placed.aside:
            self.keeping.aside.add(engine_name(placed))
        try:
            return await self._computed(await self.table.add(placed), limit)
        finally:
            self.keeping.aside.discard(engine_name(placed))

    async def _computed(self, prefix: Prefix, limit: float) -> tuple[Prefix, Pinned]:
        """Have one computed that is in the table; else it leaves it. Raises as ``keep``."""
        try:
            while True:
                try:
                    prefix, pinned = await self.keeping.establish(prefix)
                    break
                except EAGAIN as error:
                    if prefix.made_by == "promotion" or not await self._yielded():
                        if prefix.aside:
                            error.hint = BOTH.format(prefix.name)
                        raise
            await self._room(prefix, limit)
            self._counted(prefix.space)
            if prefix.aside:
                prefix = await self._swapped(prefix)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.table.remove(prefix)
                self._count(prefix.space)
                self.keeping.nudge()
            raise
        return prefix, pinned

    def _placed(self, new: Prefix) -> Prefix:
        """A prefix as it is put into the table: aside, where another has its handle."""
        old = self.table.find(*new.place) if new.handle else None
        if old is None:
            return new
        created = max(new.created, old.created + APART, self._replaced + APART)
        self._replaced = created
        handle = f"{new.handle}{ASIDE}{created:.6f}"
        return msgspec.structs.replace(new, handle=handle, created=created)

    async def _swapped(self, aside: Prefix) -> Prefix:
        """Have one take the place of another. Raises ENOENT where it went meanwhile, EAGAIN."""
        old = self.table.find(aside.space, aside.name)
        prefix = await self.table.replace(aside)
        if prefix is None:
            raise ENOENT(f"what {aside.name!r} is made from was changed or is gone", hint=ANEW)
        self._count(prefix.space)
        if old is not None:
            self.habits.dropped(old)
        self.attached.replaced(prefix)
        return prefix

    async def _begun_elsewhere(self, prefix: Prefix) -> None:
        """A prefix of an image was computed: it is charged, or, where that is too much, dropped."""
        alive = [one for one in self._kernel.processes.live() if one.apid == prefix.by]
        limits = [self._kernel.accounts.limit(one, "kv") for one in alive]
        try:
            await self._room(prefix, min(limits, default=inf))
            self._counted(prefix.space)
        except EDQUOT as error:
            self._kernel.log("warning", "kv", f"{engine_name(prefix)} is dropped: {error.message}")
            await self.table.remove(prefix)
            self._count(prefix.space)
            self.keeping.nudge()

    def _count(self, space: int) -> None:
        """Have what the prefixes of a space take charged to its owner."""
        self._kernel.holdings.pinned(space, sum(row.bytes for row in self.table.of(space)))

    def _counted(self, space: int, more: int = 0) -> None:
        """As ``_count``. Raises EDQUOT where an account has no room for that, and for more."""
        self._count(space)
        self._kernel.holdings.admit_pin(space, more)

    async def _yielded(self) -> bool:
        """Have the engine let go of the promotion that is worth least; False for none."""
        victim = self.habits.policy.victim(self.table.all(), self._kernel.clock.now())
        if victim is None:
            return False
        await self.let_go(victim)
        return await self.keeping.settle()

    async def _room(self, new: Prefix, limit: float, wanted: int = 0) -> None:
        """Make room for so many bytes more in a space, from promotions only. Raises EDQUOT."""
        space, newcomer = new.space, new.made_by == "promotion"
        while True:
            rows = self.table.of(space)
            used = sum(row.bytes for row in rows)
            if used + wanted <= limit:
                return
            now = self._kernel.clock.now()
            others = [row for row in rows if row.place != new.place]
            victim = self.habits.policy.victim(others, now, newcomer=newcomer)
            if victim is None:
                more = f", and this one would take about {wanted} more" if wanted else ""
                both = new.name and self.table.find(space, new.name) and (wanted or new.aside)
                raise EDQUOT(
                    f"the pinned prefixes of space {space} take {used} of {limit:.0f} bytes{more}",
                    hint=BOTH.format(new.name) if both else ROOM,
                    quota="kv",
                    limit=int(limit),
                    used=used,
                )
            await self.let_go(victim)

    async def _estimated(self, new: Prefix) -> int:
        """About how many bytes it will take, rather too few; 0 before anything is known."""
        kept = next((row.kept[0] for row in self.table.all() if row.tokens), None)
        if kept is None:
            return 0
        tokens = await Counter(self._kernel.llm).messages(self.keeping.words(new))
        return tokens * kept.bytes // kept.tokens // 2

    async def _meant(self, caller: Process, call: kv.Pin) -> list[Source]:
        """The records that a call names, or that its query finds: those in order of time.

        Raises ENOENT, EPERM.
        """
        kernel = self._kernel
        if call.rids is None:
            look = mem.Search(query=call.query or "", k=FOUND)
            hits: mem.Hits = await trap.execute(kernel, caller, look)
            if not hits.hits:
                raise ENOENT(f"no record fits {call.query!r}")
            found = [Source(one.rid, one.provenance.space) for one in hits.hits]
            return sorted(found, key=lambda one: one.rid)
        named: list[Source] = []
        records: list[Record] = []
        for rid in dict.fromkeys(call.rids):
            held = monitor.record(kernel, caller, rid, None, "mem.read", "read")
            records.append(kernel.memory.read(rid, None, held.space, held.guard))
            await held.noted(kernel, "kv.pin", [rid])
            named.append(Source(rid, held.space))
        kernel.memory.echoes.hand(caller.apid, [one.content for one in records])
        kernel.memory.handed.note(caller.apid, records)
        return named

    def known(self, apid: int, messages: Sequence[ChatMessage]) -> list[Source]:
        """The records that a process was handed and that messages show."""
        return self._kernel.memory.handed.shown(apid, [one.content for one in messages])

    def _under(self, new: Prefix, request: GenerateRequest, space: int) -> None:
        """Say under which adapter, of which space, a prefix is computed, and what it rests on."""
        new.adapter, new.adapter_path = request.adapter, request.adapter_path
        if request.adapter:
            version = self._kernel.adapters.versions.find(space, reference(request.adapter))
            new.under = [Source(rid, version.space) for rid in version.sources]
        new.sources = self.table.lineage([*new.rids, *new.under])

    # --- the other calls

    async def attach(self, caller: Process, call: kv.Attach) -> None:
        """Serve ``kv.attach``; see there for what it raises."""
        target = monitor.target(self._kernel, caller, call.target, "kv.attach")
        space = await monitor.space(self._kernel, caller, None, "kv.attach", "read")
        self.attached.put(caller, target, self.table.get(space, call.handle))

    async def detach(self, caller: Process, call: kv.Detach) -> None:
        """Serve ``kv.detach``. Raises ENOENT, ESRCH, EPERM."""
        target = monitor.target(self._kernel, caller, call.target, "kv.detach")
        if self.attached.of(target) is None:
            raise ENOENT(f"nothing is attached to apid {target.apid}")
        self.attached.drop(target.apid)

    async def drop(self, caller: Process, call: kv.Drop) -> None:
        """Serve ``kv.drop``. Raises ENOENT, EPERM."""
        space = await monitor.space(self._kernel, caller, None, "kv.drop", "write")
        await self._drop(self.table.get(space, call.handle))

    async def _drop(self, prefix: Prefix) -> None:
        await self.let_go(prefix)
        for apid in self.attached.to(prefix.place):
            self.attached.drop(apid)
        await self.keeping.promptly()

    async def let_go(self, prefix: Prefix) -> None:
        """Remove a prefix; its blocks are erased in the next round."""
        await self.table.remove(prefix)
        self._count(prefix.space)
        self.habits.dropped(prefix)
        self.keeping.nudge()

    async def _went(self, _space: int, _rids: Sequence[str], event: str) -> None:
        """Records have gone: their prefixes went in the same batch; now their blocks do."""
        self._kernel.holdings.recount()
        if event in GONE:
            self.habits.forget()
            await self.keeping.promptly()

    async def cool(self, caller: Process, call: kv.Cool) -> kv.Cooled:
        """Serve ``kv.cool``. Raises ENOENT, EPERM, EDQUOT."""
        kernel = self._kernel
        space = await monitor.space(kernel, caller, None, "kv.cool", "write")
        await monitor.space(kernel, caller, None, "mem.write", "write")
        prefix = self.table.get(space, call.handle)
        self.attached.allow(caller, prefix)
        note = Note(
            segment="semantic",
            content=self._text(prefix),
            kind="prefix",
            meta={"handle": prefix.handle, "tokens": prefix.tokens, "made_by": prefix.made_by},
            sources=[one.rid for one in prefix.rids],
            taint="recalled" if prefix.rids else "user",
            idempotency=f"kv.cool/{engine_name(prefix)}",  # again after a crash: the same record
        )
        limit = kernel.accounts.limit(caller, "records")
        written = await kernel.memory.write(space, caller.apid, note, "kv.cool", limit)
        await self._drop(prefix)
        return kv.Cooled(rid=written.rid)

    def _text(self, prefix: Prefix) -> str:
        """The words of a prefix, without marks. Raises ENOENT."""
        if prefix.rendered:
            view = self._kernel.memory.view
            return "\n\n".join(view(one.space).read(one.rid).content for one in prefix.rids)
        if len(prefix.messages) == 1:
            return prefix.messages[0].content or " "
        return "\n\n".join(f"{one.role}: {one.content}" for one in prefix.messages)

    async def list(self, caller: Process) -> kv.Listed:
        """Serve ``kv.list``. Raises EPERM."""
        space = await monitor.space(self._kernel, caller, None, "kv.list", "read")
        await self.habits.flush()
        rows = self.table.of(space)
        tiers = await self.keeping.tiers(rows)
        shown = [self._shown(row) for row in rows]
        for one, tier in zip(shown, tiers, strict=True):
            one.tier = tier
        return kv.Listed(
            prefixes=[one for one, row in zip(shown, rows, strict=True) if not row.aside],
            bytes=sum(row.bytes for row in rows),
            limit=self._kernel.accounts.limit(caller, "kv"),
            saved=sum(row.saved for row in rows),
            promote=self._kernel.settings.promote == "on",
        )

    def _shown(self, row: Prefix) -> kv.Prefix:
        """A row as a list shows it, but for the tier."""
        try:
            text = self._text(row)
        except ENOENT:
            text = ""
        pending = not row.kept or row.due
        return kv.Prefix(
            handle=row.handle,
            made_by=row.made_by,
            state="stale" if row.stale else "pending" if pending else "kept",
            tier="none",
            tokens=row.tokens,
            bytes=row.bytes,
            hits=row.hits,
            saved=row.saved,
            prefill=row.kept[0].prefill if row.kept else 0.0,
            sources=list(dict.fromkeys(one.rid for one in row.sources)),
            attached=self.attached.to(row.place),
            text=text[:BEGINNING],
            adapter=row.adapter,
            why=row.stale,
            by=row.by,
            created=row.created,
            used=row.used,
        )

    def statistics(self) -> PinStatistics:
        """Figures for ``sys.stats``."""
        rows = [row for row in self.table.all() if not row.aside]
        promotions = sum(row.made_by == "promotion" for row in rows)
        return PinStatistics(
            pins=len(rows) - promotions,
            promotions=promotions,
            bytes=sum(row.bytes for row in rows),
            attached=len(self.attached),
            hits=sum(row.hits for row in rows),
            saved=sum(row.saved for row in rows),
            computed=self.keeping.computed,
            promoted=self.habits.promoted,
            cooled=self.habits.cooled,
            erased=self.keeping.erased,
            erasing=len(self.table.erasures()),
            tiers=self.keeping.figures,
        )
