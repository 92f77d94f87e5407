"""``sys.ls`` and ``sys.cat``: the tree that ``/proc`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel.trap import handles
from syscalls.calls import tree

if TYPE_CHECKING:
    from kernel.kernel import Kernel
    from procs.process import Process


@handles(tree.Ls)
async def ls(kernel: Kernel, caller: Process, call: tree.Ls) -> tree.Listing:
    """The names in a folder."""
    from kernel.tree import listing

    return tree.Listing(entries=await listing(kernel, caller, call.path))


@handles(tree.Cat)
async def cat(kernel: Kernel, caller: Process, call: tree.Cat) -> tree.Shown:
    """What a file says."""
    from kernel.tree import read

    return tree.Shown(path=call.path, value=await read(kernel, caller, call.path))
