"""DOCX, by python-docx: paragraphs under headings, and tables by rows."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from userland.documents.extract import LONGEST, Extracted, Part, Unreadable, need

_OLD = b"\xd0\xcf\x11\xe0"


def extract(path: Path) -> Extracted:
    """The text in its order. Raises Unreadable: encrypted, damaged, without text."""
    docx: Any = need("docx", "python-docx")
    _look(path)
    try:
        document = docx.Document(str(path))
        parts = list(_parts(document))
        title = str(document.core_properties.title or "")[:300]
    except Exception as error:
        raise Unreadable(f"{path.name} is damaged: {type(error).__name__}") from error
    if not parts:
        raise Unreadable(f"{path.name} has no text")
    return Extracted("docx", title, parts)


def _look(path: Path) -> None:
    """Refuse what the library should not even open."""
    with path.open("rb") as file:
        if file.read(4) == _OLD:  # an office file of old, or a new one in a wrapper of one
            raise Unreadable(f"{path.name} is encrypted, or of an old format")
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(one.file_size for one in packed.infolist() if one.filename.endswith(".xml"))
    except zipfile.BadZipFile as error:
        raise Unreadable(f"{path.name} is damaged: {error}") from error
    if size > 8 * LONGEST:
        raise Unreadable(f"{path.name} unpacks to {size} bytes")


def _parts(document: Any) -> Iterator[Part]:
    above: list[str] = []
    lines: list[str] = []
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            lines += [" | ".join(_cells(row)) for row in block.rows]
            continue
        text, style = block.text.strip(), (block.style.name if block.style is not None else "")
        if not text:
            continue
        if style.startswith(("Heading", "Title")):
            if any(lines):
                yield Part("\n\n".join(lines), " > ".join(above))
            last = style.rpartition(" ")[2]
            depth = int(last) if last.isdigit() else 1
            above, lines = [*above[: depth - 1], text], []
        lines.append(text)
    if any(lines):
        yield Part("\n\n".join(lines), " > ".join(above))


def _cells(row: Any) -> list[str]:
    """The cells of a row; one that spans several columns once."""
    found: list[str] = []
    last = None
    for cell in row.cells:
        if cell._tc is not last:
            found.append(" ".join(cell.text.split()))
        last = cell._tc
    return found
