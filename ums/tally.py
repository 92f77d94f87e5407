"""The sums of a layer: how many records, of which segments, how many bytes.

The journal says what each change did to the sums, so they are exact after any crash without
counting the records: a checkpoint (``Sums``, as of a sequence number) is stored now and
then, and opening a space folds only the entries after it.

A checkpoint must hold every change up to its number and none above. Commits are numbered in
the order in which they were begun, but their tasks may wake in any order; so each commit
takes a place in a window, and the sums advance over the window's finished head:

    settled up to seq 17 | 18 done | (in flight) | 21 done | (in flight)
                           folded    stops here
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from syscalls.shapes import SEGMENTS
from ums.records import NONE, UPSERT, Change


class Sums(msgspec.Struct, array_like=True):
    """Exact figures of a space as of a sequence number."""

    seq: int = 0
    bytes: int = 0
    segments: list[int] = msgspec.field(default_factory=lambda: [0] * len(SEGMENTS))
    """Live records of each segment. Of a layer above others it is by how many it changes
    what is below, which may be less than nothing."""

    def fold(self, change: Change) -> None:
        """Add what one change did."""
        if change.was != NONE:
            self.segments[change.was] -= 1
        if change.op == UPSERT:
            self.segments[change.tag] += 1
        self.bytes += change.size

    @property
    def records(self) -> int:
        """Live records."""
        return sum(self.segments)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Sums)


def encode_sums(sums: Sums) -> bytes:
    """A checkpoint as it is stored."""
    return _encoder.encode(sums)


def decode_sums(value: bytes) -> Sums:
    """The checkpoint in a stored value."""
    return _decoder.decode(value)


def gain(changes: Sequence[Change]) -> tuple[int, int]:
    """By how many records and bytes changes make a space bigger."""
    records = size = 0
    for change in changes:
        records += (change.op == UPSERT) - (change.was != NONE)
        size += change.size
    return records, size


class Place:
    """The place of one commit in the window."""

    __slots__ = ("changes", "done", "seq")

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self.seq = 0
        self.done = False


class Tally:
    """The sums of an open space with the commits in flight."""

    __slots__ = ("_sums", "_window", "live", "saved")

    def __init__(self, sums: Sums, saved: int) -> None:
        self._sums = sums
        self._window: deque[Place] = deque()
        self.live = sums.records
        """Live records, those being written included: what a quota is checked against."""
        self.saved = saved
        """Sequence number of the stored checkpoint."""

    def begin(self, changes: Sequence[Change]) -> Place:
        """Take a place; the commit must begin before another one takes its own."""
        place = Place(changes)
        for change in changes:
            self.live += change.op == UPSERT and change.was == NONE
        self._window.append(place)
        return place

    def done(self, place: Place, seq: int) -> None:
        """The commit is durable, its last entry under ``seq``."""
        place.seq = seq
        place.done = True
        for change in place.changes:
            self.live -= change.op != UPSERT and change.was != NONE
        self._settle()

    def drop(self, place: Place) -> None:
        """The commit did not happen."""
        for change in place.changes:
            self.live -= change.op == UPSERT and change.was == NONE
        place.changes = ()
        place.done = True
        self._settle()

    def _settle(self) -> None:
        window, sums = self._window, self._sums
        while window and window[0].done:
            place = window.popleft()
            for change in place.changes:
                sums.fold(change)
            sums.seq = max(sums.seq, place.seq)

    def checkpoint(self) -> Sums:
        """The settled sums, to be stored."""
        return self._sums

    def now(self) -> Sums:
        """The sums with every finished commit, those beyond the settled ones too."""
        sums = Sums(self._sums.seq, self._sums.bytes, self._sums.segments.copy())
        for place in self._window:
            if place.done:
                for change in place.changes:
                    sums.fold(change)
                sums.seq = max(sums.seq, place.seq)
        return sums

    @property
    def busy(self) -> bool:
        """Whether a commit is in flight."""
        return bool(self._window)

    @property
    def unsaved(self) -> int:
        """How far the settled sums are ahead of the stored checkpoint, in sequence numbers."""
        return self._sums.seq - self.saved
