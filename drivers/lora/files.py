"""An adapter's two files, and the name that says what is in them. No model library.

    notes@3-5f0c2a9e11b7      NAME@VERSION-DIGEST, of the digest the first twelve digits

Who is given such a name and a folder can check that they belong together, so the same name
always means the same content: keys and values computed under it stay valid in every process.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from syscalls.errors import EIO, ENOENT

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_IDENTITY = re.compile(r".+@\d+-([0-9a-f]{12})")


def digest_of(folder: Path) -> str:
    """SHA-256 of an adapter's configuration and weights. Raises ENOENT, EIO."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except (FileNotFoundError, NotADirectoryError):
            raise ENOENT(
                f"{folder} holds no adapter",
                hint=f"give a folder with {CONFIG} and {WEIGHTS}; one of the system's own whose "
                "files are lost is to be trained again, or detached",
            ) from None
        except OSError as error:
            raise EIO(
                f"the adapter in {folder} cannot be read: {error.strerror}",
                driver="lora",
                retryable=False,
            ) from error
    return digest.hexdigest()


def identity(name: str, version: int, digest: str) -> str:
    """The name of a version whose files have this digest."""
    return f"{name}@{version}-{digest[:12]}"


def is_identity(name: str) -> bool:
    """Whether a name says what the content is."""
    return _IDENTITY.fullmatch(name) is not None


def check(name: str, folder: Path) -> None:
    """Whether a folder holds an adapter, and the one that an identity means.

    A name that is no identity means whatever is in the folder. Raises ENOENT, EIO.
    """
    found = digest_of(folder)
    said = _IDENTITY.fullmatch(name)
    if said is not None and not found.startswith(said[1]):
        raise EIO(
            f"the adapter in {folder} is not {name}: its files have the digest {found[:12]}",
            hint="it is damaged or was replaced; train it again, or go back a version",
            driver="lora",
            retryable=False,
        )
