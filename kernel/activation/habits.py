"""What generations begin with: hits that are counted, and beginnings that become pins.

    begin   what is attached is put before the request     done   how much of it was cached
                                                                  ──> hits, seconds saved
            a stable beginning is seen (promotion.py)         ──> a wish, granted in a round

Nothing here can fail or delay a generation; what is counted reaches the table in the next round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel.activation.attached import before
from kernel.activation.promotion import GROWTH, Promotion, Wish, flat
from syscalls.errors import EngramError
from syscalls.shapes import ChatMessage
from ums.prefixes import Prefix, holds

if TYPE_CHECKING:
    from drivers.llm.contract import GenerateRequest
    from kernel.activation.prefixes import Pins
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.shapes import Usage

WISHES = 16
"""Promotions that wait."""


class Used(msgspec.Struct):
    """Use of a prefix that is not in the table yet."""

    at: float = 0.0
    hits: int = 0
    saved: float = 0.0


class Begun(msgspec.Struct):
    """A generation on its way."""

    apid: int
    space: int
    salt: str
    limit: float
    """Bytes that the pins of the space may take."""
    messages: list[ChatMessage] = []
    begins: list[Prefix] = []
    """The pins that it begins with: the attached one, and a longer promotion."""
    wish: Wish | None = None
    adapter: str = ""


class Habits:
    """The generations of all processes, as far as their beginnings go."""

    def __init__(self, kernel: Kernel, pins: Pins) -> None:
        self._kernel = kernel
        self._pins = pins
        self.policy = Promotion()
        self._used: dict[tuple[int, str], Used] = {}
        self._wishes: list[Begun] = []
        self.promoted = self.cooled = 0

    def begin(self, caller: Process, request: GenerateRequest, *, attach: bool) -> Begun:
        """A generation begins; with ``attach`` what is attached is put before it."""
        limit = self._kernel.accounts.limit(caller, "kv")
        begun = Begun(caller.apid, caller.space, request.salt, limit)
        prefix = self._pins.attached.of(caller) if attach else None
        words = ""
        if prefix is not None:
            messages = self._pins.attached.words(caller, prefix)
            self._pins.attached.tell(caller, prefix, messages)
            if (prefix.salt, prefix.adapter) == (request.salt, request.adapter):
                begun.begins, words = [prefix], flat(messages)
            if request.prompt is not None:
                request.prompt = "\n\n".join([*(one.content for one in messages), request.prompt])
            else:
                request.messages = before(messages, request.messages or [])
        begun.adapter = request.adapter
        if request.messages and caller.space:
            begun.messages = request.messages
            self._watch(begun, len(words))
        return begun

    def _watch(self, begun: Begun, covered: int) -> None:
        """See which pin a generation begins with, and whether one is due."""
        whole, longest = flat(begun.messages), None
        for row in self._pins.table.of(begun.space):
            if (
                row.messages
                and not row.aside
                and (row.salt, row.adapter) == (begun.salt, begun.adapter)
            ):
                text = flat(row.messages)
                if len(text) > covered and whole.startswith(text):
                    covered, longest = len(text), row
        if longest is not None:
            begun.begins = [*begun.begins, longest]
        wanted = self._kernel.settings.promote == "on" and not begun.adapter
        if wanted and self._pins.keeping.keeps:
            now = self._kernel.clock.now()
            begun.wish = self.policy.saw(begun.apid, begun.messages, covered, now)

    def done(self, begun: Begun, usage: Usage) -> None:
        """A generation has ended: what its beginning has saved, and what is worth pinning."""
        counted = 0
        for prefix in begun.begins:
            if not prefix.tokens:
                continue
            cached = max(0, min(usage.cached, prefix.tokens) - counted)
            counted += cached
            saved = prefix.kept[0].prefill * cached / prefix.tokens
            self._use(prefix.place, Used(self._kernel.clock.now(), bool(cached), saved))
        if begun.wish is not None and len(self._wishes) < WISHES:
            self._wishes.append(begun)
            self._pins.keeping.nudge()

    def forget(self) -> None:
        """Records were forgotten: what was seen may have their words."""
        self.policy.forget()
        self._wishes.clear()

    def dropped(self, prefix: Prefix) -> None:
        """A prefix is gone."""
        self._used.pop(prefix.place, None)

    # --- rounds

    async def round(self) -> None:
        """Note the uses, grant the wishes, let go of what is cold. Raises EIO, EAGAIN."""
        await self.flush()
        await self._pins.review()
        while self._wishes:
            await self._grant(self._wishes.pop(0))
        for prefix in self.policy.cold(self._pins.table.all(), self._kernel.clock.now()):
            await self._pins.let_go(prefix)
            self.cooled += 1

    async def flush(self) -> None:
        """Note the uses in the table. Raises EIO, EAGAIN."""
        for place in list(self._used):
            used = self._used.pop(place, None)  # what comes meanwhile is noted by itself
            there = self._pins.table.find(*place)
            if used is None or there is None:
                continue
            try:
                await self._pins.table.edit(there, _Counting(used))
            except EngramError:
                self._use(place, used)
                raise

    def _use(self, place: tuple[int, str], more: Used) -> None:
        """Note a use, to be written down in the next round."""
        used = self._used.setdefault(place, Used())
        used.at = max(used.at, more.at)
        used.hits += more.hits
        used.saved += more.saved

    async def _grant(self, begun: Begun) -> None:
        """Pin the beginning of a process's generations, if it may be and fits."""
        wish, now, pins = begun.wish, self._kernel.clock.now(), self._pins
        assert wish is not None
        if self._granted(begun, wish) or not self._lives(begun.apid):
            return  # of one that has ended it is not known any more what it was handed
        known = pins.known(begun.apid, wish.messages)
        new = Prefix("", begun.space, begun.salt, now, "promotion", begun.apid, wish.messages)
        try:
            for one in known:
                record = self._kernel.memory.view(one.space).read(one.rid)
                if not any(holds(each.content, record.content) for each in wish.messages):
                    return  # it was corrected since: what follows shows what it says now
            new.rids, new.sources = known, pins.table.lineage(known)
            await pins.keep(new, begun.limit)
        except EngramError as error:
            self.policy.declined(wish, now)
            self._kernel.log("debug", "kv", f"nothing is promoted: {error.message}")
            return
        self.promoted += 1
        for row in pins.table.of(begun.space):
            said = flat(row.messages) if row.made_by == "promotion" else wish.flat
            outgrown = len(said) < len(wish.flat) and wish.flat.startswith(said)
            if outgrown and row.salt == begun.salt:
                await pins.let_go(row)

    def _granted(self, begun: Begun, wish: Wish) -> bool:
        """Whether another wish, or somebody, has pinned what is wished for by now."""
        texts = [
            flat(row.messages)
            for row in self._pins.table.of(begun.space)
            if row.messages and (row.salt, row.adapter) == (begun.salt, begun.adapter)
        ]
        covered = max((len(text) for text in texts if wish.flat.startswith(text)), default=0)
        return len(wish.flat) < GROWTH * covered

    def _lives(self, apid: int) -> bool:
        return any(process.apid == apid for process in self._kernel.processes.live())


class _Counting:
    """A change of a row that adds uses."""

    def __init__(self, used: Used) -> None:
        self._used = used

    def __call__(self, row: Prefix) -> Prefix:
        row.used = max(row.used, self._used.at)
        row.hits += self._used.hits
        row.saved += self._used.saved
        return row
