"""Files to the kernel and back: by hash, piece by piece, from where it stopped."""

import errno
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from syscalls.calls.capsule import Download, Upload
from syscalls.errors import EEXIST, EIO, EPERM
from syscalls.table import Call

Ask = Callable[[Call], Any]
"""Makes a call and returns its reply."""
Step = Callable[[int, int], None]
"""Told how many bytes of how many are done."""
PIECE = 1 << 20


def name_of(path: Path) -> tuple[str, int]:
    """The name that a file's bytes give it, and how many they are."""
    found, size = sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
            size += len(piece)
    return f"sha256:{found.hexdigest()}", size


def upload(
    ask: Ask,
    path: Path,
    name: str,
    size: int,
    *,
    space: int | str | None = None,
    step: Step = lambda _done, _size: None,
) -> None:
    """Give the kernel a file, as far as it has not got it. Raises EINVAL when it has changed."""
    done = ask(Upload(hash=name, size=size, space=space))
    with path.open("rb") as file:
        while not done.done:
            file.seek(done.at)
            data = file.read(PIECE)
            if not data and size:
                raise EIO(f"{path.name} became shorter while it was read", driver="file")
            done = ask(Upload(hash=name, size=size, at=done.at, data=data, space=space))
            step(done.at, size)


def download(ask: Ask, rid: str, path: Path, space: int | str | None = None) -> int:
    """Write the original of a record to a new file; its size. Raises EEXIST, EIO."""
    found = sha256()
    with Fresh(path) as file:
        piece = ask(Download(rid=rid, space=space))
        while piece.data:
            file.write(piece.data)
            found.update(piece.data)
            piece = ask(Download(rid=rid, at=piece.at + len(piece.data), space=space))
        if f"sha256:{found.hexdigest()}" != piece.hash:
            raise EIO("the original is altered", driver="store")
        return int(piece.size)


class Fresh:
    """A new file that appears under its name only when it is whole.

    It is written beside it, as ``NAME.part``; neither is ever a link that is followed, and
    what is there already stays. With ``resume`` a part that is left is gone on with.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        if os.path.lexists(path):
            raise _taken(path)
        try:
            self._fd = os.open(self._part, flags if resume else flags | os.O_EXCL, 0o600)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ELOOP):
                raise _taken(self._part) from error
            raise EPERM(f"{self._part} cannot be written: {error.strerror}", hint="") from error
        self.keep = resume
        """Whether the part stays when it was not finished."""

    def __enter__(self) -> "Fresh":
        return self

    def write(self, data: bytes) -> None:
        """Append."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def digest(self) -> tuple[int, str]:
        """How many bytes are there, and their SHA-256; what is written comes after them."""
        found, size = sha256(), 0
        os.lseek(self._fd, 0, os.SEEK_SET)
        while piece := os.read(self._fd, PIECE):
            found.update(piece)
            size += len(piece)
        return size, found.hexdigest()

    def restart(self) -> None:
        """Forget what is there."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)

    def __exit__(self, kind: type[BaseException] | None, error: object, at: object) -> None:
        try:
            if kind is None:
                os.fsync(self._fd)
                try:
                    os.link(self._part, self._path)  # fails where something is: rename would not
                except FileExistsError as exists:
                    raise _taken(self._path) from exists
                os.unlink(self._part)
            elif not self.keep:
                os.unlink(self._part)
        finally:
            os.close(self._fd)


def _taken(path: Path) -> EEXIST:
    return EEXIST(f"{path} is there already", hint="name another file, or remove it first")
