"""What follows from an end for those who are tied to it by links and monitors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procs.links import Links

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.kernel import Kernel
    from procs.links import LinksStatistics
    from procs.process import Process
    from syscalls.shapes import Exit

UNBOUNDED = 1 << 40
"""Messages that may wait where the kernel itself has to tell something."""


class Ties:
    """Links and monitors at work."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.links = Links()

    async def ended(self, process: Process) -> None:
        """A process has just ended: end those linked to it, tell those who asked.

        To be called in the same step as ``ProcessTable.exit``: who asks later sees that it
        has ended, and is told by itself. Not to be cancelled.
        """
        ended = process.exit
        assert ended is not None and ended.cause is not None
        effects = self.links.end(process.apid, failed=ended.cause.kind != "normal")
        if not effects:
            return
        kernel = self._kernel
        for effect in effects:
            if effect.what == "term":
                peer = kernel.processes.get(effect.apid)
                await kernel.nurse.signal(peer, "TERM", kernel.init)
        for what in ("exit", "down"):
            await self.tell([one.apid for one in effects if one.what == what], what, ended)

    async def tell(self, apids: Sequence[int], what: str, ended: Exit) -> None:
        """Put an Exit into mailboxes, in one commit, however full they are."""
        if apids:
            kernel = self._kernel
            message = kernel.message(kernel.init, ended, type=what)
            await kernel.mailboxes.send_many([(apid, UNBOUNDED) for apid in apids], message)

    def statistics(self) -> LinksStatistics:
        """Figures for ``/proc``."""
        return self.links.statistics()
