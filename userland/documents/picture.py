"""Pictures: what is written on them, by tesseract where it is installed.

One without words is kept with what its file says of itself, unless the attached model sees:
then that says what is on it (``caption``).
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from userland.documents.extract import Extracted, Part, Unreadable, need

PIXELS = 100_000_000
PATIENCE = 120.0
"""Seconds for one picture."""
UNSEEN = "no text: tesseract is not installed"


def extract(path: Path) -> Extracted:
    """Size, format and date of a picture, and its words. Raises Unreadable when damaged."""
    image: Any = need("PIL.Image", "pillow")
    try:
        with image.open(path) as picture:
            width, height = picture.size
            meta: dict[str, Any] = {
                "width": width,
                "height": height,
                "encoding": str(picture.format or "").lower(),
            }
            if width * height > PIXELS:
                raise Unreadable(f"{path.name} has {width} x {height} pixels")
            picture.verify()
        with image.open(path) as picture:
            taken = picture.getexif().get(306)  # DateTime
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(f"{path.name} is damaged: {type(error).__name__}") from error
    if taken:
        meta["taken"] = str(taken)[:40]
    said = f"Picture {path.stem.replace('_', ' ').replace('-', ' ')}, {width} x {height} pixels"
    words, note = _words(path)
    parts = [Part(words)] if words else [Part(said)]
    return Extracted("picture", said, parts, meta, note, mute=not words)


def _words(path: Path) -> tuple[str, str]:
    """What is written on a picture, and what is missing."""
    program = shutil.which("tesseract")
    if program is None:
        return "", UNSEEN
    try:
        done = subprocess.run(
            [program, str(path), "stdout"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return "", f"no text: tesseract was given up after {PATIENCE:.0f} seconds"
    if done.returncode:
        return "", f"no text: tesseract ended with status {done.returncode}"
    text = done.stdout.decode("utf-8", "replace").strip()
    return text, "" if text else "no text: tesseract found none"
