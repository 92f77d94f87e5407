"""Images by policy: every so many seconds, of the agents that have changed since their last one.

    round:  every live agent ──> its signs ──> the policy: due? ──> image ──> kept by the policy

    images/auto-12-1.image    the last two of agent 12: the older one is written over, so that
    images/auto-12-2.image    there is a whole one whatever happens meanwhile

What is left of agents that have ended: nothing where one was done (status 0) while the kernel
went on; else its images, until there are too many.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from kernel.imaging.album import inspect, open_image
from syscalls.errors import ESRCH, EngramError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kernel.imaging.images import Images
    from kernel.kernel import Kernel
    from procs.image import Image
    from procs.process import Process
    from syscalls.shapes import Quota

EACH = 2
"""Images of one agent."""
ENDED = 1000
"""Images of agents that have ended, at most; the oldest go first."""
_OURS = re.compile(r"auto-(?P<apid>[0-9]+)-[0-9]+\.image")


class Signs(NamedTuple):
    """Figures of an agent of which one has changed when its image would be another one."""

    calls: int
    messages: int
    """Id of the last one that was sent to it."""
    written: tuple[tuple[int, int], ...]
    """By layer of its space, the last entry of the journal: others may write there too."""
    turns: int
    """Of its model context; a generation adds to it when it ends, long after its call."""
    quota: Quota


class Changed:
    """The policy: due is who is not as at its last image, longest unseen first."""

    def __init__(self) -> None:
        self._seen: dict[int, Signs] = {}

    def due(self, now: Mapping[int, Signs]) -> list[int]:
        """Of these live agents, by APID, the ones to write an image of."""
        for apid in self._seen.keys() - now.keys():
            del self._seen[apid]
        order = {apid: place for place, apid in enumerate(self._seen, 1)}
        changed = [apid for apid, signs in now.items() if self._seen.get(apid) != signs]
        return sorted(changed, key=lambda apid: order.get(apid, 0))

    def kept(self, apid: int, signs: Signs) -> None:
        """There is an image of an agent, not older than these signs."""
        self._seen.pop(apid, None)
        self._seen[apid] = signs


class KeepsakesStatistics(msgspec.Struct, frozen=True):
    """Figures of images by policy, since the start."""

    rounds: int
    written: int
    failed: int
    removed: int
    """Images of agents that have ended."""


class Keepsakes:
    """Writes images of agents, and removes those that nobody needs."""

    def __init__(self, kernel: Kernel, images: Images) -> None:
        self._kernel = kernel
        self._images = images
        self.policy = Changed()
        self._rounds = self._written = self._failed = self._removed = 0

    async def run(self, every: float) -> None:
        """A round every so many seconds, until cancelled."""
        while True:
            await trio.sleep(every)
            if not self._kernel.shutdown.is_set():
                await self.round()

    async def round(self) -> int:
        """Write the images that are due; how many there are."""
        live = {one.apid: one for one in self._kernel.processes.live() if one.restorable}
        due = self.policy.due({apid: self._signs(one) for apid, one in live.items()})
        written = 0
        for apid in due:
            written += await self._write(live[apid])
        await self._clear()
        self._rounds += 1
        return written

    async def _write(self, process: Process) -> bool:
        kernel, apid = self._kernel, process.apid
        if not process.alive:
            return False
        signs = self._signs(process)
        places = [self._images.album.place(f"auto-{apid}-{n}")[0] for n in range(1, EACH + 1)]
        older = await kernel.machine.offload(partial(_oldest, places))
        try:
            await self._images.checkpoint(kernel.init, process, older.name)
        except EngramError as error:
            if process.alive:
                self._failed += 1
                kernel.log("warning", "images", f"no image of {apid}: {error.message}")
            return False
        self.policy.kept(apid, signs)
        self._written += 1
        return True

    def _signs(self, process: Process) -> Signs:
        kernel, layers = self._kernel, tuple[int, ...]()
        if process.space and kernel.memory.known(process.space) is not None:
            layers = kernel.memory.view(process.space).stack.layers
        return Signs(
            process.calls,
            kernel.mailboxes.last(process.apid),
            tuple((layer, kernel.machine.store.last(layer)) for layer in layers),
            len(kernel.conversations.of(process.apid)),
            process.quota,
        )

    async def _clear(self) -> None:
        offload, ended = self._kernel.machine.offload, []
        live = {one.apid for one in self._kernel.processes.live()}
        for place, apid in await offload(partial(_ours, self._images.album.root)):
            if self._done(apid):
                await self._remove(place)
            elif apid not in live:
                ended.append(place)
        for place in ended[: max(0, len(ended) - ENDED)]:
            await self._remove(place)

    async def _remove(self, place: Path) -> None:
        await self._kernel.machine.offload(partial(place.unlink, missing_ok=True))
        self._removed += 1

    async def newest(self, name: str, program: str, space: int, since: float) -> Image | None:
        """The newest whole image in the album, since then, of what init runs by this name.

        It has to be of the same program in the same space.
        """
        kernel, album = self._kernel, self._images.album
        machine = await kernel.memory.capsules.machine()
        headers = await kernel.machine.offload(album.headers)
        wanted = (machine, kernel.init.apid, name, program, space)
        found = [
            (one.moment, place)
            for place, one in headers.items()
            if (one.machine, one.parent, one.name, one.program, one.space) == wanted
            and one.moment > since
        ]
        for _, place in sorted(found, reverse=True):
            try:
                return await kernel.machine.offload(partial(_read, place))
            except EngramError as error:
                kernel.log("warning", "images", f"{place.name} is passed over: {error.message}")
        return None

    def _done(self, apid: int) -> bool:
        """Whether an agent was done, and did not end because the kernel did."""
        processes = self._kernel.processes
        try:
            ended = processes.get(apid).exit
        except ESRCH:
            ended = processes.past_exit(apid)
        return ended is not None and ended.status == 0 and ended.ended >= self._kernel.started

    def statistics(self) -> KeepsakesStatistics:
        """Figures for ``sys.stats``."""
        return KeepsakesStatistics(self._rounds, self._written, self._failed, self._removed)


def _age(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except OSError:
        return 0.0


def _read(place: Path) -> Image:
    """A whole image. Raises ENOENT, EINVAL, EIO."""
    with open_image(place) as file:
        return inspect(file)


def _oldest(places: Sequence[Path]) -> Path:
    """The one that was written longest ago, or never."""
    return min(places, key=_age)


def _ours(root: Path) -> list[tuple[Path, int]]:
    """The images that were written by policy and whose they are, the oldest first."""
    found = [(place, _OURS.fullmatch(place.name)) for place in root.glob("auto-*.image")]
    ours = [(place, int(match["apid"])) for place, match in found if match is not None]
    return sorted(ours, key=lambda one: _age(one[0]))
