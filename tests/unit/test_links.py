"""Links and monitors against a model: nobody is told twice, nobody is forgotten."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from procs.links import Effect, Links, cause_of
from syscalls.shapes import Cause

APIDS = st.integers(2, 7)


class Ties(RuleBasedStateMachine):
    """Processes that tie each other and end, in any order.

    The model is a set of links, a set of who traps which, and a set of monitors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.links = Links()
        self.alive = set(range(2, 8))
        self.linked: set[frozenset[int]] = set()
        self.traps: set[tuple[int, int]] = set()
        self.monitors: set[tuple[int, int]] = set()
        self.heard: list[Effect] = []

    @rule(a=APIDS, b=APIDS, trap=st.booleans())
    def link(self, a: int, b: int, trap: bool) -> None:
        if {a, b} <= self.alive:
            self.links.link(a, b, trap=trap)
            if a != b:
                self.linked.add(frozenset((a, b)))
                (self.traps.add if trap else self.traps.discard)((a, b))

    @rule(a=APIDS, b=APIDS)
    def unlink(self, a: int, b: int) -> None:
        self.links.unlink(a, b)
        self.linked.discard(frozenset((a, b)))
        self.traps -= {(a, b), (b, a)}

    @rule(a=APIDS, b=APIDS)
    def monitor(self, a: int, b: int) -> None:
        if {a, b} <= self.alive:
            self.links.monitor(a, b)
            self.monitors.add((a, b))

    @rule(a=APIDS, b=APIDS)
    def demonitor(self, a: int, b: int) -> None:
        self.links.demonitor(a, b)
        self.monitors.discard((a, b))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), failed=st.booleans())
    def end(self, data: st.DataObject, failed: bool) -> None:
        apid = data.draw(st.sampled_from(sorted(self.alive)))
        effects = self.links.end(apid, failed=failed)
        peers = {peer for pair in self.linked if apid in pair for peer in pair - {apid}}
        trapping = {peer for peer in peers if (peer, apid) in self.traps}
        expected = {Effect(peer, "exit") for peer in trapping}
        expected |= {Effect(peer, "term") for peer in peers - trapping if failed}
        watching = {one for one, watched in self.monitors if watched == apid and one != apid}
        expected |= {Effect(watcher, "down") for watcher in watching}
        assert len(effects) == len(set(effects))
        assert set(effects) == expected
        for effect in effects:
            assert (self.links.felled_by(effect.apid) == apid) or effect.what != "term"
        self.alive.remove(apid)
        self.linked = {pair for pair in self.linked if apid not in pair}
        self.traps = {pair for pair in self.traps if apid not in pair}
        self.monitors = {pair for pair in self.monitors if apid not in pair}

    @rule(apid=APIDS)
    def born(self, apid: int) -> None:
        """A number is not given out twice; here it only makes a fresh process of the name."""
        self.alive.add(apid)

    @invariant()
    def ties_are_symmetric_and_counted(self) -> None:
        figures = self.links.statistics()
        assert figures.links == len(self.linked)
        assert figures.monitors == len(self.monitors)
        for apid in range(2, 8):
            for peer in self.links.peers(apid):
                assert apid in self.links.peers(peer)


TestTies = Ties.TestCase
TestTies.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_an_end_takes_every_tie_along() -> None:
    links = Links()
    links.link(2, 3, trap=True)
    links.monitor(3, 2)
    links.monitor(2, 3)
    assert links.end(3, failed=True) == [Effect(2, "exit"), Effect(2, "down")]
    assert links.end(2, failed=True) == []
    figures = links.statistics()
    assert (figures.links, figures.monitors, figures.told) == (0, 0, 2)


@pytest.mark.parametrize(
    ("status", "reason", "felled", "cause"),
    [
        (0, "returned", 0, Cause("normal")),
        (0, "whatever it said", 9, Cause("normal")),
        (3, "exit", 0, Cause("exit", "3")),
        (1, "exception ValueError: no", 0, Cause("exception", "ValueError: no")),
        (143, "signal TERM", 0, Cause("signal", "TERM")),
        (137, "signal KILL", 0, Cause("killed", "KILL")),
        (143, "signal TERM", 9, Cause("linked", "9")),
        (137, "kernel died", 0, Cause("lost", "kernel died")),
    ],
)
def test_the_cause_is_in_the_end(status: int, reason: str, felled: int, cause: Cause) -> None:
    assert cause_of(status, reason, felled) == cause
