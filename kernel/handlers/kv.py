"""``kv.*``: activation memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel.trap import handles
from syscalls.calls import kv
from syscalls.table import Empty

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process


@handles(kv.Pin, waits=True)
async def pin(kernel: Kernel, caller: Process, call: kv.Pin) -> kv.Handle:
    """Compute and keep."""
    return await kernel.pins.pin(caller, call)


@handles(kv.Attach)
async def attach(kernel: Kernel, caller: Process, call: kv.Attach) -> Empty:
    """Put before what is asked from now on."""
    await kernel.pins.attach(caller, call)
    return Empty()


@handles(kv.Detach)
async def detach(kernel: Kernel, caller: Process, call: kv.Detach) -> Empty:
    """And no more."""
    await kernel.pins.detach(caller, call)
    return Empty()


@handles(kv.Drop, waits=True)
async def drop(kernel: Kernel, caller: Process, call: kv.Drop) -> Empty:
    """Erase."""
    await kernel.pins.drop(caller, call)
    return Empty()


@handles(kv.ListCall, waits=True)
async def list_(kernel: Kernel, caller: Process, _call: kv.ListCall) -> kv.Listed:
    """Those of the caller's space."""
    return await kernel.pins.list(caller)


@handles(kv.Cool, waits=True)
async def cool(kernel: Kernel, caller: Process, call: kv.Cool) -> kv.Cooled:
    """Back to text."""
    return await kernel.pins.cool(caller, call)
