"""A fingerprint of all that a model computes with: every weight counts, not a sample of them."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from drivers.models import files_of, sha256_of, weights_of

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = "weights.json"
HASHERS = 4


def digest(folder: Path, place: Path | None = None) -> str:
    """Hash of configuration and whole weights of the model in ``folder``.

    Hashes of files are remembered in ``place``, by what the file system says of a file, the time
    of its last change included. Raises OSError when the model cannot be read.
    """
    files = [*files_of(folder, ["config.json"]), *weights_of(folder)]
    known = _read(place)
    marks = {path: _mark(path) for path in files}
    new = [path for path in files if marks[path] not in known]
    with ThreadPoolExecutor(HASHERS) as pool:
        hashed = pool.map(sha256_of, new)
        fresh = dict(zip((marks[path] for path in new), hashed, strict=True))
    if fresh and place is not None:
        with contextlib.suppress(OSError):  # it is hashed again next time
            _write(place, known | fresh)
    hashes = known | fresh
    said = [(path.relative_to(folder).as_posix(), hashes[marks[path]]) for path in files]
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def _mark(path: Path) -> str:
    status = path.stat()
    return (
        f"{path.resolve()} {status.st_dev}:{status.st_ino} {status.st_size} "
        f"{status.st_mtime_ns} {status.st_ctime_ns}"
    )


def _read(place: Path | None) -> dict[str, str]:
    if place is None:
        return {}
    try:
        return msgspec.json.decode((place / KNOWN).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}  # derived: made again


def _write(place: Path, hashes: dict[str, str]) -> None:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = {mark: value for mark, value in hashes.items() if _current(mark)}
    temporary = place / f"{KNOWN}.{secrets.token_hex(8)}"
    try:
        temporary.write_bytes(msgspec.json.encode(kept))
        temporary.replace(place / KNOWN)
    finally:
        temporary.unlink(missing_ok=True)


def _current(mark: str) -> bool:
    """Whether a file is as it was."""
    from pathlib import Path

    path = Path(mark.rsplit(" ", 4)[0])
    return path.exists() and _mark(path) == mark
