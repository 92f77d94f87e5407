"""Pins that outlive the adapter under which they were computed.

    version dropped, stale ──> its pins are stale: detached from everybody, their blocks erased
    version rolled back    ──> likewise, unless somebody has just that version attached

Such a pin has words, which are its maker's, and state, which is of use under that version only
and rests on what the version was trained on. So the row stays, to be cooled or pinned anew, and
the state goes. Whose version it was is told by its folder: two spaces may have equal ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel.activation.keeping import adapter_folder, released

if TYPE_CHECKING:
    from kernel.activation.prefixes import Pins
    from kernel.kernel import Kernel
    from ums.adapters import Version
    from ums.prefixes import Prefix


async def review(kernel: Kernel, pins: Pins) -> None:
    """Let go of what was computed under versions that can never be used again.

    By the tables alone, so it makes good what a crash has left. Raises EIO, EAGAIN.
    """
    under = [row for row in pins.table.all() if row.adapter and not row.stale]
    if under:
        usable = {one.folder for one in kernel.adapters.versions.all() if one.usable}
        for row in under:
            if adapter_folder(row) not in usable:
                await _outlived(pins, row, f"its adapter {row.adapter} is not used any more")


async def renounce(pins: Pins, version: Version) -> None:
    """Let go of what was computed under a version that was rolled back. Raises EIO, EAGAIN."""
    for row in pins.table.all():
        if row.adapter and adapter_folder(row) == version.folder and not row.stale:
            await _outlived(pins, row, f"its adapter {row.adapter} was rolled back")


async def _outlived(pins: Pins, row: Prefix, why: str) -> None:
    def change(row: Prefix) -> Prefix:
        return msgspec.structs.replace(row, stale=why, kept=[], pending=0.0, due=False)

    await pins.table.edit(row, change, released)
    for apid in pins.attached.to(row.place):
        pins.attached.drop(apid)
    pins.keeping.nudge()
