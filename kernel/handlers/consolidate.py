"""``mem.consolidate``: facts from episodes, with their evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel import monitor
from kernel.trap import handles
from syscalls.calls import learn
from ums.consolidate import Task

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process


@handles(learn.Consolidate, waits=True)
async def consolidate(
    kernel: Kernel, caller: Process, call: learn.Consolidate
) -> learn.Consolidated:
    """Learn from what was not read yet; the caller sees what it says, so it must be a reader."""
    space = await monitor.space(kernel, caller, call.space, "mem.consolidate", "write")
    monitor.allow_space(kernel, caller, space, "mem.read", "read")
    mine = kernel.miner.run(space) if call.model and not call.dry_run else None
    limit = kernel.accounts.limit(caller, "records")
    task = Task(caller.apid, call.budget, call.dry_run, limit, mine)
    learned = await kernel.memory.consolidate(space, task)
    for record in learned.made:
        if record.rid:
            kernel.wrote(record.rid)
    kernel.memory.echoes.hand(caller.apid, [record.content for record in learned.made])
    kernel.memory.handed.note(caller.apid, [record for record in learned.made if record.rid])
    if learned.made:
        kernel.log(
            "debug", "memory", f"space {space}: {learned.read} read, {len(learned.made)} learned"
        )
    return learned
