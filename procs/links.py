"""Links and monitors: who hears of whose end, as in Erlang.

    link      both ways; when one fails, the other gets TERM, or a message where it traps
    monitor   one way; when the target ends, however it ends, the watcher gets a message

Pure bookkeeping: ``end`` takes all ties of a process away and says what follows, each once;
the kernel does it. A tie is between two live processes, so who wants one with a process that
has ended is told at once by the kernel, and none outlives either end.
"""

from typing import Literal, NamedTuple

import msgspec

from syscalls.shapes import Cause

_Ties = dict[int, dict[int, bool]] | dict[int, dict[int, None]]

EXCEPTION = "exception "
SIGNAL = "signal "
LOST = "kernel died"


class Effect(NamedTuple):
    """What follows for one process from the end of another."""

    apid: int
    """Whom it concerns."""
    what: Literal["term", "exit", "down"]
    """End it; tell it of a link that it traps; tell it of a monitor."""


class LinksStatistics(msgspec.Struct, frozen=True):
    """Figures of the links and monitors."""

    links: int
    monitors: int
    felled: int
    """Processes that were ended since boot because one that they were linked to failed."""
    told: int
    """Messages about ends since boot."""


class Links:
    """The ties between live processes."""

    def __init__(self) -> None:
        self._traps: dict[int, dict[int, bool]] = {}
        """For each linked process its peers, and whether it traps that peer's end."""
        self._watchers: dict[int, dict[int, None]] = {}
        self._watched: dict[int, dict[int, None]] = {}
        self._felled: dict[int, int] = {}
        self._ended = self._told = 0

    def link(self, apid: int, peer: int, *, trap: bool) -> None:
        """Tie two processes; again to change whether ``apid`` traps. Nothing for itself."""
        if apid == peer:
            return
        self._traps.setdefault(apid, {})[peer] = trap
        self._traps.setdefault(peer, {}).setdefault(apid, False)

    def unlink(self, apid: int, peer: int) -> None:
        """Untie them, from either side; nothing where there is no link."""
        for one, other in ((apid, peer), (peer, apid)):
            _discard(self._traps, one, other)

    def monitor(self, watcher: int, target: int) -> None:
        """Have ``watcher`` told of the end of ``target``, once, however often it asks."""
        self._watchers.setdefault(target, {})[watcher] = None
        self._watched.setdefault(watcher, {})[target] = None

    def demonitor(self, watcher: int, target: int) -> None:
        """Do not tell it any more; nothing where it did not watch."""
        _discard(self._watchers, target, watcher)
        _discard(self._watched, watcher, target)

    def peers(self, apid: int) -> list[int]:
        """Those that a process is linked to, in the order in which they were."""
        return list(self._traps.get(apid, ()))

    def end(self, apid: int, *, failed: bool) -> list[Effect]:
        """A process has ended: take all its ties away. Returns what follows, in their order.

        ``failed`` is whether it did not end normally; only then does a link end its peer.
        """
        effects = []
        for peer in self._traps.pop(apid, ()):
            trapped = self._traps[peer][apid]
            _discard(self._traps, peer, apid)
            if trapped:
                effects.append(Effect(peer, "exit"))
            elif failed:
                self._felled[peer] = apid
                self._ended += 1
                effects.append(Effect(peer, "term"))
        for watcher in self._watchers.pop(apid, ()):
            _discard(self._watched, watcher, apid)
            if watcher != apid:
                effects.append(Effect(watcher, "down"))
        for target in self._watched.pop(apid, ()):
            _discard(self._watchers, target, apid)
        self._felled.pop(apid, None)
        self._told += sum(effect.what != "term" for effect in effects)
        return effects

    def felled_by(self, apid: int) -> int:
        """The linked process whose failure is ending this one; 0 for none."""
        return self._felled.get(apid, 0)

    def statistics(self) -> LinksStatistics:
        """Figures for ``/proc`` and metrics."""
        return LinksStatistics(
            links=sum(len(peers) for peers in self._traps.values()) // 2,
            monitors=sum(len(watchers) for watchers in self._watchers.values()),
            felled=self._ended,
            told=self._told,
        )


def cause_of(status: int, reason: str, felled_by: int = 0) -> Cause:
    """The cause in an end's status and line; see ``Cause``.

    A process that a link was ending, and that did not end well, ended for the link.
    """
    if status == 0:
        return Cause("normal")
    if felled_by:
        return Cause("linked", str(felled_by))
    if reason == LOST:
        return Cause("lost", reason)
    if reason.startswith(EXCEPTION):
        return Cause("exception", reason.removeprefix(EXCEPTION))
    if reason.startswith(SIGNAL):
        name = reason.removeprefix(SIGNAL).partition(" ")[0]  # without what it was for
        return Cause("killed" if name == "KILL" else "signal", name)
    return Cause("exit", str(status))


def _discard(
    ties: dict[int, dict[int, bool]] | dict[int, dict[int, None]], of: int, to: int
) -> None:
    """Take one tie out, and the process where it was the last."""
    tied = ties.get(of)
    if tied is not None:
        tied.pop(to, None)
        if not tied:
            del ties[of]
