"""The indexes of one space, as they are opened and closed together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.contracts import LexicalIndex, VectorIndex
    from ums.follower import DenseFollower, Follower, Kind, LexicalFollower

    AnyFollower = Follower[LexicalIndex] | Follower[VectorIndex]


class Pair:
    """The two indexes of a space."""

    def __init__(
        self, lexical: LexicalFollower, dense: DenseFollower, former: DenseFollower | None = None
    ) -> None:
        self.lexical = lexical
        self.dense = dense
        self.former = former
        """The vectors of the embedder before, read only, while those of the new one are made."""
        self.users = 0
        """Tasks that are between two uses: it is not closed under them."""
        self.closing = False
        self.failures = 0
        """Damages since something was last applied."""
        self.bytes = 0
        """Memory that it held when it was last weighed."""
        self._weighed: tuple[int, ...] = ()

    @property
    def sides(self) -> Sequence[AnyFollower]:
        """All there are."""
        both: list[AnyFollower] = [self.lexical, self.dense]
        return both if self.former is None else [*both, self.former]

    def side(self, kind: Kind) -> AnyFollower:
        """One of the two."""
        return self.lexical if kind == "lexical" else self.dense

    def idle(self) -> bool:
        """Whether nobody uses it, nor closes it."""
        return self.users == 0 and not self.closing

    def is_open(self) -> bool:
        """Whether either holds files and memory."""
        return any(side.is_open for side in self.sides)

    def weigh(self) -> int:
        """By how many bytes it has grown since it was last weighed."""
        state = tuple(figure for side in self.sides for figure in (side.openings, side.position))
        if state == self._weighed:
            return 0
        self._weighed = state
        was, self.bytes = self.bytes, sum(side.memory() for side in self.sides)
        return self.bytes - was
