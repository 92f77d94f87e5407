"""Model folders: where a model's files are, and what they are. Used by engines in hosts."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from syscalls.errors import EIO, ENODEV

EXPORTS = ("onnx", "openvino", "original")
"""Folders that hold the same weights once more, in another form."""
SAMPLE = 1 << 20
"""Bytes read at each of ``SAMPLES`` places of a large file for its quick mark."""
SAMPLES = 16


def find_model(model: str) -> Path:
    """The folder of a model: the folder itself, or the local copy of what a hub name means.

    Raises ENODEV when there is no such folder or the hub does not give it, EIO when the
    folder cannot be read.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        try:
            if any(path.iterdir()):
                return path
        except OSError as error:
            raise EIO(
                f"the model folder {path} cannot be read: {error.strerror}",
                hint="make it readable for the user that runs the kernel",
                driver="model",
                retryable=False,
            ) from error
        raise ENODEV(f"the model folder {path} is empty", hint="copy the model's files into it")
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or path.exists():
        raise ENODEV(f"there is no model folder {path}", hint="check the path of the model")
    return _from_hub(model)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(
            snapshot_download(
                name, ignore_patterns=["*.onnx", "*.h5", "*.msgpack", "*.gguf", "*.ot", "*.pt"]
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ENODEV(
            f"the model {name!r} is neither a folder nor to be had from the hub: {first}",
            hint="give the path of a folder with the model's files, or check name and network",
        ) from error


def files_of(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files of a model and its modules (one folder deep), sorted; no exports of it."""
    found = {
        path
        for pattern in patterns
        for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}"))
        if path.is_file() and path.parent.name not in EXPORTS
    }
    return sorted(found)


def weights_of(folder: Path) -> list[Path]:
    """The files with the weights, sorted; safetensors where there are any."""
    return files_of(folder, ["*.safetensors"]) or files_of(folder, ["*.bin"])


def sha256_of(path: Path) -> str:
    """Hash of a whole file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_mark(path: Path) -> str:
    """Hash of a file's size and of samples across it: tells large models apart in no time."""
    size = path.stat().st_size
    if size <= SAMPLE * SAMPLES:
        return sha256_of(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for sample in range(SAMPLES):
            file.seek((size - SAMPLE) * sample // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is absent. Raises EIO when it is broken."""
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise EIO(
            f"{path} cannot be read: {error}",
            hint="fetch the model's files again",
            driver="model",
            retryable=False,
        ) from error


def threads(option: object, most: int) -> int:
    """How many threads an engine computes with: as told, or all of few cores, half of many."""
    if isinstance(option, int) and option > 0:
        return option
    cores = len(os.sched_getaffinity(0))
    return min(most, max(min(cores, 4), cores // 2))
