"""The read-only tree of what the kernel knows, as ``/proc`` shows it. Numbers 176-179."""

from typing import Annotated, Any

from msgspec import Meta

from syscalls.shapes import Shape
from syscalls.table import Call, syscall

Path = Annotated[
    str, Meta(max_length=1000, description="such as /proc/12/status; /proc may be left out")
]


class TreeEntry(Shape, omit_defaults=False):
    """One name in a folder of the tree."""

    name: str
    folder: bool
    about: str = ""
    """What a file holds; what a folder is for."""


class Listing(Shape):
    """The names in a folder, in order."""

    entries: list[TreeEntry]


@syscall(176, "sys.ls", reply=Listing)
class Ls(Call, kw_only=True):
    """List a folder of the tree: processes, spaces, drivers, the scheduler, the kernel.

    What the caller may not look at is not listed. Raises ENOENT.
    """

    path: Path = "/proc"


class Shown(Shape, omit_defaults=False):
    """What a file of the tree says now."""

    path: str
    value: Any


@syscall(177, "sys.cat", reply=Shown)
class Cat(Call, kw_only=True):
    """Read a file of the tree. The rights are those of the call that answers it.

    ``self`` in place of a number is the caller. Raises ENOENT, EINVAL (a folder), EPERM.
    """

    path: Path
