"""``mem.*``: the records of spaces. The rights are checked here, the work is the memory's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel import monitor
from kernel.paging import working_context
from kernel.trap import handles
from syscalls.calls import mem
from syscalls.errors import EINVAL, EPERM
from syscalls.records import AuditLine, Fact, Note, SpaceInfo
from syscalls.table import Empty
from ums.records import from_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.kernel import Kernel
    from procs.process import Process


@handles(mem.Write)
async def write(kernel: Kernel, caller: Process, call: mem.Write) -> mem.Written:
    """One record."""
    held = await monitor.some(kernel, caller, call.space, "mem.write", "write")
    note = Note(
        segment=call.segment,
        content=call.content,
        kind=call.kind,
        key=call.key,
        meta=call.meta,
        tags=call.tags,
        importance=call.importance,
        ttl=call.ttl,
        valid_from=call.valid_from,
        valid_to=call.valid_to,
        sources=call.sources,
        taint=call.taint,
        idempotency=call.idempotency,
        fact=call.fact,
        evidence=call.evidence,
    )
    _admit(kernel, held, [note], "mem.write")
    quota = kernel.accounts.limit(caller, "records")
    written = await kernel.memory.write(held.space, caller.apid, note, "mem.write", quota)
    kernel.wrote(written.rid, held.space)
    return written


@handles(mem.WriteMany)
async def write_many(kernel: Kernel, caller: Process, call: mem.WriteMany) -> mem.WrittenMany:
    """Several records, all or none."""
    held = await monitor.some(kernel, caller, call.space, "mem.write", "write")
    _admit(kernel, held, call.notes, "mem.write_many")
    limit = kernel.accounts.limit(caller, "records")
    written = await kernel.memory.write_many(
        held.space, caller.apid, call.notes, "mem.write_many", limit
    )
    for each in written:
        kernel.wrote(each.rid, held.space)
    return mem.WrittenMany(written=written)


def _admit(kernel: Kernel, held: monitor.Right, notes: Sequence[Note], call: str) -> None:
    """Refuse what a share of a part of a space does not allow to be written into it.

    Keys, idempotency and facts reach records that it may not be for. Raises EPERM.
    """
    if held.guard is None:
        return
    now = kernel.clock.now()
    for note in notes:
        if note.key or note.idempotency:
            raise EPERM("a share of a part of a space allows no key and no idempotency")
        if note.fact is not None and note.fact.functional is not False:
            raise EPERM(
                "a fact may supersede records that the share is not for",
                hint="set functional to false in the fact, or ask for a share of the space",
            )
        for evidence in note.evidence:
            kernel.memory.read(evidence.rid, None, held.space, held.guard)
        held.guard("", from_note(note, now, 1, held.apid, call))


@handles(mem.Read)
async def read(kernel: Kernel, caller: Process, call: mem.Read) -> mem.Records:
    """By rid, by key, or the newest."""
    memory = kernel.memory
    if call.as_of is not None or call.known_at is not None:
        return await _read_past(kernel, caller, call)
    if call.rid is not None:
        held = monitor.record(kernel, caller, call.rid, call.space, "mem.read", "read")
        records = [memory.read(call.rid, call.version, held.space, held.guard)]
    else:
        held = await monitor.some(kernel, caller, call.space, "mem.read", "read")
        if call.key is not None:
            records = [memory.read_key(held.space, call.key, call.version, held.guard)]
        elif call.version is not None:
            raise EINVAL("version goes with a rid or a key")
        elif call.prefix is not None:
            view = memory.view(held.space)
            records = view.named(call.prefix, call.after, call.limit, held.allows)
        else:
            records = await memory.newest(
                held.space, call.segment, call.limit, call.before, allows=held.allows
            )
    await held.noted(kernel, "mem.read", [record.rid for record in records])
    memory.echoes.hand(caller.apid, [record.content for record in records])
    memory.handed.note(caller.apid, records)
    return mem.Records(records=records)


async def _read_past(kernel: Kernel, caller: Process, call: mem.Read) -> mem.Records:
    """By rid, by key, or the newest, as of a moment."""
    if call.version is not None:
        raise EINVAL("a version is of no time", hint="leave out version, or as_of and known_at")
    past = kernel.memory.past
    moment = past.moment(call.as_of, call.known_at)
    if call.rid is not None:
        held = monitor.record(kernel, caller, call.rid, call.space, "mem.read", "read")
        records = [past.read(held.space, call.rid, moment, held.guard)]
    else:
        held = await monitor.some(kernel, caller, call.space, "mem.read", "read")
        if call.key is not None:
            records = [past.read_key(held.space, call.key, moment, held.guard)]
        else:
            records = await past.newest(
                held.space,
                moment,
                call.limit,
                before=call.before,
                segment=call.segment,
                allows=held.allows,
            )
    await held.noted(kernel, "mem.read", [record.rid for record in records])
    kernel.memory.echoes.hand(caller.apid, [record.content for record in records])
    kernel.memory.handed.note(caller.apid, records)
    return mem.Records(records=records)


@handles(mem.Search, waits=True)
async def search(kernel: Kernel, caller: Process, call: mem.Search) -> mem.Hits:
    """What the caller may see, fused."""
    spaces = await monitor.visible(kernel, caller, call.space)
    hits = await kernel.memory.search(spaces, call)
    kernel.memory.echoes.hand(caller.apid, [hit.content for hit in hits.hits])
    kernel.memory.handed.found(caller.apid, hits.hits)
    return hits


@handles(mem.Link)
async def link(kernel: Kernel, caller: Process, call: mem.Link) -> mem.Written:
    """A fact of two entities, as a record."""
    held = await monitor.some(kernel, caller, call.space, "mem.link", "write")
    note = Note(
        segment="semantic",
        content=f"{call.subject} {call.relation.replace('_', ' ')} {call.object}",
        kind="link",
        valid_from=call.valid_from,
        valid_to=call.valid_to,
        sources=call.sources,
        fact=Fact(call.subject, call.relation, call.object, call.functional),
        evidence=call.evidence,
    )
    _admit(kernel, held, [note], "mem.link")
    written = await kernel.memory.write(
        held.space, caller.apid, note, "mem.link", kernel.accounts.limit(caller, "records")
    )
    kernel.wrote(written.rid)
    return written


@handles(mem.GraphCall, waits=True)
async def graph(kernel: Kernel, caller: Process, call: mem.GraphCall) -> mem.Graph:
    """What is around an entity, or between two."""
    memory = kernel.memory
    spaces = await monitor.visible(kernel, caller, call.space)
    moment = memory.past.moment(call.as_of, call.known_at)
    found = await memory.walk(spaces, moment, call.deadline).answer(call)
    rids = sorted({rid for edge in found.edges for rid in edge.rids})
    await memory.note_answer(spaces, "mem.graph", rids, call.entity)
    return found


@handles(mem.Facts)
async def facts(kernel: Kernel, caller: Process, call: mem.Facts) -> mem.Records:
    """What is claimed about an entity."""
    past = kernel.memory.past
    held = await monitor.some(kernel, caller, call.space, "mem.read", "read")
    moment = None if call.all else past.moment(call.as_of, call.known_at)
    records = past.facts(
        held.space, call.entity, call.relation or None, moment=moment, allows=held.allows
    )
    await held.noted(kernel, "mem.facts", [record.rid for record in records], call.entity)
    kernel.memory.echoes.hand(caller.apid, [record.content for record in records])
    kernel.memory.handed.note(caller.apid, records)
    return mem.Records(records=records)


@handles(mem.Update)
async def update(kernel: Kernel, caller: Process, call: mem.Update) -> mem.Written:
    """A new version."""
    held = monitor.record(kernel, caller, call.rid, call.space, "mem.write", "write")
    return await kernel.memory.update(caller.apid, call, space=held.space, guard=held.guard)


@handles(mem.Delete)
async def delete(kernel: Kernel, caller: Process, call: mem.Delete) -> Empty:
    """Erase."""
    held = monitor.record(kernel, caller, call.rid, call.space, "mem.delete", "write")
    await kernel.memory.delete(
        caller.apid, call.rid, call.expect, space=held.space, guard=held.guard
    )
    return Empty()


@handles(mem.History)
async def history(kernel: Kernel, caller: Process, call: mem.History) -> mem.Versions:
    """All versions."""
    held = monitor.record(kernel, caller, call.rid, call.space, "mem.read", "read")
    versions = kernel.memory.history(call.rid, space=held.space, allows=held.allows)
    await held.noted(kernel, "mem.history", [call.rid])
    return mem.Versions(versions=versions)


@handles(mem.ContextCall, waits=True)
async def context(kernel: Kernel, caller: Process, call: mem.ContextCall) -> mem.Context:
    """Working memory within a budget, and what fits the query."""
    return await working_context(kernel, caller, call)


@handles(mem.Share)
async def share(kernel: Kernel, caller: Process, call: mem.Share) -> mem.Granted:
    """Let another process in, or pass on what one was given."""
    if call.rid is not None and call.filter is not None:
        raise EINVAL("a share is for a record or for what fits a filter, not both")
    only = call.filter if call.rid is None else call.rid
    if call.rid is not None:
        access = call.access
        space = monitor.record(kernel, caller, call.rid, call.space, "mem.share", access).space
    else:
        space = await _number(kernel, caller, call.space)
    parent = monitor.passed_on(kernel, caller, space, call.access, only)
    grantee = kernel.processes.find(call.to)
    if call.rid is not None:
        kernel.memory.read(call.rid, None, space)  # there must be one
    grant = await kernel.memory.share(
        space, grantee.apid, call.access, caller.apid, only=only, ttl=call.ttl, parent=parent
    )
    what = "the space" if only is None else only if isinstance(only, str) else "what fits"
    about = f"{call.access} {what} with apid {grantee.apid}, grant {grant.id}"
    await kernel.memory.audit.note(AuditLine(space, caller.apid, "mem.share", about=about))
    kernel.log("info", "audit", f"apid {caller.apid} shared space {space}: {about}")
    return mem.Granted(grant=grant)


async def _number(kernel: Kernel, caller: Process, ref: int | str | None) -> int:
    """A space by number or name; the caller's own. Raises ENOENT."""
    if ref is None:
        return caller.space or await kernel.own_space(caller)
    return kernel.memory.resolve(ref)


@handles(mem.Revoke)
async def revoke(kernel: Kernel, caller: Process, call: mem.Revoke) -> Empty:
    """Take it back."""
    space = await _number(kernel, caller, call.space)
    by = None if monitor.disposes(kernel, caller, space, "mem.share") else caller.apid
    grantee = kernel.processes.find(call.to)
    await kernel.memory.revoke(space, grantee.apid, by=by, grant=call.grant)
    about = f"from apid {grantee.apid}" + (f", grant {call.grant}" if call.grant else "")
    await kernel.memory.audit.note(AuditLine(space, caller.apid, "mem.revoke", about=about))
    kernel.log("info", "audit", f"apid {caller.apid} took back of space {space} {about}")
    return Empty()


@handles(mem.Audit)
async def audit(kernel: Kernel, caller: Process, call: mem.Audit) -> mem.AuditLog:
    """Who used it."""
    space = await monitor.owned_space(kernel, caller, call.space, "mem.audit")
    lines = kernel.memory.audit.lines(
        space, apid=call.by, rid=call.rid, before=call.before, limit=call.limit
    )
    return mem.AuditLog(lines=lines)


@handles(mem.Snapshot)
async def snapshot(kernel: Kernel, caller: Process, call: mem.Snapshot) -> mem.Snapshotted:
    """Freeze what is there; whoever owns the space owns its snapshots."""
    space = await monitor.owned_space(kernel, caller, call.space, "mem.snapshot")
    made = await kernel.memory.snapshot(space, caller.apid, call.name)
    return mem.Snapshotted(space=made)


@handles(mem.Attach)
async def attach(kernel: Kernel, caller: Process, call: mem.Attach) -> Empty:
    """Put another space under the own one; what rests on a share ends with it."""
    own = await monitor.owned_space(kernel, caller, None, "mem.read")
    if call.detach:
        await kernel.memory.detach(own, kernel.memory.resolve(call.space))
        return Empty()
    other = await monitor.space(kernel, caller, call.space, "mem.read", "read")
    grant = 0
    if not monitor.disposes(kernel, caller, other, "mem.read"):
        grant = kernel.memory.sharing.passable(caller.apid, other, "read")
    line = AuditLine(other, caller.apid, "mem.attach", about=f"under space {own}")
    await kernel.memory.audit.note(line)
    await kernel.memory.attach(own, other, grant)
    return Empty()


@handles(mem.Stat)
async def stat(kernel: Kernel, caller: Process, call: mem.Stat) -> SpaceInfo:
    """What a space holds."""
    space = await monitor.space(kernel, caller, call.space, "mem.read", "read")
    info = await kernel.memory.stat(space)
    if not monitor.disposes(kernel, caller, space, "mem.share"):
        info.grants = [grant for grant in info.grants if caller.apid in (grant.apid, grant.by)]
    return info
