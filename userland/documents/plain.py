"""Text and Markdown: paragraphs under headings."""

import re
from pathlib import Path

from userland.documents.extract import Extracted, Part, Unreadable

_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
_FENCE = re.compile(r"^\s*(```|~~~)")
_ODD = 0.02
"""Control characters that a text may have, as a part of all."""


def extract(path: Path) -> Extracted:
    """A text file, in any of the usual encodings. Raises Unreadable for what is no text."""
    text = decoded(path.read_bytes(), path.name)
    if path.suffix.lower() in (".md", ".markdown"):
        parts = sections(text)
        title = next((part.heading for part in parts if part.heading), "")
        return Extracted("markdown", title.rpartition(" > ")[2], parts)
    return Extracted("text", "", [Part(text)])


def decoded(data: bytes, name: str) -> str:
    """Bytes as text. Raises Unreadable."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    elif b"\0" in data:
        raise Unreadable(f"{name} is not text (it holds zero bytes)")
    else:
        encodings = ["utf-8-sig", "gb18030", "cp1252"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        odd = sum(1 for one in text[:65536] if one < " " and one not in "\t\n\r\f\v\x1b")
        if odd <= _ODD * min(len(text), 65536):
            break
    else:
        raise Unreadable(f"{name} is not text in an encoding that is known")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise Unreadable(f"{name} holds nothing but blanks")
    return text


def sections(text: str) -> list[Part]:
    """Markdown cut at its headings; each part knows the headings above it."""
    parts: list[Part] = []
    above: list[str] = []
    lines: list[str] = []
    fenced = False

    def close() -> None:
        body = "\n".join(lines).strip("\n")
        if body.strip():
            parts.append(Part(body, " > ".join(above)))
        lines.clear()

    for line in text.split("\n"):
        fenced ^= _FENCE.match(line) is not None
        found = None if fenced else _HEADING.match(line)
        if found is not None:
            close()
            depth = len(found[1])
            above[:] = [*above[: depth - 1], found[2]]
        lines.append(line)
    close()
    return parts
