"""Memory: learning what is so from what has happened. Numbers of the memory calls, 64-95."""

from typing import Annotated

from msgspec import Meta

from syscalls.records import Record
from syscalls.shapes import Shape, SpaceRef
from syscalls.table import Call, syscall


class Refusal(Shape):
    """What was not learned, and why."""

    rid: str
    quote: str
    """The sentence; the beginning of a long one."""
    why: str


class Consolidated(Shape, omit_defaults=False):
    """What was learned from the episodes that were read."""

    made: list[Record] = []
    """New facts, each with the words that say so; without rids where it was only tried."""
    supported: list[str] = []
    """Rids of facts that were known and have gained evidence."""
    refused: list[Refusal] = []
    """The first 200."""
    read: int = 0
    """Records."""
    done: bool = True
    """False where the budget ended before the episodes."""
    dry_run: bool = False


@syscall(80, "mem.consolidate", reply=Consolidated)
class Consolidate(Call, kw_only=True):
    """Turn what episodes say into facts, each with the words that say so as its evidence.

    Only what was not read before is read: run twice, it changes nothing. ``budget`` is the
    most records to read; the next run goes on from there. ``model`` also has the model that is
    attached look for facts; those whose words do not stand in the record are refused.
    """

    dry_run: bool = False
    budget: Annotated[int, Meta(ge=1, le=1000000)] = 1000
    model: bool = True
    space: SpaceRef | None = None
