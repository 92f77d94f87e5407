"""PDF, by pypdf: a part a page."""

import logging
from pathlib import Path
from typing import Any

from userland.documents.extract import Extracted, Part, Unreadable, need

PAGES = 5000


def extract(path: Path) -> Extracted:
    """The text of each page. Raises Unreadable: encrypted, damaged, nothing but pictures."""
    pypdf: Any = need("pypdf", "pypdf")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings are ours to word
    try:
        reader = pypdf.PdfReader(str(path))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(f"{path.name} is encrypted", hint="save it without a password")
        count = len(reader.pages)
    except Unreadable:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    if count > PAGES:
        raise Unreadable(f"{path.name} has {count} pages, {PAGES} is the most")
    parts, lost = [], []
    for number in range(count):
        try:
            text = reader.pages[number].extract_text()
        except Exception as error:  # noqa: BLE001 - one bad page is not the whole document
            lost.append(f"page {number + 1} ({type(error).__name__})")
            continue
        if text.strip():
            parts.append(Part(text.strip(), page=number + 1))
    if not parts:
        why = "it seems to be scanned" if not lost else f"it is damaged: {lost[0]}"
        raise Unreadable(f"{path.name} has no text on {count} pages: {why}")
    note = f"without {', '.join(lost)}" if lost else ""
    return Extracted("pdf", _title(reader), parts, {"pages": count}, note)


def _title(reader: Any) -> str:
    try:
        return str((reader.metadata and reader.metadata.title) or "")[:300]
    except Exception:  # noqa: BLE001 - a title is a nicety, and this one is damaged
        return ""


def _damaged(path: Path, error: Exception) -> Unreadable:
    said = str(error).strip().splitlines()
    return Unreadable(f"{path.name} is damaged: {said[0] if said else type(error).__name__}")
