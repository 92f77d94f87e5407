"""Which files a folder has, as far as they are to be indexed."""

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import msgspec

from syscalls.errors import ENOENT
from userland.documents.extract import LARGEST

IGNORED = (
    ".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "*.pyc", "*.so", "*.o", "*~",
    "*.swp", "*.part", "~$*", "Thumbs.db",
)  # fmt: skip
LIST = ".engramignore"
"""A file in the root with more patterns, one a line; # begins a comment."""
MOST = 200_000


class Rules(msgspec.Struct, frozen=True):
    """What of a folder is left out."""

    ignore: tuple[str, ...] = IGNORED
    """Patterns for names, and for paths from the root."""
    hidden: bool = False
    """Whether what begins with a dot is taken."""
    largest: int = LARGEST
    """Bytes of a file; a larger one is named and not read."""


class Found(msgspec.Struct, frozen=True):
    """One file."""

    path: str
    size: int
    stamp: int
    """When it was changed, in nanoseconds."""


class Tree(msgspec.Struct):
    """What was found."""

    files: dict[str, Found] = {}
    lost: list[str] = []
    """Folders that could not be looked into."""


def look(root: Path, rules: Rules) -> Tree:
    """The files of a folder, or the one file that ``root`` is. Links are not followed.

    Raises ENOENT when there is nothing of that name.
    """
    try:
        info = root.stat()
    except OSError as error:
        raise ENOENT(f"{root} cannot be read: {error.strerror}") from error
    tree = Tree()
    if not stat.S_ISDIR(info.st_mode):
        tree.files[str(root)] = Found(str(root), info.st_size, info.st_mtime_ns)
        return tree
    patterns = (*rules.ignore, *_listed(root))
    for found in _walk(root, root, rules, patterns, tree.lost):
        tree.files[found.path] = found
        if len(tree.files) > MOST:
            raise ENOENT(f"{root} has more than {MOST} files", hint="name a smaller folder")
    return tree


def _listed(root: Path) -> tuple[str, ...]:
    try:
        lines = (root / LIST).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(text for line in lines if (text := line.partition("#")[0].strip().rstrip("/")))


def _walk(
    root: Path, folder: Path, rules: Rules, patterns: tuple[str, ...], lost: list[str]
) -> Iterator[Found]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        lost.append(str(folder))
        return
    for entry in entries:
        inside = os.path.relpath(entry.path, root)
        if entry.name.startswith(".") and not rules.hidden:
            continue
        if any(fnmatch(entry.name, one) or fnmatch(inside, one) for one in patterns):
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, Path(entry.path), rules, patterns, lost)
            elif entry.is_file(follow_symlinks=False):
                info = entry.stat(follow_symlinks=False)
                yield Found(entry.path, info.st_size, info.st_mtime_ns)
        except FileNotFoundError:
            continue  # it went while we looked
