"""The reference monitor: who may do what to which object.

The trap has checked that the caller holds the call's capability for *some* object; here the
object is known. Every check is a few set look-ups. What is a caller's own needs the plain
capability (``mem.read``); anything else needs a grant that names it (``mem.read:space/42``),
or, for a space, that its owner shared it.

A share may be for a part of a space only. ``space`` and ``record_space`` ask for a right to
the whole of it, so that a call that knows nothing of parts never gives one away; ``some`` and
``record`` answer with a ``Right``, which says what it is for. What is answered with from a
space that is not the caller's own goes into that space's audit first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from syscalls.errors import ENOENT, EPERM
from syscalls.records import AuditLine
from ums.records import NOTHING
from ums.sharing import EVERYTHING, Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel.kernel import Kernel
    from procs.process import Process
    from syscalls.records import Filter
    from syscalls.shapes import Access
    from ums.records import Stored
    from ums.view import Allows, Guard


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


def allow_tool(caller: Process, name: str, capability: str) -> None:
    """Check one tool: to offer it is to offer it to all who may call tools. Raises EPERM."""
    if not caller.caps.own(capability) and not caller.caps.on(capability, f"tool/{name}"):
        raise EPERM(
            f"apid {caller.apid} may not use {capability} on the tool {name}",
            capability=capability,
            object=f"tool/{name}",
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
    """The space that a caller uses a record in, if it may use all of it so.

    That is its own, where the record is in one of its layers; else the record's home.
    Raises EINVAL, EPERM.
    """
    number = _places(kernel, caller, rid)[0]
    allow_space(kernel, caller, number, capability, access)
    return number


class Right(NamedTuple):
    """What a caller may do with the records of one space."""

    space: int
    own: bool
    scope: Scope | None
    """What it is for; None for the whole space."""
    access: Access
    apid: int

    @property
    def allows(self) -> Allows | None:
        """Whether it is for a record; None where it is for all of them."""
        scope = self.scope
        if scope is None:
            return None
        return lambda rid, stored: scope.covers(rid, stored, self.access)

    @property
    def guard(self) -> Guard | None:
        """As ``allows``, but raising EPERM, for what is not there too: nothing can be probed."""
        allows = self.allows
        if allows is None:
            return None

        def check(rid: str, stored: Stored) -> None:
            if not allows(rid, stored):
                raise EPERM(
                    f"apid {self.apid} may not {self.access} the record {rid}".rstrip(),
                    object=f"space/{self.space}",
                )

        return check

    async def noted(
        self, kernel: Kernel, call: str, rids: Sequence[str] = (), query: str = ""
    ) -> None:
        """Put what is about to be answered with into the audit, if the space is another's."""
        if not self.own:
            line = AuditLine(self.space, self.apid, call, rids=list(rids), query=query)
            await kernel.memory.audit.note(line)


def owns(kernel: Kernel, caller: Process, number: int) -> bool:
    """Whether a space is the caller's: the one it works in, or a snapshot of that.

    Not where it works in a space only by a share, which can be taken back.
    """
    if number == caller.space:
        return not kernel.memory.sharing.lent(caller.apid, number)
    if not caller.space or kernel.memory.known(number) is None:
        return False
    header = kernel.memory.view(number).header
    return header.sealed and owns(kernel, caller, header.origin)


def right(kernel: Kernel, caller: Process, number: int, capability: str, access: Access) -> Right:
    """What the caller may do with the records of a space. Raises EPERM for nothing."""
    own = owns(kernel, caller, number)
    if (own and caller.caps.own(capability)) or caller.caps.on(capability, f"space/{number}"):
        return Right(number, own, None, access, caller.apid)
    scope = kernel.memory.sharing.scope(caller.apid, number)
    if not scope.may(access):
        _refuse(kernel, caller, number, capability, access)
    whole = access in ("read", scope.access()) and scope.access() is not None
    return Right(number, False, None if whole else scope, access, caller.apid)


async def some(
    kernel: Kernel, caller: Process, ref: int | str | None, capability: str, access: Access
) -> Right:
    """As ``space``, but a right to a part of it will do. Raises ENOENT, EPERM."""
    if ref is None:
        number = caller.space or await kernel.own_space(caller)
    else:
        number = kernel.memory.resolve(ref)
    return right(kernel, caller, number, capability, access)


def record(
    kernel: Kernel,
    caller: Process,
    rid: str,
    ref: int | str | None,
    capability: str,
    access: Access,
) -> Right:
    """The right by which the caller may use one record, through the space ``ref``.

    Without one it is looked for where it would be expected: in the caller's own space, at the
    record's home, in what is shared with the caller. Raises ENOENT, EINVAL, EPERM.
    """
    memory = kernel.memory
    numbers = _places(kernel, caller, rid) if ref is None else [memory.resolve(ref)]
    refused: EPERM | None = None
    for number in numbers:
        try:
            found = right(kernel, caller, number, capability, access)
            if found.guard is not None:
                found.guard(rid, _current(kernel, number, rid))
            return found
        except EPERM as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _places(kernel: Kernel, caller: Process, rid: str) -> list[int]:
    """The spaces in which a caller may mean a record, the likeliest first."""
    memory = kernel.memory
    found = [memory.space_of(rid)]
    if caller.space and memory.holds(caller.space, rid):
        found.insert(0, caller.space)
    shared = memory.sharing.shared_with(caller.apid)
    return list(dict.fromkeys([*found, *(one for one in shared if memory.holds(one, rid))]))


def _current(kernel: Kernel, number: int, rid: str) -> Stored:
    """A record as a space has it, or nothing."""
    try:
        return kernel.memory.view(number).stored(rid)[1]
    except ENOENT:
        return NOTHING


def allow_space(
    kernel: Kernel, caller: Process, number: int, capability: str, access: Access
) -> None:
    """Check one space, the whole of it. Raises EPERM."""
    if right(kernel, caller, number, capability, access).scope is not None:
        _refuse(kernel, caller, number, capability, access)


def _refuse(
    kernel: Kernel, caller: Process, number: int, capability: str, access: Access
) -> NoReturn:
    raise EPERM(
        f"apid {caller.apid} may not {access} space {number}",
        capability=capability,
        object=f"space/{number}",
        shared=kernel.memory.access(caller.apid, number),
    )


async def visible(kernel: Kernel, caller: Process, ref: int | str | None) -> list[int | Scope]:
    """What a search covers: the space asked for, or the own one and all that is shared.

    To be handed to ``Memory.search`` as it is: it keeps to the scopes, and notes what it
    answers with from them.
    """
    first = await some(kernel, caller, ref, "mem.read", "read")
    found: list[int | Scope] = [_searched(first)]
    if ref is None:
        for number in kernel.memory.shared_with(caller.apid):
            if number != first.space:
                found.append(kernel.memory.sharing.scope(caller.apid, number))
    return found


def _searched(held: Right) -> int | Scope:
    if held.own:
        return held.space
    return held.scope or Scope(held.space, (EVERYTHING,), held.apid)


async def owned_space(
    kernel: Kernel, caller: Process, ref: int | str | None, capability: str = "mem.share"
) -> int:
    """A space that the caller disposes of: its own, or by a grant that names it.

    Raises ENOENT, EPERM.
    """
    if ref is None:
        number = caller.space or await kernel.own_space(caller)
    else:
        number = kernel.memory.resolve(ref)
    if disposes(kernel, caller, number, capability):
        return number
    raise EPERM(
        f"apid {caller.apid} does not own space {number}",
        capability=capability,
        object=f"space/{number}",
    )


def disposes(kernel: Kernel, caller: Process, number: int, capability: str) -> bool:
    """Whether the caller may dispose of a space as its owner may."""
    if owns(kernel, caller, number) and caller.caps.own(capability):
        return True
    return caller.caps.on(capability, f"space/{number}")


def passed_on(
    kernel: Kernel, caller: Process, number: int, access: Access, only: str | Filter | None
) -> int:
    """The grant that a share by the caller hangs on; 0 where it disposes of the space.

    Raises EPERM where it may not give so much.
    """
    if disposes(kernel, caller, number, "mem.share"):
        return 0
    stored = _current(kernel, number, only) if isinstance(only, str) else NOTHING
    grant = kernel.memory.sharing.passable(caller.apid, number, access, only, stored)
    if not grant:
        raise EPERM(
            f"apid {caller.apid} may not share so much of space {number}",
            capability="mem.share",
            object=f"space/{number}",
        )
    return grant


def borrow(kernel: Kernel, caller: Process, number: int, *, by: Process | None = None) -> bool:
    """Note that a process is to work in a space that it, or ``by``, has only by a share.

    Such a space is not its own: it can be taken back. Whether it is so.
    """
    giver = by or caller
    made = kernel.memory.view(number).header.owner == giver.apid
    if made or disposes(kernel, giver, number, "mem.write"):
        return False
    kernel.memory.sharing.lend(caller.apid, number)
    return True


async def lend(kernel: Kernel, lender: Process, borrower: Process) -> None:
    """A process is given a space to work in; a giver who has it by a share gives a share."""
    number, sharing = borrower.space, kernel.memory.sharing
    if borrow(kernel, borrower, number, by=lender):
        parent = sharing.passable(lender.apid, number, "write")
        await sharing.share(number, borrower.apid, "write", lender.apid, parent=parent)


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
