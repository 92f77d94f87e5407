"""The face of capsules and originals: what the kernel's handlers call."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from drivers.contracts import Batch
from syscalls.calls.capsule import Downloaded
from syscalls.capsule import Header
from syscalls.errors import EIO, ENOENT
from ums.blobs import Blobs, named
from ums.capsule.adopt import Marks
from ums.capsule.inbound import Intake, Pouring
from ums.capsule.outbound import Export
from ums.capsule.redact import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    from drivers.contracts import Clock, Frozen, Store
    from syscalls.calls import capsule
    from ums.spaces import Spaces
    from ums.view import Allows, Guard, View

MACHINE = b"ums/machine"


class Capsules:
    """Exports, imports and originals of all spaces."""

    def __init__(
        self,
        store: Store,
        spaces: Spaces,
        blobs: Blobs,
        clock: Clock,
        random: Random,
        changed: Callable[[int], None],
    ) -> None:
        self._store = store
        self._spaces = spaces
        self._blobs = blobs
        self._clock = clock
        self._random = random
        self._changed = changed

    async def export(
        self, space: int, rules: Sequence[capsule.Redact], allows: Allows | None = None
    ) -> Export:
        """An export of what ``allows`` lets out, about to begin."""
        from ums.adapters import Versions

        view = self._spaces.open(space)
        header = Header(await self.machine(), space, view.header.name)
        known = Versions(self._store, self._clock).all(space) if allows is None else []
        return Export(
            self._store,
            self._blobs,
            view,
            self._homes(view),
            Redaction(rules, allows),
            allows,
            header,
            self._clock.now(),
            [one for one in known if one.state == "live"],
        )

    async def take(
        self, space: int, writer: int, call: capsule.Import, limit: int | None = None
    ) -> capsule.Imported:
        """Import an uploaded capsule. Raises ENOENT (not uploaded), EINVAL, EDQUOT, EIO."""
        blob = self._blobs.find(call.capsule, [space])
        if blob is None:
            raise ENOENT(f"{call.capsule} was not uploaded to space {space}")
        home = self._spaces.open(space)
        intake = Intake(home, self._blobs, call.capsule, blob, Marks(writer, call.taint))
        await intake.check(call.seal, limit)
        try:
            done = await intake.take()
        finally:
            self._changed(space)
        await self._blobs.drop(space, call.capsule)
        return done

    def export_at(self, space: int, frozen: Frozen, machine: str) -> Export:
        """An export of all of a space as it was at a moment. Raises ENOENT."""
        store = cast("Store", frozen)
        view = self._spaces.at(space, frozen)
        return Export(
            store,
            Blobs(store, self._clock, self._random),
            view,
            self._homes(view),
            Redaction(()),
            None,
            Header(machine, space, view.header.name),
            self._clock.now(),
        )

    async def pour(
        self, space: int, writer: int, source: Callable[[], Iterator[bytes]], limit: int | None
    ) -> capsule.Imported:
        """Import a capsule whose bytes ``source`` gives, as often as it is asked.

        Raises EINVAL, EDQUOT, and what ``source`` does.
        """
        intake = Pouring(self._spaces.open(space), self._blobs, Marks(writer), source)
        await intake.check("", limit)
        try:
            return await intake.take()
        finally:
            self._changed(space)

    def renamed(self, space: int, rid: str) -> str:
        """The rid that a record of elsewhere has in a space that took it."""
        return self._spaces.open(space).renamed(rid)

    def download(self, space: int, rid: str, at: int, guard: Guard | None = None) -> Downloaded:
        """A piece of the original that a record names. Raises ENOENT, EPERM, EIO."""
        view = self._spaces.open(space)
        name = named(view.stored(rid, None, guard)[1], rid)
        blob = self._blobs.find(name, self._homes(view))
        if blob is None:
            raise EIO(f"the original {name} is missing", driver="store")
        return Downloaded(name, blob.size, at, self._blobs.read(blob, at))

    def _homes(self, view: View) -> list[int]:
        """The spaces that a space's layers were made for: there the originals are."""
        homes = (self._spaces.home(layer) for layer in view.stack.layers)
        return list(dict.fromkeys([view.number, *homes]))

    async def machine(self) -> str:
        """What tells this system from others; made when it is first asked for."""
        value = self._store.get("meta", MACHINE)
        if value is None:
            value = self._random.getrandbits(128).to_bytes(16, "big")
            await self._store.commit(Batch([("meta", MACHINE, value)]))
        return value.hex()
