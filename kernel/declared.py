"""Programs that say themselves what they want: their word, and that of who spawns them.

The spawner's word comes first, and a declaration never gets a process more than it was given:

    name, goal, space    the spawner's, else the declared
    caps                 the declared, as far as the spawner's cover them; the spawner's alone
                         where nothing is declared
    quota                the lower of both, limit by limit
    nice                 the smaller claim of both
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel.accounting.quotas import lower
from syscalls.capability import compiled, intersect
from syscalls.shapes import Quota

if TYPE_CHECKING:
    from syscalls.calls.proc import Spawn
    from syscalls.launch import Wants


def agreed(call: Spawn, wants: Wants) -> Spawn:
    """The spawn that both agree on. Raises EINVAL (a grant that names no capability)."""
    return msgspec.structs.replace(
        call,
        name=call.name or wants.name,
        goal=call.goal or wants.goal,
        caps=_caps(call.caps, wants.caps),
        quota=lower(call.quota or Quota(), wants.quota),
        nice=max(call.nice, wants.nice),
        space=wants.space or None if call.space is None else call.space,
    )


def _caps(given: list[str] | None, declared: list[str] | None) -> list[str] | None:
    if given is None or declared is None:
        return declared if given is None else given
    return sorted(intersect(compiled(frozenset(given)), declared).grants)
