"""``mem.export``, ``mem.import``, originals: what leaves a space as bytes, and comes as bytes.

The kernel opens no file for anybody: bytes travel over the call, and the program that reads or
writes a file does so with its own rights.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from kernel import monitor
from kernel.trap import Emit, handles
from syscalls.calls import capsule

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process


@handles(capsule.Export, waits=True)
async def export(
    kernel: Kernel, caller: Process, call: capsule.Export, emit: Emit
) -> capsule.Exported:
    """What the caller may read, as a capsule."""
    held = await monitor.some(kernel, caller, call.space, "mem.read", "read")
    allows = kernel.memory.newer(held.space, held.allows) if call.new else held.allows
    export = await kernel.memory.capsules.export(held.space, call.redact, allows)
    await held.noted(kernel, "mem.export")
    async with aclosing(export.pieces(call.at, call.digest)) as pieces:
        async for piece in pieces:
            await emit(piece)
    done = export.reply()
    kernel.log(
        "info", "audit", f"apid {caller.apid} exported {done.records} records of {held.space}"
    )
    return done


@handles(capsule.Import, waits=True)
async def import_(kernel: Kernel, caller: Process, call: capsule.Import) -> capsule.Imported:
    """A capsule that was uploaded."""
    space = await monitor.space(kernel, caller, call.space, "mem.write", "write")
    quota = kernel.accounts.limit(caller, "records")
    done: capsule.Imported = await kernel.memory.capsules.take(space, caller.apid, call, quota)
    kernel.log("info", "audit", f"apid {caller.apid} imported {done.records} records into {space}")
    return done


@handles(capsule.Upload, waits=True)
async def upload(kernel: Kernel, caller: Process, call: capsule.Upload) -> capsule.Uploaded:
    """A piece of an original."""
    space = await monitor.space(kernel, caller, call.space, "mem.write", "write")
    at, done = await kernel.memory.blobs.upload(space, call.hash, call.size, call.at, call.data)
    return capsule.Uploaded(at=at, done=done)


@handles(capsule.Download)
async def download(kernel: Kernel, caller: Process, call: capsule.Download) -> capsule.Downloaded:
    """A piece of what a record names."""
    held = monitor.record(kernel, caller, call.rid, call.space, "mem.read", "read")
    piece = kernel.memory.capsules.download(held.space, call.rid, call.at, held.guard)
    if not call.at:
        await held.noted(kernel, "mem.download", [call.rid])
    return piece
