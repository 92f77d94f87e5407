"""``mem.*``: the records of spaces. The rights are checked here, the work is the memory's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel import monitor
from kernel.context import PAGED, assemble
from kernel.trap import handles
from syscalls.calls import mem
from syscalls.errors import EINVAL
from syscalls.shapes import Hit, Note, SpaceInfo
from syscalls.table import Empty

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process


@handles(mem.Write)
async def write(kernel: Kernel, caller: Process, call: mem.Write) -> mem.Written:
    """One record."""
    space = await monitor.space(kernel, caller, call.space, "mem.write", "write")
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
    quota = caller.quota.records
    written = await kernel.memory.write(space, caller.apid, note, "mem.write", quota)
    kernel.wrote(written.rid)
    return written


@handles(mem.WriteMany)
async def write_many(kernel: Kernel, caller: Process, call: mem.WriteMany) -> mem.WrittenMany:
    """Several records, all or none."""
    space = await monitor.space(kernel, caller, call.space, "mem.write", "write")
    written = await kernel.memory.write_many(
        space, caller.apid, call.notes, "mem.write_many", caller.quota.records
    )
    for each in written:
        kernel.wrote(each.rid)
    return mem.WrittenMany(written=written)


@handles(mem.Read)
async def read(kernel: Kernel, caller: Process, call: mem.Read) -> mem.Records:
    """By rid, by key, or the newest."""
    if call.rid is not None:
        await monitor.record_space(kernel, caller, call.rid, "mem.read", "read")
        return mem.Records(records=[kernel.memory.read(call.rid, call.version)])
    space = await monitor.space(kernel, caller, call.space, "mem.read", "read")
    if call.key is not None:
        return mem.Records(records=[kernel.memory.read_key(space, call.key, call.version)])
    if call.version is not None:
        raise EINVAL("version goes with a rid or a key")
    return mem.Records(
        records=await kernel.memory.newest(space, call.segment, call.limit, call.before)
    )


@handles(mem.Search, waits=True)
async def search(kernel: Kernel, caller: Process, call: mem.Search) -> mem.Hits:
    """What the caller may see, fused."""
    spaces = await monitor.visible(kernel, caller, call.space)
    return await kernel.memory.search(spaces, call)


@handles(mem.Update)
async def update(kernel: Kernel, caller: Process, call: mem.Update) -> mem.Written:
    """A new version."""
    await monitor.record_space(kernel, caller, call.rid, "mem.write", "write")
    return await kernel.memory.update(caller.apid, call)


@handles(mem.Delete)
async def delete(kernel: Kernel, caller: Process, call: mem.Delete) -> Empty:
    """Erase."""
    await monitor.record_space(kernel, caller, call.rid, "mem.delete", "write")
    await kernel.memory.delete(caller.apid, call.rid, call.expect)
    return Empty()


@handles(mem.History)
async def history(kernel: Kernel, caller: Process, call: mem.History) -> mem.Versions:
    """All versions."""
    await monitor.record_space(kernel, caller, call.rid, "mem.read", "read")
    return mem.Versions(versions=kernel.memory.history(call.rid))


@handles(mem.ContextCall, waits=True)
async def context(kernel: Kernel, caller: Process, call: mem.ContextCall) -> mem.Context:
    """Working memory within a budget, and what fits the query."""
    space = await monitor.space(kernel, caller, None, "mem.read", "read")
    records = await kernel.memory.newest(space, "working", PAGED)
    hits: list[Hit] = []
    if call.query:
        spaces = await monitor.visible(kernel, caller, None)
        hits = (await kernel.memory.search(spaces, mem.Search(query=call.query))).hits
    messages = assemble(
        kernel.policy, list(reversed(records)), hits, call.query, call.budget_tokens
    )
    return mem.Context(messages=messages)


@handles(mem.Share)
async def share(kernel: Kernel, caller: Process, call: mem.Share) -> mem.Granted:
    """Let another process in."""
    space = await monitor.owned_space(kernel, caller, call.space)
    grantee = kernel.processes.find(call.to)
    grant = await kernel.memory.share(space, grantee.apid, call.access, caller.apid)
    kernel.log(
        "info",
        "audit",
        f"apid {caller.apid} shared space {space} with apid {grantee.apid} ({call.access})",
    )
    return mem.Granted(grant=grant)


@handles(mem.Revoke)
async def revoke(kernel: Kernel, caller: Process, call: mem.Revoke) -> Empty:
    """Take it back."""
    space = await monitor.owned_space(kernel, caller, call.space)
    grantee = kernel.processes.find(call.to)
    await kernel.memory.revoke(space, grantee.apid)
    kernel.log(
        "info", "audit", f"apid {caller.apid} revoked apid {grantee.apid}'s access to space {space}"
    )
    return Empty()


@handles(mem.Stat)
async def stat(kernel: Kernel, caller: Process, call: mem.Stat) -> SpaceInfo:
    """What a space holds."""
    space = await monitor.space(kernel, caller, call.space, "mem.read", "read")
    return await kernel.memory.stat(space)
