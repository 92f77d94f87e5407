"""Checkpoint and restore: what the kernel keeps of a process, as a file and back.

    checkpoint   store.freeze(), context, state ── one moment, nothing waits ──> file.part
                 fsync ──> rename: whoever looks sees the old image or the new one, both whole

    restore      read all, check all ──> rights narrowed to the restorer's ──> number, space,
                 mailbox, attachments ──> the program begins anew

What is in the store is read as it was when it was frozen, so the process computes, and is sent
to, while its image is written. An image is a copy of memory: the album's are removed when what
their space held is forgotten (the setting ``forgotten_images``).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from kernel import monitor
from kernel.imaging.album import Album, inspect, open_image, refuse_other, write
from kernel.imaging.keepsakes import Keepsakes, KeepsakesStatistics
from kernel.imaging.rebirth import Opened, Rebirth
from kernel.nurse import Incarnation
from procs.image import Attached, Header, Wears, Writer
from procs.process import Worn
from syscalls.calls import proc
from syscalls.errors import EAGAIN, EBUSY, EDQUOT, EEXIST, EINVAL, EPERM, ESRCH, EngramError
from ums.adapters import reference

if TYPE_CHECKING:
    from typing import BinaryIO

    from drivers.contracts import Frozen
    from kernel.kernel import Kernel
    from procs.process import Process

VERSION = "0.1.0"
TRIES = 5
"""How often a checkpoint begins again when the store has grown meanwhile."""
AT_ONCE = 2
OWN = 8
"""Images in the album that one process without the grant may have written."""
CHUNK = 1 << 20
"""Bytes that go to the disk at once."""
GONE = frozenset({"forget", "delete"})
"""What reaches the images; what expires says so in the image itself."""


class ImagesStatistics(msgspec.Struct, frozen=True):
    """Figures of images since the start."""

    written: int
    bytes: int
    restored: int
    removed: int
    """Because of what they held was forgotten."""
    policy: KeepsakesStatistics
    """Of those that were written by policy."""


class Images:
    """Writes images of processes, and starts processes from them."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.album = Album(Path(kernel.settings.data))
        self.keepsakes = Keepsakes(kernel, self)
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._busy: set[Path] = set()
        self._spaces: set[int] | None = None
        """Spaces that the album may hold images of; None before it was looked at."""
        self._written = self._bytes = self._restored = self._removed = 0

    # --- checkpoint

    async def checkpoint(
        self, caller: Process, process: Process, path: str = ""
    ) -> proc.Checkpointed:
        """Serve ``proc.checkpoint``; see there for what it raises."""
        if not process.restorable:
            raise EINVAL(f"{process.kind} {process.apid} runs no program that could be restored")
        place, inside = self.album.place(path or str(process.apid))
        if place in self._busy:
            raise EBUSY(f"{place.name} is being written")
        self._busy.add(place)
        try:
            async with self._limiter:
                await self._allow_writing(caller, place, inside=inside)
                done = await self._tried(caller, process, place)
        finally:
            self._busy.discard(place)
        done.path = place.name.removesuffix(".image") if inside else str(place)
        self._written += 1
        self._bytes += done.bytes
        who = f"apid {caller.apid}"
        self._kernel.log("info", "audit", f"{who} wrote an image of {process.apid}: {place}")
        return done

    async def _allow_writing(self, caller: Process, place: Path, *, inside: bool) -> None:
        if caller.caps.on("proc.checkpoint"):
            if not inside:
                await self._kernel.machine.offload(partial(refuse_other, place))
            return
        if not inside:
            raise EPERM(
                "an image goes to the data directory, by its bare name",
                capability="proc.checkpoint",
                object="*",
            )
        there = await self._kernel.machine.offload(self.album.headers)
        if place in there and there[place].by == caller.apid:
            return
        if await self._kernel.machine.offload(place.exists):
            raise EEXIST(f"{place.name} is another's", hint="choose another name")
        own = sum(header.by == caller.apid for header in there.values())
        if own >= OWN:
            raise EDQUOT(
                f"apid {caller.apid} has {own} images",
                hint="write over one of them",
                quota="images",
                limit=OWN,
                used=own,
            )

    async def _tried(self, caller: Process, process: Process, place: Path) -> proc.Checkpointed:
        machine = await self._kernel.memory.capsules.machine()
        for _ in range(TRIES):
            if not process.alive:
                raise ESRCH(f"process {process.apid} has ended")
            frozen = self._kernel.machine.store.freeze()
            try:
                return await self._write(caller, process, place, frozen, machine)
            except EAGAIN as error:
                last = error
            finally:
                frozen.close()
        raise last

    async def _write(
        self, caller: Process, process: Process, place: Path, frozen: Frozen, machine: str
    ) -> proc.Checkpointed:
        # What is in memory is taken here, before anything waits: it is of the store's moment.
        kernel, writer = self._kernel, Writer()
        header = self._header(caller, process, machine)
        turns, state = kernel.conversations.of(process.apid), process.declared
        last, messages = kernel.mailboxes.held(process.apid, frozen)
        prefix = kernel.pins.attached.of(process) if "pins" in kernel.__dict__ else None
        worn = self._worn(process)
        export = None
        if header.space:
            export = kernel.memory.capsules.export_at(header.space, frozen, machine)
            header.space_name = export.header.name

        if self._spaces is not None:
            self._spaces.add(header.space)
        out = Output(kernel, self.album, place)
        try:
            await out.open()
            await out.add(writer.begin(header))
            for turn in turns:
                await out.add(writer.turn(turn))
            if state is not None:
                await out.add(writer.state(state))
            for message in messages:
                await out.add(writer.message(message))
            if prefix is not None:
                rids = [(one.rid, one.space) for one in prefix.rids]
                held = Attached(prefix.handle, prefix.messages, rids, prefix.adapter)
                await out.add(writer.attached(held))
            for adapter in worn:
                await out.add(writer.wears(adapter))
            records, seal = 0, ""
            if export is not None:
                async for piece in export.pieces():
                    for part in writer.space(piece.data):
                        await out.add(part)
                done = export.reply()
                records, seal = done.records, done.seal
            await out.add(writer.finish(last=last, records=records, seal=seal))
            await out.settle()
        finally:
            await out.aclose()
        return proc.Checkpointed(
            path="",
            bytes=out.size,
            records=records,
            messages=writer.end.messages,
            seal=writer.seal,
            missing=header.missing,
        )

    def _header(self, caller: Process, process: Process, machine: str) -> Header:
        kernel, missing, space = self._kernel, list[str](), process.space
        if space and kernel.memory.sharing.lent(process.apid, space):
            missing.append(f"space {space}: it was had by a share")
            space = 0
        elif space:
            below = kernel.memory.view(space).header.attached
            missing += [f"space {one.space}, attached to its own" for one in below]
        return Header(
            machine=machine,
            version=VERSION,
            moment=kernel.clock.now(),
            apid=process.apid,
            name=process.name,
            program=process.program,
            caps=sorted(process.caps.grants),
            quota=process.quota,
            args=process.args,
            goal=process.goal,
            cwd=process.cwd,
            env=process.env,
            nice=process.nice,
            created=process.created,
            parent=process.parent,
            by=caller.apid,
            space=space,
            missing=missing,
        )

    def _worn(self, process: Process) -> list[Wears]:
        kernel = self._kernel
        if not kernel.trained:
            return []
        versions = kernel.adapters.versions
        everyone = versions.worn(process.space) if process.space else {}
        held = {base: Worn(process.space, ref) for base, ref in everyone.items()}
        found = []
        for base, one in {**held, **process.adapters}.items():
            try:
                version = versions.find(one.space, reference(one.ref))
            except EngramError:
                continue  # it is gone: the process goes without too
            found.append(Wears(base, one.space, one.ref, version.identity, version.digest))
        return found

    # --- restore

    async def restore(self, caller: Process, call: proc.Restore) -> proc.Restored:
        """Serve ``proc.restore``; see there for what it raises."""
        offload = self._kernel.machine.offload
        place, inside = self.album.place(call.path)
        granted = caller.caps.on("proc.restore")
        if not granted and (not inside or call.apid == "same"):
            raise EPERM(
                "a process of one's own is restored from the album, under a new number",
                capability="proc.restore",
                object="*",
            )
        file = await offload(partial(open_image, place))
        try:
            image = await offload(partial(inspect, file))
            header = image.header
            here = header.machine == await self._kernel.memory.capsules.machine()
            kin = caller.apid in (header.apid, header.parent, header.by)
            if not granted and not (here and kin):
                raise EPERM(f"{call.path} is another's image", object=f"proc/{header.apid}")
            return await self._start(caller, call, Opened(image, file, here))
        finally:
            file.close()

    async def _start(self, caller: Process, call: proc.Restore, opened: Opened) -> proc.Restored:
        kernel, header = self._kernel, opened.image.header
        again = Rebirth(kernel, caller, opened)
        number = header.apid if call.apid == "same" else 0
        if number:
            await kernel.nurse.settled(number)
            await kernel.processes.claim(number, known=opened.here)
        space = 0
        if call.space is not None:
            space = await monitor.adopt_space(kernel, caller, call.space)
        spawn = proc.Spawn(
            program=header.program,
            name=call.name or header.name,
            goal=header.goal,
            args=header.args,
            caps=again.rights(),
            quota=again.limits(),
            nice=max(header.nice, caller.nice),
            cwd=header.cwd,
            env=header.env,
        )
        born = Incarnation(again.born, make=partial(again.make, space), apid=number)
        try:
            apid = await kernel.nurse.spawn(caller, spawn, born)
        except BaseException:
            with trio.CancelScope(shield=True):
                await again.undo()
            raise
        self._restored += 1
        kernel.log("info", "audit", f"apid {caller.apid} restored {header.apid} as {apid}")
        return proc.Restored(
            apid=apid, records=again.records, messages=again.messages, missing=again.missing
        )

    # --- what is forgotten

    async def gone(self, space: int, event: str) -> None:
        """Records of a space have gone: remove the album's images of it."""
        if event not in GONE or self._kernel.settings.forgotten_images == "keep":
            return
        offload = self._kernel.machine.offload
        if self._spaces is None:
            headers = (await offload(self.album.headers)).values()
            self._spaces = {header.space for header in headers}
        if space not in self._spaces:
            return
        self._spaces.discard(space)
        machine = await self._kernel.memory.capsules.machine()
        for place, header in (await offload(self.album.headers)).items():
            if header.machine == machine and header.space == space:
                await offload(partial(place.unlink, missing_ok=True))
                self._removed += 1
                why = f"what its space {space} held is forgotten"
                self._kernel.log("info", "audit", f"the image {place.name} is removed: {why}")

    def statistics(self) -> ImagesStatistics:
        """Figures for ``sys.stats``."""
        policy = self.keepsakes.statistics()
        return ImagesStatistics(self._written, self._bytes, self._restored, self._removed, policy)


class Output:
    """An image on its way to the disk; in its place only when it is whole."""

    def __init__(self, kernel: Kernel, album: Album, place: Path) -> None:
        self._offload = kernel.machine.offload
        self._album, self._place = album, place
        self._file: BinaryIO | None = None
        self._waiting = bytearray()
        self._settled = False
        self.size = 0

    async def open(self) -> None:
        """Begin. Raises EIO."""
        self._file = await self._offload(partial(self._album.open_part, self._place))

    async def add(self, data: bytes) -> None:
        """Add bytes. Raises EIO."""
        self._waiting += data
        self.size += len(data)
        if len(self._waiting) >= CHUNK:
            await self._flush()

    async def _flush(self) -> None:
        assert self._file is not None
        data, self._waiting = bytes(self._waiting), bytearray()
        await self._offload(partial(write, self._place, self._file, data))

    async def settle(self) -> None:
        """It is whole. Raises EIO."""
        assert self._file is not None
        await self._flush()
        await self._offload(partial(self._album.settle, self._place, self._file))
        self._settled = True

    async def aclose(self) -> None:
        """Remove what is not whole."""
        if self._file is not None and not self._settled:
            with trio.CancelScope(shield=True):
                await self._offload(partial(self._album.discard, self._place, self._file))
