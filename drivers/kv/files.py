"""The disk tier: one file a block, content-addressed, that may vanish at any moment.

    FOLDER/NAMESPACE/ab/abcdef….safetensors      a block
    FOLDER/NAMESPACE/writing/…                   what is being written, locked by its writer
    FOLDER/NAMESPACE/lock                        shared by the engines that use the namespace

A block appears under its name by a rename, after it has been synchronised: no reader ever sees
a part of one. Everything here may be deleted by anybody at any time; what is missing is
computed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from drivers.kv.image import Corrupt, Image, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

NAME = re.compile(r"[0-9a-f]{16,128}")
"""What a block may be called: nothing that leads out of its folder."""
NAMESPACE = re.compile(r"[0-9A-Za-z_-]{1,128}")
SUFFIX = ".safetensors"
MOST = 2 << 30
"""Bytes of a block's file; a longer one is not even read."""
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Data type and shape by tensor."""
WRITING = "writing"
LOCK = "lock"


class Found(NamedTuple):
    """A file as a scan finds it."""

    name: str
    bytes: int
    used: float
    """When it was written or last read, seconds since the epoch."""


class Files:
    """The blocks of one namespace. Any thread, any number of processes."""

    def __init__(
        self,
        folder: Path,
        namespace: str,
        layout: Layout | Callable[[str], Layout] | None = None,
    ) -> None:
        """``layout`` is what every block has, or what the one of a name has; None takes any.

        Opening removes what killed writers have left. Raises OSError; ValueError for a
        namespace that is no plain name.
        """
        if not NAMESPACE.fullmatch(namespace):
            raise ValueError(f"{namespace!r} is no namespace")
        self.namespace = namespace
        self._folder = folder
        self._own = folder / namespace
        self._layout = layout
        (self._own / WRITING).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._own / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        os.utime(self._lock)
        self._sweep()

    def close(self) -> None:
        """Let others remove the namespace."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def path(self, name: str) -> Path:
        """Where a block's file is. Raises ValueError for what is no block's name."""
        return block_path(self._folder, self.namespace, name)

    def read(self, name: str, *, mapped: bool = False) -> Image | None:
        """A block, checked; None when there is none. Raises Corrupt, having removed the file.

        ``mapped`` is for what is used at once and not kept: the pages of the file itself, with no
        memory of our own to be filled, which is half of the time. Files are replaced and erased,
        never changed, so what has been checked stays as it is.
        """
        path = self.path(name)
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                data: bytearray | mmap.mmap
                if mapped and 0 < size <= MOST:
                    data, got = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY), size
                else:
                    data = bytearray(size if size <= MOST else 0)
                    got = _fill(file.fileno(), data)
                with contextlib.suppress(OSError):  # others may write here, we may not
                    os.utime(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:  # not removed: it may be the machine that has no room to read
            raise Corrupt(f"it cannot be read: {error.strerror}") from error
        try:
            if got != size:
                raise Corrupt("it is too long, or became shorter")
            image = decode(data, name, self.namespace)
            layout = self._layout(name) if callable(self._layout) else self._layout
            if layout is not None and image.layout() != layout:
                raise Corrupt("its tensors are not those of this engine")
        except Corrupt:
            path.unlink(missing_ok=True)
            raise
        return image

    def write(self, image: Image, gate: AbstractContextManager[bool] | None = None) -> bool:
        """Put a block in its place, replacing what is there: that may be a bad file.

        ``gate`` is entered when all is written, and left when the block has its name: who erases
        blocks holds the same lock. When it says False the block is not wanted any more, and False
        is returned. Raises OSError, leaving nothing.
        """
        path = self.path(image.name)
        temporary = self._own / WRITING / f"{image.name[:16]}-{secrets.token_hex(8)}"
        temporary.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # says that its writer lives
            left = memoryview(image.data)
            while left:
                left = left[os.write(handle, left) :]
            os.fdatasync(handle)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with gate or contextlib.nullcontext(True) as wanted:
                if wanted:
                    temporary.rename(path)
            return wanted
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)

    def remove(self, name: str) -> bool:
        """Erase a block; whether there was one."""
        try:
            self.path(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def scan(self) -> list[Found]:
        """Every block's file, the longest unused first."""
        found = []
        for folder in _entries(self._own):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            for entry in _entries(folder.path):
                name = entry.name.removesuffix(SUFFIX)
                if not entry.name.endswith(SUFFIX) or not NAME.fullmatch(name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.append(Found(name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda each: each.used)

    def others(self) -> list[tuple[str, int]]:
        """Namespaces that no engine has open, with their bytes, the longest unused first."""
        found = []
        for entry in _entries(self._folder):
            if entry.name == self.namespace or not NAMESPACE.fullmatch(entry.name):
                continue
            with _alone(Path(entry.path)) as alone:
                if alone:
                    used = (Path(entry.path) / LOCK).stat().st_mtime
                    found.append((used, entry.name, _size(entry.path)))
        return [(name, size) for _, name, size in sorted(found)]

    def forsake(self, namespace: str) -> None:
        """Remove another namespace with all its blocks, unless an engine has it open."""
        folder = self._folder / namespace
        with _alone(folder) as alone:
            if alone:
                shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        for entry in _entries(self._own / WRITING):
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    Path(entry.path).unlink()
                except BlockingIOError:
                    continue  # its writer lives
                finally:
                    os.close(handle)


def block_path(folder: Path, namespace: str, name: str) -> Path:
    """Where the file of a block is. Raises ValueError for what is no name of one."""
    if not NAME.fullmatch(name) or not NAMESPACE.fullmatch(namespace):
        raise ValueError(f"{namespace!r}, {name!r} name no block")
    return folder / namespace / name[:2] / f"{name}{SUFFIX}"


def _fill(handle: int, data: bytearray) -> int:
    """Read a file into ``data``; the bytes that it had."""
    view, done = memoryview(data), 0
    while done < len(data) and (got := os.readv(handle, [view[done:]])):
        done += got
    return done


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(folder: str) -> int:
    total = 0
    for entry in _entries(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                total += _size(entry.path)
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody has this namespace open; nobody opens it meanwhile."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield False  # not made by us
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
