"""Blocks outside the engine: in the host's memory, and below it on disk.

    put   ──> ram ──> writer thread ──> disk
    take  <── ram <── checked <──────── disk

What ``take`` gives has been checked and is held by who took it, whatever is evicted, erased or
damaged meanwhile: so an engine can say how much it need not compute, and be right.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

from drivers.kv.contract import KVStatistics
from drivers.kv.image import Corrupt, Image, encode
from drivers.kv.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from drivers.kv.contract import Tier
    from drivers.kv.files import Files
    from drivers.kv.image import Plane

READERS = 4
"""Files read and checked at once; hashing lets other threads run."""
PATIENCE = 5.0
"""Seconds that closing waits for what is still to be written."""
log = logging.getLogger("kv")


class Tiers:
    """The blocks of one namespace, in two tiers with limits. Any thread may call."""

    def __init__(self, files: Files, ram: int, disk: int) -> None:
        """``ram`` and ``disk`` are bytes; 0 is a tier that keeps nothing. Raises OSError."""
        self._files = files
        self._ram_limit, self._disk_limit = ram, disk
        self._lock = threading.Lock()
        self._images: dict[str, Image] = {}
        self._ram = Shelf()
        self._disk = Shelf()
        for found in files.scan():  # what it cost is not known before it is read
            self._disk.add(found.name, found.bytes, 0.0)
        self._others = deque(files.others())
        self._unsaved: dict[str, tuple[Image, int]] = {}
        self._changed = threading.Condition(self._lock)
        self._writer: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._closed = False
        self._removals = 0
        self.restored = 0
        """Blocks that came back into the engine; counted by the engine."""
        self._saved = self._missed = self._corrupt = self._evicted = self._failed = 0
        self._fit()

    # --- reading

    def has(self, name: str, depth: int = 0) -> bool:
        """Whether the block is there and good; it is in memory then, if memory has room.

        When memory has it and its file has gone, it is written again.
        """
        good = self.get(name, depth) is not None
        if good:
            self.keep(name)
        return good

    def get(self, name: str, depth: int = 0, *, brief: bool = False) -> Image | None:
        """A block, checked; None, counted as missed, when there is no good one.

        ``depth`` is its place in its prompt: of blocks worth the same, deeper ones leave first.
        ``brief``: it goes into the engine at once, and memory need not have it as well.
        """
        with self._lock:
            if (image := self._near(name)) is not None:
                return image
            removals = self._removals
        image = self._read(name, mapped=brief)
        with self._lock:
            if image is None or (
                removals != self._removals and not self._files.path(name).exists()
            ):
                self._missed += 1
                return None
            if name not in self._unsaved:
                self._disk.add(name, image.size, image.seconds, depth)
            if not brief:
                self._admit(image, depth)
        return image

    def take(self, names: Sequence[str], depth: int = 0, *, brief: bool = False) -> list[Image]:
        """The first blocks of ``names``, up to the first that is not there or not good.

        The first of ``names`` is ``depth`` blocks into its prompt. ``brief`` is that of ``get``.
        """
        known = self.seeming(names)
        numbered = list(enumerate(known, depth))
        if len(known) > 1 and not all(map(self._images.__contains__, known)):
            with self._lock:
                if self._readers is None:
                    self._readers = ThreadPoolExecutor(READERS, "kv-reader")
                readers = self._readers
            found = list(
                readers.map(lambda each: self.get(each[1], each[0], brief=brief), numbered)
            )
        else:
            found = [self.get(name, place, brief=brief) for place, name in numbered]
        return [image for image in takewhile(lambda image: image is not None, found) if image]

    def seems(self, name: str) -> bool:
        """Whether there is a block of this name, good or not."""
        return name in self._images or name in self._unsaved or self._files.path(name).exists()

    def seeming(self, names: Sequence[str]) -> list[str]:
        """The first of ``names``, up to one that there is not: then that is a miss."""
        known = list(takewhile(self.seems, names))
        if len(known) < len(names):
            with self._lock:
                self._missed += 1
        return known

    def among(self, names: Sequence[str]) -> list[str]:
        """Those that were there when last seen, without a look at the disk; no misses."""
        with self._lock:
            return [
                name
                for name in names
                if name in self._disk or name in self._images or name in self._unsaved
            ]

    def _near(self, name: str) -> Image | None:
        """A block in memory, used. The lock is held."""
        image = self._images.get(name)
        if image is None and name in self._unsaved:
            image = self._unsaved[name][0]
        if image is not None:
            self._ram.use(name)
            self._disk.use(name)
        return image

    def _read(self, name: str, *, mapped: bool = False) -> Image | None:
        try:
            image = self._files.read(name, mapped=mapped)
        except Corrupt as error:
            log.warning("the block %s on disk is not used: %s", name[:12], error)
            image = None
            with self._lock:
                self._corrupt += 1
        if image is None:
            with self._lock:
                self._disk.remove(name)
        return image

    # --- keeping

    def put(self, name: str, planes: Mapping[str, Plane], seconds: float, depth: int = 0) -> None:
        """Keep a block that cost ``seconds``: in memory now, on disk soon.

        Raises ValueError when a plane is not as long as its shape says.
        """
        image = encode(name, self._files.namespace, seconds, planes)
        self._files.path(name)
        with self._lock:
            self._admit(image, depth)
            if self._disk_limit and not self._closed:
                self._unsaved[name] = (image, depth)
                self._start()
                self._changed.notify_all()

    def keep(self, name: str) -> None:
        """Have a block that is in memory written again, if its file has gone."""
        with self._lock:
            image = self._images.get(name)
            if image is None or name in self._unsaved or self._closed or not self._disk_limit:
                return
            if not self._files.path(name).exists():
                self._unsaved[name] = (image, self._ram.depth(name))
                self._start()
                self._changed.notify_all()

    def _admit(self, image: Image, depth: int) -> None:
        """Put a block into memory. The lock is held."""
        if not self._ram_limit:
            return
        self._images[image.name] = image
        self._ram.add(image.name, image.size, image.seconds, depth)
        for name in self._ram.shrink(self._ram_limit):
            del self._images[name]
            self._evicted += 1

    def pin(self, names: Iterable[str]) -> None:
        """These leave after all others, until they are unpinned as often."""
        with self._lock:
            for name in names:
                self._ram.pin(name)
                self._disk.pin(name)

    def unpin(self, names: Iterable[str]) -> None:
        """Undo one ``pin``."""
        with self._lock:
            for name in names:
                self._ram.unpin(name)
                self._disk.unpin(name)

    def remove(self, names: Iterable[str]) -> None:
        """Erase blocks from memory and disk; none that is still being written appears later.

        Raises ValueError for what is no block's name.
        """
        for name in names:
            with self._lock:
                self._removals += 1
                self._unsaved.pop(name, None)
                self._images.pop(name, None)
                self._ram.remove(name)
                self._disk.remove(name)
                self._files.remove(name)
                self._changed.notify_all()

    # --- writing

    @property
    def backlog(self) -> int:
        """Bytes that are still to be written."""
        with self._lock:
            return sum(image.size for image, _ in self._unsaved.values())

    def settled(self, names: Iterable[str], timeout: float = 0.0) -> bool:
        """Whether none of these is still to be written; waits up to ``timeout`` seconds."""
        wanted = list(names)
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(name in self._unsaved for name in wanted), timeout
            )

    def _start(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="kv-writer", daemon=True)
            self._writer.start()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._unsaved) or self._closed)
                if not self._unsaved:
                    return
                image, depth = next(iter(self._unsaved.values()))
            self._write(image, depth)

    def _write(self, image: Image, depth: int) -> None:
        try:
            self._files.write(image, self._gate(image, depth))
        except OSError as error:
            with self._changed:
                if not self._failed:
                    log.error("blocks cannot be written: %s", error)
                self._failed += 1
                if self._unsaved.get(image.name, (None,))[0] is image:
                    del self._unsaved[image.name]
                self._changed.notify_all()
            return
        self._fit()

    @contextmanager
    def _gate(self, image: Image, depth: int) -> Iterator[bool]:
        """Holds the lock while a block gets its name; False when it was removed meanwhile."""
        with self._changed:
            wanted = self._unsaved.get(image.name, (None,))[0] is image
            yield wanted
            if wanted:
                del self._unsaved[image.name]
                self._disk.add(image.name, image.size, image.seconds, depth)
                self._saved += 1
            self._changed.notify_all()

    def _fit(self) -> None:
        """Make room on disk: first goes what other engines left, then what is least wanted."""
        while True:
            with self._lock:
                others = sum(size for _, size in self._others)
                if not self._others or self._disk.bytes + others <= self._disk_limit:
                    for name in self._disk.shrink(max(self._disk_limit - others, 0)):
                        self._files.remove(name)
                        self._evicted += 1
                    return
                namespace, _ = self._others.popleft()
            self._files.forsake(namespace)

    # --- the whole

    def where(self, names: Iterable[str]) -> Tier:
        """The tier that the greater part of these is in, the nearer one of each."""
        with self._lock:
            ram = disk = none = 0
            for name in names:
                if name in self._images or name in self._unsaved:
                    ram += 1
                elif name in self._disk:
                    disk += 1
                else:
                    none += 1
        return "ram" if ram >= max(disk, none, 1) else "disk" if disk >= max(none, 1) else "none"

    def statistics(self, pins: int = 0) -> KVStatistics:
        """Figures since it was opened."""
        with self._lock:
            return KVStatistics(
                pins=pins,
                ram_bytes=self._ram.bytes,
                disk_bytes=self._disk.bytes,
                saved=self._saved,
                restored=self.restored,
                missed=self._missed,
                corrupt=self._corrupt,
                evicted=self._evicted,
                failed=self._failed,
            )

    def close(self, patience: float = PATIENCE) -> None:
        """Write what is left, for up to ``patience`` seconds, and let go of the files."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._unsaved, patience)
            self._unsaved.clear()
            self._changed.notify_all()
        if self._writer is not None:
            self._writer.join()
        if self._readers is not None:
            self._readers.shutdown()
        self._files.close()
