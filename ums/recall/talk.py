"""Finds what was said before and after a candidate.

Records of a layer lie in the store in the order in which they were written, so neighbours
are two short scans away; no index of the order is kept.

    ... r17  r18 [r19]  r20  r21 ...      two on each side, as long as it is one conversation
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ums import records as form
from ums.recall.signals import Seen, follows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from drivers.contracts import Store
    from ums.reach import Reach

    Read = Callable[[Sequence[str]], list["Seen | None"]]

STEPS = 2


class Talk:
    """The conversations around some candidates, as chains of records."""

    def __init__(self, store: Store, reach: Reach, known: dict[str, Seen]) -> None:
        """``known``: the candidates that were read, by rid; what is found joins them."""
        self._store = store
        self._reach = reach
        self._known = known

    def around(self, some: Iterable[Seen], read: Read) -> dict[int, list[str]]:
        """Link candidates to their neighbours; the rids, by layer, that are new.

        ``read`` looks records up: None for what may not be seen.
        """
        chains = [self._chain(one) for one in some if one.voice.spoken]
        new = list(dict.fromkeys(r for chain in chains for r in chain if r not in self._known))
        for rid, one in zip(new, read(new), strict=True):
            if one is not None:
                self._known[rid] = one
        for chain in chains:
            for first, second in pairwise(chain):
                self._link(first, second)
        layers: dict[int, list[str]] = {}
        for rid in new:
            found = self._known.get(rid)
            if found is None:
                continue
            if found.before is None and found.after is None:
                del self._known[rid]  # of another conversation
            else:
                layers.setdefault(found.place.layer, []).append(rid)
        return layers

    def _chain(self, one: Seen) -> list[str]:
        prefix = form.space_key(one.place.layer)
        key = form.record_key(one.place.layer, one.rid)
        earlier = self._store.scan("records", prefix, key, limit=STEPS, reverse=True)
        later = self._store.scan("records", key, form.after(prefix), limit=STEPS + 1)
        keys = [place for place, _ in reversed(earlier)] + [place for place, _ in later]
        return [form.rid_in(place) for place in keys]

    def _link(self, first: str, second: str) -> None:
        one, other = self._known.get(first), self._known.get(second)
        if one is None or other is None or one.place.layer != other.place.layer:
            return
        if follows(one.voice, other.voice):
            one.after, other.before = other, one
