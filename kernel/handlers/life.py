"""``mem.*``: pin, forget, archive, undo, tidy, why. What may be is the table's affair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel import monitor
from kernel.trap import handles
from syscalls.calls import life, mem
from syscalls.errors import ECONFLICT, EINVAL, ENOENT

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.records import Record
    from ums.lifecycle import Fate
    from ums.living import Reason
    from ums.view import Guard

    Named = mem.Pin | mem.Unpin | mem.Forget

FOUND = 20
"""Hits among which a query finds the records that it means."""
MOST = 0.5
"""Part of a query's words that the one nearest record has at least."""


@handles(mem.Pin, waits=True)
async def pin(kernel: Kernel, caller: Process, call: mem.Pin) -> mem.Records:
    """Freeze what is meant."""
    return await _state(kernel, caller, call, "mem.pin")


@handles(mem.Unpin, waits=True)
async def unpin(kernel: Kernel, caller: Process, call: mem.Unpin) -> mem.Records:
    """Thaw it."""
    return await _state(kernel, caller, call, "mem.unpin")


async def _state(
    kernel: Kernel, caller: Process, call: mem.Pin | mem.Unpin, name: str
) -> mem.Records:
    keeper, pins = kernel.memory.keeper, name == "mem.pin"
    changed: list[Record] = []
    for space, record, guard in await _meant(kernel, caller, call, "mem.pin"):
        if (record.state == "frozen") != pins:
            reason = _reason(kernel, caller, name, guard)
            change = keeper.pin if pins else keeper.unpin
            await change(space, record.rid, reason)
            record = kernel.memory.read(record.rid, None, space)  # noqa: PLW2901
        elif not pins and call.rid is None:
            continue  # a query for what is not pinned
        changed.append(record)
    return mem.Records(records=changed)


@handles(mem.Forget, waits=True)
async def forget(kernel: Kernel, caller: Process, call: mem.Forget) -> mem.Forgotten:
    """Erase what is meant; sealed for as long as it can be undone."""
    keeper = kernel.memory.keeper
    action = 0 if call.dry_run else keeper.action()
    gone: list[str] = []
    kept: list[str] = []
    for space, record, guard in await _meant(kernel, caller, call, "mem.forget"):
        if record.rid in gone:
            continue  # it went with the one that it was merged into
        if record.state == "frozen":
            kept.append(record.rid)
        elif call.dry_run:
            gone += [record.rid, *keeper.merged_into(space, record.rid)]
        else:
            reason = _reason(kernel, caller, "mem.forget", guard, action)
            gone += await keeper.forget(space, record.rid, reason)
    if kept and call.rid is not None:
        raise ECONFLICT(f"record {call.rid} is pinned", hint="unpin it first", state="frozen")
    return mem.Forgotten(rids=gone, kept=kept, action=action)


@handles(life.Archive)
async def archive(kernel: Kernel, caller: Process, call: life.Archive) -> life.Acts:
    """Compress, or have back."""
    held = monitor.record(kernel, caller, call.rid, call.space, "mem.archive", "write")
    keeper = kernel.memory.keeper
    reason = _reason(kernel, caller, "mem.archive", held.guard)
    change = keeper.restore if call.restore else keeper.archive
    fate = await change(held.space, call.rid, reason)
    return life.Acts(acts=[_act(call.rid, fate)])


@handles(life.Undo)
async def undo(kernel: Kernel, caller: Process, call: life.Undo) -> life.Acts:
    """Back to what was."""
    if (call.rid is None) == (call.action is None):
        raise EINVAL("give a rid or the number of a run")
    keeper = kernel.memory.keeper
    if call.rid is not None:
        held = monitor.record(kernel, caller, call.rid, call.space, "mem.forget", "write")
        reason = _reason(kernel, caller, "mem.undo", held.guard)
        await keeper.undo(held.space, call.rid, reason)
        space, rids = held.space, [call.rid]
    else:
        assert call.action is not None
        space = await monitor.space(kernel, caller, call.space, "mem.forget", "write")
        reason = _reason(kernel, caller, "mem.undo", None)
        rids = await keeper.undo_action(space, call.action, reason)
    return life.Acts(acts=[_act(rid, keeper.fates(space, rid)[-1]) for rid in rids])


@handles(life.Tidy, waits=True)
async def tidy(kernel: Kernel, caller: Process, call: life.Tidy) -> life.Tidied:
    """Merge, make cold, archive, forget, by the policy."""
    from kernel.tidy import TASKS, Order

    space = await monitor.space(kernel, caller, call.space, "mem.forget", "write")
    tasks = call.tasks or TASKS
    order = Order(tasks, call.room, call.dry_run, call.records, call.seconds, caller.apid)
    return await kernel.tidier.tidy(space, order)


@handles(life.Why)
async def why(kernel: Kernel, caller: Process, call: life.Why) -> life.Story:
    """The life of a record, in words."""
    from ums.forgetting import tier

    memory, keeper = kernel.memory, kernel.memory.keeper
    if call.rid is None:
        space = await monitor.space(kernel, caller, call.space, "mem.read", "read")
        acts = [_act(rid, fate) for rid, fate in keeper.lately(space, call.limit)]
        lines = [life.Moment(act.at, f"{act.rid} {act.event}: {act.why}") for act in acts]
        return life.Story("", "", "", 0.0, lines, [], acts)
    held = monitor.record(kernel, caller, call.rid, call.space, "mem.read", "read")
    told = keeper.story(held.space, call.rid)
    state = keeper.state(held.space, call.rid)
    level = keeper.activation(held.space, [call.rid])[0]
    sources, place = [], "archive"
    if state != "forgotten":
        record = memory.read(call.rid, None, held.space, held.guard)
        sources = record.sources
        cold = memory.view(held.space).stored(call.rid)[1].cold
        place = tier(record.state, record.segment, level, cold=cold)
    await held.noted(kernel, "mem.why", [call.rid])
    return life.Story(
        call.rid,
        state,
        place,
        level,
        [life.Moment(at, said) for at, said in told[-call.limit :]],
        sources,
        [_act(call.rid, fate) for fate in keeper.fates(held.space, call.rid)][-call.limit :],
    )


def _reason(
    kernel: Kernel,
    caller: Process,
    name: str,
    guard: Guard | None,
    action: int = 0,
) -> Reason:
    """Who asked, by which call. The words of a query are not in it: they may be the content."""
    reason = kernel.memory.keeper.reason(f"{name} was called", caller.apid, action)
    return msgspec.structs.replace(reason, guard=guard)


def _act(rid: str, fate: Fate) -> life.Act:
    return life.Act(
        rid,
        fate.event,
        fate.before,
        fate.after,
        fate.why,
        fate.at,
        fate.by,
        fate.action,
        fate.other,
        fate.until,
    )


async def _meant(
    kernel: Kernel, caller: Process, call: Named, capability: str
) -> list[tuple[int, Record, Guard | None]]:
    """Space, record and guard of what a call names: one by its rid, or those of a query.

    A query means the records with all of its words; where there are none, the best hit, if it
    has most of them. Nearness in meaning alone is no ground to erase or keep something.
    Raises ENOENT, EINVAL, EPERM.
    """
    if (call.rid is None) == (call.query is None):
        raise EINVAL("give a rid or a query")
    if call.rid is not None:
        held = monitor.record(kernel, caller, call.rid, call.space, capability, "write")
        record = kernel.memory.read(call.rid, None, held.space)
        return [(held.space, record, held.guard)]
    assert call.query is not None
    from drivers.lexical.words import Words
    from ums.recall.query import words_of

    held = await monitor.some(kernel, caller, call.space, capability, "write")
    search = mem.Search(query=call.query, k=FOUND, deadline=5.0)
    hits = (await kernel.memory.search([held.space], search)).hits
    cut = Words()
    wanted = set(cut(words_of(call.query)))
    shares = [
        (len(wanted & set(cut(f"{hit.content} {hit.key} {' '.join(hit.tags)}"))), hit)
        for hit in hits
    ]
    meant = [hit for share, hit in shares if share == len(wanted)]
    if not meant:
        meant = [hit for share, hit in shares[:1] if share >= MOST * len(wanted)]
    if not meant:
        raise ENOENT("no record has the words of the query", hint="look with mem.search first")
    found: list[tuple[int, Record, Guard | None]] = []
    for hit in meant:
        record = kernel.memory.read(hit.rid, None, held.space)
        if held.guard is not None and held.allows is not None:
            stored = kernel.memory.view(held.space).stored(hit.rid)[1]
            if not held.allows(hit.rid, stored):
                continue
        found.append((held.space, record, held.guard))
    return found
