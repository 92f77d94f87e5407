"""What is left of a record when it is deleted, and what of it goes from frozen layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ums import blobs
from ums import records as form
from ums.records import DELETE, NONE, Change
from ums.rid import SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivers.contracts import Store
    from ums.draft import Draft
    from ums.layers import Stack

    Sees = Callable[[int, bytes], bool]
    """Whether a space that stands on a layer, other than the asking one, still has a rid."""


def blank(draft: Draft, place: bytes, value: bytes) -> None:
    """Draft a version without its content: who, when and by which call.

    The hash of the arguments goes too: it could confirm a guess at what was erased.
    """
    stored = form.decode(value)
    blobs.release(draft, place, stored)
    if stored.idempotency:
        name = form.name_key(place[: form.SPACE_SIZE], stored.idempotency)
        if (known := draft.peek("idem", name)) is not None:
            draft.put("idem", name, known[: SIZE + 4])
    draft.put("versions", place, form.encode(form.erased(stored), form.tag_of(value)))


def cover(draft: Draft, stack: Stack, prefix: bytes, packed: bytes) -> None:
    """Draft that the top layer hides what lower ones hold of a record.

    The hashes of the arguments that they hold are covered with it.
    """
    draft.put("whiteouts", prefix + packed, b"")
    for value in stack.versions(packed):
        name = form.decode(value).idempotency
        if name and (known := stack.named("idem", name, draft.peek)) is not None:
            draft.put("idem", form.name_key(prefix, name), known[: SIZE + 4])


def purge(draft: Draft, store: Store, layer: int, packed: bytes, sees: Sees) -> None:
    """Draft the erasure from a frozen layer of what nobody else sees through it.

    It goes on counting in the layer's sums, because the whiteouts above take it off.
    """
    prefix = form.space_key(layer)
    key = prefix + packed
    value = draft.get("records", key)
    past = store.scan("versions", key, form.after(key))
    if (value is None and not past) or sees(layer, packed):
        return
    for place, version in past:
        blank(draft, place, version)
    if value is None:
        return
    stored = form.decode(value)
    blank(draft, form.version_key(key, stored.version), value)
    draft.delete("records", key)
    if stored.key:
        draft.delete("keys", form.name_key(prefix, stored.key))
    change = Change(DELETE, packed, stored.version, form.tag_of(value), NONE, 0)
    draft.purges.append((layer, change))
