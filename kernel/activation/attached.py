"""Who has which pinned prefix attached, and whether he still may have it.

An attachment is of a process and ends with it; the pin stays. It is checked at every use, so
that nothing is put before a prompt that was forgotten, taken back or dropped meanwhile.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from kernel import monitor
from kernel.generation import salt_of
from syscalls.errors import ECONFLICT, ENOENT, EPERM
from syscalls.shapes import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.activation.keeping import Keeping
    from kernel.kernel import Kernel
    from procs.process import Process
    from ums.prefixes import Prefix


class Attached:
    """The attachments of all processes, one each at most."""

    def __init__(self, kernel: Kernel, keeping: Keeping) -> None:
        self._kernel = kernel
        self._keeping = keeping
        self._held: dict[int, Prefix] = {}
        """By APID; as it was when it was attached."""
        self._told: dict[int, list[ChatMessage]] = {}
        """The words that a process is known to have been given."""
        self._inherited: set[int] = set()
        """Those who have it from the process that they are a fork of."""
        self._seen: dict[int, tuple[list[tuple[int, int]], float]] = {}
        """How the space of a fork was when all was there, and until when that holds."""

    def __len__(self) -> int:
        return len(self._held)

    def put(self, caller: Process, target: Process, prefix: Prefix) -> None:
        """Put a prefix before what ``target`` asks from now on. Raises EPERM, ENOENT, ECONFLICT."""
        if prefix.stale:
            raise ECONFLICT(
                f"{prefix.handle!r} is stale: {prefix.stale}", hint="pin it anew, with kv.pin"
            )
        for process in dict.fromkeys((caller, target)):
            self.allow(process, prefix)
        self._held[target.apid] = prefix
        self._inherited.discard(target.apid)
        self.tell(target, prefix, self.words(target, prefix))

    def of(self, process: Process) -> Prefix | None:
        """What is put before the generations of a process, if it still may be."""
        was = self._held.get(process.apid)
        if was is None:
            return None
        why = "it was dropped, or a record that it was made from is gone"
        now = self._keeping.table.find(*was.place)
        if now is not None and now.created == was.created:
            try:
                self._allow_still(process, now, was)
                return now
            except (ENOENT, EPERM) as error:
                why = error.message
        self.drop(process.apid)
        self._kernel.log("info", "kv", f"{was.handle} is detached from {process.apid}: {why}")
        return None

    def to(self, place: tuple[int, str]) -> list[int]:
        """APIDs of the processes that have the prefix of a place attached."""
        return [apid for apid, one in self._held.items() if one.place == place]

    def drop(self, apid: int) -> None:
        """Nothing is attached to a process any more."""
        self._held.pop(apid, None)
        self._told.pop(apid, None)
        self._seen.pop(apid, None)
        self._inherited.discard(apid)

    def replaced(self, by: Prefix) -> None:
        """A prefix has taken the place of another: who had the other has nothing any more."""
        for apid in self.to(by.place):
            if self._held[apid].created != by.created:
                self.drop(apid)

    def fork(self, parent: int, child: int) -> None:
        """A child begins with what its parent has."""
        held = self._held.get(parent)
        if held is not None and parent not in self._inherited:
            held = self._keeping.table.find(*held.place)  # what it rests on now
        if held is not None:
            self._held[child] = held
            self._inherited.add(child)

    def words(self, process: Process, prefix: Prefix) -> list[ChatMessage]:
        """What is put before the generations of a process: as its own space has it.

        A fork sees the records of its parent as they were, and as it has changed them itself.
        """
        return self._keeping.words(prefix, self._home(process, prefix))

    def _home(self, process: Process, prefix: Prefix) -> int:
        """The space through which a process sees the records of a prefix."""
        return process.space if process.apid in self._inherited else prefix.space

    def _allow_still(self, process: Process, now: Prefix, was: Prefix) -> None:
        """Check an attachment when it is used. Raises EPERM, ENOENT."""
        if process.apid not in self._inherited or process.space == now.space:
            self.allow(process, now)
            return
        # It has what it has by its birth, as long as its own view has all that it rests on.
        memory, clock = self._kernel.memory, self._kernel.clock.now()
        view = memory.view(process.space)
        state = [(layer, self._kernel.machine.store.last(layer)) for layer in view.stack.layers]
        known = self._seen.get(process.apid)
        if known is None or known[0] != state or clock >= known[1]:
            own = [view.stored(one.rid)[1] for one in was.sources if one.space == was.space]
            until = min((one.expires for one in own if one.expires is not None), default=inf)
            self._seen[process.apid] = state, until
        for one in now.rids:
            if one.space != now.space:
                monitor.record(self._kernel, process, one.rid, one.space, "mem.read", "read")
                memory.view(one.space).stored(one.rid)

    def allow(self, process: Process, prefix: Prefix) -> None:
        """Check that a process may have before it what a prefix says. Raises EPERM, ENOENT."""
        memory = self._kernel.memory
        if process.space == prefix.space:
            lent = memory.sharing.lent(process.apid, prefix.space)
            allowed = not lent or memory.access(process.apid, prefix.space) is not None
        else:  # a fork works in a space of its own
            allowed = salt_of(process) == prefix.salt
        if not allowed:
            raise EPERM(
                f"apid {process.apid} does not work in space {prefix.space}",
                hint="pin it in the space that the process works in",
                object=f"space/{prefix.space}",
            )
        for one in prefix.rids:
            if one.space == prefix.space:
                memory.view(process.space or one.space).stored(one.rid)
            else:
                monitor.record(self._kernel, process, one.rid, one.space, "mem.read", "read")
                memory.view(one.space).stored(one.rid)

    def tell(self, process: Process, prefix: Prefix, messages: list[ChatMessage]) -> None:
        """A process is given these words of a prefix: what comes back of them is recalled."""
        apid = process.apid
        if prefix.rids and self._told.get(apid) != messages:
            memory, home = self._kernel.memory, self._home(process, prefix)
            records = [
                memory.view(home if one.space == prefix.space else one.space).read(one.rid)
                for one in prefix.rids
            ]
            memory.echoes.hand(apid, [one.content for one in records])
            memory.handed.note(apid, records)
            self._told[apid] = messages


def before(first: Sequence[ChatMessage], then: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Messages with others before them, such that chat templates take them.

    Most want one system turn, and user and assistant in turn: so where two turns of one role
    would meet they become one. What was before stays the beginning, to the token.
    """
    if not first or not then:
        return [*first, *then]
    last, following = first[-1], then[0]
    if last.role != following.role or last.role not in ("system", "user"):
        return [*first, *then]
    said = f"{last.content}\n\n{following.content}"
    both = ChatMessage(last.role, said, [*last.images, *following.images])
    return [*first[:-1], both, *then[1:]]
