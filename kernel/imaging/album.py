"""The images on disk: where they are, written whole or not at all, looked at, removed.

    <data>/images/NAME.image       for everybody who may checkpoint, by its bare name
    <data>/images/.NAME.image.part being written; of a kernel that was killed, and overwritten
    /any/where/else                for who holds the grant ``proc.checkpoint:*``

Everything here that touches the disk is run in a thread.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from procs.image import MAGIC, Header, Image, Reader, decode
from syscalls.capsule import CapsuleError, Unsealer
from syscalls.errors import EEXIST, EINVAL, EIO, ENOENT
from ums.capsule.inbound import Checked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

ENDING = ".image"
BLOCK = 1 << 18
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Album:
    """The folder of images of one system."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.root = data / "images"

    def place(self, path: str) -> tuple[Path, bool]:
        """The file that is meant, and whether it is in the album. Raises EINVAL."""
        if "/" not in path:
            name = path.removesuffix(ENDING)
            if not _NAME.fullmatch(name):
                raise EINVAL(
                    f"{path!r} is no name of an image",
                    hint="letters, digits, . _ and -; or a path with a slash",
                )
            return self.root / (name + ENDING), True
        place = Path(os.path.abspath(path))
        if not os.path.isabs(path):
            raise EINVAL(f"{path!r} is relative to nothing that is known here", hint="say it whole")
        if place.is_relative_to(self._data):
            raise EINVAL("in the data directory images are where their names say", hint="no slash")
        return place, False

    def headers(self) -> dict[Path, Header]:
        """The images of the album that can be read, by their files."""
        found = {}
        for place in sorted(self.root.glob("*" + ENDING)):
            header = header_of(place)
            if header is not None:
                found[place] = header
        return found

    def open_part(self, place: Path) -> BinaryIO:
        """What becomes the image, beside its place. Raises EIO."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if place.parent == self.root:
                self.root.mkdir(mode=0o700, exist_ok=True)
            return os.fdopen(os.open(_part(place), flags, 0o600), "wb")
        except OSError as error:
            raise _failed(place, error) from error

    def settle(self, place: Path, part: BinaryIO) -> None:
        """Put the whole image in its place, durably. Raises EIO."""
        try:
            part.flush()
            os.fsync(part.fileno())
            part.close()
            _part(place).rename(place)
            folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _failed(place, error) from error

    def discard(self, place: Path, part: BinaryIO) -> None:
        """Leave what was there as it is."""
        with suppress(OSError):  # what could not be written need not be flushed
            part.close()
        _part(place).unlink(missing_ok=True)


def write(place: Path, part: BinaryIO, data: bytes) -> None:
    """Add bytes. Raises EIO."""
    try:
        part.write(data)
    except OSError as error:
        raise _failed(place, error) from error


def refuse_other(place: Path) -> None:
    """Raise EEXIST where something is in the place that is no image."""
    try:
        with place.open("rb") as file:
            known = file.read(len(MAGIC)) == MAGIC
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(place, error) from error
    if not known:
        raise EEXIST(f"{place} is there, and is no image", hint="choose another name")


def open_image(place: Path) -> BinaryIO:
    """An image to be read. Raises ENOENT, EINVAL, EIO."""
    try:
        number = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ENOENT(f"there is no image {place}") from error
    except OSError as error:
        raise _failed(place, error) from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise EINVAL(f"{place} is not a file")
    return os.fdopen(number, "rb")


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """All of a file, from its beginning, a block at a time. Raises EIO."""
    at = 0
    while True:
        try:
            block = os.pread(file.fileno(), BLOCK, at)
        except OSError as error:
            raise EIO(f"cannot read the image: {error.strerror}", driver="images") from error
        if not block:
            return
        yield block
        at += len(block)


def inspect(file: BinaryIO) -> Image:
    """What an image says; all of it is read and checked, its capsule too. Raises EINVAL, EIO."""
    reader, cut, checked = Reader(), Unsealer(), Checked()
    for block in blocks(file):
        for frame in reader.feed(block):
            if frame.kind == "S":
                for inner in cut.feed(frame.payload):
                    checked.take(inner)
    image = reader.finish()
    if image.end.bytes:
        cut.finish()
        if cut.seal.hex() != image.end.seal:
            raise CapsuleError("the image holds another capsule than it says")
    return image


def header_of(place: Path) -> Header | None:
    """Whose image a file is; None where that cannot be read."""
    reader = Reader()
    try:
        with open_image(place) as file:
            for block in blocks(file):
                for frame in reader.feed(block):
                    found: Header = decode(frame)
                    return found
    except (EINVAL, ENOENT, EIO):
        return None
    return None


def _part(place: Path) -> Path:
    return place.with_name(f".{place.name}.part")


def _failed(place: Path, error: OSError) -> EIO:
    return EIO(f"cannot use {place}: {error.strerror}", driver="images", path=str(place))
