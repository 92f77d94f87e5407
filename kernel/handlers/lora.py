"""``lora.*``: adapters. The rights are checked here: an adapter is what its records are."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from kernel import monitor
from kernel.trap import Emit, handles
from syscalls.calls import lora, mem
from syscalls.errors import EINVAL
from syscalls.table import Empty
from ums.adapters import reference
from ums.recall.sieve import matches

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.records import Record
    from syscalls.shapes import Access
    from ums.records import Stored

SHOWN = ("training", "refused", "live", "retired")


async def _home(kernel: Kernel, caller: Process, access: Access) -> int:
    """The space whose adapters are meant: the one that the caller works in. Raises EPERM."""
    number = caller.space or await kernel.own_space(caller)
    monitor.allow_space(kernel, caller, number, f"mem.{access}", access)
    return number


@handles(lora.Train, waits=True)
async def train(kernel: Kernel, caller: Process, call: lora.Train) -> lora.Job:
    """Begin a job."""
    space = await _home(kernel, caller, "write")
    monitor.allow_space(kernel, caller, space, "mem.read", "read")
    records = await _chosen(kernel, space, call)
    version = await kernel.training.train(space, caller.apid, call, records)
    job = f"{version.name}@{version.number}"
    kernel.log("info", "audit", f"apid {caller.apid} has {job} trained in space {space}")
    return lora.Job(job=job)


async def _chosen(kernel: Kernel, space: int, call: lora.Train) -> list[Record]:
    """The records to learn from: all of one space, which the adapter will belong to."""
    ways = [call.rids, call.query, call.filter if call.query is None else None]
    if sum(map(bool, ways)) > 1:
        raise EINVAL("lora.train takes rids, or a query, or a filter")
    memory = kernel.memory
    if call.rids:
        return [memory.read(rid, None, space) for rid in dict.fromkeys(call.rids)]
    if call.query is not None:
        search = mem.Search(query=call.query, k=call.k, filter=call.filter, deadline=5.0)
        hits = await memory.search([space], search)
        return [memory.read(hit.rid, None, space) for hit in hits.hits]
    if call.filter is None:
        return []
    wanted = call.filter

    def allows(_rid: str, stored: Stored) -> bool:
        return matches(wanted, stored)

    return await memory.newest(space, None, call.k, allows=allows)


@handles(lora.Attach)
async def attach(kernel: Kernel, caller: Process, call: lora.Attach) -> Empty:
    """To one process, or to a space."""
    target = monitor.target(kernel, caller, call.target, lora.Attach.NAME)
    space = await _home(kernel, caller, "write" if call.everyone else "read")
    ref = reference(call.adapter)
    if not call.everyone:
        await kernel.adapters.attach(caller, target, ref)
    elif call.target is None:
        await kernel.adapters.wear(space, ref)
    else:
        raise EINVAL("an adapter is attached to a target or to everyone")
    return Empty()


@handles(lora.Detach)
async def detach(kernel: Kernel, caller: Process, call: lora.Detach) -> Empty:
    """Nothing that is not attached is an error."""
    if call.base not in ("", "nano", "model"):
        raise EINVAL(f"there is no base {call.base!r}", hint="it is `nano` or `model`")
    bases = (call.base,) if call.base else ("nano", "model")
    if call.everyone:
        space = await _home(kernel, caller, "write")
        for base in bases:
            await kernel.adapters.versions.wear(space, base, None)
        return Empty()
    target = monitor.target(kernel, caller, call.target, lora.Detach.NAME)
    for base in bases:
        target.adapters.pop(base, None)
    return Empty()


@handles(lora.ListCall)
async def list_(kernel: Kernel, caller: Process, call: lora.ListCall) -> lora.Listed:
    """Those of the caller's space."""
    space = await _home(kernel, caller, "read")
    found = kernel.adapters.versions.all(space, call.adapter or None)
    shown = [one for one in found if call.all or one.state in SHOWN]
    return lora.Listed(adapters=[kernel.adapters.info(one) for one in shown])


@handles(lora.Drop)
async def drop(kernel: Kernel, caller: Process, call: lora.Drop) -> Empty:
    """One version, or all of a name."""
    space = await _home(kernel, caller, "write")
    ref, adapters = reference(call.adapter), kernel.adapters
    if ref.number or not adapters.versions.all(space, ref.name):
        adapters.versions.find(space, ref)  # raises ENOENT where there is none
    known = adapters.versions.all
    await adapters.drop(
        lambda: [one for one in known(space, ref.name) if ref.number in (0, one.number)],
        f"dropped by process {caller.apid}",
    )
    return Empty()


@handles(lora.JobCall, waits=True)
async def job(kernel: Kernel, caller: Process, call: lora.JobCall, emit: Emit) -> lora.JobInfo:
    """How a job is, and how it goes on."""
    space = await _home(kernel, caller, "read")
    version = kernel.training.find(space, call.job)
    if call.follow:
        async with aclosing(kernel.training.follow(version)) as progress:
            async for each in progress:
                await emit(each)
    return kernel.training.info(kernel.training.find(space, call.job))


@handles(lora.Cancel, waits=True)
async def cancel(kernel: Kernel, caller: Process, call: lora.Cancel) -> lora.JobInfo:
    """End a job."""
    space = await _home(kernel, caller, "write")
    version = await kernel.training.cancel(space, caller.apid, call.job)
    return kernel.training.info(version)


@handles(lora.Rollback)
async def rollback(kernel: Kernel, caller: Process, call: lora.Rollback) -> lora.Rolled:
    """An earlier version, if it still stands."""
    space = await _home(kernel, caller, "write")
    live = await kernel.adapters.rollback(space, reference(call.adapter), call.version)
    kernel.log("info", "lora", f"{live.identity} is live in space {space} again")
    return lora.Rolled(name=live.name, version=live.number, identity=live.identity)


@handles(lora.Probe, waits=True)
async def probe(kernel: Kernel, caller: Process, call: lora.Probe, emit: Emit) -> lora.Probes:
    """What it still knows."""
    from kernel.parametric.probing import probe as probed

    space = await _home(kernel, caller, "write" if call.record else "read")
    monitor.allow_space(kernel, caller, space, "mem.read", "read")
    version = await kernel.adapters.usable(space, reference(call.adapter))
    return await probed(kernel, caller, version, call, emit)
