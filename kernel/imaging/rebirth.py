"""One process that begins from an image: what it gets of it, and what it cannot have again.

Rights and limits are no more than the restorer's. Numbers of processes and spaces mean something
on the system that wrote the image only: elsewhere no grant that names one is given again, and
messages come without their senders' numbers. Nothing of an image is believed that only the
kernel that wrote it could vouch for: keys and values get the mark of the new space.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kernel import monitor
from kernel.accounting import quotas
from kernel.generation import salt_of
from kernel.imaging.album import blocks
from procs.image import decode, frames
from procs.process import Worn
from syscalls.errors import EINVAL, EngramError
from ums.adapters import reference
from ums.prefixes import Prefix, Source
from ums.rid import pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from kernel.kernel import Kernel
    from procs.image import Attached, Image, Wears
    from procs.process import Process
    from syscalls.shapes import Message, Quota

_NUMBERED = re.compile(r".*:[a-z]+/[0-9]+")


class Opened(NamedTuple):
    """An image that was checked, and the file that it is read from."""

    image: Image
    file: BinaryIO
    here: bool
    """Whether this system wrote it."""

    def messages(self) -> Iterator[Message]:
        """The messages that waited; from elsewhere without their senders' numbers."""
        for frame in frames(blocks(self.file)):
            if frame.kind == "M":
                message: Message = decode(frame)
                yield message if self.here else msgspec.structs.replace(message, sender=0)
            elif frame.kind in "PWSE":
                return

    def capsule(self) -> Iterator[bytes]:
        """The bytes of the space."""
        return (frame.payload for frame in frames(blocks(self.file)) if frame.kind == "S")


class Rebirth:
    """What is done with a new process before its program begins."""

    def __init__(self, kernel: Kernel, caller: Process, opened: Opened) -> None:
        self._kernel = kernel
        self._caller = caller
        self._opened = opened
        self._image = opened.image
        self._child: Process | None = None
        self.missing = list(opened.image.header.missing)
        self.records = self.messages = 0

    def rights(self) -> list[str]:
        """The grants of the image that the restorer holds."""
        held = self._caller.caps
        kept = []
        for grant in self._image.header.caps:
            try:
                given = held.covers(grant) and (self._opened.here or not _NUMBERED.match(grant))
            except EINVAL:  # of another version
                given = False
            if given:
                kept.append(grant)
            else:
                self.missing.append(f"the grant {grant}")
        return kept

    def limits(self) -> Quota:
        """The limits of the image, no more than the restorer's."""
        wanted = self._image.header.quota
        if self._caller.kind in ("init", "session"):
            return wanted
        return quotas.lower(wanted, self._caller.quota)

    def born(self, child: Process) -> None:
        """The process has its number, and nothing else yet."""
        self._child = child
        child.declared = self._image.state
        self._kernel.conversations.put(child.apid, self._image.context)
        self._kernel.mailboxes.begin(child.apid, self._image.end.last)

    async def make(self, space: int, child: Process) -> int:
        """Give it its space (0: a new one), mailbox and attachments; the space's number."""
        kernel = self._kernel
        lends = bool(space)
        child.space = space or await kernel.memory.create_space(child.apid)
        if self._image.end.bytes:
            done = await kernel.memory.capsules.pour(
                child.space, child.apid, self._opened.capsule, child.quota.records
            )
            self.records = done.records
        if lends:
            await monitor.lend(kernel, self._caller, child)
        # On disk as alive first: a kernel that dies now clears the mailbox at its next start.
        await kernel.save(child)
        self.messages = await kernel.mailboxes.fill(child.apid, self._opened.messages())
        if self._image.prefix is not None:
            await self._attach(child, self._image.prefix)
        for one in self._image.adapters:
            await self._wear(child, one)
        return child.space

    async def undo(self) -> None:
        """It could not be started: nothing is left of it but, where there is one, its space."""
        if self._child is not None:
            apid = self._child.apid
            self._kernel.conversations.drop(apid)
            if "pins" in self._kernel.__dict__:
                self._kernel.pins.attached.drop(apid)
            await self._kernel.mailboxes.drop(apid)

    async def _attach(self, child: Process, held: Attached) -> None:
        """Pin its prefix anew; it is computed when there is an engine for it."""
        kernel, home = self._kernel, self._kernel.memory.view(child.space)
        renamed = partial(kernel.memory.capsules.renamed, child.space)
        sources = []
        for rid, space in held.rids:
            ours = renamed(rid)
            if space != self._image.header.space or not home.sees(pack(ours)):
                self.missing.append(f"the prefix {held.handle}: record {rid} is not there")
                return
            sources.append(Source(ours, child.space))
        now = kernel.clock.now()
        new = Prefix(held.handle, child.space, salt_of(child), now, by=child.apid)
        new.messages, new.rids = held.messages, sources
        try:
            new.sources = kernel.pins.table.lineage(sources)
            kernel.pins.attached.put(child, child, await kernel.pins.table.add(new))
        except EngramError as error:
            self.missing.append(f"the prefix {held.handle}: {error.message}")
            return
        kernel.pins.keeping.nudge()

    async def _wear(self, child: Process, wears: Wears) -> None:
        """Have it use its adapter, if that is known here and may be given."""
        kernel, caller = self._kernel, self._caller
        named = f"the adapter {wears.ref}"
        may = monitor.owns(kernel, caller, wears.space) or caller.caps.on(
            "lora.attach", f"space/{wears.space}"
        )
        if not self._opened.here or not may:
            self.missing.append(f"{named}: it is another's" if not may else f"{named}: not here")
            return
        try:
            version = await kernel.adapters.usable(wears.space, reference(wears.ref))
        except EngramError as error:
            self.missing.append(f"{named}: {error.message}")
            return
        if version.digest != wears.digest:
            self.missing.append(f"{named}: it is another one now, {version.identity}")
            return
        child.adapters[version.base] = Worn(wears.space, wears.ref)
