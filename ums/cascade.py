"""Cascades: when a source changes, what was made from it is put right, before anything else.

    update, delete, forget, supersede ──(same batch)──> key "ums/cascade/"
        ──> spread until nothing is left to mark ──> mend, sources first ──> nothing left

What is to be done is in the store, so a cascade that a crash has cut short goes on after the
next start; the steps are in ``ums.derived``. The call that set it off waits for the first
``INLINE`` steps, so that what it answers with is true already; a longer one goes on in the
background.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
import trio

from syscalls.errors import LoadFault, MachineFault
from ums.lineage import CASCADE
from ums.records import SPACE_SIZE, after

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drivers.contracts import Store
    from syscalls.records import Record
    from ums.derived import DerivedSpace, Remake
    from ums.settings import Log

INLINE = 16
"""Steps that a call waits for."""
AGAIN = 5.0
"""Seconds after which a step that failed is tried again."""


class CascadeStatistics(msgspec.Struct, frozen=True):
    """Figures of cascades since the start."""

    marked: int
    """Records that were marked stale."""
    mended: int
    """Records that were put right or withdrawn."""
    waiting: int
    """Spaces with a cascade in the background."""


def nobody(_old: Record, _left: Sequence[Record]) -> str | None:
    """Makes no record again."""
    return None


class Cascade:
    """The cascades of all spaces."""

    def __init__(
        self,
        store: Store,
        open_space: Callable[[int], DerivedSpace],
        changed: Callable[[int], None],
        log: Log,
    ) -> None:
        self._store = store
        self._open = open_space
        self._changed = changed
        self._log = log
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self._wanted = trio.Event()
        self._turns: dict[int, trio.Lock] = {}
        self._marked = self._mended = 0
        self.remake: Remake = nobody
        """New content for a record some of whose sources are lost; policy."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Finish what was begun before the start and what calls leave over, until cancelled."""
        for space in self._begun():
            self._waiting[space] = None
            self._wanted.set()
        task_status.started()
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._waiting:
                space, _ = self._waiting.popitem(last=False)
                try:
                    await self.settle(space)
                except (MachineFault, LoadFault) as error:
                    # It is in the store, and marked records say so: later is soon enough.
                    self._log("warning", "memory", f"a cascade is put off: {error.message}")
                    self._waiting[space] = None
                    await trio.sleep(AGAIN)

    def _begun(self) -> list[int]:
        """The spaces that have something to do."""
        found: list[int] = []
        start, stop = CASCADE, after(CASCADE)
        while first := self._store.scan("meta", start, stop, limit=1):
            prefix = first[0][0][: len(CASCADE) + SPACE_SIZE]
            found.append(int.from_bytes(prefix[len(CASCADE) :], "big"))
            start = after(prefix)
        return found

    async def follow(self, space: int) -> None:
        """After a change: do what follows from it, or the first of it. Never raises for it."""
        home = self._open(space)
        if not home.troubled():
            return
        try:
            done = await self.settle(space, INLINE)
        except (MachineFault, LoadFault) as error:
            self._log("warning", "memory", f"a cascade is put off: {error.message}")
            done = False
        if not done:
            self._waiting[space] = None
            self._wanted.set()

    async def settle(self, space: int, most: int | None = None) -> bool:
        """Do what is to be done in a space, or ``most`` steps of it; whether all is done.

        Raises EIO, EAGAIN; what was done until then stays done.
        """
        home = self._open(space)
        steps = 0
        async with self._turns.setdefault(space, trio.Lock()):
            while most is None or steps < most:
                marked = await home.spread()
                if marked < 0:
                    mended = await home.mend(self.remake)
                    if not mended:
                        break
                    self._mended += mended
                else:
                    self._marked += marked
                steps += 1
        if steps:
            self._changed(space)
        return not home.troubled()

    def statistics(self) -> CascadeStatistics:
        """Figures for ``sys.stats``."""
        return CascadeStatistics(self._marked, self._mended, len(self._waiting))
