"""The reference monitor: who may do what to which object.

The trap has checked that the caller holds the call's capability for *some* object; here the
object is known. Every check is a few set look-ups. What is a caller's own needs the plain
capability (``mem.read``); anything else needs a grant that names it (``mem.read:space/42``),
or, for a space, that its owner shared it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syscalls.errors import EPERM
from ums.rid import space_of

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.shapes import Access


def is_own(kernel: Kernel, caller: Process, apid: int) -> bool:
    """Whether ``apid`` is the caller or one of its descendants."""
    return apid == caller.apid or kernel.processes.is_descendant(apid, caller.apid)


def target(kernel: Kernel, caller: Process, ref: int | str | None, capability: str) -> Process:
    """The process that ``ref`` names, if the caller may act on it. Raises ESRCH, EPERM.

    None is the caller itself. The plain capability covers the caller and its descendants.
    """
    if ref is None:
        return caller
    process = kernel.processes.find(ref)
    if caller.caps.own(capability) and is_own(kernel, caller, process.apid):
        return process
    names = [f"proc/{process.apid}"]
    if is_own(kernel, caller, process.apid) and process is not caller:
        names.append("child")
    if process.session == caller.session:
        names.append("session")
    if caller.caps.on(capability, *names):
        return process
    raise EPERM(
        f"apid {caller.apid} may not use {capability} on apid {process.apid}",
        capability=capability,
        object=f"proc/{process.apid}",
    )


def allow_nice(caller: Process, nice: int) -> None:
    """Refuse a claim on LLM time above the caller's own, without a grant. Raises EPERM."""
    if nice < caller.nice and not caller.caps.on("proc.nice"):
        raise EPERM(
            f"nice {nice} is a larger claim than the caller's own {caller.nice}",
            capability="proc.nice",
        )


async def space(
    kernel: Kernel, caller: Process, ref: int | str | None, capability: str, access: Access
) -> int:
    """The space that ``ref`` names (None: the caller's own), if the caller may use it so.

    Raises ENOENT, EPERM.
    """
    if ref is None:
        number = caller.space or await kernel.own_space(caller)
    else:
        number = kernel.memory.resolve(ref)
    allow_space(kernel, caller, number, capability, access)
    return number


async def record_space(
    kernel: Kernel, caller: Process, rid: str, capability: str, access: Access
) -> int:
    """The space that a record is in, if the caller may use it so. Raises EINVAL, EPERM."""
    number = space_of(rid)
    allow_space(kernel, caller, number, capability, access)
    return number


def allow_space(
    kernel: Kernel, caller: Process, number: int, capability: str, access: Access
) -> None:
    """Check one space. Raises EPERM."""
    if number == caller.space and caller.caps.own(capability):
        return
    if caller.caps.on(capability, f"space/{number}"):
        return
    shared = kernel.memory.access(caller.apid, number)
    if shared is not None and (access == "read" or shared == "write"):
        return
    raise EPERM(
        f"apid {caller.apid} may not {access} space {number}",
        capability=capability,
        object=f"space/{number}",
        shared=shared,
    )


async def visible(kernel: Kernel, caller: Process, ref: int | str | None) -> list[int]:
    """The spaces a search covers: the one asked for, or the own one and all shared ones."""
    if ref is not None:
        return [await space(kernel, caller, ref, "mem.read", "read")]
    own = await space(kernel, caller, None, "mem.read", "read")
    shared = kernel.memory.shared_with(caller.apid)
    return [own, *(number for number in shared if number != own)]


async def owned_space(kernel: Kernel, caller: Process, ref: int | str | None) -> int:
    """A space whose grants the caller may change: its own, or by a grant that names it."""
    if ref is None:
        number = caller.space or await kernel.own_space(caller)
    else:
        number = kernel.memory.resolve(ref)
    if number == caller.space and caller.caps.own("mem.share"):
        return number
    if caller.caps.on("mem.share", f"space/{number}"):
        return number
    raise EPERM(
        f"apid {caller.apid} does not own space {number}",
        capability="mem.share",
        object=f"space/{number}",
    )


async def adopt_space(kernel: Kernel, caller: Process, ref: int | str) -> int:
    """A space that the caller may give to a process as its own: one it may write, or a new name.

    Raises ENOENT for an unknown number, EPERM.
    """
    known = kernel.memory.known(ref)
    if known is None and isinstance(ref, str):
        return await kernel.memory.create_space(caller.apid, ref)
    number = kernel.memory.resolve(ref)
    allow_space(kernel, caller, number, "mem.write", "write")
    allow_space(kernel, caller, number, "mem.read", "read")
    return number
