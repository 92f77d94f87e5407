"""One file to text: what kind it is, what it says, or why it cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from syscalls.errors import EINVAL

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 64 << 20
"""Bytes of a file, at most, unless it is said otherwise."""
LONGEST = 16 << 20
"""Characters of text out of one file: a small file can hold very much."""


class Unreadable(EINVAL):
    """A file that cannot be made into text; the message says why."""


class Part(msgspec.Struct):
    """A stretch of a document that belongs together."""

    text: str
    heading: str = ""
    page: int = 0
    """From 1; 0 where there are no pages."""
    whole: bool = False
    """Whether it is cut between lines only: rows of a table."""


class Extracted(msgspec.Struct):
    """What a file says."""

    kind: str
    title: str = ""
    parts: list[Part] = []
    meta: dict[str, Any] = {}
    note: str = ""
    """What is missing: a page that cannot be read, a picture without words."""
    mute: bool = False
    """Whether it is a picture on which nothing could be read: a caption would help."""


Extract = Callable[["Path"], Extracted]

_FORMATS: dict[str, str] = {
    "pdf": "pdf",
    "docx": "docx",
    "html": "markup",
    "htm": "markup",
    "xhtml": "markup",
    "md": "plain",
    "markdown": "plain",
    "csv": "table",
    "tsv": "table",
    **dict.fromkeys(("png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp"), "picture"),
}
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "pdf"),
    (b"\x89PNG", "picture"),
    (b"\xff\xd8\xff", "picture"),
    (b"GIF8", "picture"),
    (b"<!DOCTYPE html", "markup"),
    (b"<!doctype html", "markup"),
    (b"<html", "markup"),
)


def extract(path: Path, largest: int = LARGEST) -> Extracted:
    """What a file says. Raises Unreadable, EPERM and ENOENT as the file system has it."""
    size = path.stat().st_size
    if not size:
        raise Unreadable(f"{path.name} is empty")
    if size > largest:
        raise Unreadable(f"{path.name} has {size} bytes, {largest} is the most")
    with path.open("rb") as file:
        head = file.read(1024)
    module = import_module(f"userland.documents.{_format(path, head)}")
    found: Extracted = module.extract(path)
    length = sum(len(part.text) for part in found.parts)
    if length > LONGEST:
        raise Unreadable(f"{path.name} holds {length} characters of text, {LONGEST} is the most")
    return found


def _format(path: Path, head: bytes) -> str:
    """The module that reads a file: by what it begins with, else by its name's ending."""
    for magic, module in _MAGIC:
        if head.lstrip()[: len(magic)] == magic:
            return module
    return _FORMATS.get(path.suffix.lower().lstrip("."), "plain")


def need(module: str, package: str) -> Any:
    """A library of the extra ``documents``. Raises Unreadable where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise Unreadable(
            f"this kind of file needs {package}", hint="pip install 'engramos[documents]'"
        ) from error
