"""What one search may see: some spaces, through their layers, and what was shared of them.

The indexes belong to layers, and do not know what lies above them. So each candidate is
looked up from above before it counts: it stands if the layer that answered is the one that
the record is read from. What is covered, whited out or not shared is dropped before
anything is scored against anything, and the search asks for more where too little is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ums import records as form
from ums.rid import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from drivers.contracts import Located
    from ums.moment import Moment
    from ums.records import Stored
    from ums.view import Allows, View


class Place(NamedTuple):
    """Where a search reads a record."""

    space: int
    layer: int
    value: bytes


class Reach:
    """The spaces of one search, in order: the first that sees a record counts."""

    def __init__(self, spaces: Iterable[tuple[View, Allows | None]]) -> None:
        self._spaces = list(spaces)
        self._seen: dict[str, Place | None] = {}
        self.layers = list(
            dict.fromkeys(layer for view, _ in self._spaces for layer in view.stack.layers)
        )
        """Every layer once: what is to be asked."""
        self._plain = all(
            allows is None and len(view.stack.layers) == 1 for view, allows in self._spaces
        )

    @property
    def whole(self) -> list[int]:
        """The layers of the spaces that may be read in whole."""
        views = (view for view, allows in self._spaces if allows is None)
        return list(dict.fromkeys(layer for view in views for layer in view.stack.layers))

    @property
    def views(self) -> list[tuple[View, Allows | None]]:
        """The spaces, and what of each may be seen."""
        return list(self._spaces)

    def screen(self, layer: int, found: Sequence[Located]) -> list[Located]:
        """Those candidates of a layer that are read from it, and may be."""
        if self._plain:
            return list(found)
        places = self.places([one.rid for one in found])
        return [
            one
            for one, place in zip(found, places, strict=True)
            if place is not None and place.layer == layer
        ]

    def places(self, rids: Sequence[str]) -> list[Place | None]:
        """Where each record is read; None for what is gone, covered or not shared."""
        missing = [rid for rid in dict.fromkeys(rids) if rid not in self._seen]
        for view, allows in self._spaces:
            if not missing:
                break
            missing = self._look(view, allows, missing)
        self._seen.update(dict.fromkeys(missing))
        return [self._seen[rid] for rid in rids]

    def _look(self, view: View, allows: Allows | None, rids: Sequence[str]) -> list[str]:
        """Note what one space sees of some records; those it does not see."""
        layers = view.stack.layers
        left: list[str] = []
        mine = [(rid, pack(rid)) for rid in rids]
        if len(layers) == 1:
            prefix = form.space_key(layers[0])
            left = [rid for rid, packed in mine if form.born(packed) != prefix]
            mine = [one for one in mine if form.born(one[1]) == prefix]
        found = view.stack.find_many([packed for _, packed in mine])
        for (rid, _), one in zip(mine, found, strict=True):
            if one is None or (allows and not allows(rid, form.decode(one.value))):
                left.append(rid)
            else:
                self._seen[rid] = Place(view.number, layers[one.depth], one.value)
        return left

    def version(self, rid: str, current: Stored, moment: Moment) -> Stored | None:
        """The version of a record that answers for a moment, where it may be seen."""
        place = self.places([rid])[0]
        for view, allows in self._spaces:
            if place is not None and view.number == place.space:
                found = view.version(rid, current, moment)
                if found is not None and (allows is None or allows(rid, found)):
                    return found
        return None

    def forget(self) -> None:
        """Look everything up again from now on."""
        self._seen.clear()
